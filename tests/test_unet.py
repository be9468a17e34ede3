"""The U-Net against one written from the released key layout alone: keys, skips at every size, taps, dropout."""

import pytest
import torch
from torch import nn

from models.networks import GENERATORS, create_generator
from models.networks.unet_generator import UnetGenerator
from tests.reference_released import unet_down, unet_forward, unet_shapes, unet_state, unet_widths
from util.errors import UserError


def image(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64) * 2 - 1


def loaded(downs: int, ngf: int = 2, **settings) -> tuple[UnetGenerator, dict[str, torch.Tensor]]:
    """A U-Net in double precision with the weights of a random published file, and that file."""
    net = UnetGenerator(3, 3, ngf, downs, "batch", **settings).double()
    state = {key: value.double() for key, value in unet_state(ngf, downs).items()}
    counters = {
        key: value for key, value in net.state_dict().items() if key.endswith("num_batches_tracked")
    }
    net.load_state_dict(state | counters)
    return net, state


@pytest.mark.parametrize(("netG", "downs"), [("unet_256", 8), ("unet_128", 7)])
def test_keys_and_shapes_are_the_released_ones(netG, downs):
    state = create_generator(netG, 3, 3, 4, norm="batch", use_dropout=True).state_dict()
    shapes = {k: tuple(v.shape) for k, v in state.items() if not k.endswith("num_batches_tracked")}
    assert shapes == unet_shapes(4, downs)
    assert GENERATORS[netG].size_multiple == 2**downs


def test_the_released_size_and_its_biases_with_instance_norm():
    assert (
        sum(p.numel() for p in create_generator("unet_256", 3, 3, 64, norm="batch").parameters())
        == 54_413_955
    )
    plain, biased = (
        create_generator("unet_128", 3, 3, 4, norm=norm).state_dict()
        for norm in ("none", "instance")
    )
    assert {k for k in biased if k.endswith(".bias")} == {
        k.replace(".weight", ".bias") for k in plain
    } & set(biased)
    assert len([k for k in biased if k.endswith(".bias")]) == 14 and [
        k for k in plain if k.endswith(".bias")
    ] == ["model.model.3.bias"]


@pytest.mark.parametrize(
    ("downs", "size"), [(2, (8, 12)), (3, (8, 16)), (5, (32, 64)), (7, (128, 128)), (8, (256, 256))]
)
def test_output_and_gradient_equal_the_reference(downs, size):
    net, state = loaded(downs)
    x = image(2, 3, *size).requires_grad_()
    other = x.detach().clone().requires_grad_()
    out, expected = net(x), unet_forward(state, other, downs)
    torch.testing.assert_close(out, expected)
    assert out.std() > 0.05
    weight = image(*out.shape)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("downs", [2, 5])
def test_evaluation_mode_uses_the_running_statistics_of_the_file(downs):
    net, state = loaded(downs, use_dropout=True)
    x = image(2, 3, 32, 64)
    torch.testing.assert_close(net.eval()(x), unet_forward(state, x, downs, running=True))


def test_a_side_that_is_one_pixel_at_the_bottom_works_alone_in_a_batch():
    for norm in ("batch", "instance"):
        net = create_generator("unet_128", 3, 3, 2, norm=norm, use_dropout=True)
        assert net(torch.rand(1, 3, 128, 128)).shape == (1, 3, 128, 128)


def test_taps_are_the_halvings_in_the_order_asked():
    net, state = loaded(4)
    x = image(2, 3, 32, 16)
    expected = unet_down(state, x, 4)
    layers = [2, 0, 3]
    for feature, layer in zip(net.encode(x, layers), layers, strict=True):
        torch.testing.assert_close(feature, expected[layer])
    assert net.feature_channels(layers) == [unet_widths(2, 4)[n] for n in layers] == [8, 2, 16]
    feature = net.encode(x, [0])[0]
    kept = feature.clone()
    net.model.inside(feature)  # what the next size does to it
    assert torch.equal(feature, kept)


@pytest.mark.parametrize("layers", [[4], [-1], []])
def test_a_layer_that_is_not_there_is_refused(layers):
    net, _ = loaded(4)
    for ask in (
        lambda: net.encode(image(1, 3, 16, 16), layers),
        lambda: net.feature_channels(layers),
    ):
        with pytest.raises(UserError, match="this U-Net has layers 0 to 3"):
            ask()


@pytest.mark.parametrize(("downs", "expected"), [(8, 3), (7, 2), (5, 0)])
def test_dropout_is_in_the_inner_doublings_only(downs, expected):
    net = UnetGenerator(3, 3, 2, downs, "batch", use_dropout=True)
    places = [name for name, module in net.named_modules() if isinstance(module, nn.Dropout)]
    assert len(places) == expected
    assert all(name.endswith(".7") for name in places)
    block, depths = net.model, []
    for depth in range(downs):
        depths += [depth] if any(isinstance(layer, nn.Dropout) for layer in block.model) else []
        block = block.inside if depth < downs - 1 else block
    assert depths == list(range(4, 4 + expected)), (
        "maps of 8*ngf channels on both sides, not the innermost"
    )
    assert not any(
        isinstance(m, nn.Dropout) for m in UnetGenerator(3, 3, 2, downs, "batch").modules()
    )


@pytest.mark.parametrize("size", [(24, 32), (32, 8), (40, 40)])
def test_a_size_that_would_not_come_back_is_refused(size):
    net, _ = loaded(4)
    with pytest.raises(UserError, match=rf"multiples of 16, not {size[1]} wide and {size[0]} high"):
        net(image(1, 3, *size))
