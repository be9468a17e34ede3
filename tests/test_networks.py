"""Generators and discriminators: released keys and sizes, resampling against loops, taps, initial weights."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.networks import (
    DISCRIMINATORS,
    GENERATORS,
    create_discriminator,
    create_generator,
    initialize_weights,
)
from models.networks.blocks import InstanceNorm
from models.networks.patch_discriminator import NLayerDiscriminator
from models.networks.resampling import BlurDown, BlurUp
from util.errors import UserError

# Indices in CUT's released ResnetGenerator with 9 blocks: convolutions, filters, first residual block.
RELEASED_G = {
    (True, True): ((1, 4, 8, 22, 26, 30), (7, 11, 21, 25), 12),
    (True, False): ((1, 4, 8, 21, 24, 28), (7, 11), 12),
    (False, True): ((1, 4, 7, 20, 24, 28), (19, 23), 10),
    (False, False): ((1, 4, 7, 19, 22, 26), (), 10),
}
ANTIALIAS = sorted(RELEASED_G)


def tiny_generator(netG="resnet_4blocks", **settings):
    return create_generator(netG, 3, 3, 4, **settings)


def parameter_count(net) -> int:
    return sum(p.numel() for p in net.parameters())


def shapes(net) -> dict[str, tuple]:
    return {key: tuple(value.shape) for key, value in net.state_dict().items()}


def image(*shape, dtype=torch.float32):
    return torch.rand(*shape, dtype=dtype) * 2 - 1


# -- generator -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_dropout", [False, True])
@pytest.mark.parametrize(("antialias", "antialias_up"), ANTIALIAS)
def test_generator_has_the_released_keys(antialias, antialias_up, use_dropout):
    convs, filters, first_block = RELEASED_G[antialias, antialias_up]
    second = 6 if use_dropout else 5
    expected = {f"model.{index}.{kind}" for index in convs for kind in ("weight", "bias")}
    expected |= {f"model.{index}.filt" for index in filters}
    expected |= {
        f"model.{first_block + block}.conv_block.{conv}.{kind}"
        for block in range(9)
        for conv in (1, second)
        for kind in ("weight", "bias")
    }
    net = tiny_generator(
        "resnet_9blocks", antialias=antialias, antialias_up=antialias_up, use_dropout=use_dropout
    )
    assert set(net.state_dict()) == expected


@pytest.mark.parametrize(
    ("netG", "blocks"), [("resnet_9blocks", 9), ("resnet_6blocks", 6), ("resnet_4blocks", 4)]
)
def test_generators_differ_in_their_residual_blocks(netG, blocks):
    keys = tiny_generator(netG).state_dict()
    indices = {key.split(".")[1] for key in keys if "conv_block" in key}
    assert indices == {str(12 + n) for n in range(blocks)}
    assert f"model.{21 + blocks}.bias" in keys, (
        "the last convolution follows pad, two doublings of four layers each"
    )


def test_generator_has_the_released_shapes_and_size():
    net = create_generator("resnet_9blocks", 3, 3)
    assert parameter_count(net) == 11_378_179
    expected = {
        "model.1.weight": (64, 3, 7, 7),
        "model.4.weight": (128, 64, 3, 3),
        "model.8.bias": (256,),
        "model.11.filt": (256, 1, 3, 3),
        "model.20.conv_block.5.weight": (256, 256, 3, 3),
        "model.21.filt": (256, 1, 4, 4),
        "model.22.weight": (128, 256, 3, 3),
        "model.26.weight": (64, 128, 3, 3),
        "model.30.weight": (3, 64, 7, 7),
    }
    assert expected.items() <= shapes(net).items()
    assert shapes(tiny_generator(antialias_up=False))["model.16.weight"] == (16, 8, 3, 3), (
        "a transposed convolution"
    )


@pytest.mark.parametrize(("norm", "learned"), [("batch", 5), ("none", 0)])
def test_only_instance_norm_has_biases_before_it(norm, learned):
    keys = tiny_generator(norm=norm).state_dict()
    biased = [index for index in (1, 4, 8, 17, 21, 25) if f"model.{index}.bias" in keys]
    assert biased == [25], "the last convolution has no normalisation"
    assert len([key for key in keys if key.startswith("model.2.")]) == learned
    assert len([key for key in keys if key.startswith("model.12.conv_block.6.")]) == learned


@pytest.mark.parametrize("size", [(8, 8), (32, 20), (36, 44)])
@pytest.mark.parametrize(("antialias", "antialias_up"), ANTIALIAS)
def test_output_has_the_size_of_the_input(antialias, antialias_up, size):
    net = create_generator(
        "resnet_4blocks", 1, 3, 4, antialias=antialias, antialias_up=antialias_up
    )
    assert all(side % net.size_multiple == 0 for side in size)
    out = net(image(2, 1, *size))
    assert out.shape == (2, 3, *size)
    assert out.abs().max() <= 1


@pytest.mark.parametrize("size", [(30, 32), (32, 33), (4, 4)])
def test_a_size_that_would_not_come_back_is_refused(size):
    with pytest.raises(
        UserError, match=rf"multiples of 4 and at least 8, not {size[1]} wide and {size[0]} high"
    ):
        tiny_generator()(image(1, 3, *size))


def naive_generator(state, x, blocks):
    """The released, anti-aliased forward pass written with torch's own instance norm and a transposed blur."""

    def conv(name, x, padding=0):
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=padding)

    def pad(x, width):
        return F.pad(x, (width,) * 4, mode="reflect")

    x = F.relu(F.instance_norm(conv("model.1", pad(x, 3))))
    for index in (4, 8):
        x = F.relu(F.instance_norm(conv(f"model.{index}", x, padding=1)))
        x = F.conv2d(pad(x, 1), state[f"model.{index + 3}.filt"], stride=2, groups=x.shape[1])
    for index in range(12, 12 + blocks):
        inner = F.relu(F.instance_norm(conv(f"model.{index}.conv_block.1", pad(x, 1))))
        x = x + F.instance_norm(conv(f"model.{index}.conv_block.5", pad(inner, 1)))
    for index in (12 + blocks, 16 + blocks):
        repeated = F.pad(x, (1,) * 4, mode="replicate")
        up = F.conv_transpose2d(repeated, state[f"model.{index}.filt"], stride=2, groups=x.shape[1])
        x = up[:, :, 3:-3, 3:-3]
        x = F.relu(F.instance_norm(conv(f"model.{index + 1}", x, padding=1)))
    return torch.tanh(conv(f"model.{20 + blocks + 1}", pad(x, 3)))


