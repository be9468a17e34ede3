"""The colour jitter against torchvision's functions, image by image, and its distribution."""

import pytest
import torch
import torchvision.transforms.functional as reference_colours
from torch import Tensor

from models.colour_jitter import CHANGES, ColourJitter, change_colours


def colourful(batch: int) -> Tensor:
    """Images in [0,1] with pixels of all kinds: random, grey, black, white, pure and mixed colours."""
    images = torch.rand(batch, 3, 4, 6, dtype=torch.float64)
    images[:, :, 0, 0] = 0
    images[:, :, 0, 1] = 1
    images[:, :, 0, 2] = 0.3
    for column, colour in enumerate([(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 0.5, 0.5)]):
        images[:, :, 1, column] = torch.tensor(colour).double()
    return images


def one_by_one(image: Tensor, shifts: list[float], order: list[int]) -> Tensor:
    """torchvision's functions on one image (C,H,W), with numbers."""
    for kind in order:
        shift = shifts[kind]
        if kind == 0:
            image = reference_colours.adjust_brightness(image, 1 + shift)
        elif kind == 1:
            image = reference_colours.adjust_contrast(image, 1 + shift)
        elif kind == 2:
            image = reference_colours.adjust_saturation(image, 1 + shift)
        else:
            image = reference_colours.adjust_hue(image, shift)
    return image


@pytest.mark.parametrize("batch", [1, 3])
def test_colours_are_changed_as_torchvision_changes_them(batch):
    """Each kind alone, then all in several orders, each image by its own numbers."""
    images = colourful(batch)
    generator = torch.Generator().manual_seed(1)
    for trial in range(12):
        shifts = torch.rand(batch, 4, dtype=torch.float64, generator=generator) - 0.5
        if trial < 4:
            shifts *= torch.nn.functional.one_hot(torch.tensor(trial), 4)
        orders = [torch.randperm(4, generator=generator) for _ in range(batch)]
        found = change_colours(images, shifts, torch.stack(orders))
        for b in range(batch):
            expected = one_by_one(images[b], shifts[b].tolist(), orders[b].tolist())
            torch.testing.assert_close(found[b], expected, rtol=0, atol=2e-6)  # its mean is float32


def test_no_shift_changes_nothing_and_grey_images_stay_grey():
    images = colourful(2)
    orders = torch.stack([torch.arange(4), torch.arange(4).flip(0)])
    torch.testing.assert_close(change_colours(images, torch.zeros(2, 4).double(), orders), images)
    grey = images[:, :1]
    shifts = torch.tensor([[0.2, -0.3, 0.4, 0.1]] * 2).double()
    changed = change_colours(grey, shifts, orders)
    assert changed.shape == grey.shape and not torch.equal(changed, grey)
    as_colours = change_colours(grey.expand(-1, 3, -1, -1), shifts, orders)
    torch.testing.assert_close(as_colours, changed.expand(-1, 3, -1, -1), rtol=0, atol=1e-4)


def test_factors_and_orders_have_their_distribution():
    jitter = ColourJitter(brightness=0.5, contrast=0.4, saturation=0.3, hue=0.2)
    shifts, orders = jitter.draw(torch.zeros(4000, 3, 1, 1))
    for kind, x in enumerate((0.5, 0.4, 0.3, 0.2)):
        assert shifts[:, kind].abs().max() <= x
        assert shifts[:, kind].std().item() == pytest.approx(x / 3**0.5, rel=0.05)  # uniform
        assert shifts[:, kind].mean().abs() < 0.05 * x
    assert torch.equal(orders.sort(1).values, torch.arange(4).expand(4000, -1))
    counts = (orders * torch.tensor([64, 16, 4, 1])).sum(1).bincount()
    assert (counts > 0).sum() == 24 and counts[counts > 0].min() > 0.6 * 4000 / 24
    assert len(CHANGES) == 4


def test_jitter_draws_for_each_image_and_call_and_keeps_the_range():
    jitter = ColourJitter(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.3)
    image = 2 * colourful(1).float() - 1
    images = image.repeat(3, 1, 1, 1).requires_grad_()
    first, second = jitter(images), jitter(images)
    assert first.dtype == torch.float32 and not first.requires_grad
    assert first.min() >= -1 and first.max() <= 1
    assert not torch.equal(first, second) and not torch.equal(first[0], first[1])
    still = ColourJitter(0, 0, 0, 0)
    torch.testing.assert_close(still(image), image, rtol=0, atol=1e-5)
