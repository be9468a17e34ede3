"""Geometric consistency: translating a turned image must give the turned translation (GcGAN).

Shape legend: B images, C channels, H rows, W columns; a turned image may have W rows and H columns.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from util.hardware.precision import full_precision


class Geometry(NamedTuple):
    """A change of place that can be undone: two functions of images (B,C,H,W), exact, without interpolation."""

    apply: Callable[[Tensor], Tensor]
    undo: Callable[[Tensor], Tensor]


def turn_right(images: Tensor) -> Tensor:
    """Turn by 90 degrees clockwise: (B,C,H,W) -> (B,C,W,H); the left column becomes the top row."""
    return torch.rot90(images, -1, (2, 3))


def turn_left(images: Tensor) -> Tensor:
    """Turn by 90 degrees counter-clockwise: (B,C,H,W) -> (B,C,W,H)."""
    return torch.rot90(images, 1, (2, 3))


def upside_down(images: Tensor) -> Tensor:
    """Mirror top and bottom: (B,C,H,W) -> the same shape."""
    return images.flip(2)


GEOMETRIES = {
    "rotation": Geometry(turn_right, turn_left),
    "vertical_flip": Geometry(upside_down, upside_down),
}


def consistency_loss(fake: Tensor, turned_fake: Tensor, geometry: Geometry) -> Tensor:
    """How far translating does not commute with a geometry f (GcGAN, Fu et al. 2019, arXiv 1809.05852).

        | y - sg(f^-1(y')) | + | y' - sg(f(y)) |,   |.| the mean absolute difference

    Each translation moves towards the other, which stands still in that term (sg): no gradient.

    Args:
        fake: y, translations of images (B,C,H,W).
        turned_fake: y', translations of the same images after f.
        geometry: f.

    Returns:
        0-d tensor.
    """
    fake, turned_fake = full_precision(fake), full_precision(turned_fake)
    upright = (fake - geometry.undo(turned_fake).detach()).abs().mean()
    turned = (turned_fake - geometry.apply(fake).detach()).abs().mean()
    return upright + turned