def test_generator_equals_its_definition():
    net = tiny_generator().double()
    initialize_weights(net, "normal", 0.3)
    for parameter in net.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter)
    x = image(2, 3, 20, 24, dtype=torch.float64)
    torch.testing.assert_close(
        net(x), naive_generator(net.state_dict(), x, blocks=4), rtol=1e-9, atol=1e-9
    )


def test_dropout_acts_in_training_only():
    net, x = tiny_generator(use_dropout=True), image(1, 3, 16, 16)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))
    plain = tiny_generator()
    assert torch.equal(plain(x), plain(x))


# -- taps ------------------------------------------------------------------------------------------------------------


def outputs_at_the_time(net, x):
    """What each layer gives, one after the other, biases and all."""
    outputs = []
    for layer in net.model:
        x = layer(x)
        outputs.append(x.clone())
    return outputs


@pytest.mark.parametrize(("antialias", "antialias_up"), ANTIALIAS)
def test_every_tap_keeps_the_value_of_its_layer(antialias, antialias_up):
    net, x = tiny_generator(antialias=antialias, antialias_up=antialias_up), image(2, 3, 16, 16)
    everything = range(len(net.model))
    expected = outputs_at_the_time(net, x)
    taps = net.encode(x, everything)
    for index, (tap, value) in enumerate(zip(taps, expected, strict=True)):
        torch.testing.assert_close(tap, value, rtol=0, atol=0, msg=f"layer {index}")
    assert [tap.shape[1] for tap in taps] == net.feature_channels(everything)


