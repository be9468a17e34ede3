"""What decoders are made of that take a style: normalisations, and maps with a code beside their channels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.blocks import InstanceNorm
from models.networks.resampling import reflect_pad
from util.errors import UserError
from util.hardware.precision import full_precision

SIZE_MULTIPLE = 4  # content encoders halve twice
SMALLEST_SIZE = 8  # residual blocks reflect a border of 1, so they need maps of 2x2


class LayerNorm(nn.Module):
    """Normalise each image over all its channels and positions (Ba et al. 2016, arXiv 1607.06450).

    y = weight_c (x - mean_CHW) / sqrt(var_CHW + eps) + bias_c, biased variance; weight and bias are learned, one
    each per channel. Unlike instance normalisation it keeps how the channels relate, and so what a style has set.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> the same shape, in the layout and precision of x, statistics in float32."""
        wide = full_precision(x)
        variance, mean = torch.var_mean(wide, dim=(1, 2, 3), correction=0, keepdim=True)
        normal = (wide - mean) * torch.rsqrt(variance + self.eps)
        scaled = normal * self.weight[:, None, None] + self.bias[:, None, None]
        return scaled.to(x.dtype)


class AdaIN(nn.Module):
    """Instance normalisation whose shift and scale come from a style (Huang and Belongie 2017, arXiv 1703.06868).

    y = scale_c (x - mean_HW) / sqrt(var_HW + eps) + shift_c, the statistics of the image itself, always.
    """

    def __init__(self) -> None:
        super().__init__()
        self.normalize = InstanceNorm()

    def forward(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """(B,C,H,W), a shift (B,C) and a scale (B,C) -> the shape of x."""
        return self.normalize(x) * scale[:, :, None, None] + shift[:, :, None, None]


class FittedPad(nn.Module):
    """Mirror `width` pixels beyond each edge before a filter; a map that is too small for that is filled with zeros.

    A small image thus gives a score instead of an error, however many halvings lie before it: the map is enlarged, the
    same on both sides, until the filter fits once.
    """

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.width, self.kernel = width, kernel

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,C,H+2*width,W+2*width); sides of `kernel` where they would be smaller."""
        height, width = x.shape[2:]
        shorter = min(height, width)

        if shorter > self.width and shorter + 2 * self.width >= self.kernel:
            return reflect_pad(x, self.width)

        borders = []
        for side in (width, height):
            spare = max(2 * self.width, self.kernel - side)
            borders += [spare // 2, spare - spare // 2]
        return F.pad(x, borders)

    def extra_repr(self) -> str:
        return f"{self.width}, kernel={self.kernel}"


def beside(x: Tensor, code: Tensor) -> Tensor:
    """Maps (B,C,H,W) with a code (B,Z) as further channels, the same everywhere: (B,C+Z,H,W)."""
    height, width = x.shape[2:]
    everywhere = code[:, :, None, None].expand(-1, -1, height, width)
    return torch.cat([x, everywhere.to(x.dtype)], 1)


def check_image_size(x: Tensor) -> None:
    """Raise UserError where the sides of images (B,C,H,W) do not suit a content encoder."""
    height, width = x.shape[2:]
    if height % SIZE_MULTIPLE or width % SIZE_MULTIPLE or min(height, width) < SMALLEST_SIZE:
        raise UserError(
            f"content encoders take images with sides that are multiples of {SIZE_MULTIPLE} "
            f"and at least {SMALLEST_SIZE}, not {width} wide and {height} high: "
            "see --preprocess, --load_size, --crop_size"
        )
