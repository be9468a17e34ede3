"""Layers of decoders with a style, and the border of discriminators: against loops and numpy, on maps of any shape."""

import numpy as np
import pytest
import torch

from models.networks.style_layers import AdaIN, FittedPad, LayerNorm, beside, check_image_size
from util.errors import UserError

SHAPES = [(1, 3, 4, 5), (3, 2, 7, 2), (2, 4, 1, 3)]


def maps(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def standardized(values: torch.Tensor, eps: float) -> torch.Tensor:
    """Written out: (x - mean) / sqrt(variance + eps) over all numbers there are."""
    numbers = list(values.flatten())
    mean = sum(numbers) / len(numbers)
    variance = sum((number - mean) ** 2 for number in numbers) / len(numbers)
    return (values - mean) / (variance + eps).sqrt()


def assert_same_with_gradients(found, expected, inputs):
    """Equal values, and equal slopes with respect to all inputs in a random direction."""
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(found)
    slopes = torch.autograd.grad((found * direction).sum(), inputs, retain_graph=True)
    wanted = torch.autograd.grad((expected * direction).sum(), inputs)
    for slope, want in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(slope, want)


@pytest.mark.parametrize("shape", SHAPES)
def test_layer_norm_is_over_a_whole_image(shape):
    norm, x = LayerNorm(shape[1]).double(), maps(*shape)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)

    expected = torch.stack(
        [
            norm.weight[:, None, None] * standardized(image, norm.eps) + norm.bias[:, None, None]
            for image in x
        ]
    )
    assert_same_with_gradients(norm(x), expected, [x, norm.weight, norm.bias])


def test_layer_norm_is_torchs_group_norm_with_one_group():
    norm, x = LayerNorm(6), torch.randn(2, 6, 5, 4)
    torch.testing.assert_close(norm(x), torch.nn.functional.group_norm(x, 1, eps=norm.eps))


@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (3, 2, 7, 2)])
def test_adain_gives_each_map_the_shift_and_scale_of_its_style(shape):
    x, shift, scale = maps(*shape), maps(*shape[:2]), maps(*shape[:2])
    expected = torch.stack(
        [
            torch.stack(
                [scale[b, c] * standardized(x[b, c], 1e-5) + shift[b, c] for c in range(shape[1])]
            )
            for b in range(shape[0])
        ]
    )
    assert_same_with_gradients(AdaIN()(x, shift, scale), expected, [x, shift, scale])


def test_adain_never_looks_at_other_images_in_whatever_mode():
    norm, x = AdaIN(), torch.randn(3, 2, 4, 4)
    shift, scale = torch.randn(3, 2), torch.randn(3, 2)
    together = norm(x, shift, scale)
    norm.eval()
    for b in range(3):
        alone = norm(x[b : b + 1], shift[b : b + 1], scale[b : b + 1])
        torch.testing.assert_close(together[b : b + 1], alone)


def test_normalisations_of_flat_maps_are_finite_with_their_gradients():
    x = torch.full((2, 3, 4, 4), 0.7, requires_grad=True)
    ones = torch.ones(2, 3)
    for out in (LayerNorm(3)(x), AdaIN()(x, 0.5 * ones, ones)):
        (slope,) = torch.autograd.grad(out.square().sum(), x)
        assert torch.isfinite(out).all() and torch.isfinite(slope).all()
    torch.testing.assert_close(out, torch.full_like(out, 0.5))  # the shift is all that is left


def test_half_precision_is_normalised_in_float32():
    x = 300 + torch.randn(2, 3, 8, 8)
    found = LayerNorm(3)(x.bfloat16())
    assert found.dtype == torch.bfloat16
    expected = LayerNorm(3)(x.bfloat16().float())
    torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.01)


@pytest.mark.parametrize("width, kernel, size", [(1, 4, (2, 5)), (1, 7, (9, 5)), (3, 7, (4, 6))])
def test_a_map_that_is_large_enough_is_mirrored(width, kernel, size):
    x = maps(2, 3, *size)
    border = ((0, 0), (0, 0), (width, width), (width, width))
    expected = np.pad(x.detach().numpy(), border, mode="reflect")
    assert np.array_equal(FittedPad(width, kernel)(x).detach().numpy(), expected)


@pytest.mark.parametrize(
    "width, kernel, size, expected",
    [
        (1, 4, (1, 1), (4, 4)),
        (1, 4, (1, 6), (4, 8)),  # nothing to mirror in a single row
        (1, 7, (2, 2), (7, 7)),
        (1, 7, (4, 9), (7, 11)),
        (0, 4, (3, 5), (4, 5)),
        (0, 4, (4, 5), (4, 5)),
    ],
)
def test_a_map_that_is_too_small_lies_in_zeros_where_the_filter_fits(width, kernel, size, expected):
    x = maps(2, 3, *size)
    out = FittedPad(width, kernel)(x)
    assert out.shape[2:] == expected
    assert torch.equal(out.sum(), x.sum()) or torch.allclose(out.sum(), x.sum())
    top, left = ((out.shape[axis] - x.shape[axis]) // 2 for axis in (2, 3))
    assert torch.equal(out[:, :, top : top + size[0], left : left + size[1]], x)


def test_a_code_stands_beside_the_channels_of_every_place():
    x, code = torch.randn(2, 3, 4, 5), torch.randn(2, 2)
    out = beside(x, code)
    assert torch.equal(out[:, :3], x)
    for b in range(2):
        for row in range(4):
            for column in range(5):
                assert torch.equal(out[b, 3:, row, column], code[b])


@pytest.mark.parametrize("size", [(30, 32), (32, 30), (4, 32), (32, 4)])
def test_images_that_do_not_suit_are_named(size):
    with pytest.raises(UserError, match=f"not {size[1]} wide and {size[0]} high.*--crop_size"):
        check_image_size(torch.zeros(1, 3, *size))
    check_image_size(torch.zeros(1, 3, 8, 12))
