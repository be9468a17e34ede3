"""MUNIT's auto-encoder of one domain: an image taken apart into content and style, and put together again."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.blocks import InstanceNorm
from models.networks.chain import Chain
from models.networks.resampling import ReflectionPad
from models.networks.resnet_generator import ResnetBlock
from models.networks.style_layers import AdaIN, FittedPad, LayerNorm, check_image_size
from util.hardware.precision import full_precision


class MunitAutoencoder(nn.Module):
    """Encoders of content and style, and the decoder that joins them (Huang et al. 2018, arXiv 1804.04732, figure 9).

    content (B,4*ngf,H/4,W/4) says what is where, style (B,style_dim) how the whole image looks. The decoder gets the
    style as shift and scale of each of its adaptive normalisations, through a small network.

    Args:
        channels: of the images.
        ngf: width of the first convolutions.
        style_dim: length of a style.
        mlp_dim: width of the network between style and normalisations.
        n_blocks: residual blocks in the content encoder, and again in the decoder.
    """

    def __init__(
        self, channels: int, ngf: int = 64, style_dim: int = 8, mlp_dim: int = 256, n_blocks: int = 4
    ) -> None:  # fmt: skip
        super().__init__()
        self.content_encoder = content_encoder(channels, ngf, n_blocks)
        self.style_encoder = StyleEncoder(channels, ngf, style_dim)
        self.decoder = AdaptiveDecoder(channels, ngf, n_blocks)
        self.mlp = nn.Sequential(
            nn.Linear(style_dim, mlp_dim),
            nn.ReLU(),
            nn.Linear(mlp_dim, mlp_dim),
            nn.ReLU(),
            nn.Linear(mlp_dim, self.decoder.settings),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) in [-1,1] -> the images again; raises UserError as `encode_content` does."""
        return self.decode(*self.encode(x))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B,C,H,W) -> content (B,4*ngf,H/4,W/4) and style (B,style_dim); raises UserError."""
        return self.encode_content(x), self.encode_style(x)

    def encode_content(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,4*ngf,H/4,W/4).

        Raises:
            UserError: a side is not a multiple of 4, or below 8.
        """
        check_image_size(x)
        return self.content_encoder(x)

    def encode_style(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,style_dim), unbounded."""
        return self.style_encoder(x)

    def decode(self, content: Tensor, style: Tensor) -> Tensor:
        """(B,4*ngf,h,w) and (B,style_dim) -> images (B,C,4h,4w) in [-1,1]."""
        return self.decoder(content, self.mlp(style))


def content_encoder(channels: int, ngf: int, n_blocks: int) -> Chain:
    """conv7, two halvings by conv4, residual blocks; reflected borders, instance normalisation."""
    layers = [ReflectionPad(3), nn.Conv2d(channels, ngf, 7), InstanceNorm(), nn.ReLU()]
    for width in (ngf, 2 * ngf):
        layers += [ReflectionPad(1), nn.Conv2d(width, 2 * width, 4, stride=2)]
        layers += [InstanceNorm(), nn.ReLU()]
    blocks = [ResnetBlock(4 * ngf, "instance", use_dropout=False) for _ in range(n_blocks)]
    return Chain(*layers, *blocks)


class StyleEncoder(nn.Module):
    """conv7, four halvings by conv4, mean over the image, one linear layer.

    No normalisation: it would take away the means and deviations that a style consists of.
    """

    def __init__(self, channels: int, ngf: int, style_dim: int) -> None:
        super().__init__()
        layers = [ReflectionPad(3), nn.Conv2d(channels, ngf, 7), nn.ReLU()]
        for before, after in pairwise((ngf, 2 * ngf, 4 * ngf, 4 * ngf, 4 * ngf)):
            layers += [FittedPad(1, kernel=4), nn.Conv2d(before, after, 4, stride=2), nn.ReLU()]
        self.model = Chain(*layers)
        self.head = nn.Linear(4 * ngf, style_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,style_dim)."""
        mean_BC = full_precision(self.model(x)).mean((2, 3))
        return self.head(mean_BC)


class AdaptiveDecoder(nn.Module):
    """Adaptive residual blocks, two doublings (nearest neighbour, conv5, layer normalisation), conv7, tanh.

    Attributes:
        settings: numbers that a style must give: for each adaptive normalisation its shifts, then its scales.
    """

    def __init__(self, channels: int, ngf: int, n_blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(AdaptiveResnetBlock(4 * ngf) for _ in range(n_blocks))
        self.settings = n_blocks * AdaptiveResnetBlock.NORMS * 2 * 4 * ngf

        layers: list[nn.Module] = []
        for width in (4 * ngf, 2 * ngf):
            layers += [nn.Upsample(scale_factor=2), ReflectionPad(2)]
            layers += [nn.Conv2d(width, width // 2, 5), LayerNorm(width // 2), nn.ReLU()]
        layers += [ReflectionPad(3), nn.Conv2d(ngf, channels, 7), nn.Tanh()]
        self.model = Chain(*layers)

    def forward(self, content: Tensor, settings: Tensor) -> Tensor:
        """(B,4*ngf,h,w) and (B,settings) -> (B,channels,4h,4w) in [-1,1]."""
        x = content
        for block, own in zip(self.blocks, settings.chunk(len(self.blocks), 1), strict=True):
            x = block(x, own)
        return self.model(x)


class AdaptiveResnetBlock(nn.Module):
    """Residual block whose two normalisations are set from outside: x + AdaIN(conv3(relu(AdaIN(conv3(x))))).

    The convolutions have no biases, since the normalisations would cancel them.
    """

    NORMS = 2

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pad = ReflectionPad(1)
        self.conv_1 = nn.Conv2d(channels, channels, 3, bias=False)
        self.conv_2 = nn.Conv2d(channels, channels, 3, bias=False)
        self.adain = AdaIN()

    def forward(self, x: Tensor, settings: Tensor) -> Tensor:
        """(B,C,H,W) and (B,4*C), shift and scale of the first norm, then the second -> (B,C,H,W)."""
        shift_1, scale_1, shift_2, scale_2 = settings.chunk(4, 1)
        inner = F.relu(self.adain(self.conv_1(self.pad(x)), shift_1, scale_1))
        return x + self.adain(self.conv_2(self.pad(inner)), shift_2, scale_2)
