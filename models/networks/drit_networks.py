"""DRIT's encoders of content and attributes, its generator for both domains, and the judge of contents."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from models.networks.blocks import InstanceNorm
from models.networks.chain import Chain
from models.networks.resampling import ReflectionPad
from models.networks.resnet_generator import ResnetBlock
from models.networks.style_layers import FittedPad, LayerNorm, beside, check_image_size
from util.errors import UserError
from util.hardware.precision import full_precision

DOMAINS = ("A", "B")


class DritContentEncoder(nn.Module):
    """Contents of either domain in one space (Lee et al. 2018, arXiv 1808.00948, section 3.1).

    A domain has conv7, two halvings by conv3 and `n_blocks` residual blocks of its own; the last residual block is
    that of both.

    Args:
        channels: of the images of A and of B.
        ngf: width of the first convolution.
        n_blocks: residual blocks of one domain.
    """

    def __init__(self, channels: tuple[int, int], ngf: int = 64, n_blocks: int = 3) -> None:
        super().__init__()
        self.own = nn.ModuleDict(
            {
                domain: self._own_layers(count, ngf, n_blocks)
                for domain, count in zip(DOMAINS, channels, strict=True)
            }
        )
        self.shared = ResnetBlock(4 * ngf, "instance", use_dropout=False)

    @staticmethod
    def _own_layers(channels: int, ngf: int, n_blocks: int) -> Chain:
        layers = [ReflectionPad(3), nn.Conv2d(channels, ngf, 7), nn.LeakyReLU(0.01)]
        for width in (ngf, 2 * ngf):
            layers += [ReflectionPad(1), nn.Conv2d(width, 2 * width, 3, stride=2)]
            layers += [InstanceNorm(), nn.ReLU()]
        blocks = [ResnetBlock(4 * ngf, "instance", use_dropout=False) for _ in range(n_blocks)]
        return Chain(*layers, *blocks)

    def forward(self, x: Tensor, domain: str, noisy: bool = False) -> Tensor:
        """Images (B,C,H,W) of a domain -> contents (B,4*ngf,H/4,W/4).

        Args:
            noisy: add N(0,1) to every number, as in training, where contents could hide a picture.

        Raises:
            UserError: a side is not a multiple of 4, or below 8.
        """
        check_image_size(x)
        content = self.shared(self.own[domain](x))
        if noisy:
            content = content + torch.randn(content.shape, device=content.device)
        return content


class DritAttributeEncoder(nn.Module):
    """Attributes of a domain as a normal distribution, from a residual network for each (as in BicycleGAN).

    Zhu et al. 2017 (arXiv 1711.11586, the encoder "E_ResNet"): conv4 that halves, three residual blocks that halve,
    mean over the image, linear. No normalisation, which would take attributes away.

    Args:
        channels: of the images of A and of B.
        width: of the first convolution; the blocks have 2, 3 and 4 times that.
        attribute_dim: length of an attribute vector.
    """

    def __init__(self, channels: tuple[int, int], width: int = 64, attribute_dim: int = 8) -> None:
        super().__init__()
        self.features = nn.ModuleDict(
            {
                domain: self._layers(count, width)
                for domain, count in zip(DOMAINS, channels, strict=True)
            }
        )
        self.heads = nn.ModuleDict(
            {domain: nn.Linear(4 * width, 2 * attribute_dim) for domain in DOMAINS}
        )

    @staticmethod
    def _layers(channels: int, width: int) -> Chain:
        layers = [FittedPad(1, kernel=4), nn.Conv2d(channels, width, 4, stride=2)]
        for before, after in pairwise((width, 2 * width, 3 * width, 4 * width)):
            layers.append(HalvingResidualBlock(before, after))
        return Chain(*layers, nn.LeakyReLU(0.2))

    def forward(self, x: Tensor, domain: str) -> tuple[Tensor, Tensor]:
        """Images (B,C,H,W) of a domain -> mean and log variance, (B,attribute_dim) each.

        Raises:
            UserError: a side is below 16, which four halvings need.
        """
        height, width = x.shape[2:]
        if min(height, width) < 16:
            raise UserError(
                "attributes are read from images of at least 16 pixels, "
                f"not {width} wide and {height} high: see --crop_size, --load_size, --style"
            )

        mean_BC = full_precision(self.features[domain](x)).mean((2, 3))
        mean, log_variance = self.heads[domain](mean_BC).chunk(2, 1)
        return mean, log_variance


class HalvingResidualBlock(nn.Module):
    """halve(conv3(lrelu(conv3(lrelu(x))))) + conv1(halve(x)); halving takes means of 2x2, one odd row is left out."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.main = Chain(
            nn.LeakyReLU(0.2),
            nn.Conv2d(before, before, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(before, after, 3, padding=1),
            nn.AvgPool2d(2),
        )
        self.short = Chain(nn.AvgPool2d(2), nn.Conv2d(before, after, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B,before,H,W) -> (B,after,H/2,W/2)."""
        return self.main(x) + self.short(x)


class DritGenerator(nn.Module):
    """Images of either domain from a content and attributes, which enter beside the channels at four places.

    One residual block is that of both domains (section 3.1). A domain then has `n_blocks` residual blocks, two
    doublings (transposed conv3, layer normalisation, ReLU), conv1 and tanh; attributes stand before each of these four.

    Args:
        channels: of the images of A and of B.
        ngf: a quarter of the width of a content.
        attribute_dim: length of an attribute vector.
        n_blocks: residual blocks of one domain.
    """

    def __init__(
        self, channels: tuple[int, int], ngf: int = 64, attribute_dim: int = 8, n_blocks: int = 3
    ) -> None:  # fmt: skip
        super().__init__()
        self.shared = ResnetBlock(4 * ngf, "instance", use_dropout=False)
        self.own = nn.ModuleDict(
            {
                domain: self._own_parts(count, ngf, attribute_dim, n_blocks)
                for domain, count in zip(DOMAINS, channels, strict=True)
            }
        )

    @staticmethod
    def _own_parts(channels: int, ngf: int, attribute_dim: int, n_blocks: int) -> nn.ModuleList:
        width = 4 * ngf + attribute_dim
        blocks = [ResnetBlock(width, "instance", use_dropout=False) for _ in range(n_blocks)]
        parts = [Chain(*blocks)]

        for _ in range(2):
            before, width = width + attribute_dim, (width + attribute_dim) // 2
            parts.append(
                Chain(
                    nn.ConvTranspose2d(before, width, 3, stride=2, padding=1, output_padding=1),
                    LayerNorm(width),
                    nn.ReLU(),
                )
            )

        parts.append(Chain(nn.Conv2d(width + attribute_dim, channels, 1), nn.Tanh()))
        return nn.ModuleList(parts)

    def forward(self, content: Tensor, attributes: Tensor, domain: str) -> Tensor:
        """(B,4*ngf,h,w) and (B,attribute_dim) -> images of a domain (B,C,4h,4w) in [-1,1]."""
        x = self.shared(content)
        for part in self.own[domain]:
            x = part(beside(x, attributes))
        return x


class DritContentDiscriminator(nn.Module):
    """Tells from a content which domain it is of (section 3.2): three conv7 that halve, conv4 without border, conv1.

    Args:
        channels: of a content, and of all layers.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [FittedPad(1, kernel=7), nn.Conv2d(channels, channels, 7, stride=2)]
            layers.append(nn.LeakyReLU(0.01, inplace=True))
        layers += [FittedPad(0, kernel=4), nn.Conv2d(channels, channels, 4)]
        layers.append(nn.LeakyReLU(0.01, inplace=True))
        self.model = Chain(*layers, nn.Conv2d(channels, 1, 1))

    def forward(self, content: Tensor) -> Tensor:
        """(B,channels,h,w) -> scores (B,1,y,x), unbounded; 54x54, of an image of 216, gives one."""
        return self.model(content)
