"""NEGCUT: losses and generated negatives against loops, whose gradient reaches what, order, and the copy of F."""

import math

import pytest
import torch

from models.losses.generated_nce import generated_nce_loss, spread
from models.networks.negative_generator import NegativeGenerator
from models.networks.patch_sampler import PatchSampler
from options import TrainOptions, parse
from tests.helpers import TINY, make_dataset, run_command
from tests.test_models import alike_for_each_image, build, step
from util.errors import UserError


def parsed(*argv: str):
    return parse(TrainOptions(), ["--dataroot", "x", "--model", "negcut", *argv])


def forwarded(tmp_path, *flags, preset=None):
    """A model of a tiny run, in float64, that has read and translated its first batch."""
    _, _, loader, model = build(tmp_path, "negcut", preset, "--num_negatives", "6", *flags)
    for net in (model.netF, model.netF_copy, model.netN):
        for parameter in net.parameters():  # so that vectors differ from place to place
            torch.nn.init.normal_(parameter, std=0.3)
    for net in (*model.networks.values(), model.netF_copy):
        net.double()
    batch = next(iter(loader.epoch(1)))
    model.set_input({role: batch[role].double() for role in "AB"})
    model.load(model._micro_batches[0])
    model.forward()
    return model


# -- losses and network ------------------------------------------------------------------------------------------------


def vectors(*shape: int, seed: int) -> torch.Tensor:
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x / x.norm(dim=-1, keepdim=True)


def loop_nce(query, key, negative, temperature):
    """Cross entropy of each query by itself, the positive first."""
    per_image = []
    for b in range(len(query)):
        losses = []
        for q, k in zip(query[b], key[b], strict=True):
            logits = torch.stack([q @ k, *[q @ n for n in negative[b]]]) / temperature
            losses.append(-torch.log(torch.exp(logits[0]) / torch.exp(logits).sum()))
        per_image.append(torch.stack(losses).mean())
    return torch.stack(per_image)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_the_loss_is_its_formula(temperature):
    """Numbers of patches and of negatives differ; keys learn nothing, negatives do."""
    for batch in (3, 1):
        key = vectors(batch, 4, 6, seed=1).requires_grad_()
        slopes, losses = [], []
        for loss_of in (generated_nce_loss, loop_nce):
            query = vectors(batch, 4, 6, seed=2).requires_grad_()
            negative = vectors(batch, 5, 6, seed=3).requires_grad_()
            keys = key if loss_of is generated_nce_loss else key.detach()
            losses.append(loss_of(query, keys, negative, temperature))
            (losses[-1] * torch.arange(1.0, batch + 1).double()).sum().backward()
            slopes.append((query.grad, negative.grad))
        assert losses[0].shape == (batch,)
        torch.testing.assert_close(*losses, rtol=1e-12, atol=1e-13)
        for ours, loops in zip(*slopes, strict=True):
            torch.testing.assert_close(ours, loops, rtol=1e-10, atol=1e-12)
        assert key.grad is None


def test_degenerate_features_have_a_finite_loss_and_gradients():
    zeros, same = torch.zeros(2, 3, 4), torch.ones(2, 3, 4) / 2
    for query, key, negative in ((zeros, zeros, zeros), (same, same, same), (zeros, same, -same)):
        query, negative = query.clone().requires_grad_(), negative.clone().requires_grad_()
        loss = generated_nce_loss(query, key, negative)
        loss.sum().backward()
        assert torch.isfinite(loss).all()
        assert torch.isfinite(query.grad).all() and torch.isfinite(negative.grad).all()
    assert generated_nce_loss(same, same, same).mean().item() == pytest.approx(math.log(4))


def test_the_loss_of_half_precision_is_single_precision():
    x = [vectors(2, 4, 6, seed=seed).bfloat16() for seed in (1, 2, 3)]
    with torch.autocast("cpu", torch.bfloat16):
        loss = generated_nce_loss(*x)
    assert loss.dtype == torch.float32
    expected = generated_nce_loss(*(tensor.double() for tensor in x))
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)


def test_spread_compares_the_first_half_with_the_second():
    negative = torch.randn(3, 6, 5, dtype=torch.float64)
    expected = []
    for image in negative:
        gaps = [abs(image[m][d] - image[m + 3][d]) for m in range(3) for d in range(5)]
        expected.append(sum(gaps) / len(gaps))
    torch.testing.assert_close(spread(negative), torch.stack(expected))
    assert spread(negative[:, :1].expand(-1, 4, -1)).abs().max() == 0
    with pytest.raises(ValueError, match="5 negatives"):
        spread(negative[:, :5])


