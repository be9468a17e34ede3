"""StyleGAN2 networks against loops in float64, and what they promise: keys, sizes, noise, initial weights."""

import copy
import math

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from models import create_model
from models.adversary import r1_penalty
from models.networks import create_discriminator, create_generator, training_size
from models.networks.stylegan2 import StyleGAN2Discriminator, StyleGAN2Generator, nearest_size
from models.networks.stylegan2_layers import (
    BiasedLeakyReLU,
    Blur,
    DoublingConv,
    EqualConv2d,
    EqualLinear,
    NoiseInjection,
    ResBlock,
    StyledDoubling,
)
from tests.helpers import train_options
from util.errors import UserError
from util.hardware.runtime import Runtime


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def filled(net: torch.nn.Module) -> torch.nn.Module:
    """The network with every parameter random, those that start at 0 too."""
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    return net


# -- the same once more, a pixel at a time -----------------------------------------------------------------------------


def at(x: Tensor, y: int, column: int) -> Tensor:
    """The channels (C,) of one pixel of (C,H,W), zeros outside."""
    inside = 0 <= y < x.shape[1] and 0 <= column < x.shape[2]
    return x[:, y, column] if inside else torch.zeros(x.shape[0])


def slow_conv(x: Tensor, weight: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """Correlation of (C,H,W) with (O,C,K,K)."""
    size = weight.shape[2]
    high, wide = ((side + 2 * padding - size) // stride + 1 for side in x.shape[1:])
    out = torch.zeros(weight.shape[0], high, wide)
    for y in range(high):
        for column in range(wide):
            for a in range(size):
                for b in range(size):
                    pixel = at(x, y * stride - padding + a, column * stride - padding + b)
                    out[:, y, column] += weight[:, :, a, b] @ pixel
    return out


def slow_blur(x: Tensor, padding: int, gain: float = 1.0) -> Tensor:
    """[1,3,3,1] x [1,3,3,1] / 64 on each map."""
    line = [1 / 8, 3 / 8, 3 / 8, 1 / 8]
    high, wide = (side + 2 * padding - 3 for side in x.shape[1:])
    out = torch.zeros(x.shape[0], high, wide)
    for y in range(high):
        for column in range(wide):
            for a in range(4):
                for b in range(4):
                    out[:, y, column] += (
                        gain * line[a] * line[b] * at(x, y - padding + a, column - padding + b)
                    )
    return out


def slow_activation(x: Tensor, bias: Tensor) -> Tensor:
    shifted = x + bias.view(-1, 1, 1)
    return torch.where(shifted > 0, shifted, 0.2 * shifted) * 2**0.5


def slow_equal(x: Tensor, weight: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    return slow_conv(x, weight / math.sqrt(weight[0].numel()), stride, padding)


def slow_block(x: Tensor, state: dict[str, Tensor], name: str, halve: bool) -> Tensor:
    """A residual block, from the released keys."""
    out = slow_activation(
        slow_equal(x, state[f"{name}.conv1.0.weight"], padding=1), state[f"{name}.conv1.1.bias"]
    )
    if halve:
        out = slow_equal(slow_blur(out, 2), state[f"{name}.conv2.1.weight"], stride=2)
        out = slow_activation(out, state[f"{name}.conv2.2.bias"])
        skip = slow_equal(slow_blur(x, 1), state[f"{name}.skip.1.weight"], stride=2)
    else:
        out = slow_equal(out, state[f"{name}.conv2.0.weight"], padding=1)
        out, skip = slow_activation(out, state[f"{name}.conv2.1.bias"]), x
    return (out + skip) / 2**0.5


def slow_doubling(x: Tensor, weight: Tensor) -> Tensor:
    """Each pixel spread over 3x3 with weights (1,O,C,3,3) of length 1 per output map, then blurred."""
    weight = weight[0] / math.sqrt(weight[0, 0].numel())
    weight = torch.stack([w / torch.sqrt((w**2).sum() + 1e-8) for w in weight])
    spread = torch.zeros(weight.shape[0], 2 * x.shape[1] + 1, 2 * x.shape[2] + 1)
    for y in range(x.shape[1]):
        for column in range(x.shape[2]):
            for a in range(3):
                for b in range(3):
                    spread[:, 2 * y + a, 2 * column + b] += weight[:, :, a, b] @ x[:, y, column]
    return slow_blur(spread, 1, gain=4)


def slow_first(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    return slow_activation(slow_equal(x, state[f"{name}.0.weight"]), state[f"{name}.1.bias"])


def slow_generator(
    x: Tensor, state: dict[str, Tensor], halvings: int, half: int, noise: list[Tensor]
) -> Tensor:
    x = slow_first(x, state, "encoder.convs.1")
    for k in range(halvings):
        x = slow_block(x, state, f"encoder.convs.{2 + k}", halve=True)
    for k in range(half):
        x = slow_block(x, state, f"encoder.convs.{2 + halvings + k}", halve=False)
    for k in range(half):
        x = slow_block(x, state, f"decoder.convs.{k}", halve=False)
    for k in range(halvings):
        name = f"decoder.convs.{half + k}"
        x = (
            slow_doubling(x, state[f"{name}.conv.weight"])
            + state[f"{name}.noise.weight"] * noise[k]
        )
        x = slow_activation(x, state[f"{name}.activate.bias"])
    return slow_first(x, state, f"decoder.convs.{half + halvings}")


# -- layers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("padding", "stride", "gain"), [(1, 1, 1.0), (2, 1, 1.0), (1, 2, 1.0), (1, 1, 4.0)]
)
def test_blur(padding, stride, gain):
    x = torch.randn(2, 3, 6, 4)
    expected = torch.stack([slow_blur(image, padding, gain) for image in x])[
        :, :, ::stride, ::stride
    ]
    torch.testing.assert_close(Blur(padding, stride, gain)(x), expected)


@pytest.mark.parametrize(
    ("size", "stride", "padding", "bias"), [(1, 1, 0, True), (3, 1, 1, False), (3, 2, 0, False)]
)
def test_equalised_convolution(size, stride, padding, bias):
    net, x = filled(EqualConv2d(3, 4, size, stride, padding, bias)), torch.randn(3, 7, 5)
    shift = net.bias.view(-1, 1, 1) if bias else 0
    torch.testing.assert_close(net(x[None])[0], slow_equal(x, net.weight, stride, padding) + shift)


@pytest.mark.parametrize("activate", [False, True])
def test_equalised_linear(activate):
    net, x = filled(EqualLinear(5, 3, activate)), torch.randn(2, 5)
    for i in range(2):
        for j in range(3):
            value = sum(x[i, k] * net.weight[j, k] / 5**0.5 for k in range(5)) + net.bias[j]
            value = (value if value > 0 else 0.2 * value) * 2**0.5 if activate else value
            assert net(x)[i, j].item() == pytest.approx(value.item())


def test_activation():
    net, x = filled(BiasedLeakyReLU(3)), torch.randn(3, 2, 4)
    torch.testing.assert_close(net(x[None])[0], slow_activation(x, net.bias))


@pytest.mark.parametrize(("before", "after", "halve"), [(2, 2, False), (2, 3, True), (2, 2, True)])
def test_residual_block(before, after, halve):
    net, x = filled(ResBlock(before, after, halve)), torch.randn(before, 6, 4)
    state = {f"block.{key}": value for key, value in net.state_dict().items()}
    torch.testing.assert_close(net(x[None])[0], slow_block(x, state, "block", halve))


def test_doubling_and_its_noise():
    net, x = filled(StyledDoubling(2, 3, inject_noise=True)), torch.randn(2, 2, 4, 3)
    noise = torch.randn(2, 1, 8, 6)
    for i in range(2):
        plain = slow_doubling(x[i], net.state_dict()["conv.weight"]) + net.noise.weight * noise[i]
        torch.testing.assert_close(net(x, noise)[i], slow_activation(plain, net.activate.bias))
    torch.manual_seed(5)
    drawn = net(x)
    torch.manual_seed(5)
    torch.testing.assert_close(net(x, torch.randn(2, 1, 8, 6)), drawn)
    assert not torch.equal(net(x), drawn), "each pass draws new noise"


def test_noise_starts_without_effect_and_can_be_left_out():
    x = torch.randn(1, 2, 4, 4)
    assert torch.equal(NoiseInjection(True)(x), x)
    silent = NoiseInjection(False)
    assert not silent.weight.requires_grad
    state = torch.get_rng_state()
    assert torch.equal(filled(silent)(x), x)
    torch.set_rng_state(state)


# -- networks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("halvings", "blocks"), [(1, 2), (2, 4)])
def test_generator(halvings, blocks):
    net = filled(StyleGAN2Generator(3, 2, 1, size=256, halvings=halvings, n_blocks=blocks))
    x = torch.randn(1, 3, 8, 12)
    noise = net.draw_noise(x)
    assert [tuple(n.shape[2:]) for n in noise] == [(4, 6), (8, 12)][2 - halvings :]
    expected = slow_generator(x[0], net.state_dict(), halvings, blocks // 2, [n[0] for n in noise])
    torch.testing.assert_close(net(x, noise)[0], expected)
    torch.manual_seed(3)
    noise = net.draw_noise(x)
    torch.manual_seed(3)
    assert torch.equal(net(x), net(x, noise)), "draw_noise draws what forward would"


def test_discriminator_and_its_penalty():
    net = filled(StyleGAN2Discriminator(3, 1, 16))
    x = torch.randn(2, 3, 16, 16)
    state = net.state_dict()
    scores = []
    for image in x:
        out = slow_first(image, state, "convs.0")
        for k in (1, 2):
            out = slow_block(out, state, f"convs.{k}", halve=True)
        out = slow_equal(out, state["final_conv.0.weight"], padding=1)
        out = slow_activation(out, state["final_conv.1.bias"]).flatten()
        weight = state["final_linear.0.weight"]
        out = slow_activation(
            (weight @ out / math.sqrt(weight.shape[1]))[:, None, None], state["final_linear.0.bias"]
        )
        weight = state["final_linear.1.weight"]
        scores.append(
            weight @ out.flatten() / math.sqrt(weight.shape[1]) + state["final_linear.1.bias"]
        )
    torch.testing.assert_close(net(x), torch.stack(scores))


def test_second_derivatives_through_the_discriminator():
    net = filled(StyleGAN2Discriminator(1, 1, 8))
    real = torch.randn(2, 1, 8, 8)
    names = [name for name, p in net.named_parameters() if "convs.1" in name]

    def penalty(*weights):
        return r1_penalty(
            lambda x: functional_call(net, dict(zip(names, weights, strict=True)), (x,)), real
        )

    weights = [net.get_parameter(name).detach().clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(
        penalty, weights, eps=1e-7, atol=1e-4, rtol=1e-3, fast_mode=True
    )


def test_sizes_and_layers_of_the_single_image_networks():
    netG, netD = (
        create_generator("stylegan2", 3, 3, 10, size=64),
        create_discriminator("stylegan2", 3, 8, size=64),
    )
    assert sum(p.numel() for p in netG.parameters()) == 3_068_404
    assert sum(p.numel() for p in netD.parameters()) == 5_885_473
    x = torch.randn(2, 3, 64, 64)
    features = netG.encode(x, [0, 2, 4])
    assert [tuple(f.shape[1:]) for f in features] == [(3, 64, 64), (160, 32, 32), (160, 32, 32)]
    assert torch.equal(features[0], x)
    assert netG.feature_channels([4, 0, 2]) == [160, 3, 160]
    assert netG.feature_channels(range(6)) == [f.shape[1] for f in netG.encode(x, range(6))]
    assert netD(x).shape == (2, 1)


def test_the_number_of_maps_is_limited_as_in_the_release():
    assert create_generator("stylegan2", 3, 3, 64, size=64).feature_channels([1, 2]) == [512, 512]
    wide = create_discriminator("stylegan2", 3, 64, size=64).state_dict()
    assert wide["convs.0.0.weight"].shape[0] == 256 and wide["final_conv.0.weight"].shape[:2] == (
        384,
        384,
    )


def test_keys_are_the_released_ones():
    keys = set(create_generator("stylegan2", 3, 3, 2, size=64).state_dict())
    block = {"conv1.0.weight", "conv1.1.bias"}
    plain = {*block, "conv2.0.weight", "conv2.1.bias"}
    halving = {
        *block,
        "conv2.0.kernel",
        "conv2.1.weight",
        "conv2.2.bias",
        "skip.0.kernel",
        "skip.1.weight",
    }
    doubling = {"conv.weight", "conv.blur.kernel", "noise.weight", "activate.bias"}
    expected = {
        f"{name}.{key}"
        for name in ("encoder.convs.1", "decoder.convs.4")
        for key in ("0.weight", "1.bias")
    }
    expected |= {f"encoder.convs.2.{key}" for key in halving} | {
        f"decoder.convs.3.{key}" for key in doubling
    }
    expected |= {f"encoder.convs.{n}.{key}" for n in (3, 4, 5) for key in plain}
    expected |= {f"decoder.convs.{n}.{key}" for n in (0, 1, 2) for key in plain}
    assert keys == expected
    small = set(create_generator("smallstylegan2", 3, 3, 2, size=64).state_dict())
    assert {key for key in small if "noise" in key} == {"decoder.convs.1.noise.weight"}
    expected = {"final_conv.0.weight", "final_conv.1.bias", "convs.0.0.weight", "convs.0.1.bias"}
    expected |= {f"final_linear.{n}.{kind}" for n in (0, 1) for kind in ("weight", "bias")}
    expected |= {f"convs.{n}.{key}" for n in (1, 2) for key in halving}
    assert set(create_discriminator("stylegan2", 3, 2, size=16).state_dict()) == expected


def test_the_doubling_keeps_the_released_shape_and_fits_every_layout():
    net = filled(DoublingConv(3, 4))
    state = copy.deepcopy(net).state_dict()
    assert state["weight"].shape == (1, 4, 3, 3, 3)
    x = torch.randn(1, 3, 4, 4)
    other = DoublingConv(3, 4)
    other.load_state_dict(state)
    other.to(memory_format=torch.channels_last)  # refused for weights with five axes
    torch.testing.assert_close(other(x), net(x))
    net.state_dict()["weight"].zero_()  # moving averages write through the state dict
    assert not net.weight.any()


def test_tiles_are_judged_one_by_one():
    net = create_discriminator("tilestylegan2", 3, 2, n_layers=1)
    x = torch.randn(2, 3, 16, 24)
    scores = net(x)
    assert scores.shape == (2, 2, 3)
    alone = StyleGAN2Discriminator(3, 2, 8)
    alone.load_state_dict(net.state_dict())
    for b, y, column in torch.cartesian_prod(
        torch.arange(2), torch.arange(2), torch.arange(3)
    ).tolist():
        tile = x[b : b + 1, :, 8 * y : 8 * y + 8, 8 * column : 8 * column + 8]
        torch.testing.assert_close(scores[b, y, column], alone(tile)[0, 0])
    with pytest.raises(UserError, match=r"tiles of 8 pixels, but they are 20x16"):
        net(torch.zeros(1, 3, 16, 20))


def test_what_does_not_fit_is_said():
    netG, netD = (
        create_generator("stylegan2", 3, 3, 2, size=32),
        create_discriminator("stylegan2", 3, 2, size=32),
    )
    with pytest.raises(UserError, match=r"multiples of 2, not 9 wide and 8 high"):
        netG(torch.zeros(1, 3, 8, 9))
    with pytest.raises(UserError, match=r"made for 32x32 pixels .* got 32x16"):
        netD(torch.zeros(1, 3, 16, 32))
    for layers, named in (([0, 6], "layer 6"), ([], "no layer"), ([-1], "layer -1")):
        with pytest.raises(UserError, match=f"{named}: this generator's encoder has layers 0 to 5"):
            netG.encode(torch.zeros(1, 3, 8, 8), layers)
        with pytest.raises(UserError):
            netG.feature_channels(layers)


@pytest.mark.parametrize(
    ("pixels", "size"), [(64, 64), (256, 256), (90, 64), (91, 128), (184, 256), (3, 8)]
)
def test_the_size_is_the_nearest_power_of_two(pixels, size):
    assert nearest_size(pixels) == size
    assert (
        training_size("stylegan2", "basic", pixels)
        == training_size("resnet_9blocks", "stylegan2", pixels)
        == size
    )
    assert training_size("resnet_9blocks", "tilestylegan2", pixels) is None


def test_a_model_leaves_their_initial_weights_alone(tmp_path):
    torch.set_default_dtype(torch.float32)
    flags = [
        "--netG",
        "stylegan2",
        "--netD",
        "stylegan2",
        "--init_gain",
        "0.3",
        "--crop_size",
        "32",
        "--ngf",
        "8",
    ]
    opt = train_options(tmp_path, *flags, model="patchgcl")
    assert opt.stylegan2_size == 32
    model = create_model(opt, Runtime.from_options(opt))
    for net in (model.netG, model.netD):
        weights = torch.cat(
            [p.flatten() for name, p in net.named_parameters() if name.endswith("weight")]
        )
        assert weights.std().item() == pytest.approx(1, abs=0.02)
    assert "stylegan2_size" not in opt.recipe, "it follows from crop_size, so it is no choice"


# -- the form of F-LSeSim's release ------------------------------------------------------------------------------------


def test_a_bounded_generator_ends_with_a_tanh():
    plain = filled(create_generator("stylegan2", 3, 3, 2, size=32, halvings=2))
    bounded = create_generator("stylegan2_tanh", 3, 3, 2, size=32, halvings=2)
    bounded.load_state_dict(plain.state_dict())
    x = torch.rand(2, 3, 32, 24)
    noise = plain.draw_noise(x)
    torch.testing.assert_close(bounded(x, noise), torch.tanh(plain(x, noise)))


def test_a_discriminator_that_ends_at_8x8_is_the_other_one_without_its_last_halving():
    net = create_discriminator("stylegan2_8x8", 3, 4, size=32)
    longer = create_discriminator("stylegan2", 3, 4, size=32)
    blocks = {key for key in longer.state_dict() if key.startswith("convs.3.")}
    assert set(net.state_dict()) == set(longer.state_dict()) - blocks
    features = net.convs(torch.rand(2, 3, 32, 32))
    assert features.shape == (2, 128, 8, 8)
    score = net.final_linear(net.final_conv(features).flatten(1))
    assert score.shape == (2, 1) and net.final_conv[0].weight.shape[:2] == (256, 128)


def test_the_released_networks_for_one_image_have_their_sizes():
    assert training_size("stylegan2_tanh", "basic", 128) == 128
    assert training_size("resnet_9blocks", "stylegan2_8x8", 128) == 128
    nets = [
        create_generator("stylegan2_tanh", 3, 3, 8, size=128, halvings=2),
        create_discriminator("stylegan2_8x8", 3, 8, size=128),
    ]
    assert [sum(p.numel() for p in net.parameters()) for net in nets] == [2_012_261, 10_954_897]
