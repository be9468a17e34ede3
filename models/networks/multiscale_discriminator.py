"""Discriminators that judge an image at several sizes."""

from itertools import pairwise

from torch import Tensor, nn

from models.networks.chain import Chain
from models.networks.style_layers import FittedPad


class MultiScaleDiscriminator(nn.Module):
    """A PatchGAN for each of several sizes of the image (Wang et al. 2018, arXiv 1711.11585, as in MUNIT and DRIT).

    Each is n_layers convolutions 4x4 that halve the map, without normalisation, and one 1x1 to a single channel. From
    size to size the image is halved by averages of 3x3. Scores of each size count alike: a loss is summed over sizes.

    Args:
        input_nc: channels of the images.
        ndf: width of the first convolution; it doubles with each layer up to 8*ndf.
        n_layers: number of halvings within one discriminator.
        n_scales: number of sizes.
        slope: of the LeakyReLUs; MUNIT has 0.2, DRIT 0.01.
    """

    def __init__(
        self, input_nc: int, ndf: int = 64, n_layers: int = 4, n_scales: int = 3, slope: float = 0.2
    ) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            self._one_scale(input_nc, ndf, n_layers, slope) for _ in range(n_scales)
        )
        self.halve = nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)

    @staticmethod
    def _one_scale(input_nc: int, ndf: int, n_layers: int, slope: float) -> Chain:
        layers: list[nn.Module] = []
        widths = [input_nc, *(ndf * min(2**n, 8) for n in range(n_layers))]
        for before, after in pairwise(widths):
            layers += [
                FittedPad(1, kernel=4),
                nn.Conv2d(before, after, 4, stride=2),
                nn.LeakyReLU(slope, inplace=True),
            ]
        return Chain(*layers, nn.Conv2d(widths[-1], 1, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B,input_nc,H,W) -> scores (B,1,h,w) of each size; 256x256 gives 16x16, 8x8 and 4x4."""
        scores = []
        for number, net in enumerate(self.scales):
            if number > 0:
                x = self.halve(x)
            scores.append(net(x))
        return scores
