"""Several feature layers computed as one batch: a GPU then launches a third of the kernels for three layers.

Shape legend: L layers, B graphs of each, N nodes, M = B*N, D and O widths of nodes.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map


def alike(positions_BN: Sequence[Tensor]) -> list[list[int]]:
    """The numbers of the layers, those with equally many graphs and nodes together."""
    groups: dict[torch.Size, list[int]] = {}
    for i, position_BN in enumerate(positions_BN):
        groups.setdefault(position_BN.shape, []).append(i)
    return list(groups.values())


def rows(parts: Sequence[Tensor]) -> Tensor:
    """The rows of all parts, one part after the other."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def taken_apart(joined: Any, count: int) -> list[Any]:
    """What was made of `count` layers together -> of each; tensors in it have a row for each graph."""
    if count == 1:
        return [joined]

    def of_layer(place: int) -> Any:
        return tree_map(lambda x: x.chunk(count)[place], joined)

    return [of_layer(place) for place in range(count)]


def joined_linear(layers: Sequence[nn.Linear]) -> Callable[[Tensor], Tensor]:
    """Linear layers of one shape as one product: of a batch (L*B,N,D), each reads its own B rows; (L*B,N,O)."""
    weight_LDO = torch.stack([layer.weight for layer in layers]).transpose(1, 2)
    multiply = torch.bmm
    if layers[0].bias is not None:
        bias_L1O = torch.stack([layer.bias for layer in layers])[:, None]
        multiply = partial(torch.baddbmm, bias_L1O)

    def apply(x_BND: Tensor) -> Tensor:
        x_LMD = x_BND.reshape(len(layers), -1, x_BND.shape[2])
        y_LMO = multiply(x_LMD, weight_LDO)
        return y_LMO.view(*x_BND.shape[:2], -1)

    return apply
