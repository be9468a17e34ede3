"""Laplacian pyramids: an image as details of several sizes, whose sum it is."""

import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]  # height, width


def pyramid(image: Tensor, levels: int) -> list[Tensor]:
    """(B,C,H,W) -> what each halving loses, finest first, and what remains after `levels` of them.

    A level is the difference of an image and its halved copy enlarged again, both bilinear. Sides
    are halved to no less than 1, odd ones rounded down.
    """
    bands = []
    for _ in range(levels):
        height, width = image.shape[2:]
        smaller = enlarged(image, (max(height // 2, 1), max(width // 2, 1)))
        bands.append(image - enlarged(smaller, (height, width)))
        image = smaller
    return [*bands, image]


def synthesize(bands: list[Tensor]) -> Tensor:
    """The image whose pyramid this is."""
    *details, image = bands
    for detail in reversed(details):
        image = detail + enlarged(image, detail.shape[2:])
    return image


def finest_band(image: Tensor) -> Tensor:
    """What one halving of (B,C,H,W) loses."""
    return pyramid(image, 1)[0]


def enlarged(image: Tensor, size: Size) -> Tensor:
    """(B,C,H,W) at another size, bilinear between pixels."""
    return F.interpolate(image, size=tuple(size), mode="bilinear", align_corners=False)


def reduced(image: Tensor, size: Size) -> Tensor:
    """(B,C,H,W) at a smaller size, each pixel a mean of those that it stands for."""
    return F.interpolate(
        image, size=tuple(size), mode="bilinear", align_corners=False, antialias=True
    )


def long_sides(longest: int, shortest: int = 64) -> list[int]:
    """The longer sides of a picture from coarse to fine, each half of the next.

    The last is `longest`, none but the last is below `shortest`; 512 gives 64, 128, 256, 512.
    """
    sides = [longest]
    while sides[0] // 2 >= shortest:
        sides.insert(0, sides[0] // 2)
    return sides


def fitted(size: Size, long_side: int) -> Size:
    """(height, width) in proportion, with this longer side."""
    scale = long_side / max(size)
    height, width = (max(round(side * scale), 1) for side in size)
    return height, width
