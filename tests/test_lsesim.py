"""LSeSim: the contrast, the filter F and the order of moves against slow ones, and the released commands."""

import math

import pytest
import torch
from torch import Tensor, nn

from models import resolve_alias
from models.losses.self_similarity import spatial_contrast
from models.networks.similarity_filter import SimilarityFilter
from tests.helpers import train_options
from tests.test_fsesim import (
    PRINTED,
    check_spatial_term,
    kept_positions,
    loaded,
    parsed,
    run_on_high_images,
    run_printed_commands,
)
from tests.test_self_similarity import loop_similarity, random, slopes
from util.errors import UserError

# -- the contrast ------------------------------------------------------------------------------------------------------


def loop_contrast(src: Tensor, tgt: Tensor, other: Tensor, temperature: float) -> Tensor:
    """One query at a time; classes are all pairs that its row is in."""

    def cosine(a, b):
        return (a * b).sum() / (a.norm() * b.norm())

    images = []
    for s, t, o in zip(src, tgt, other, strict=True):
        count, losses = len(s), []
        for n in range(count):
            logits = [cosine(s[n], t[m]) for m in range(count)]
            logits += [cosine(s[n], o[m]) for m in range(count)]
            logits += [cosine(t[n], o[m]) for m in range(count)]
            scores = [torch.exp(logit / temperature) for logit in logits]
            losses.append(-torch.log(scores[n] / sum(scores)))
        images.append(sum(losses) / count)
    return torch.stack(images)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_the_contrast_is_its_formula(batch, temperature):
    sims = [random(batch, 4, 9, seed=seed) for seed in range(3)]
    found, expected = spatial_contrast(*sims, temperature), loop_contrast(*sims, temperature)
    assert found.shape == (batch,)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    for ours, theirs in zip(slopes(found, *sims), slopes(expected, *sims), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_the_contrast_of_maps_without_structure_is_that_of_a_guess():
    sims = [torch.zeros(1, 4, 9, requires_grad=True) for _ in range(3)]
    loss = spatial_contrast(*sims)
    assert loss.item() == pytest.approx(math.log(12))
    assert all(torch.isfinite(slope).all() for slope in torch.autograd.grad(loss.sum(), sims))


def test_half_precision_is_contrasted_in_single_precision():
    sims = [random(2, 6, 30, seed=seed).detach().bfloat16() for seed in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        loss = spatial_contrast(*sims)
    assert loss.dtype == torch.float32
    exact = spatial_contrast(*(sim.double() for sim in sims))
    torch.testing.assert_close(loss.double(), exact, rtol=1e-4, atol=1e-5)


# -- the filter --------------------------------------------------------------------------------------------------------


def test_the_filter_is_two_linear_maps_at_every_position():
    net = SimilarityFilter([6, 160]).double()
    feats = [random(2, 6, 4, 5), random(2, 160, 3, 2)]
    widths = [32, 40]
    for layer, (feat, found) in enumerate(zip(feats, net(feats), strict=True)):
        first, _, second = getattr(net, f"conv_{layer}")
        assert found.shape == (2, widths[layer], *feat.shape[2:])
        for b, y, x in ((0, 0, 0), (1, 2, 1), (0, 1, 1)):
            hidden = torch.relu(first.weight[:, :, 0, 0] @ feat[b, :, y, x] + first.bias)
            expected = second.weight[:, :, 0, 0] @ hidden + second.bias
            torch.testing.assert_close(found[b, :, y, x], expected)


def test_the_filter_has_the_released_keys_and_first_weights():
    net = SimilarityFilter([256, 512, 512])
    keys = [f"conv_{i}.{n}.{kind}" for i in range(3) for n in (0, 2) for kind in ("weight", "bias")]
    assert list(net.state_dict()) == keys
    assert [net.state_dict()[f"conv_{i}.2.weight"].shape[0] for i in range(3)] == [64, 128, 128]
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert all(conv.weight.std().item() == pytest.approx(0.02, rel=0.1) for conv in convolutions)
    assert all(not conv.bias.any() for conv in convolutions)


# -- the model ---------------------------------------------------------------------------------------------------------


def test_the_loss_of_G_is_its_formula(tmp_path, monkeypatch):
    """Of features that have passed F, in windows of 3."""
    built = loaded(tmp_path, "lsesim", "--patch_size", "3")
    torch.nn.init.normal_(built.netF.conv_1[2].weight)
    check_spatial_term(built, monkeypatch)


def test_the_loss_of_F_is_its_formula(tmp_path, monkeypatch):
    """Both triples, at one set of positions; all three similarities of each teach F."""
    built = loaded(tmp_path, "lsesim")
    for layer in (built.netF.conv_0[2], built.netF.conv_1[2]):
        torch.nn.init.normal_(layer.weight)
    jittered = iter([torch.rand(2, 3, 32, 32) * 2 - 1, torch.rand(2, 3, 32, 32) * 2 - 1])
    given = []
    monkeypatch.setattr(
        built, "jitter", lambda images: given.append((images, next(jittered))) or given[-1][1]
    )
    drawn = kept_positions(built, monkeypatch)
    terms = built.compute_F_loss()
    [ids] = drawn

    (of_A, other_A), (of_B, other_B) = given
    assert torch.equal(of_A, built.real_A) and torch.equal(of_B, built.real_B)
    triples = [(built.fake_B, built.real_B), (other_A, other_B)]
    expected = 0.0
    for target, other in triples:
        upside_down = torch.stack([image.flip(1).flip(2) for image in other])
        maps = [built.embed(built.vgg(x.detach())) for x in (built.real_A, target, upside_down)]
        for layer in range(2):
            sims = [
                loop_similarity(feats[layer].double(), ids[layer].tolist(), 0, False)
                for feats in maps
            ]
            expected = expected + loop_contrast(*sims, 0.07).mean() / 4
    assert terms["contrast"].item() == pytest.approx(expected.item(), rel=1e-3)
    parameters = list(built.netF.parameters())
    slopes = torch.autograd.grad(terms["contrast"], parameters)
    for ours, theirs in zip(slopes, torch.autograd.grad(expected, parameters), strict=True):
        scale = max(slope.abs().max().item() for slope in slopes)
        torch.testing.assert_close(ours, theirs, rtol=5e-3, atol=1e-4 * scale)


def test_without_augment_the_translation_alone_is_contrasted(tmp_path):
    built = loaded(tmp_path, "lsesim", "--augment", "false")
    [(target, other)] = built.triples()
    assert torch.equal(target, built.fake_B) and not target.requires_grad
    assert torch.equal(other[:, :, 0, 0], built.real_B[:, :, -1, -1])


def test_F_moves_first_and_is_still_while_G_learns(tmp_path, monkeypatch):
    built = loaded(tmp_path, "lsesim")
    moves, update = [], built.update

    def noted(*names, loss):
        before = {key: value.clone() for key, value in built.netF.state_dict().items()}
        update(*names, loss=loss)
        moved = any(not torch.equal(v, before[k]) for k, v in built.netF.state_dict().items())
        moves.append((names, moved))

    monkeypatch.setattr(built, "update", noted)
    built.optimize_parameters()
    assert moves == [(("F",), True), (("D",), False), (("G",), False)]
    assert all(p.grad is None for p in built.vgg.parameters())


def test_F_learns_to_tell_structures_apart(tmp_path):
    """Its contrast falls from that of a guess, on images that stay the same."""
    flags = ["--num_patches", "16", "--lr", "0.001", "--augment", "false"]
    built = loaded(tmp_path, "lsesim", *flags)
    losses = []
    for _ in range(12):
        built.update("F", loss=built.compute_F_loss)
        losses.append(built.losses["contrast"].item())
    assert losses[0] > 2 and max(losses[-3:]) < 1, losses


@pytest.mark.parametrize("batch_size", [2, 5])
def test_other_batch_sizes_and_shapes_of_images_run(tmp_path, batch_size):
    run_on_high_images(tmp_path, "lsesim", batch_size)


# -- options and commands ----------------------------------------------------------------------------------------------


def test_the_official_recipe_is_the_released_one():
    opt = parsed("--model", "lsesim")
    expected = {
        "lr": 1e-4, "pool_size": 50, "finetune_resize": False, "num_patches": 256, "patch_size": 64, "augment": True,
        "T": 0.07, "lambda_spatial": 10.0,
    }  # fmt: skip
    assert {name: getattr(opt, name) for name in expected} == expected
    assert opt.recipe == "lsesim, preset official, float32"
    assert parsed("--model", "lsesim", "--preset", "patch32").patch_size == 32
    opt = parsed("--model", "lsesim", "--preset", "shared")
    assert (opt.lr, opt.pool_size, opt.finetune_resize, opt.augment) == (2e-4, 0, True, True)


def test_the_name_in_the_release_means_one_of_two():
    assert parsed("--model", "sc", *PRINTED).model == "fsesim"
    assert parsed("--model", "sc", *PRINTED, "--learned_attn", "--augment").model == "lsesim"
    assert parsed("--model=sc", "--T=0.1", "--learned_attn").T == 0.1
    assert resolve_alias("sc", [], trained="lsesim") == "lsesim"
    assert resolve_alias("sc", ["--learned_attn"], trained="cut") == "lsesim"


REFUSED = [
    ("lsesim", "--learned_attn false", "give --model fsesim"),
    ("lsesim", "--T 0", "--T: expected a number above 0"),
    ("fsesim", "--augment", "--augment belongs to --model lsesim"),
]


@pytest.mark.parametrize(("model", "flags", "text"), REFUSED)
def test_what_contradicts_itself_is_refused(tmp_path, model, flags, text):
    with pytest.raises(UserError) as caught:
        train_options(tmp_path, *flags.split(), model=model)
    assert text in str(caught.value)


@pytest.mark.slow
def test_the_printed_commands_run(tmp_path):
    """The test command does not say that the run has learned: the run does."""
    run_printed_commands(tmp_path, "lsesim", "--learned_attn", "--augment")
