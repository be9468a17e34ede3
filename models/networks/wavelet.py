"""Haar wavelets in place of pooling: halving a map without losing anything, and putting it together again.

Shape legend: B images, C channels, H and W the sides of the larger map, h = H/2 and w = W/2.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from util.registry import find_by_name


class Bands(NamedTuple):
    """A map cut into four of half its size: the smooth one, and details to the right, downwards and across."""

    LL_BChw: Tensor
    LH_BChw: Tensor
    HL_BChw: Tensor
    HH_BChw: Tensor


class HaarPool(nn.Module):
    """Wavelet pooling (WCT2, arXiv 1903.09760): four filters of 2 x 2 taps +-1/2, stride 2.

        LL = 1/2 | 1 1 |    LH = 1/2 | -1 1 |    HL = 1/2 | -1 -1 |    HH = 1/2 |  1 -1 |
                 | 1 1 |             | -1 1 |             |  1  1 |             | -1  1 |

    The filters are orthonormal, so nothing is lost and energy is kept; LL is twice the mean of four pixels. No weights.
    """

    def forward(self, x_BCHW: Tensor) -> Bands:
        """(B,C,H,W) with even sides -> four (B,C,H/2,W/2); raises ValueError for odd sides."""
        if x_BCHW.shape[2] % 2 or x_BCHW.shape[3] % 2:
            raise ValueError(f"a map of {tuple(x_BCHW.shape[2:])} cannot be halved")
        a, b = x_BCHW[:, :, 0::2, 0::2], x_BCHW[:, :, 0::2, 1::2]
        c, d = x_BCHW[:, :, 1::2, 0::2], x_BCHW[:, :, 1::2, 1::2]
        return Bands(
            (a + b + c + d) / 2,
            (b + d - a - c) / 2,
            (c + d - a - b) / 2,
            (a + d - b - c) / 2,
        )


class HaarUnpool(nn.Module):
    """Puts bands together again, by the transposed filters.

    Args:
        mode: "sum" adds up what the four bands give, the exact inverse of pooling; "cat5" leaves it to the layer that
            follows to combine them, as 5 C channels: those of LL, LH, HL, HH, and of the map as it was before pooling.

    Attributes:
        multiple: channels of the result for each channel of a band.

    Raises:
        UserError: unknown mode.
    """

    MODES = {"sum": 1, "cat5": 5}

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.multiple = find_by_name(self.MODES, mode, "--unpool")

    def forward(self, bands: Bands, before_BCHW: Tensor | None = None) -> Tensor:
        """Four (B,C,h,w) -> (B,C,2h,2w) or, with "cat5", (B,5C,2h,2w).

        `before_BCHW` is the map before pooling, which "cat5" needs.
        """
        LL, LH, HL, HH = (band / 2 for band in bands)
        if self.mode == "sum":
            return interleave(
                LL - LH - HL + HH,
                LL + LH - HL - HH,
                LL - LH + HL - HH,
                LL + LH + HL + HH,
            )
        return torch.cat(
            [
                interleave(LL, LL, LL, LL),
                interleave(-LH, LH, -LH, LH),
                interleave(-HL, -HL, HL, HL),
                interleave(HH, -HH, -HH, HH),
                before_BCHW,
            ],
            dim=1,
        )


def interleave(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Pixels (B,C,h,w) top left, top right, bottom left, bottom right -> (B,C,2h,2w)."""
    return F.pixel_shuffle(torch.stack([a, b, c, d], dim=2).flatten(1, 2), 2)
