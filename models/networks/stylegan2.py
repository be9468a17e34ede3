"""StyleGAN2-style generator and discriminator for translation, those of CUT's single-image setting."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from models.networks.blocks import check_layers
from models.networks.stylegan2_layers import (
    EqualLinear,
    ResBlock,
    StyledDoubling,
    conv_layer,
    draw_noise,
)
from util.errors import UserError

LAST_MAP = 4  # side of the map that a discriminator's linear layers see
CAPPED_SIZE = 32  # the widths of maps up to this side are limited


def nearest_size(pixels: int) -> int:
    """The power of two (at least 8) nearest to an image's side by ratio: what these networks are made for."""
    return 2 ** max(3, round(math.log2(pixels)))


class StyleGAN2Encoder(nn.Module):
    """Image to features; the layers of `convs` are what --nce_layers counts.

    0: the image itself    1: 1x1 convolution    then residual blocks: `halvings` that halve, and `n_blocks` more
    """

    def __init__(self, input_nc: int, widths: Sequence[int], n_blocks: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Identity(), conv_layer(input_nc, widths[0], 1)]
        layers += [ResBlock(before, after, halve=True) for before, after in pairwise(widths)]
        layers += [ResBlock(widths[-1], widths[-1], halve=False) for _ in range(n_blocks)]
        self.convs = nn.Sequential(*layers)
        self.channels = [input_nc, *widths, *[widths[-1]] * n_blocks]

    def forward(self, x: Tensor) -> Tensor:
        """Images (B,C,H,W) -> features (B,widest,H/2^halvings,W/2^halvings)."""
        return self.convs(x)


class StyleGAN2Decoder(nn.Module):
    """Features to image: residual blocks, styled doublings, 1x1 convolution.

    A tanh follows where the image is to be `bounded`; CUT has none.
    """

    def __init__(
        self,
        output_nc: int,
        widths: Sequence[int],
        n_blocks: int,
        inject_noise: bool,
        bounded: bool = False,
    ) -> None:
        super().__init__()
        self.bounded = bounded
        layers: list[nn.Module] = [
            ResBlock(widths[-1], widths[-1], halve=False) for _ in range(n_blocks)
        ]
        layers += [
            StyledDoubling(before, after, inject_noise) for before, after in pairwise(widths[::-1])
        ]
        layers.append(conv_layer(widths[0], output_nc, 1))  # with its activation, as in the release
        self.convs = nn.Sequential(*layers)

    def forward(self, x: Tensor, noise: Sequence[Tensor] = ()) -> Tensor:
        """Features (B,C,H,W) -> images, doubled; `noise` has a map for each doubling, or is empty to draw them."""
        maps = iter(noise)
        for layer in self.convs:
            x = layer(x, next(maps, None)) if isinstance(layer, StyledDoubling) else layer(x)
        return x.tanh() if self.bounded else x