def test_nce_layers_have_the_shapes_of_the_paper():
    net, layers = create_generator("resnet_9blocks", 3, 3, 8), [0, 4, 8, 12, 16]
    feats = net.encode(image(2, 3, 32, 32), layers)
    assert [tuple(f.shape) for f in feats] == [
        (2, 3, 38, 38), (2, 16, 32, 32), (2, 32, 16, 16), (2, 32, 8, 8), (2, 32, 8, 8),
    ]  # fmt: skip
    assert create_generator("resnet_9blocks", 3, 3).feature_channels(layers) == [
        3,
        128,
        256,
        256,
        256,
    ]


def test_encode_keeps_the_order_asked_and_stops_after_the_last_layer():
    net, x = tiny_generator(), image(1, 3, 16, 16)
    ran = []
    for index, layer in enumerate(net.model):
        layer.register_forward_hook(lambda _m, _i, _o, index=index: ran.append(index))
    late, early = net.encode(x, [8, 1])
    assert ran == [
        0,
        1,
        2,
        3,
        5,
        6,
        7,
        8,
    ]  # the convolution at 4 runs without its bias, so not through its module
    assert (late.shape[1], early.shape[1]) == (16, 4)
    assert net.feature_channels([8, 1]) == [16, 4]


@pytest.mark.parametrize(
    ("layers", "named"), [([0, 27], "layer 27"), ([-1], "layer -1"), ([], "no layer")]
)
def test_a_missing_layer_is_named(layers, named):
    net = tiny_generator()
    message = f"--nce_layers names {named}: this generator has layers 0 to 26"
    for call in (net.feature_channels, lambda layers: net.encode(image(1, 3, 16, 16), layers)):
        with pytest.raises(UserError, match=message):
            call(layers)


# -- blocks ----------------------------------------------------------------------------------------------------------


def reflect(i: int, size: int) -> int:
    return -i if i < 0 else 2 * (size - 1) - i if i >= size else i


def clamp(i: int, size: int) -> int:
    return min(max(i, 0), size - 1)


@pytest.mark.parametrize("size", [(4, 6), (5, 3), (2, 7)])
def test_blur_down_is_a_weighted_sum_of_neighbours(size):
    height, width = size
    blur, x = BlurDown(2), torch.randn(1, 2, height, width)
    assert (16 * blur.filt[0, 0]).tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    out = blur(x)
    assert out.shape == (1, 2, math.ceil(height / 2), math.ceil(width / 2))
    for c, i, j in itertools.product(*map(range, out.shape[1:])):
        expected = sum(
            blur.filt[c, 0, k, l]
            * x[0, c, reflect(2 * i + k - 1, height), reflect(2 * j + l - 1, width)]
            for k in range(3)
            for l in range(3)  # noqa: E741
        )
        torch.testing.assert_close(out[0, c, i, j], expected)


@pytest.mark.parametrize("size", [(4, 6), (5, 3), (1, 2)])
def test_blur_up_spreads_each_pixel_by_its_filter(size):
    height, width = size
    blur, x = BlurUp(2), torch.randn(1, 2, height, width)
    assert (16 * blur.filt[1, 0, 1]).tolist() == [3, 9, 9, 3]
    out = blur(x)
    assert out.shape == (1, 2, 2 * height, 2 * width)
    for c, i, j in itertools.product(*map(range, out.shape[1:])):
        expected = sum(
            blur.filt[c, 0, i - 2 * p + 1, j - 2 * q + 1]
            * x[0, c, clamp(p, height), clamp(q, width)]
            for p in range(-1, height + 1)
            for q in range(-1, width + 1)
            if 0 <= i - 2 * p + 1 < 4 and 0 <= j - 2 * q + 1 < 4
        )
        torch.testing.assert_close(out[0, c, i, j], expected)


def test_instance_norm_is_torchs():
    x = 3 * torch.randn(2, 5, 7, 6, dtype=torch.float64) + 1
    expected = (x - x.mean((2, 3), keepdim=True)) / (
        x.var((2, 3), keepdim=True, correction=0) + 1e-5
    ).sqrt()
    torch.testing.assert_close(InstanceNorm()(x), expected)
    torch.testing.assert_close(InstanceNorm()(x), F.instance_norm(x))
    assert not InstanceNorm().state_dict()


