"""Colours of images changed at random, on their own device: no step waits for the host.

Legend: B images, K = 4 kinds of change.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from util.hardware.precision import full_precision

LUMINANCE = (0.2989, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601


@dataclass(frozen=True)
class ColourJitter:
    """Brightness, contrast, saturation and hue of each image by factors of its own, in an order of its own.

    The distribution is that of torchvision's ColorJitter: factors of the first three from U(1 - x, 1 + x), the hue
    shifted by U(-x, x) of a turn, orders equally likely.

    Args:
        brightness, contrast, saturation, hue: x of each.
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float

    def __call__(self, images: Tensor) -> Tensor:
        """(B,1,H,W) or (B,3,H,W) in [-1,1] -> the same, without gradients; grey stays grey."""
        with torch.no_grad():
            shifts_BK, order_BK = self.draw(images)
            unit = ((full_precision(images) + 1) / 2).clamp(0, 1)
            changed = change_colours(unit, shifts_BK, order_BK)
            return (2 * changed - 1).to(images.dtype)

    def draw(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """For images (B,C,H,W): how far each kind is changed, and the order of kinds, (B,4) each."""
        strengths = (self.brightness, self.contrast, self.saturation, self.hue)
        noise = torch.rand(len(images), 2 * len(strengths), device=images.device)
        spread_BK, rank_BK = noise.chunk(2, dim=1)

        shifts = [x * (2 * spread_BK[:, kind] - 1) for kind, x in enumerate(strengths)]
        return torch.stack(shifts, dim=1), rank_BK.argsort(dim=1)


def change_colours(images: Tensor, shifts_BK: Tensor, order_BK: Tensor) -> Tensor:
    """Images (B,C,H,W) in [0,1], C = 1 or 3, after four changes each; every result is cut to [0,1].

    Args:
        shifts_BK: of brightness, contrast, saturation and hue; 0 changes nothing.
        order_BK: the kinds, 0 to 3, in the order in which they are applied.
    """
    shifts = [shift_B[:, None, None, None] for shift_B in shifts_BK.unbind(1)]

    for kind_B in order_BK.unbind(1):
        # Each image wants another kind: all are computed for all, whatever was drawn.
        results = [change(images, shift) for change, shift in zip(CHANGES, shifts, strict=True)]
        for kind, result in enumerate(results):
            wanted = (kind_B == kind)[:, None, None, None]
            images = torch.where(wanted, result, images)
    return images


def change_brightness(images: Tensor, shift: Tensor) -> Tensor:
    """Images (B,C,H,W) in [0,1] times 1 + shift, (B,1,1,1)."""
    return ((1 + shift) * images).clamp(0, 1)


def change_contrast(images: Tensor, shift: Tensor) -> Tensor:
    """Images (B,C,H,W) in [0,1], their distance to their mean grey times 1 + shift, (B,1,1,1)."""
    mean = grey(images).mean((1, 2, 3), keepdim=True)
    return (images + shift * (images - mean)).clamp(0, 1)


def change_saturation(images: Tensor, shift: Tensor) -> Tensor:
    """Images (B,C,H,W) in [0,1], distances of pixels to their greys times 1 + shift, (B,1,1,1)."""
    return (images + shift * (images - grey(images))).clamp(0, 1)


def change_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Images (B,C,H,W) in [0,1], hues moved by shift (B,1,1,1) turns; what is grey stays."""
    if images.shape[1] == 1:
        return images
    hue_B1HW, saturation_B1HW, value_B1HW = to_hsv(images)
    return from_hsv(hue_B1HW + shift, saturation_B1HW, value_B1HW)


CHANGES = (change_brightness, change_contrast, change_saturation, change_hue)


def grey(images: Tensor) -> Tensor:
    """Luminance (B,1,H,W) of (B,1,H,W) or (B,3,H,W)."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, dim=1)
    return LUMINANCE[0] * red + LUMINANCE[1] * green + LUMINANCE[2] * blue


def to_hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue in turns, saturation and value, (B,1,H,W) each, of (B,3,H,W) in [0,1]; grey has hue 0."""
    red, green, blue = images.split(1, dim=1)
    value, smallest = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    spread = value - smallest

    # sixths of a turn, counted from red, green or blue, whichever is largest
    divisor = spread.clamp(min=torch.finfo(images.dtype).tiny)
    from_green = 2 + (blue - red) / divisor
    from_blue = 4 + (red - green) / divisor
    sixths = torch.where(green == value, from_green, from_blue)
    sixths = torch.where(red == value, (green - blue) / divisor, sixths)

    return sixths / 6, spread / value.clamp(min=torch.finfo(images.dtype).tiny), value


def from_hsv(hue_B1HW: Tensor, saturation_B1HW: Tensor, value_B1HW: Tensor) -> Tensor:
    """(B,3,H,W) in [0,1] of hue in turns (any number of them), saturation and value (B,1,H,W)."""
    channels = []
    for offset in (5, 3, 1):  # where on the circle red, green and blue are darkest, in sixths
        sixths = (offset + 6 * hue_B1HW) % 6
        darkness = torch.minimum(sixths, 4 - sixths).clamp(0, 1)
        channels.append(value_B1HW * (1 - saturation_B1HW * darkness))
    return torch.cat(channels, dim=1)