def test_a_negative_is_made_of_context_and_noise():
    """Each by itself, with the noise that the network drew."""
    net = NegativeGenerator(layers=2, width=5, noise=3).double()
    contexts = [torch.randn(2, 5, dtype=torch.float64) for _ in range(2)]
    torch.manual_seed(4)
    found = net(contexts, count=4)
    torch.manual_seed(4)
    for i, (context, made) in enumerate(zip(contexts, found, strict=True)):
        noise = torch.randn(2, 4, 3, dtype=torch.float64)
        first, _, second = getattr(net, f"mlp_{i}")
        for b in range(2):
            for m in range(4):
                x = first.weight @ torch.cat([context[b], noise[b, m]]) + first.bias
                x = second.weight @ torch.relu(x) + second.bias
                torch.testing.assert_close(made[b, m], x / ((x * x).sum().sqrt() + 1e-7))
    assert (found[0][:, 0] - found[0][:, 1]).abs().max() > 0.01, "each has noise of its own"


def test_the_network_has_the_published_size():
    net = NegativeGenerator(layers=5)
    assert [tuple(p.shape) for p in net.mlp_3.parameters()] == [
        (256, 320),
        (256,),
        (256, 256),
        (256,),
    ]


# -- the step ----------------------------------------------------------------------------------------------------------


def places(feat, count):
    """Fixed positions in the place of drawn ones; 0 stands for all of them."""
    positions = feat.shape[2] * feat.shape[3]
    return torch.arange(positions) if count == 0 else torch.arange(count) * 3 % positions


def slow_losses(model, detach: bool) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """NCE of each domain, and the spread of its negatives, in loops from a pass of G for each image batch.

    `detach`: as N sees it, everything but its own weights is given.
    """
    opt, losses, spreads = model.opt, [], []
    pairs = [(model.real_A, model.fake_B)]
    if model.domains == 2:
        pairs.append((model.real_B, model.idt_B))
    for source, output in pairs:
        feats_in = model.netG.encode(source, opt.nce_layers)
        feats_out = model.netG.encode(output, opt.nce_layers)
        if opt.flip_equivariance and model.flipped:
            feats_out = [feat.flip(3) for feat in feats_out]
        ids = [places(feat, opt.num_patches) for feat in feats_in]
        with torch.no_grad():
            keys, _ = model.netF(feats_in, ids=ids)
        queries, _ = model.netF(feats_out, ids=ids)

        contexts = []
        for i, feat in enumerate(feats_in):
            mlp = getattr(model.netF_copy, f"mlp_{i}")
            of_images = []
            for image in feat:
                patches = [
                    mlp(image[:, y, x]) for y in range(feat.shape[2]) for x in range(feat.shape[3])
                ]
                of_images.append(
                    sum(v / ((v * v).sum().sqrt() + 1e-7) for v in patches) / len(patches)
                )
            contexts.append(torch.stack(of_images))

        if detach:
            contexts, queries = [c.detach() for c in contexts], [q.detach() for q in queries]
        negatives = model.netN(contexts, opt.num_negatives)
        layers = zip(queries, keys, negatives, strict=True)
        contrast = [loop_nce(q, k, n, opt.nce_T).mean() for q, k, n in layers]
        losses.append(sum(contrast) / len(contrast))
        gaps = [(n[:, :3] - n[:, 3:]).abs().mean() for n in negatives]
        spreads.append(sum(gaps) / len(gaps))
    return losses, spreads


SMALL = [
    "--netD",
    "pixel",
    "--nce_layers",
    "0,8,12",
    "--crop_size",
    "16",
    "--load_size",
    "20",
    "--num_patches",
    "5",
]