def test_instance_norm_keeps_its_statistics_in_float32_under_autocast():
    x = (torch.randn(1, 3, 64, 64) + 3).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = InstanceNorm()(x)
    assert (
        out.double().mean((2, 3)).abs().max() < 2e-3
    )  # torch's own instance norm is off by more than twice that


@pytest.mark.parametrize("training", [True, False])
def test_instance_norm_refuses_single_pixels(training):
    with pytest.raises(UserError, match=r"1x1 map .* use larger images"):
        InstanceNorm().train(training)(torch.randn(2, 3, 1, 1))


# -- discriminators --------------------------------------------------------------------------------------------------

RELEASED_D = {
    ("basic", True): ("model", (0, 3, 7, 11, 14), (2, 6, 10)),
    ("basic", False): ("model", (0, 2, 5, 8, 11), ()),
    ("n_layers", True): ("model", (0, 3, 7, 10), (2, 6)),
    ("n_layers", False): ("model", (0, 2, 5, 8), ()),
    ("pixel", True): ("net", (0, 2, 5), ()),
    ("pixel", False): ("net", (0, 2, 5), ()),
}


@pytest.mark.parametrize(("netD", "antialias"), RELEASED_D)
def test_discriminator_has_the_released_keys(netD, antialias):
    name, convs, filters = RELEASED_D[netD, antialias]
    expected = {f"{name}.{index}.{kind}" for index in convs for kind in ("weight", "bias")}
    expected |= {f"{name}.{index}.filt" for index in filters}
    net = create_discriminator(netD, 3, 4, n_layers=2, antialias=antialias)
    assert set(net.state_dict()) == expected


def test_discriminator_biases_follow_the_norm():
    keys = create_discriminator("basic", 3, 4, norm="batch").state_dict()
    assert [index for index in (0, 3, 7, 11, 14) if f"model.{index}.bias" in keys] == [0, 14]
    assert {"model.4.running_mean", "model.12.weight"} <= set(keys)
    assert "net.5.bias" not in create_discriminator("pixel", 3, 4, norm="batch").state_dict()


@pytest.mark.parametrize("antialias", [True, False])
def test_basic_discriminator_judges_30x30_patches(antialias):
    net = create_discriminator(
        "basic", 3, n_layers=5, antialias=antialias
    )  # basic has 3 layers whatever is asked
    assert parameter_count(net) == 2_764_737
    assert shapes(net)["model.11.weight" if antialias else "model.8.weight"] == (512, 256, 4, 4)
    with torch.device("meta"):
        assert create_discriminator("basic", 3, antialias=antialias)(
            torch.empty(2, 3, 256, 256)
        ).shape == (
            2,
            1,
            30,
            30,
        )


def test_discriminator_equals_its_definition():
    net, x = create_discriminator("n_layers", 3, 4, n_layers=1), image(2, 3, 12, 14)
    state = net.state_dict()

    def conv(index, x):
        return F.conv2d(x, state[f"model.{index}.weight"], state[f"model.{index}.bias"], padding=1)

    first = F.leaky_relu(conv(0, x), 0.2)
    halved = F.conv2d(
        F.pad(first, (1,) * 4, mode="reflect"), state["model.2.filt"], stride=2, groups=4
    )
    second = F.leaky_relu(F.instance_norm(conv(3, halved)), 0.2)
    torch.testing.assert_close(net(x), conv(6, second), rtol=1e-4, atol=1e-5)


def test_widths_stop_at_eight_times_the_first():
    net = create_discriminator("n_layers", 3, 2, n_layers=5, antialias=False)
    assert [layer.out_channels for layer in net.model if isinstance(layer, nn.Conv2d)] == [
        2,
        4,
        8,
        16,
        16,
        16,
        1,
    ]


def test_pixel_discriminator_looks_at_one_pixel():
    net, x = create_discriminator("pixel", 3, 4, norm="none"), image(1, 3, 8, 9).requires_grad_()
    out = net(x)
    assert out.shape == (1, 1, 8, 9)
    out[0, 0, 4, 5].backward()
    assert x.grad.abs().sum(1).nonzero().tolist() == [[0, 4, 5]]


