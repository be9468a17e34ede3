"""Under autocast, all convolutions of a network read their weights from copies that one operator makes.

Autocast itself casts each weight by an operator of its own, and each gradient back by another. What is computed is the
same to the bit: a copy that is used twice gathers its gradient in half precision, as in autocast's own cache.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
_entered: list["HalfCopies"] = []


class HalfCopies:
    """Copies of the weights of some networks in the type that autocast computes in.

    A network's weights are copied when it is first used after `in_use` was entered, so that they are never older than
    the block that reads them; weights must not change within it. Weights themselves stay as they are, in float32.

    Args:
        nets: networks; only their plain convolutions are read from copies, and only where a `Chain` runs them.
        unused: parameters that no convolution adds, such as `Chain.dead_biases`.
    """

    def __init__(self, nets: Iterable[nn.Module], unused: Iterable[nn.Parameter] = ()) -> None:
        left_out = {id(parameter) for parameter in unused}
        self._weights: list[list[nn.Parameter]] = []
        self._place: dict[int, int] = {}  # of a weight's network, by the weight's id

        for place, net in enumerate(nets):
            self._weights.append([])
            for layer in net.modules():
                if type(layer) not in CONVOLUTIONS or layer.padding_mode != "zeros":
                    continue
                for weight in layer.parameters(recurse=False):
                    if id(weight) not in left_out:
                        self._weights[-1].append(weight)
                        self._place[id(weight)] = place

        self._copies: dict[int, Tensor] = {}

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """While entered, `half_copy` gives copies."""
        self._copies.clear()
        _entered.append(self)
        try:
            yield
        finally:
            _entered.pop()
            self._copies.clear()

    def of(self, weight: nn.Parameter, dtype: torch.dtype) -> Tensor:
        """The copy of a weight, differentiable; the weight itself where it belongs to none of the networks."""
        place = self._place.get(id(weight))
        if place is None:
            return weight

        if id(weight) not in self._copies:
            weights = self._weights[place]
            with (
                torch.enable_grad()
            ):  # a copy first read without gradients may be read with them later
                copies = _Cast.apply(dtype, *weights)
            self._copies |= zip(map(id, weights), copies, strict=True)
        return self._copies[id(weight)]


def half_copy(weight: nn.Parameter | None) -> Tensor | None:
    """What a convolution should read for this weight or bias: its copy where copies are in use under autocast."""
    if weight is None or not _entered:
        return weight

    kind = weight.device.type
    if not torch.is_autocast_enabled(kind):
        return weight
    return _entered[-1].of(weight, torch.get_autocast_dtype(kind))


class _Cast(torch.autograd.Function):
    """Tensors in another type, and their gradients back, by one operator each."""

    @staticmethod
    def forward(ctx: FunctionCtx, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        """Weights of any shapes, such as (O,C) -> the same, in `dtype`."""
        ctx.set_materialize_grads(False)
        ctx.dtypes = [weight.dtype for weight in weights]
        return tuple(_copied(weights, [dtype] * len(weights)))

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """None for what has no gradient."""
        there = [place for place, grad in enumerate(grads) if grad is not None]
        copies = _copied([grads[place] for place in there], [ctx.dtypes[place] for place in there])

        result: list[Tensor | None] = [None] * len(grads)
        for place, copy in zip(there, copies, strict=True):
            result[place] = copy
        return None, *result


def _copied(tensors: Iterable[Tensor], dtypes: Iterable[torch.dtype]) -> list[Tensor]:
    tensors = list(tensors)
    copies = [torch.empty_like(x, dtype=dtype) for x, dtype in zip(tensors, dtypes, strict=True)]
    torch._foreach_copy_(copies, tensors)
    return copies
