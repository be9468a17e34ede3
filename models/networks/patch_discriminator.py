"""Discriminators that judge patches or single pixels (PatchGAN, PixelGAN)."""

from itertools import pairwise

from torch import Tensor, nn

from models.networks.blocks import needs_bias, norm_layer
from models.networks.chain import Chain
from models.networks.resampling import BlurDown


class NLayerDiscriminator(nn.Module):
    """PatchGAN: every output pixel judges one patch of the image (Isola et al. 2017, arXiv 1611.07004).

    n_layers convolutions 4x4 that halve the map, one that does not, and one to a single channel; LeakyReLU 0.2.
    A patch is 9*2^n - 2 pixels wide (n = n_layers; 70 for 3), with anti-aliasing 11*2^n - 4 (84 for 3), because the
    blur looks further. State-dict keys are those of CUT's release; without anti-aliasing also CycleGAN's.

    Args:
        input_nc: channels of the images.
        ndf: width of the first convolution; it doubles with each layer up to 8*ndf.
        n_layers: number of halvings.
        norm: a key of `NORMS`, after all convolutions but the first and last.
        antialias: convolve, then blur and halve; otherwise strided convolutions.
    """

    def __init__(
        self,
        input_nc: int,
        ndf: int = 64,
        n_layers: int = 3,
        norm: str = "instance",
        antialias: bool = True,
    ) -> None:
        super().__init__()
        widths = [ndf * min(2**n, 8) for n in range(n_layers + 1)]

        layers: list[nn.Module] = []
        for n, (before, after) in enumerate(pairwise([input_nc, *widths])):
            first, halves = n == 0, n < n_layers
            stride = 2 if halves and not antialias else 1
            bias = first or needs_bias(norm)
            layers.append(nn.Conv2d(before, after, 4, stride, padding=1, bias=bias))
            if not first:
                layers.append(norm_layer(norm, after))

            # in place: one activation less to keep for backward
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            if halves and antialias:
                layers.append(BlurDown(after))

        layers.append(nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.model = Chain(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B,input_nc,H,W) -> scores (B,1,h,w), unbounded; 256x256 gives 30x30 with n_layers 3."""
        return self.model(x)


class PixelDiscriminator(nn.Module):
    """PixelGAN: 1x1 convolutions, so that every pixel is judged by its colour alone (Isola et al. 2017, section 3.2.2).

    State-dict keys are those of CUT's and CycleGAN's releases.

    Args:
        input_nc: channels of the images.
        ndf: width of the first convolution; the second has twice that.
        norm: a key of `NORMS`, after the second convolution.
    """

    def __init__(self, input_nc: int, ndf: int = 64, norm: str = "instance") -> None:
        super().__init__()
        bias = needs_bias(norm)
        self.net = Chain(
            nn.Conv2d(input_nc, ndf, 1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf, 2 * ndf, 1, bias=bias),
            norm_layer(norm, 2 * ndf),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(2 * ndf, 1, 1, bias=bias),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B,input_nc,H,W) -> scores (B,1,H,W), unbounded."""
        return self.net(x)
