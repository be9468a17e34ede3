"""SimDCL: the similarity head against loops, its loss against its formula, what is drawn anew and what learns."""

import pytest
import torch

from models import create_model
from models.networks.adjacency import sample_positions
from models.networks.similarity_head import SimilarityHead, stack_layers
from tests.helpers import train_options
from tests.test_dclgan import (
    ALL,
    SMALL,
    assert_same_slopes,
    expected_terms,
    images,
    l1,
    loaded,
    parsed,
)
from tests.test_models import step
from util.errors import UserError
from util.hardware.runtime import Runtime

# -- the head ----------------------------------------------------------------------------------------------------------


def loop_head(weights: dict[str, torch.Tensor], picture: torch.Tensor) -> torch.Tensor:
    """One picture (L,N,D): each output of the convolution by itself, then two layers and the length."""
    kernel, shift = weights["model.0.weight"], weights["model.0.bias"]
    layers, rows, columns = picture.shape
    pooled = []
    for k in range(len(kernel)):
        values = []
        for top in range(0, rows - 2, 2):
            for left in range(0, columns - 2, 2):
                total = shift[k]
                for channel in range(layers):
                    for i in range(3):
                        for j in range(3):
                            x = picture[channel, top + i, left + j]
                            total = total + kernel[k, channel, i, j] * x
                values.append(torch.clamp(total, min=0))
        pooled.append(sum(values) / len(values))

    x = torch.stack(pooled)
    x = torch.clamp(weights["model.4.weight"] @ x + weights["model.4.bias"], min=0)
    x = weights["model.6.weight"] @ x + weights["model.6.bias"]
    return x / ((x * x).sum().sqrt() + 1e-7)


def head_and_patches(batch, rows, columns, layers=2, width=4):
    torch.manual_seed(rows)
    head = SimilarityHead(layers, width).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, 0, 0.5)
    patches = [torch.randn(batch, rows, columns).double().requires_grad_() for _ in range(layers)]
    return head, patches


@pytest.mark.parametrize(("batch", "rows", "columns"), [(1, 5, 8), (3, 6, 3)])
def test_the_head_is_its_formula(batch, rows, columns):
    head, patches = head_and_patches(batch, rows, columns)
    twins = {name: p.detach().clone().requires_grad_() for name, p in head.named_parameters()}
    inputs = [x.detach().clone().requires_grad_() for x in patches]

    found = head(patches)
    expected = torch.stack(
        [loop_head(twins, torch.stack([x[b] for x in inputs])) for b in range(batch)]
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)

    slope = torch.arange(found.numel()).double().reshape(found.shape).sin()
    (found * slope).sum().backward()
    (expected * slope).sum().backward()
    for name, parameter in head.named_parameters():
        torch.testing.assert_close(parameter.grad, twins[name].grad, rtol=1e-8, atol=1e-10)
    for ours, loops in zip(patches, inputs, strict=True):
        torch.testing.assert_close(ours.grad, loops.grad, rtol=1e-8, atol=1e-10)


def test_short_vectors_stay_short_and_zero_has_a_gradient():
    """At the release's first weights a vector is about as long as the 1e-7 that is added to its length."""
    head, patches = head_and_patches(1, 5, 8)
    direction = head(patches).detach()
    shrink = 1e-7 / head.model(stack_layers(patches)).norm().item()
    with torch.no_grad():
        head.model[6].weight.mul_(shrink)
        head.model[6].bias.mul_(shrink)
    length = head.model(stack_layers(patches)).norm().item()
    torch.testing.assert_close(
        head(patches), direction * length / (length + 1e-7), rtol=1e-5, atol=0
    )

    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    head(patches).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())


def test_the_head_has_the_released_keys_and_shapes():
    shapes = {name: tuple(value.shape) for name, value in SimilarityHead(4).state_dict().items()}
    assert shapes == {
        "model.0.weight": (64, 4, 3, 3),
        "model.0.bias": (64,),
        "model.4.weight": (64, 64),
        "model.4.bias": (64,),
        "model.6.weight": (64, 64),
        "model.6.bias": (64,),
    }


