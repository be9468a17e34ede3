"""The ResNet generator of CycleGAN and CUT, with taps for feature losses."""

from collections.abc import Sequence

from torch import Tensor, nn

from models.networks.blocks import check_layers, needs_bias, norm_layer
from models.networks.chain import Chain
from models.networks.resampling import BlurDown, BlurUp, ReflectionPad
from util.errors import UserError

PADDINGS = ("reflect", "zero")


class ResnetBlock(nn.Module):
    """Residual block: x + conv3(relu(conv3(x))), each convolution normalised (He et al. 2016).

    Args:
        channels: width, the same in and out.
        norm: a key of `NORMS`.
        use_dropout: dropout of one half between the two convolutions.
        padding: reflect | zero, what the convolutions see beyond the border.
    """

    def __init__(
        self, channels: int, norm: str, use_dropout: bool, padding: str = "reflect"
    ) -> None:
        super().__init__()
        bias = needs_bias(norm)
        self.conv_block = Chain(
            *_same_size(channels, channels, 3, padding, bias),
            norm_layer(norm, channels),
            nn.ReLU(),
            *([nn.Dropout(0.5)] if use_dropout else []),
            *_same_size(channels, channels, 3, padding, bias),
            norm_layer(norm, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> the same shape."""
        return self.conv_block(x, residual=x)


class ResnetGenerator(nn.Module):
    """Image to image: conv7, two halvings, residual blocks, two doublings, conv7, tanh.

    Johnson et al. 2016 (arXiv 1603.08155) as used by CycleGAN (Zhu et al. 2017), with the anti-aliased resampling of
    CUT (Park et al. 2020). State-dict keys and layer indices are those of CUT's release; without either anti-aliasing
    they are those of CycleGAN's. At 256 pixels, anti-aliased, ngf 64, CUT's nce_layers are
        0: padded image 3x262x262    4: conv 128x256x256    8: conv 256x128x128    12, 16: residual blocks 256x64x64
    With zero padding there are no layers that reflect borders, so all others have smaller indices; without either
    anti-aliasing the keys are then those of DistanceGAN's release (Benaim, Wolf 2017).
    No ReLU works in place, so a tapped layer keeps its value. In the release it does: a tap just before a ReLU, such
    as layer 8 without anti-aliasing, there shows the values after it.

    Args:
        input_nc, output_nc: channels of the images.
        ngf: width of the first and last convolution.
        n_blocks: number of residual blocks.
        norm: a key of `NORMS`.
        use_dropout: dropout of one half inside the residual blocks.
        antialias: blur before halving; otherwise strided convolutions.
        antialias_up: bilinear doubling, then a convolution; otherwise transposed convolutions.
        padding: reflect | zero, what the first, the last and the residual blocks' convolutions see beyond the border.
    """

    size_multiple = 4  # sides that the two halvings and doublings give back unchanged
    smallest_size = 8  # the residual blocks reflect a border of 1, so they need maps of 2x2

    def __init__(
        self, input_nc: int, output_nc: int, ngf: int = 64, n_blocks: int = 9, norm: str = "instance",
        use_dropout: bool = False, antialias: bool = True, antialias_up: bool = True, padding: str = "reflect",
    ) -> None:  # fmt: skip
        super().__init__()
        self.input_nc = input_nc
        layers = [
            *_same_size(input_nc, ngf, 7, padding, needs_bias(norm)),
            *_activated(norm, ngf),
        ]

        for width in (ngf, 2 * ngf):
            layers += _halving(width, norm, antialias)
        layers += [ResnetBlock(4 * ngf, norm, use_dropout, padding) for _ in range(n_blocks)]
        for width in (4 * ngf, 2 * ngf):
            layers += _doubling(width, norm, antialias_up)

        layers += [*_same_size(ngf, output_nc, 7, padding, bias=True), nn.Tanh()]
        self.model = Chain(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) in [-1,1] -> the same size in [-1,1]; C is input_nc before, output_nc after.

        Raises:
            UserError: a side is not a multiple of 4, or below 8.
        """
        self._check_size(x)
        return self.model(x)

    def forward_with_features(
        self, x: Tensor, layers: Sequence[int]
    ) -> tuple[Tensor, list[Tensor]]:
        """What `forward` and `encode` give, from one pass; raises UserError as they do."""
        self._check_size(x)
        self._check(layers)
        *features, output = self.model.collect(x, [*layers, len(self.model) - 1])
        return output, features

    def encode(self, x: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Features of (B,input_nc,H,W) at the given layers, in the order asked; layers after the last do not run.

        Raises:
            UserError: there is no such layer.
        """
        self._check(layers)
        return self.model.collect(x, layers)

    def feature_channels(self, layers: Sequence[int]) -> list[int]:
        """Channels of what `encode` returns for these layers; raises UserError as it does."""
        self._check(layers)
        channels, widths = self.input_nc, []
        for layer in self.model:
            channels = getattr(
                layer, "out_channels", channels
            )  # only convolutions change the number
            widths.append(channels)
        return [widths[index] for index in layers]

    def _check_size(self, x: Tensor) -> None:
        height, width = x.shape[-2:]
        if (
            height % self.size_multiple
            or width % self.size_multiple
            or min(height, width) < self.smallest_size
        ):
            raise UserError(
                f"this generator takes images with sides that are multiples of {self.size_multiple} and at least "
                f"{self.smallest_size}, not {width} wide and {height} high: see --preprocess, --load_size, --crop_size"
            )

    def _check(self, layers: Sequence[int]) -> None:
        check_layers(layers, len(self.model), "this generator has layers 0 to {}")


def _same_size(before: int, after: int, size: int, padding: str, bias: bool) -> list[nn.Module]:
    """Layers (B,before,H,W) -> (B,after,H,W): a convolution, with the border that it needs."""
    width = size // 2
    if padding == "zero":
        return [nn.Conv2d(before, after, size, padding=width, bias=bias)]
    return [ReflectionPad(width), nn.Conv2d(before, after, size, bias=bias)]


def _activated(norm: str, channels: int) -> list[nn.Module]:
    return [norm_layer(norm, channels), nn.ReLU()]


def _halving(width: int, norm: str, antialias: bool) -> list[nn.Module]:
    """Layers (B,width,H,W) -> (B,2*width,H/2,W/2)."""
    conv = nn.Conv2d(
        width, 2 * width, 3, stride=1 if antialias else 2, padding=1, bias=needs_bias(norm)
    )
    return [conv, *_activated(norm, 2 * width), *([BlurDown(2 * width)] if antialias else [])]


def _doubling(width: int, norm: str, antialias: bool) -> list[nn.Module]:
    """Layers (B,width,H,W) -> (B,width/2,2H,2W)."""
    half, bias = width // 2, needs_bias(norm)
    if antialias:
        resize = [BlurUp(width), nn.Conv2d(width, half, 3, padding=1, bias=bias)]
    else:
        resize = [
            nn.ConvTranspose2d(width, half, 3, stride=2, padding=1, output_padding=1, bias=bias)
        ]
    return [*resize, *_activated(norm, half)]
