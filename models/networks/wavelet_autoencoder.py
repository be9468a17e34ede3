"""Encoder and decoder of WCT2: VGG with wavelets in place of max pooling, and its mirror image.

Both run level by level, 4 levels each, so that features can be changed in between.

Shape legend: B images, C channels, H and W the sides of a map.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.vgg_scale import natural_noise, scale_to_unit
from models.networks.wavelet import Bands, HaarPool, HaarUnpool
from models.networks.wavelet_weights import (
    LEVELS,
    VGG16,
    VGG19,
    WIDTHS,
    check_shapes,
    convolutions_of,
    encoder_weights,
)
from util.errors import UnfitImage
from util.run.weights import read_file

FINGERS = 9  # convolutions that a fingerprint is made of: all that VGG16 and VGG19 both have
MULTIPLE = 8  # of image sides: three halvings
SMALLEST = 16  # side of an image: the last maps need a neighbour to be reflected


class Layer(NamedTuple):
    """A convolution `number` of a level, or with number 0 the pooling that ends the level."""

    level: int
    number: int

    @property
    def name(self) -> str:
        return f"conv{self.level}_{self.number}"


class Skip(NamedTuple):
    """What passes around the deeper levels: details of a level, and for cat5 the map before it was halved."""

    LH_BCHW: Tensor
    HL_BCHW: Tensor
    HH_BCHW: Tensor
    before_BCHW: Tensor | None

    @property
    def details(self) -> tuple[Tensor, Tensor, Tensor]:
        """LH, HL and HH."""
        return self[:3]

    def with_details(self, details: Sequence[Tensor]) -> "Skip":
        """The same with other LH, HL and HH."""
        return Skip(*details, self.before_BCHW)


Skips = dict[int, Skip]


def stages(unpool: str, thirds: int) -> dict[int, list[Layer]]:
    """The encoder's layers by level; the decoder has the same in reverse.

    A level ends where features are exchanged: with "cat5" after its first convolution (relu1_1,
    ..., relu4_1), with "sum" after its pooling.

    Args:
        thirds: convolutions at level 3.
    """
    found: dict[int, list[Layer]] = {level: [] for level in LEVELS}
    for level in LEVELS:
        counts = {1: 2, 2: 2, 3: thirds, 4: 1}
        layers = [Layer(level, number) for number in range(1, counts[level] + 1)]
        layers += [Layer(level, 0)] if level < 4 else []
        cut = 1 if unpool == "cat5" else len(layers)
        found[level] += layers[:cut]
        if layers[cut:]:
            found[level + 1] += layers[cut:]
    return found


class WaveletEncoder(nn.Module):
    """VGG up to relu4_1, its three max poolings replaced by Haar wavelets (WCT2, arXiv 1903.09760).

    Reflection instead of zero padding, and a 1 x 1 convolution first that brings colours into VGG's
    range. Activations are scaled to a mean of 1 (`scale_to_unit`), at which decoders learn well and
    the ridge of the whitening means the same with all weights; those of a published encoder stay as
    they are. The weights never train. The release has VGG19; here it is whichever VGG is given, and
    what it is stands in `architecture`.

    Args:
        unpool: "cat5" or "sum", see `stages`.
        weights: "imagenet" (torchvision's VGG19, downloaded once), "random" (for tests), or the path of a state dict:
            torchvision's VGG16 or VGG19, or a published encoder. Its convolutions are taken in the order of the file.

    Raises:
        UserError: weights that are missing or do not fit.
    """

    def __init__(self, unpool: str, weights: str = "imagenet") -> None:
        super().__init__()
        found = encoder_weights(weights)
        self.thirds = sum(weight.shape[0] == WIDTHS[3] for weight, _ in found.others)
        self.architecture = {VGG16: "VGG16", VGG19: "VGG19"}[self.thirds]
        self.stages = stages(unpool, self.thirds)
        self.keeps_maps = unpool == "cat5"
        self.pool = HaarPool()

        self.colour = _frozen(*found.colour)
        layers = [layer for level in LEVELS for layer in self.stages[level] if layer.number]
        self.convs = nn.ModuleDict(
            {layer.name: _frozen(*own) for layer, own in zip(layers, found.others, strict=True)}
        )
        if not found.published:
            steps = [
                self.convs[layer.name] if layer.number else self._smooth
                for level in LEVELS
                for layer in self.stages[level]
            ]
            scale_to_unit(steps, self.colour(natural_noise()))
        self.eval()

    def train(self, mode: bool = True) -> "WaveletEncoder":
        """Stays in evaluation mode."""
        return super().train(False)

    def _smooth(self, x: Tensor) -> Tensor:
        return self.pool(x).LL_BChw

    def fingerprint(self) -> Tensor:
        """What tells these weights from others: mean absolute weights, (9,) float64.

        A decoder is of use with one encoder alone, and keeps its fingerprint.
        """
        convs = [self.colour, *self.convs.values()]
        values = [conv.weight.double().abs().mean() for conv in convs]
        return torch.stack(values[:FINGERS])

    def stage(self, level: int, x: Tensor, skips: Skips) -> Tensor:
        """The feature at the end of a level (B,C,h,w), from that of the level before or images.

        What passes around the levels to come goes into `skips`.
        """
        if level == 1:
            x = self.colour(x)
        for layer in self.stages[level]:
            if layer.number:
                x = F.relu(self.convs[layer.name](x))
                continue
            before = x if self.keeps_maps else None
            x, *details = self.pool(x)
            skips[layer.level] = Skip(*details, before)
        return x

    def forward(self, images: Tensor) -> tuple[list[Tensor], Skips]:
        """(B,3,H,W) in [0,1], sides multiples of 8 -> four features (B,C,h,w), and the skips."""
        feats, skips, x = [], {}, images
        for level in LEVELS:
            x = self.stage(level, x, skips)
            feats.append(x)
        return feats, skips


class WaveletDecoder(nn.Module):
    """The mirror image of the encoder, with wavelet unpooling; its last convolution gives colours.

    Weights start as in He et al. 2015, as a network of ReLUs without normalisation needs it; those of the last
    convolution a tenth as large.

    Args:
        unpool: "cat5" or "sum".
        thirds: convolutions at level 3, as the encoder has them.

    Attributes:
        made_for: the fingerprint of the encoder that it belongs to.
    """

    def __init__(self, unpool: str, thirds: int = VGG19) -> None:
        super().__init__()
        self.unpool = HaarUnpool(unpool)
        self.stages = {level: layers[::-1] for level, layers in stages(unpool, thirds).items()}

        self.register_buffer("made_for", torch.zeros(FINGERS, dtype=torch.float64))

        self.convs = nn.ModuleDict()
        multiple = 1
        for layer in [layer for level in LEVELS[::-1] for layer in self.stages[level]]:
            if not layer.number:
                multiple = self.unpool.multiple
                continue
            width = WIDTHS[layer.level]
            below = WIDTHS.get(layer.level - 1, 3) if layer.number == 1 else width
            conv = nn.Conv2d(width * multiple, below, 3, padding=1, padding_mode="reflect")
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)
            self.convs[layer.name] = conv
            multiple = 1

        # the first pictures are grey, instead of far out of range
        with torch.no_grad():
            conv.weight.mul_(0.1)
            conv.bias.fill_(0.5)

    def stage(self, level: int, x: Tensor, skips: Skips) -> Tensor:
        """The feature (B,C,h,w) that a level begins with -> that of the level above, or colours."""
        for layer in self.stages[level]:
            if not layer.number:
                skip = skips[layer.level]
                x = self.unpool(Bands(x, *skip.details), skip.before_BCHW)
                continue
            x = self.convs[layer.name](x)
            x = x if layer == (1, 1) else F.relu(x)
        return x

    def forward(self, x: Tensor, skips: Skips) -> Tensor:
        """The encoder's last feature (B,512,h,w) and its skips -> images (B,3,8h,8w)."""
        for level in LEVELS[::-1]:
            x = self.stage(level, x, skips)
        return x

    def load_published(self, path: str) -> None:
        """Take the convolutions of a published decoder, in the order of the file.

        Raises:
            UserError: they are not those of this decoder.
        """
        found = convolutions_of(read_file(Path(path)), f"--decoder {path}")
        wanted = [tuple(conv.weight.shape) for conv in self.convs.values()]
        check_shapes(
            [tuple(weight.shape) for weight, _ in found],
            wanted,
            f"--decoder {path}",
            f"this decoder (--unpool {self.unpool.mode}, by the encoder's weights)",
        )
        with torch.no_grad():
            for conv, (weight, bias) in zip(self.convs.values(), found, strict=True):
                conv.weight.copy_(weight)
                conv.bias.copy_(bias)


def padded(images: Tensor, what: str = "an image") -> Tensor:
    """(B,C,H,W) filled up by reflection to multiples of 8; raises UnfitImage, which says `what`, below 16 pixels."""
    height, width = images.shape[2:]
    if min(height, width) < SMALLEST:
        raise UnfitImage(
            f"{what} of {width}x{height} pixels is too small for --model wct2, "
            f"which needs {SMALLEST}x{SMALLEST}"
        )
    return F.pad(images, (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="reflect")


def _frozen(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution that keeps the size of a map, by reflection, and never trains."""
    out, into, side, _ = weight.shape
    shape = {"kernel_size": side, "padding": side // 2, "padding_mode": "reflect"}
    conv = nn.utils.skip_init(nn.Conv2d, into, out, **shape)
    with torch.no_grad():
        conv.weight.copy_(weight)
        conv.bias.copy_(bias)
    return conv.requires_grad_(False)