def test_larger_maps_give_every_so_many_th_of_their_patches():
    """On small images layers have unlike numbers of positions."""
    large, small = torch.arange(2 * 11 * 3).reshape(2, 11, 3), torch.zeros(2, 4, 3).long()
    picture = stack_layers([large, small])
    assert torch.equal(picture[:, 0], large[:, [0, 2, 4, 6]])
    assert torch.equal(picture[:, 1], small)
    assert torch.equal(stack_layers([large, large])[:, 1], large)


def test_a_picture_that_the_convolution_cannot_read_is_refused():
    for shape, words in (((1, 2, 8), "not 2 of 8"), ((1, 8, 2), "not 8 of 2")):
        with pytest.raises(UserError, match=words):
            SimilarityHead(1)([torch.zeros(shape)])


def test_half_precision_is_projected_in_single_precision():
    head, patches = head_and_patches(2, 5, 8)
    expected, half = head(patches), [x.detach().bfloat16() for x in patches]
    with torch.autocast("cpu", torch.bfloat16):
        found = head.float()(half)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=0.05, atol=0.02)


# -- the model ---------------------------------------------------------------------------------------------------------


def with_visible_heads(model):
    """Biases and weights of the heads large enough that each matters."""
    torch.manual_seed(7)
    for head in model.heads:
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter, 0, 0.3)
    return model


def similarity(model):
    """Of real and translated images in both domains, from single passes over every position."""
    layers = model.opt.nce_layers
    fake_B, fake_A = model.netG_A(model.real_A), model.netG_B(model.real_B)

    def project(name, patch_head, net, picture):
        patches, _ = patch_head(net.encode(picture, layers), 0)
        return model.networks[name](patches)

    A, B = (model.netF1, model.netG_A), (model.netF2, model.netG_B)
    in_A = l1(project("F3", *A, model.real_A), project("F6", *A, fake_A))
    in_B = l1(project("F4", *B, fake_B), project("F5", *B, model.real_B))
    return in_A + in_B


@pytest.mark.parametrize("batch_size", ["1", "3"])
def test_every_term_is_its_formula(tmp_path, monkeypatch, batch_size):
    """The contrast counts once where DCLGAN has it twice; nothing of the similarity is detached."""
    flags = ["--batch_size", batch_size, *ALL, *SMALL, "--nce_layers", "8,12"]
    model = with_visible_heads(loaded(tmp_path, *flags, name="simdcl"))
    monkeypatch.setattr(model, "draw_shuffled", lambda feat: torch.arange(feat[0, 0].numel()))
    terms = model.compute_G_loss()
    expected = expected_terms(model, weight_NCE=1.0) | {"sim": 10 * similarity(model)}

    assert sorted(terms) == sorted(expected)
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-4), name
    assert_same_slopes(model, {"sim": terms["sim"]}, {"sim": expected["sim"]})
    assert_same_slopes(model, terms, expected)


def test_the_similarity_reaches_generators_and_all_heads(tmp_path):
    model = with_visible_heads(loaded(tmp_path, name="simdcl"))
    model.compute_G_loss()["sim"].backward()
    for name in ("G_A", "G_B", "F1", "F2", "F3", "F4", "F5", "F6"):
        first = next(model.networks[name].parameters())
        assert first.grad is not None and first.grad.any(), name
    early = model.netG_A.model[4].weight
    assert early.grad.any(), "through the features of real images too"


def test_positions_of_translated_images_are_drawn_anew_in_random_order(tmp_path, monkeypatch):
    model = loaded(tmp_path, "--num_patches", "20", name="simdcl")
    seen, orders = [], []

    def draw(*args, shuffled=False):
        orders.append(shuffled)
        return sample_positions(*args, shuffled=shuffled)

    monkeypatch.setattr("models.simdcl_model.sample_positions", draw)
    for head in (model.netF1, model.netF2):
        head.register_forward_hook(lambda module, _, output: seen.append((module, output[1])))
    model.compute_G_loss()

    F1, F2 = model.netF1, model.netF2
    assert [module for module, _ in seen] == [F1, F2, F2, F1, F2, F1]
    key_A, query_B, key_B, query_A, fresh_B, fresh_A = (ids for _, ids in seen)
    for first, second, same in (
        (key_A, query_B, True),
        (key_B, query_A, True),
        (query_B, fresh_B, False),
        (query_A, fresh_A, False),
        (key_A, key_B, False),
    ):
        equal = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert equal == same
    assert all(len(set(ids.tolist())) == 20 for ids in key_A)
    assert orders == [True] * 16  # four layers of four kinds of images


