"""Parts that several networks share: look-up by name, normalisation, fixed-filter resampling, taps into a chain."""

from collections.abc import Callable, Sequence
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from util.errors import UserError
from util.registry import find_by_name


def collect(layers: nn.Sequential, x: Tensor, wanted: Sequence[int]) -> list[Tensor]:
    """Outputs of the layers with the `wanted` indices, in the order asked; nothing after the last of them runs."""
    outputs = {}
    for index, layer in enumerate(islice(layers, max(wanted) + 1)):
        x = layer(x)
        if index in wanted:
            outputs[index] = x
    return [outputs[index] for index in wanted]


class InstanceNorm(nn.Module):
    """Normalise each map of each image to mean 0, variance 1 (Ulyanov et al. 2016, arXiv 1607.08022).

    y = (x - mean_HW) / sqrt(var_HW + eps), biased variance; no learned scale, no running statistics, no state.
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> the same shape; raises UserError for 1x1 maps, where the answer is 0 whatever x is.

        A group norm with one channel per group is the same function. It is used because torch's instance norm takes
        5 to 7 times as long forward and 2 to 3 times with backward on a CPU, and rounds its statistics under bf16
        autocast there, where group norm keeps them in float32.
        """
        if x.shape[-2] * x.shape[-1] == 1:
            raise UserError(
                "instance normalisation of a 1x1 map is always 0: use larger images (--crop_size, --load_size)"
            )
        return F.group_norm(x, x.shape[1], eps=self.eps)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "instance": lambda channels: InstanceNorm(),
    "batch": nn.BatchNorm2d,
    "none": nn.Identity,
}


def norm_layer(norm: str, channels: int) -> nn.Module:
    """A normalisation of `channels` maps: instance (nothing learned), batch (affine, running statistics) or none."""
    return find_by_name(NORMS, norm, "norm")(channels)


def needs_bias(norm: str) -> bool:
    """Whether convolutions before this normalisation carry a bias.

    As in CUT: only before instance norm. There it cannot change the output, but released weights hold it.
    """
    return norm == "instance"


def binomial_filter(taps: Sequence[float], channels: int, gain: float = 1.0) -> Tensor:
    """The separable filter taps x taps, scaled to sum `gain`, repeated for a depthwise convolution: (C,1,K,K)."""
    line = torch.tensor(taps)
    square = torch.outer(line, line)
    return (gain * square / square.sum()).repeat(channels, 1, 1, 1)


class BlurDown(nn.Module):
    """Anti-aliased halving: blur with [1,2,1]x[1,2,1]/16, then keep every second pixel (Zhang 2019, arXiv 1904.11486).

    The filter is a buffer `filt`, so that state dicts equal the released ones.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("filt", binomial_filter([1.0, 2.0, 1.0], channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,C,ceil(H/2),ceil(W/2)); the border is reflected."""
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.filt, stride=2, groups=x.shape[1])


class BlurUp(nn.Module):
    """Anti-aliased doubling: insert zeros, then blur with [1,3,3,1]x[1,3,3,1]/16, the border repeated (Zhang 2019).

    That is bilinear interpolation, which is what runs, in less than half the time of a transposed convolution. The
    filter `filt` is kept for state dicts equal to the released ones.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("filt", binomial_filter([1.0, 3.0, 3.0, 1.0], channels, gain=4.0))

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,C,2H,2W)."""
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