@pytest.mark.parametrize(
    ("flags", "weights"),
    [
        ("--batch_size 2", (0.5, 0.5)),
        ("--lambda_NCE 3 --nce_T 0.5", (1.5, 1.5)),
        ("--normG batch --batch_size 2", (0.5, 0.5)),
        ("--preset fast --batch_size 2", (10.0,)),
    ],
)
def test_the_terms_are_their_formulas(tmp_path, monkeypatch, flags, weights):
    """In value and in all gradients: N's from its own loss, F's and G's, through the negatives too, from G's."""
    monkeypatch.setattr(PatchSampler, "draw", staticmethod(places))
    monkeypatch.setattr(torch, "randn", alike_for_each_image)
    model = forwarded(tmp_path, *SMALL, *flags.split())
    names = ["NCE", "NCE_Y"][: len(weights)]

    terms = model.compute_N_loss()
    losses, spreads = slow_losses(model, detach=True)
    expected = {
        f"N_{name}": -w * loss for name, w, loss in zip(names, weights, losses, strict=True)
    }
    expected["N_spread"] = -spreads[-1]
    assert_equal_losses(terms, expected, list(model.netN.parameters()))

    terms = model.compute_G_loss()
    assert list(terms) == ["G_GAN", *names]
    losses, _ = slow_losses(model, detach=False)
    expected = {name: w * loss for name, w, loss in zip(names, weights, losses, strict=True)}
    learning = [model.netG.model[4].weight, model.netG.model[12].conv_block[1].weight]
    assert_equal_losses(terms, expected, [*learning, *model.netF.parameters()])


def assert_equal_losses(terms, expected, parameters):
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-9), name
    ours = torch.autograd.grad(sum(terms[name] for name in expected), parameters, retain_graph=True)
    loops = torch.autograd.grad(sum(expected.values()), parameters)
    for mine, slope in zip(ours, loops, strict=True):
        assert slope.any()
        torch.testing.assert_close(mine, slope, rtol=1e-6, atol=1e-8 * slope.abs().max().item())


def test_g_learns_through_what_negatives_are_made_from(tmp_path, monkeypatch):
    """Its gradient is another one when contexts are given."""
    monkeypatch.setattr(PatchSampler, "draw", staticmethod(places))
    monkeypatch.setattr(torch, "randn", alike_for_each_image)
    model, weight = forwarded(tmp_path, *SMALL), None
    slopes = []
    for detach in (False, True):
        if detach:
            model.contexts = [[c.detach() for c in context] for context in model.contexts]
        weight = model.netG.model[4].weight
        terms = model.compute_G_loss()
        slopes.append(
            torch.autograd.grad(terms["NCE"] + terms["NCE_Y"], weight, retain_graph=True)[0]
        )
    assert (slopes[0] - slopes[1]).abs().max() > 1e-3 * slopes[0].abs().max()


def test_n_moves_alone_and_against_g(tmp_path, monkeypatch):
    """A step of N raises the loss that G and F go down, and leaves no gradient elsewhere."""
    monkeypatch.setattr(PatchSampler, "draw", staticmethod(places))
    monkeypatch.setattr(torch, "randn", alike_for_each_image)
    model = forwarded(tmp_path, *SMALL, "--lr", "0.01", "--lambda_MS", "0")
    before = model.compute_G_loss()
    model._loaded = 0
    model.update("N", loss=model.compute_N_loss)
    after = model.compute_G_loss()
    assert after["NCE"] + after["NCE_Y"] > before["NCE"] + before["NCE_Y"] + 0.01
    assert all(p.grad is None for name in "GDF" for p in model.networks[name].parameters())
    assert all(p.grad is None for p in model.netF_copy.parameters())


def test_the_spread_keeps_negatives_apart(tmp_path):
    model = forwarded(tmp_path, *SMALL, "--lr", "0.01", "--lambda_MS", "1000")
    model._loaded = 0
    first = model.compute_N_loss()["N_spread"]
    for _ in range(5):
        model.update("N", loss=model.compute_N_loss)
    assert model.compute_N_loss()["N_spread"] < 1.05 * first < 0


def test_players_move_in_order_and_the_copy_follows(tmp_path):
    _, _, loader, model = build(tmp_path, "negcut", None, "--momentum_F", "0.75")
    calls, update, follow = [], model.update, model.follow
    model.update = lambda *names, loss: calls.append(names) or update(*names, loss=loss)
    model.follow = lambda *args: calls.append("copy") or follow(*args)
    first, own = (
        {key: value.clone() for key, value in net.state_dict().items()}
        for net in (model.netF_copy, model.netF)
    )
    assert all(not torch.equal(first[key], own[key]) for key in own if "weight" in key)

    step(model, next(iter(loader.epoch(1))))
    assert calls == [("D",), ("N",), ("G", "F"), "copy"]
    for key, moved in model.netF.state_dict().items():
        expected = 0.75 * first[key] + 0.25 * moved
        torch.testing.assert_close(model.netF_copy.state_dict()[key], expected)
    [memories] = model.state_dict()["memories"]  # of each process
    assert "F_copy" in memories and "F_copy" not in model.networks