def test_the_order_of_positions_is_random():
    """Each drawn position is as likely at each place: means of places differ by chance alone."""
    draws = torch.cat(
        [sample_positions(400, 100, 10, torch.device("cpu"), shuffled=True) for _ in range(5)]
    )
    spread = 28.9 / 2000**0.5  # deviation of a uniform position, of the mean of so many
    assert ((draws.double().mean(0) - 49.5).abs() < 4.5 * spread).all(), draws.double().mean(0)


def test_where_all_positions_are_taken_their_order_is_random_too(tmp_path):
    draws = sample_positions(2000, 10, 12, torch.device("cpu"), shuffled=True)
    assert torch.equal(draws.sort(1).values, torch.arange(10).expand(2000, -1))
    spread = 2.9 / 2000**0.5
    assert ((draws.double().mean(0) - 4.5).abs() < 4.5 * spread).all(), draws.double().mean(0)

    model = loaded(tmp_path, "--num_patches", "0", name="simdcl")
    ids_N = model.draw_shuffled(torch.zeros(1, 4, 8, 8))
    assert sorted(ids_N.tolist()) == list(range(64)) != ids_N.tolist()


def test_one_optimiser_moves_all_six_heads_with_the_common_settings(tmp_path):
    model = loaded(tmp_path, "--lr", "0.0003", name="simdcl")
    [group] = model.optimizers["F"].param_groups
    assert (float(group["lr"]), group["betas"]) == (0.0003, (0.5, 0.999))
    moved = {id(p) for p in group["params"]}
    names = ("F1", "F2", "F3", "F4", "F5", "F6")
    assert moved == {id(p) for name in names for p in model.networks[name].parameters()}


@pytest.mark.parametrize(
    "flags", ["--batch_size 2", "--batch_size 5", "--normG batch", "--num_patches 3 --batch_size 3"]
)
def test_variants_step(tmp_path, flags):
    opt = train_options(tmp_path, *flags.split(), model="simdcl")
    model = create_model(opt, Runtime.from_options(opt))
    losses = step(model, images(opt))
    assert all(abs(value) < 1e4 for value in losses.values()), losses
    for name in ("F1", "F3", "F6"):
        assert all(p.grad is not None for p in model.networks[name].parameters()), name


# -- the command line --------------------------------------------------------------------------------------------------


def test_presets_are_the_published_settings():
    names = (
        "gan_mode",
        "lr",
        "n_epochs",
        "n_epochs_decay",
        "lambda_NCE",
        "lambda_SIM",
        "pool_size",
    )
    values = {
        preset: [getattr(parsed("--preset", preset, model="simdcl"), name) for name in names]
        for preset in ("release", "paper", "shared")
    }
    assert values == {
        "release": ["hinge_both", 2e-4, 200, 200, 1.0, 10.0, 0],
        "paper": ["hinge_both", 2e-4, 100, 100, 2.0, 10.0, 50],
        "shared": ["lsgan", 2e-4, 200, 200, 1.0, 10.0, 0],
    }
    assert parsed(model="simdcl").preset == "release"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--lambda_SIM", "0"], "without the similarity loss it is --model dclgan"),
        (["--lambda_NCE", "0"], "SimDCL takes positive weights"),
        (["--netF", "sample"], "--netF sample"),
        (["--num_patches", "2"], "take at least 3"),
        (["--nce_T", "-1"], "--nce_T: expected a number above 0"),
    ],
)
def test_bad_input_is_one_line(argv, message):
    with pytest.raises(UserError) as caught:
        parsed(*argv, model="simdcl")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_networks_have_the_names_of_the_released_files(tmp_path):
    model = loaded(tmp_path, name="simdcl")
    expected = {"G_A", "G_B", "D_A", "D_B", "F1", "F2", "F3", "F4", "F5", "F6"}
    assert set(model.networks) == expected
