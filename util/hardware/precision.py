"""Keeps sensitive arithmetic out of half precision."""

import torch
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """The tensor in float32 or wider: norms, cosines, exponentials and means over many values need it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
