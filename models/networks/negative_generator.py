"""The network N of NEGCUT: makes negatives for the patches of an image from what the image is like, and noise.

Shape legend: B images, M negatives, D embedding width, Z length of the noise.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.networks.patch_sampler import to_unit_length
from util.hardware.precision import full_precision


class NegativeGenerator(nn.Module):
    """Embedded patches that never were in the image (NEGCUT, ICCV 2021).

        n = mlp_i([c, z]) / (|mlp_i([c, z])| + 1e-7),  z ~ N(0, I),  mlp_i: linear D + Z -> D, ReLU, linear D -> D

    one mlp_i for each feature layer i, one z for each negative.

    Args:
        layers: number of feature layers.
        width: D.
        noise: Z.
    """

    def __init__(self, layers: int, width: int = 256, noise: int = 64) -> None:
        super().__init__()
        self.noise = noise
        for i in range(layers):
            mlp = nn.Sequential(nn.Linear(width + noise, width), nn.ReLU(), nn.Linear(width, width))
            self.add_module(f"mlp_{i}", mlp)

    def forward(self, contexts: Sequence[Tensor], count: int = 256) -> list[Tensor]:
        """What the patches of an image are like on average, (B,D) per layer -> per layer `count` negatives (B,M,D).

        Computed in float32 at least, whatever autocast says; noise is drawn on the device.
        """
        negatives = []
        for i, context_BD in enumerate(contexts):
            with torch.autocast(context_BD.device.type, enabled=False):
                context_BMD = full_precision(context_BD)[:, None].expand(-1, count, -1)
                shape = (len(context_BD), count, self.noise)
                noise_BMZ = torch.randn(shape, device=context_BMD.device, dtype=context_BMD.dtype)
                made_BMD = self.get_submodule(f"mlp_{i}")(torch.cat([context_BMD, noise_BMZ], 2))
                negatives.append(to_unit_length(made_BMD))
        return negatives
