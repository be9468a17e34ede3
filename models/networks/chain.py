"""Layers in a row: taps between them, no additions that cannot matter, compiled code between convolutions."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.blocks import InstanceNorm
from models.networks.fused_layers import winning_kernels
from models.networks.half_copies import CONVOLUTIONS, half_copy

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
            x = self._run(part, x, last, None, wanted)
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
        follows = index + 1 < len(self) and isinstance(self[index + 1], InstanceNorm)
        return follows and self._has_bias(index)

    def _hands_bias_on(self, index: int) -> bool:
        """Whether the part after a convolution adds its bias: compiled code does so at no cost."""
        if not self._runs_compiled or not self._has_bias(index) or self._has_dead_bias(index):
            return False
        return index + 1 < len(self) and not self.heavy[index + 1]

    def _has_bias(self, index: int) -> bool:
        layer = self[index]
        return isinstance(layer, CONVOLUTIONS) and layer.bias is not None

    @property
    def _runs_compiled(self) -> bool:
        return self.compiled and not _differentiated_twice

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
        wanted: Collection[int] = (),
    ) -> Tensor:
        """One of the `_parts`, which ends with layer `last`."""
        if self.heavy[last]:
            bare = last not in wanted and (self._has_dead_bias(last) or self._hands_bias_on(last))
            convolution = isinstance(part[0], CONVOLUTIONS)
            x = convolve(part[0], x, bare) if convolution else part[0](x)
            return x if residual is None else x + residual

        before, bias = last - len(part), None
        if before >= 0 and before not in wanted and self._hands_bias_on(before):
            bias = half_copy(self[before].bias)

        run = compiled_layers() if self._runs_compiled else run_layers
        if bias is None and not _differentiated_twice:
            kernels = winning_kernels(part, x, partial(run, part), residual)
            if kernels is not None:
                return kernels(x) if residual is None else kernels(x, residual)
        return run(part, x, residual, bias)


def dead_biases(nets: Iterable[nn.Module]) -> list[nn.Parameter]:
    """The biases that normalisations cancel, of all chains in some networks."""
    chains = [module for net in nets for module in net.modules() if isinstance(module, Chain)]
    return [bias for chain in chains for bias in chain.dead_biases()]


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


def convolve(layer: nn.Conv2d | nn.ConvTranspose2d, x: Tensor, bare: bool = False) -> Tensor:
    """The convolution of (B,C,H,W), `bare` without its bias."""
    weight = half_copy(layer.weight)
    if weight is layer.weight and not bare:
        return layer(x)

    shape = {
        "stride": layer.stride,
        "padding": layer.padding,
        "dilation": layer.dilation,
        "groups": layer.groups,
    }
    bias = None if bare else half_copy(layer.bias)
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(x, weight, bias, **shape)

    return F.conv_transpose2d(x, weight, bias, output_padding=layer.output_padding, **shape)


def run_layers(
    layers: Sequence[nn.Module],
    x: Tensor,
    residual: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """(B,C,H,W), plus a `bias` (C,) of the convolution before, through layers, plus `residual` where there is one."""
    if bias is not None:
        x = x + bias.to(x.dtype)[:, None, None]
    for layer in layers:
        x = layer(x)
    return x if residual is None else x + residual


@cache
def compiled_layers() -> Callable[..., Tensor]:
    """`run_layers`, compiled once for each kind of layers and each shape."""
    return torch.compile(run_layers, dynamic=False)
