"""Layers in a row: taps between them, no additions that cannot matter, compiled code between convolutions."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.blocks import InstanceNorm

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
COMPILED_VARIANTS = 256  # of the code between convolutions: one per kind and shape
_differentiated_twice = False


class Chain(nn.Sequential):
    """nn.Sequential with the same parameter names, whose outputs between layers can be had as well.

    The bias of a convolution before an InstanceNorm cannot change what comes after. It is kept for state dicts but
    not added (and gets no gradient), unless the convolution's own output is asked for.
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.heavy = [is_heavy(layer) for layer in layers]
        self.compiled = False
        self._in_place = [layer for layer in layers if getattr(layer, "inplace", False)]

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """(B,C,H,W) -> what the last layer gives, plus `residual` where there is one."""
        for part, last in self._parts(len(self), ()):
            x = self._run(part, x, last, residual if last == len(self) - 1 else None)
        return x

    def collect(self, x: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        """Outputs, for x (B,C,H,W), of the layers with the `wanted` indices, in that order; none after them runs."""
        outputs = {}
        for part, last in self._parts(max(wanted) + 1, wanted):
            x = self._run(part, x, last, None, keep_bias=last in wanted)
            outputs[last] = x
        return [outputs[index] for index in wanted]

    def compile_parts(self, on: bool = True) -> None:
        """Compile what lies between convolutions, as it is run from now on; or run it as it is again."""
        config = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, COMPILED_VARIANTS)

        for layer in self._in_place:
            layer.inplace = not on  # compiled code would copy the result back to its input
        self.compiled = on

    def dead_biases(self) -> list[nn.Parameter]:
        """The biases that a normalisation cancels."""
        return [layer.bias for index, layer in enumerate(self) if self._has_dead_bias(index)]

    def _has_dead_bias(self, index: int) -> bool:
        layers = list(self)[index : index + 2]
        convolution = isinstance(layers[0], CONVOLUTIONS) and layers[0].bias is not None
        return convolution and len(layers) == 2 and isinstance(layers[1], InstanceNorm)

    def _parts(self, stop: int, wanted: Collection[int]) -> Iterator[tuple[list[nn.Module], int]]:
        """The layers before `stop` in parts, with the index of each part's last: a layer with weights to convolve by
        alone, what lies between together, cut after `wanted` layers."""
        part: list[nn.Module] = []
        for index, layer in enumerate(list(self)[:stop]):
            part.append(layer)
            asked_for = index + 1 == stop or index in wanted
            if asked_for or self.heavy[index] or self.heavy[index + 1]:
                yield part, index
                part = []

    def _run(
        self,
        part: list[nn.Module],
        x: Tensor,
        last: int,
        residual: Tensor | None,
        keep_bias: bool = False,
    ) -> Tensor:
        if self.heavy[last]:
            bare = not keep_bias and self._has_dead_bias(last)
            x = convolve_bare(part[0], x) if bare else part[0](x)
            return x if residual is None else x + residual

        compiled = self.compiled and not _differentiated_twice
        run = run_compiled() if compiled else run_layers
        return run(part, x, residual)


@contextmanager
def differentiated_twice() -> Iterator[None]:
    """For what runs here second derivatives will be taken, which compiled code does not have."""
    global _differentiated_twice
    before, _differentiated_twice = _differentiated_twice, True
    try:
        yield
    finally:
        _differentiated_twice = before


def is_heavy(layer: nn.Module) -> bool:
    """Whether a layer holds a convolution (its own chains are compiled for themselves)."""
    return any(isinstance(module, CONVOLUTIONS) for module in layer.modules())


def convolve_bare(layer: nn.Conv2d | nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """The convolution of (B,C,H,W) without its bias."""
    shape = {
        "stride": layer.stride,
        "padding": layer.padding,
        "dilation": layer.dilation,
        "groups": layer.groups,
    }
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(x, layer.weight, **shape)

    return F.conv_transpose2d(x, layer.weight, output_padding=layer.output_padding, **shape)


def run_layers(layers: Sequence[nn.Module], x: Tensor, residual: Tensor | None) -> Tensor:
    """(B,C,H,W) through layers, plus `residual` where there is one."""
    for layer in layers:
        x = layer(x)
    return x if residual is None else x + residual


@cache
def run_compiled():
    """`run_layers`, compiled once for each kind of layers and each shape."""
    return torch.compile(run_layers, dynamic=False)