@pytest.mark.parametrize(
    ("n_layers", "antialias", "patch"),
    [(1, False, 16), (2, False, 34), (3, False, 70), (1, True, 18), (2, True, 40), (3, True, 84)],
)
def test_patch_size(n_layers, antialias, patch):
    net = NLayerDiscriminator(1, 2, n_layers, norm="none", antialias=antialias).double()
    for parameter in net.parameters():
        nn.init.ones_(parameter)  # so that nothing cancels
    x = torch.ones(1, 1, 192, 192, dtype=torch.float64, requires_grad=True)
    out = net(x)
    out[0, 0, out.shape[2] // 2, out.shape[3] // 2].backward()
    assert [int((x.grad[0, 0] != 0).any(axis).sum()) for axis in (0, 1)] == [patch, patch]


# -- factories and initial weights -----------------------------------------------------------------------------------


def test_an_unknown_name_gets_a_suggestion_and_the_list():
    with pytest.raises(
        UserError, match=r"--netG resnet_9block: .*did you mean 'resnet_9blocks'"
    ) as error:
        create_generator("resnet_9block", 3, 3)
    assert all(name in str(error.value) for name in GENERATORS)
    with pytest.raises(UserError, match=r"--netD pixels: .*did you mean 'pixel'") as error:
        create_discriminator("pixels", 3)
    assert all(name in str(error.value) for name in DISCRIMINATORS)
    with pytest.raises(
        UserError, match=r"norm layer: .*there are: instance, instance_affine, batch, none"
    ):
        tiny_generator(norm="layer")
    with pytest.raises(UserError, match=r"--init_type xavier_normal: .*xavier"):
        initialize_weights(nn.Linear(2, 2), "xavier_normal")


EXPECTED_STD = {
    "normal": lambda gain, fan_in, fan_out: gain,
    "xavier": lambda gain, fan_in, fan_out: gain * math.sqrt(2 / (fan_in + fan_out)),
    "kaiming": lambda gain, fan_in, fan_out: math.sqrt(2 / fan_in),
    "orthogonal": lambda gain, fan_in, fan_out: gain / math.sqrt(max(fan_in, fan_out)),
}
LAYERS = {  # with the numbers of inputs and outputs of the weight matrix
    "conv": (lambda: nn.Conv2d(40, 90, 3), 360, 810),
    "transposed": (lambda: nn.ConvTranspose2d(40, 90, 3), 810, 360),
    "linear": (lambda: nn.Linear(300, 200), 300, 200),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("init_type", ["normal", "xavier", "kaiming"])
def test_initial_weights_have_the_stated_spread(init_type, layer):
    build, fan_in, fan_out = LAYERS[layer]
    module = build()
    initialize_weights(nn.Sequential(module), init_type, 0.05)
    assert module.weight.mean().abs() < 0.02 * module.weight.std()
    assert module.weight.std().item() == pytest.approx(
        EXPECTED_STD[init_type](0.05, fan_in, fan_out), rel=0.02
    )
    assert not module.bias.any()
    assert module.weight.requires_grad


def test_orthogonal_weights_are_orthogonal():
    module = nn.Conv2d(4, 10, 3)
    initialize_weights(module, "orthogonal", 0.5)
    rows = module.weight.detach().flatten(1)
    torch.testing.assert_close(rows @ rows.T, 0.25 * torch.eye(10), atol=1e-6, rtol=0)


def test_batch_norm_starts_near_one():
    module = nn.BatchNorm2d(5000)
    nn.init.ones_(module.bias)
    initialize_weights(module, "xavier", 0.05)
    assert module.weight.mean().item() == pytest.approx(1, abs=0.005)
    assert module.weight.std().item() == pytest.approx(0.05, rel=0.05)
    assert not module.bias.any()


def test_initial_weights_repeat_with_the_seed_and_leave_the_filters():
    nets = [create_generator("resnet_4blocks", 3, 3, 4) for _ in range(2)]
    assert not torch.equal(nets[0].model[1].weight, nets[1].model[1].weight)
    for net in nets:
        torch.manual_seed(3)
        initialize_weights(net)
    for key, value in nets[0].state_dict().items():
        assert torch.equal(value, nets[1].state_dict()[key]), key
    assert nets[0].model[7].filt.sum() == 8, "eight channels, each filter sums to 1"