class StyleGAN2Generator(nn.Module):
    """Image to image by residual blocks without normalisation: an output pixel depends on a neighbourhood only.

    CUT (arXiv 2007.15651), section 4.3 and appendix C. State-dict keys are the release's, for `stylegan2` (n_blocks 6)
    and `smallstylegan2` (2, without noise). Each forward pass draws new noise.

    Args:
        input_nc, output_nc: channels of the images.
        ngf: maps of side s have 512 * ngf / s channels, those of side 32 and less at most 512.
        size: side of the training images, a power of two; it decides the widths alone, any image can be translated.
        halvings: how often maps are halved, and doubled.
        n_blocks: residual blocks at the smallest size, half of them before the doublings.
        inject_noise: add noise after each doubling.
        bounded: end with a tanh, as F-LSeSim's release does; CUT's does not.
    """

    def __init__(
        self, input_nc: int, output_nc: int, ngf: int = 64, *, size: int = 256, halvings: int = 1, n_blocks: int = 6,
        inject_noise: bool = True, bounded: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.halvings, self.blocks = halvings, 2 * (n_blocks // 2)

        sizes = [size // 2**k for k in range(halvings + 1)]
        widths = [max(1, round(512 * ngf / side)) for side in sizes]
        widths = [
            min(512, width) if side <= CAPPED_SIZE else width
            for side, width in zip(sizes, widths, strict=True)
        ]

        self.encoder = StyleGAN2Encoder(input_nc, widths, n_blocks // 2)
        self.decoder = StyleGAN2Decoder(output_nc, widths, n_blocks // 2, inject_noise, bounded)

    def forward(self, x: Tensor, noise: Sequence[Tensor] = ()) -> Tensor:
        """(B,C,H,W) -> the same size, unbounded unless `bounded`; `noise` as from `draw_noise`, or empty to draw it.

        Raises:
            UserError: a side is not a multiple of 2^halvings.
        """
        self._check_size(x)
        return self.decoder(self.encoder(x), noise)

    def forward_with_features(
        self, x: Tensor, layers: Sequence[int]
    ) -> tuple[Tensor, list[Tensor]]:
        """What `forward` (with new noise) and `encode` give, from one pass; raises UserError as they do."""
        self._check_size(x)
        self._check(layers)

        *features, encoded = self.encode(x, [*layers, len(self.encoder.convs) - 1])
        return self.decoder(encoded), features

    def _check_size(self, x: Tensor) -> None:
        height, width = x.shape[-2:]
        multiple = 2**self.halvings
        if height % multiple or width % multiple:
            raise UserError(
                f"this generator takes images with sides that are multiples of {multiple}, not "
                f"{width} wide and {height} high: see --preprocess, --load_size, --crop_size"
            )

    def draw_noise(self, x: Tensor) -> list[Tensor]:
        """The noise that `forward` would draw for images (B,C,H,W): a map (B,1,h,w) for each doubling."""
        height, width = x.shape[2:]
        halves = [2**k for k in range(self.halvings - 1, -1, -1)]
        return [draw_noise(x, height // n, width // n) for n in halves]

    def reads(self, first: int, last: int) -> tuple[int, int]:
        """The first and last input row (or column) that output rows `first` to `last` depend on, borders ignored."""
        # blur of 4 taps, transposed convolution of 3
        for _ in range(self.halvings):
            first, last = -((3 - first) // 2), (last + 2) // 2

        first, last = first - 2 * self.blocks, last + 2 * self.blocks

        # convolution of 3, blur of 4, convolution of 3 with stride 2
        for _ in range(self.halvings):
            first, last = 2 * first - 3, 2 * last + 4
        return first, last

    def encode(self, x: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Features of (B,input_nc,H,W) at the given layers, in the order asked; layers after the last do not run.

        Raises:
            UserError: there is no such layer.
        """
        self._check(layers)

        features = []
        for layer in self.encoder.convs[: max(layers) + 1]:
            x = layer(x)
            features.append(x)
        return [features[index] for index in layers]

    def feature_channels(self, layers: Sequence[int]) -> list[int]:
        """Channels of what `encode` returns for these layers; raises UserError as it does."""
        self._check(layers)
        return [self.encoder.channels[index] for index in layers]

    def _check(self, layers: Sequence[int]) -> None:
        check_layers(layers, len(self.encoder.convs), "this generator's encoder has layers 0 to {}")


class StyleGAN2Discriminator(nn.Module):
    """One score per image: 1x1 convolution, residual blocks that halve down to 4x4, convolution, two linear layers.

    State-dict keys are those of CUT's release, which has no minibatch deviation either.

    Args:
        input_nc: channels of the images.
        ndf: maps of side s have 256 * ndf / s channels, those of side 32 and less at most 384.
        size: side of the images, a power of two.
        last_map: where the halving ends; 8 in F-LSeSim's release.
    """

    def __init__(
        self, input_nc: int, ndf: int = 64, size: int = 256, last_map: int = LAST_MAP
    ) -> None:
        super().__init__()
        self.size = size
        sizes = [size // 2**k for k in range(int(math.log2(size // last_map)) + 1)]
        *widths, last = [self.width(ndf, side) for side in (*sizes, LAST_MAP)]

        layers: list[nn.Module] = [conv_layer(input_nc, widths[0], 1)]
        layers += [ResBlock(before, after, halve=True) for before, after in pairwise(widths)]
        self.convs = nn.Sequential(*layers)
        self.final_conv = conv_layer(widths[-1], last, 3)
        self.final_linear = nn.Sequential(
            EqualLinear(last * last_map**2, last, activate=True), EqualLinear(last, 1)
        )

    @staticmethod
    def width(ndf: int, side: int) -> int:
        """Channels of maps of this side."""
        width = max(1, 256 * ndf // side)
        return min(384, width) if side <= CAPPED_SIZE else width

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) with H = W = size -> scores (B,1), unbounded; raises UserError for another size."""
        height, width = x.shape[-2:]
        if (height, width) != (self.size, self.size):
            raise UserError(
                f"--netD stylegan2 is made for {self.size}x{self.size} pixels (--stylegan2_size) "
                f"and got {width}x{height}: use a --crop_size that is a power of two, or another "
                "--netD"
            )
        return self.final_linear(self.final_conv(self.convs(x)).flatten(1))


class TileStyleGAN2Discriminator(StyleGAN2Discriminator):
    """The same on each tile of side `size` of a larger image: a score per tile."""

    @classmethod
    def of_layers(cls, input_nc: int, ndf: int, n_layers: int = 3) -> "TileStyleGAN2Discriminator":
        """The one that halves its tiles `n_layers` times, so tiles of 4 * 2^n_layers pixels."""
        return cls(input_nc, ndf, LAST_MAP * 2**n_layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> scores (B,H/size,W/size); raises UserError unless both sides are multiples of size."""
        batch, channels, height, width = x.shape
        if height % self.size or width % self.size:
            raise UserError(
                f"--netD tilestylegan2 cuts images into tiles of {self.size} pixels, but they are "
                f"{width}x{height}: use a --crop_size that is a multiple, or fewer --n_layers_D "
                "(tiles of 4 * 2^n)"
            )

        tiles = x.unflatten(2, (-1, self.size)).unflatten(4, (-1, self.size))  # (B,C,Y,size,X,size)
        tiles = tiles.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, self.size, self.size)
        return super().forward(tiles).view(batch, height // self.size, width // self.size)
