"""Hypercolumns: everything that an image and a frozen VGG16 know about single points of it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.networks.vgg import VGG16Features
from models.networks.vgg_scale import natural_noise, scale_to_unit
from util.hardware.precision import full_precision

LARGE = 30  # mean activation of a layer that is out of the range of torchvision's weights


class Hypercolumns(nn.Module):
    """Colour and VGG16 features at chosen points, side by side (STROTSS, arXiv 1904.12785).

    A layer behind l poolings is read bilinearly at (x, y) / 2^l.

    Args:
        layers: of VGG16, see `VGG16Features`.
        weights: its weights.
        scale: on: activations of each layer are scaled to a mean of 1; off: they stay as they are; auto: on if a layer
            has a mean above 30. torchvision's own weights give some units, as in the release; Oxford's give hundreds,
            beside which colours would vanish from cosines, and all other terms beside covariances.

    Attributes:
        channels: C, width of a hypercolumn, with 3 for the colour.
        smallest: the shorter side that an image needs.
        scaled: whether activations are scaled.
    """

    def __init__(
        self, layers: Sequence[int], weights: str = "imagenet", scale: str = "auto"
    ) -> None:
        super().__init__()
        self.vgg = VGG16Features(layers, weights)
        noise = natural_noise() * 2 - 1
        with torch.no_grad():
            largest = torch.stack([feat.mean() for feat in self.vgg(noise)]).max()
        self.scaled = bool(largest > LARGE) if scale == "auto" else scale == "on"
        if self.scaled:
            scale_to_unit(self.vgg.features, noise * self.vgg.scale + self.vgg.shift)

        poolings = [isinstance(layer, nn.MaxPool2d) for layer in self.vgg.features]
        self.levels = [0, *(sum(poolings[:tap]) for tap in self.vgg.taps)]
        self.channels = 3 + sum(self.vgg.channels)
        self.smallest = 2 ** max(self.levels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(1,3,H,W) in [0,1] -> the image, and a feature map (1,C,h,w) for each layer."""
        return [images, *self.vgg(images * 2 - 1)]

    def read(self, maps: Sequence[Tensor], x_N: Tensor, y_N: Tensor) -> Tensor:
        """Hypercolumns (N,C), float32 or wider, at pixels x_N, y_N, from what `forward` gave."""
        columns = []
        for feat_1Chw, level in zip(maps, self.levels, strict=True):
            scale = 2**level
            columns.append(full_precision(read_bilinear(feat_1Chw, x_N / scale, y_N / scale)))
        return torch.cat(columns, dim=1)


def read_bilinear(feat_1Chw: Tensor, x_N: Tensor, y_N: Tensor) -> Tensor:
    """A map (1,C,h,w) at points between its pixels, whose centres are whole numbers: (N,C).

    Points beyond the last pixel have its value.
    """
    height, width = feat_1Chw.shape[2:]
    columns_PC = feat_1Chw[0].flatten(1).T
    x_N, y_N = x_N.clamp(0, width - 1), y_N.clamp(0, height - 1)
    left_N, top_N = x_N.long(), y_N.long()
    right_N, bottom_N = (left_N + 1).clamp(max=width - 1), (top_N + 1).clamp(max=height - 1)

    right_share_N1, bottom_share_N1 = (x_N - left_N)[:, None], (y_N - top_N)[:, None]
    above_NC = torch.lerp(
        columns_PC.index_select(0, top_N * width + left_N),
        columns_PC.index_select(0, top_N * width + right_N),
        right_share_N1.to(columns_PC.dtype),
    )
    below_NC = torch.lerp(
        columns_PC.index_select(0, bottom_N * width + left_N),
        columns_PC.index_select(0, bottom_N * width + right_N),
        right_share_N1.to(columns_PC.dtype),
    )
    return torch.lerp(above_NC, below_NC, bottom_share_N1.to(columns_PC.dtype))
