"""Initial weights of networks."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import init

from models.networks.blocks import AffineInstanceNorm
from util.registry import find_by_name

INITIALIZERS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "normal": lambda weight, gain: init.normal_(weight, 0.0, gain),
    "xavier": lambda weight, gain: init.xavier_normal_(weight, gain),
    "kaiming": lambda weight, gain: init.kaiming_normal_(weight),  # sets its own scale, as in CUT
    "orthogonal": lambda weight, gain: init.orthogonal_(weight, gain),
}


@torch.no_grad()
def initialize_weights(net: nn.Module, init_type: str = "xavier", gain: float = 0.02) -> None:
    """Draw the weights of all convolutions and linear layers, as CUT does; biases become 0.

    A normalisation that learns starts at scale N(1, gain) and shift 0. The same random state gives the same weights
    as CUT.

    Args:
        init_type: normal (standard deviation `gain`), xavier, kaiming (no gain) or orthogonal.

    Raises:
        UserError: unknown `init_type`.
    """
    draw = find_by_name(INITIALIZERS, init_type, "--init_type")
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            draw(module.weight, gain)
        elif isinstance(module, nn.BatchNorm2d | AffineInstanceNorm):
            init.normal_(module.weight, 1.0, gain)
        else:
            continue

        if module.bias is not None:
            init.zeros_(module.bias)