def test_contexts_are_those_of_images_as_they_are(tmp_path):
    """With flips G's input is mirrored; what N reads is not."""
    model = forwarded(tmp_path, *SMALL, preset="fast")
    seen = {}
    for seed in range(20):
        torch.manual_seed(seed)
        model.forward()
        seen.setdefault(bool(model.flipped), []).append(model.contexts[0][1])
    assert set(seen) == {False, True}
    for context in [*seen[False], *seen[True]]:
        assert torch.equal(context, seen[False][0])


def test_a_single_patch_has_negatives_all_the_same(tmp_path):
    _, _, loader, model = build(tmp_path, "negcut", None, "--num_patches", "1")
    losses = step(model, next(iter(loader.epoch(1))))
    assert losses["NCE"] > 0.1 and losses["NCE_Y"] > 0.1


def test_a_step_encodes_each_image_once_beside_the_translation(tmp_path):
    """N and G share the features; the release reads them again for each."""
    _, _, loader, model = build(tmp_path, "negcut", None)
    calls, encode = [], model.netG.encode
    model.netG.encode = lambda x, layers: calls.append(len(x)) or encode(x, layers)
    step(model, next(iter(loader.epoch(1))))
    assert calls == [2]


# -- the command line --------------------------------------------------------------------------------------------------


def test_presets_are_the_published_settings():
    official = parsed()
    assert (official.preset, official.lambda_NCE, official.lambda_GAN, official.nce_idt) == (
        "official",
        1,
        1,
        True,
    )
    assert (
        official.lambda_MS,
        official.momentum_F,
        official.num_negatives,
        official.netN_noise,
    ) == (1, 0.9, 256, 64)
    assert (official.n_epochs, official.n_epochs_decay, official.lr, official.nce_T) == (
        200,
        200,
        2e-4,
        0.07,
    )
    for flags in (["--preset", "fast"], ["--CUT_mode", "FastCUT"]):
        fast = parsed(*flags)
        assert (fast.preset, fast.lambda_NCE, fast.nce_idt, fast.flip_equivariance) == (
            "fast",
            10,
            False,
            True,
        )
        assert (fast.n_epochs, fast.n_epochs_decay, fast.CUT_mode) == (150, 50, "FastCUT")
    shared = vars(parsed("--preset", "shared"))
    differ = {key for key, value in vars(official).items() if shared[key] != value}
    assert differ <= {"preset", "recipe", "changed"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--lambda_NCE 0", "--lambda_NCE 0 leaves N nothing"),
        ("--src", "--src: such flags are about negatives from images"),
        ("--nce_weights hdce", "--nce_weights: such flags are about"),
        ("--HDCE_gamma 5 --lambda_SRC 1", "--HDCE_gamma, --lambda_SRC: such flags are about"),
        ("--nce_includes_all_negatives_from_minibatch", "_from_minibatch: such flags are about"),
        ("--netF sample", "give --netF mlp_sample"),
        ("--num_negatives 7", "give an even number"),
        ("--momentum_F 1", "--momentum_F: expected a number from 0 to below 1"),
        ("--lambda_MS -1", "--lambda_MS: expected a weight of at least 0"),
        ("--CUT_mode FastCUT --preset shared", "--CUT_mode FastCUT contradicts --preset shared"),
        ("--input_nc 1", "takes equal channels"),
    ],
)
def test_bad_input_is_one_line(argv, message):
    with pytest.raises(UserError) as caught:
        parsed(*argv.split())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_training_and_translating(tmp_path):
    """The generator alone is read at test."""
    make_dataset(tmp_path / "data")
    where = ["--name", "run", "--checkpoints_dir", tmp_path / "checkpoints", "--gpu_ids", "-1"]
    data = ["--dataroot", tmp_path / "data"]
    result = run_command(
        ["train.py", "--model", "negcut", *data, *where, *TINY, "--max_steps", "2"]
    )
    assert result.returncode == 0, result.stderr
    (tmp_path / "checkpoints" / "run" / "latest_net_N.pth").unlink()
    result = run_command(["test.py", *where, "--results_dir", tmp_path / "results"])
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "results").rglob("fake_B/*.png"))) == 4
