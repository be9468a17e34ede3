"""The filter F of LSeSim: what of a feature its self-similarity is taken of.

Shape legend: B images, C channels of a feature map, D channels that are left.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from models.networks.init import initialize_weights

REDUCTION, NARROWEST = 4, 32  # D = C / 4, but 32 at least
INIT_STD = 0.02


class SimilarityFilter(nn.Module):
    """Makes features of a frozen network small and lets them learn what structure is (arXiv 2104.00854, section 3.2).

    conv_i of layer i: 1x1 convolution C -> D, ReLU, 1x1 convolution D -> D, D = max(32, C // 4). Weights start at
    N(0, 0.02), biases at 0. State-dict keys are those of the release (`conv_0.0.weight`, ...).

    Args:
        channels: C of each feature map, in the order of `forward`.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.layers = len(channels)

        for i, count in enumerate(channels):
            width = max(NARROWEST, count // REDUCTION)
            first, second = nn.Conv2d(count, width, 1), nn.Conv2d(width, width, 1)
            self.add_module(f"conv_{i}", nn.Sequential(first, nn.ReLU(), second))
        initialize_weights(self, "normal", INIT_STD)

    def forward(self, feats: Sequence[Tensor]) -> list[Tensor]:
        """Feature maps (B,C,H,W), one per layer -> as many of (B,D,H,W)."""
        filters = [self.get_submodule(f"conv_{i}") for i in range(self.layers)]
        return [conv(feat) for conv, feat in zip(filters, feats, strict=True)]
