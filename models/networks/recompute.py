"""Memory for time: blocks whose inner maps are computed a second time on the way back, instead of being kept."""

from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.networks.drit_networks import HalvingResidualBlock
from models.networks.munit_autoencoder import AdaptiveResnetBlock
from models.networks.resnet_generator import ResnetBlock
from models.networks.stylegan2_layers import ResBlock

BLOCKS = (ResnetBlock, AdaptiveResnetBlock, HalvingResidualBlock, ResBlock)


class Recomputed:
    """Stands for a block's forward: the same values and gradients, but only its input is kept (Chen et al. 2016,
    arXiv 1604.06174).

    Random numbers are put back for the second time where the block draws any; the host has to ask for them.
    """

    def __init__(self, block: nn.Module) -> None:
        self.forward = block.forward
        self.draws = any(isinstance(part, nn.Dropout) for part in block.modules())

    def __call__(self, *tensors: Tensor) -> Any:
        return checkpoint(
            self.forward, *tensors, use_reentrant=False, preserve_rng_state=self.draws
        )


def recompute_blocks(net: nn.Module) -> int:
    """Let the residual blocks of a network that trains keep nothing but their inputs; returns how many there are."""
    blocks = [part for part in net.modules() if isinstance(part, BLOCKS)]
    for block in blocks:
        block.forward = Recomputed(block)
    return len(blocks)
