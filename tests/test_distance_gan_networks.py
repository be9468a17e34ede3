"""Zero borders and instance norm with learned scales, which DistanceGAN's networks have: keys, definitions, weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.networks import create_discriminator, create_generator, initialize_weights
from models.networks.blocks import AffineInstanceNorm, standardize
from tests.helpers import make_image_folder
from tests.test_published_weights import publish, read, test_command
from util.errors import UserError

STRIDED = {"antialias": False, "antialias_up": False}
RELEASED = {"norm": "instance_affine", "padding": "zero", **STRIDED}

# Indices in the release's generator with 9 blocks: convolutions, normalisations, first residual block.
CONVOLUTIONS, NORMALISATIONS, FIRST_BLOCK = (0, 3, 6, 18, 21, 24), (1, 4, 7, 19, 22), 9


def generator(netG="resnet_4blocks", **settings):
    """A small one of double precision, all of its weights and biases drawn at random."""
    net = create_generator(netG, 3, 3, 4, **RELEASED | settings).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net


def forward_by_definition(state, x, blocks):
    """The release's forward pass with torch's own operators."""

    def conv(name, x, padding, stride=1):
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride, padding)

    def up(name, x):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return F.conv_transpose2d(x, weight, bias, stride=2, padding=1, output_padding=1)

    def norm(name, x):
        return F.instance_norm(x, weight=state[f"{name}.weight"], bias=state[f"{name}.bias"])

    x = F.relu(norm("model.1", conv("model.0", x, padding=3)))
    for n in (3, 6):
        x = F.relu(norm(f"model.{n + 1}", conv(f"model.{n}", x, padding=1, stride=2)))
    for n in range(9, 9 + blocks):
        block = f"model.{n}.conv_block"
        inner = F.relu(norm(f"{block}.1", conv(f"{block}.0", x, padding=1)))
        x = x + norm(f"{block}.4", conv(f"{block}.3", inner, padding=1))
    for n in (9 + blocks, 12 + blocks):
        x = F.relu(norm(f"model.{n + 1}", up(f"model.{n}", x)))
    return torch.tanh(conv(f"model.{15 + blocks}", x, padding=3))


def test_zero_padded_generator_has_the_released_keys():
    expected = {
        f"model.{n}.{kind}" for n in CONVOLUTIONS + NORMALISATIONS for kind in ("weight", "bias")
    }
    expected |= {
        f"model.{FIRST_BLOCK + block}.conv_block.{layer}.{kind}"
        for block in range(9)
        for layer in (0, 1, 3, 4)
        for kind in ("weight", "bias")
    }
    assert set(create_generator("resnet_9blocks", 3, 3, 4, **RELEASED).state_dict()) == expected


def test_discriminator_with_learned_scales_has_the_released_keys():
    keys = create_discriminator("basic", 3, 4, norm="instance_affine", antialias=False).state_dict()
    layers = (0, 2, 3, 5, 6, 8, 9, 11)
    assert set(keys) == {f"model.{n}.{kind}" for n in layers for kind in ("weight", "bias")}


@pytest.mark.parametrize("size", [(20, 24), (8, 8)])
def test_zero_padded_generator_equals_its_definition(size):
    net, x = generator(), torch.rand(2, 3, *size, dtype=torch.float64) * 2 - 1
    expected = forward_by_definition(net.state_dict(), x, blocks=4)
    torch.testing.assert_close(net(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("antialias", [True, False])
def test_only_the_border_differs_between_paddings(antialias):
    """Without normalisation, which spreads it, what lies beyond the border is seen near the border alone."""
    settings = {"norm": "none", "antialias": antialias, "antialias_up": antialias}
    nets = [
        generator("resnet_4blocks", padding=padding, **settings) for padding in ("reflect", "zero")
    ]
    for a, b in zip(*(net.parameters() for net in nets), strict=True):
        b.data.copy_(a.data.mul_(0.1))
    x = torch.rand(1, 3, 160, 160, dtype=torch.float64) * 2 - 1
    reflected, zero = (net(x) for net in nets)
    centre = (..., slice(72, 88), slice(72, 88))
    torch.testing.assert_close(reflected[centre], zero[centre], rtol=0, atol=1e-12)
    assert (reflected[..., :8, :8] - zero[..., :8, :8]).abs().max() > 1e-6


def test_dropout_moves_the_second_convolution():
    keys = create_generator("resnet_4blocks", 3, 3, 4, use_dropout=True, **RELEASED).state_dict()
    assert {"model.9.conv_block.4.weight", "model.9.conv_block.5.weight"} <= set(keys)


def norm_by_loops(x, weight, bias, eps):
    out = torch.empty_like(x)
    for b in range(x.shape[0]):
        for c in range(x.shape[1]):
            values = x[b, c]
            mean = values.sum() / values.numel()
            variance = ((values - mean) ** 2).sum() / values.numel()
            out[b, c] = weight[c] * (values - mean) / (variance + eps) ** 0.5 + bias[c]
    return out


@pytest.mark.parametrize("batch", [1, 3])
def test_affine_instance_norm_equals_loops_and_so_do_its_gradients(batch):
    x = (3 * torch.randn(batch, 5, 7, 6, dtype=torch.float64) + 1).requires_grad_()
    norm, grad = AffineInstanceNorm(5).double(), torch.randn(batch, 5, 7, 6, dtype=torch.float64)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    inputs = (x, norm.weight, norm.bias)

    for_gpus = standardize(x, norm.eps, norm.weight, norm.bias)
    expected = norm_by_loops(x, norm.weight, norm.bias, 1e-5)
    wanted = torch.autograd.grad(expected, inputs, grad)
    for found in (norm(x), for_gpus):
        torch.testing.assert_close(found, expected)
        for a, b in zip(torch.autograd.grad(found, inputs, grad), wanted, strict=True):
            torch.testing.assert_close(a, b)


def test_affine_instance_norm_under_autocast():
    """Statistics in float32, the answer in the precision of the maps, as a GPU has it."""
    x = (torch.randn(1, 3, 64, 64) + 3).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = AffineInstanceNorm(3)(x)
    assert out.double().mean((2, 3)).abs().max() < 2e-3
    layered = standardize(x, 1e-5, torch.full((3,), 2.0), torch.full((3,), 0.5))
    assert layered.dtype == torch.bfloat16
    assert layered.double().mean((2, 3)).sub(0.5).abs().max() < 4e-3


def test_affine_instance_norm_refuses_single_pixels():
    with pytest.raises(UserError, match=r"1x1 map .* use larger images"):
        AffineInstanceNorm(3)(torch.randn(2, 3, 1, 1))


def test_learned_scales_start_near_one():
    norm = AffineInstanceNorm(5000)
    nn.init.ones_(norm.bias)
    initialize_weights(nn.Sequential(norm), "normal", 0.05)
    assert norm.weight.mean().item() == pytest.approx(1, abs=0.005)
    assert norm.weight.std().item() == pytest.approx(0.05, rel=0.05)
    assert not norm.bias.any()


def test_a_generator_in_the_released_layout_translates_by_model_test(tmp_path):
    """Instance norm kept statistics in files of that time, which are to be ignored."""
    net = generator("resnet_9blocks").float()
    state = net.state_dict()
    old = {
        f"model.{n}.{kind}": torch.full((4,), 9.0) for n in (1, 22) for kind in ("running_mean",)
    }
    publish(tmp_path, "run", state | old, suffix="_A")
    [path] = make_image_folder(tmp_path / "photos", count=1, size=(64, 48))
    flags = ["--dataroot", path, "--name", "run", "--model", "test", "--model_suffix", "_A"]
    flags += ["--no_dropout", "--padG", "zero", "--norm", "instance_affine", "--ngf", "4"]
    images = test_command(tmp_path, *flags)
    expected = forward_by_definition(state, read(path), blocks=9)
    assert expected.std() > 0.1
    assert (read(images / "fake_B" / path.name) - expected).abs().max() < 1.01 / 127.5
