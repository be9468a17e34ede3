"""Borders, halving and doubling of maps, with backward passes that give the same bits every time on a GPU too.

Torch's own backward of reflection padding and of bilinear interpolation adds with atomics on a GPU: slow in half
precision, and in another order each time. On a CPU torch's operators are used as they are.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from util.hardware.precision import full_precision


class ReflectionPad(nn.Module):
    """Mirror `width` pixels beyond each edge, the edge itself not repeated."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,C,H+2*width,W+2*width)."""
        return reflect_pad(x, self.width)

    def extra_repr(self) -> str:
        return str(self.width)


def reflect_pad(x: Tensor, width: int) -> Tensor:
    """(B,C,H,W) -> (B,C,H+2*width,W+2*width), mirrored; H and W must be larger than `width`."""
    if not width:
        return x
    return _Reflect.apply(x, width) if x.is_cuda else F.pad(x, (width,) * 4, mode="reflect")


class _Reflect(torch.autograd.Function):
    """Reflection padding put together from slices, one axis after the other; layout is kept.

    Compiled code joins slices, which fuses with its neighbours. Plain code writes borders in place, which takes half as
    many operators.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, width: int) -> Tensor:
        """(B,C,H,W) -> (B,C,H+2*width,W+2*width)."""
        ctx.width = width
        return join_borders(x, width) if torch.compiler.is_compiling() else write_borders(x, width)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        """Fold the mirrored borders back, each onto the pixels that it came from."""
        fold = fold_slices if torch.compiler.is_compiling() else fold_borders
        return fold(grad, ctx.width), None


def join_borders(x: Tensor, width: int) -> Tensor:
    """Reflection padding as joined slices."""
    for dim in (2, 3):
        before = x.narrow(dim, 1, width).flip(dim)
        after = x.narrow(dim, x.shape[dim] - 1 - width, width).flip(dim)
        x = torch.cat([before, x, after], dim)
    return x


def fold_slices(grad: Tensor, width: int) -> Tensor:
    """The adjoint of `join_borders`."""
    for dim in (3, 2):
        size = grad.shape[dim] - 2 * width
        before = grad.narrow(dim, 0, width).flip(dim)
        after = grad.narrow(dim, width + size, width).flip(dim)

        grad = grad.narrow(dim, width, size).clone()
        grad.narrow(dim, 1, width).add_(before)
        grad.narrow(dim, size - 1 - width, width).add_(after)
    return grad


def write_borders(x: Tensor, width: int) -> Tensor:
    """Reflection padding written in place: the map, then the columns beside it, then the rows above and below."""
    height, columns = x.shape[2:]
    if width >= min(height, columns):
        raise ValueError(f"a map of {columns} x {height} pixels cannot mirror {width} of them")

    last = x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    size = (*x.shape[:2], height + 2 * width, columns + 2 * width)
    padded = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=layout)

    inner(padded, width).copy_(x)
    for dim in (3, 2):
        for border, source in mirrors(padded, dim, width):
            border.copy_(backwards(source, dim, width))
    return padded


def fold_borders(grad: Tensor, width: int) -> Tensor:
    """The adjoint of `write_borders`."""
    folded = grad.clone()
    for dim in (2, 3):
        for border, source in mirrors(folded, dim, width):
            source.add_(backwards(border, dim, width))
    return inner(folded, width)


def inner(padded: Tensor, width: int) -> Tensor:
    """What a border of this width, which may be 0, surrounds."""
    height, columns = padded.shape[2:]
    return padded[:, :, width : height - width, width : columns - width]


def mirrors(padded: Tensor, dim: int, width: int) -> list[tuple[Tensor, Tensor]]:
    """The borders along an axis, and the pixels that each one mirrors back to front.

    Both borders of one pixel are one view, so that one operator writes them; maps of three pixels and fewer, whose
    borders mirror the same pixel or cross, are left apart.
    """
    size = padded.shape[dim]
    if width == 1 and size >= 6:
        whole = [slice(None)] * dim
        border = padded[(*whole, slice(0, size, size - 1))]
        return [(border, padded[(*whole, slice(2, size - 2, size - 5))])]

    before = padded.narrow(dim, 0, width), padded.narrow(dim, width + 1, width)
    after = padded.narrow(dim, size - width, width), padded.narrow(dim, size - 2 * width - 1, width)
    return [before, after]


def backwards(strip: Tensor, dim: int, width: int) -> Tensor:
    """Borders of this width back to front; those of one pixel are so already."""
    return strip if width == 1 else strip.flip(dim)


def binomial_filter(taps: Sequence[float], channels: int, gain: float = 1.0) -> Tensor:
    """The separable filter taps x taps, scaled to sum `gain`, repeated for a depthwise convolution: (C,1,K,K)."""
    line = torch.tensor(taps)
    square = torch.outer(line, line)
    return (gain * square / square.sum()).repeat(channels, 1, 1, 1)


def filter_and_halve(padded: Tensor, filt: Tensor, line: Sequence[float]) -> Tensor:
    """Depthwise convolution of (B,C,H,W) with stride 2 and no border; `filt` (C,1,K,K) is line x line.

    Compiled code sums shifted slices instead, which fuse with their neighbours where a convolution would not. A CPU
    convolves in float32 whatever autocast says, since torch's backward there takes eight times as long in bfloat16.
    """
    if torch.compiler.is_compiling():
        return halve_by_slices(padded, line)
    if padded.device.type != "cpu":
        return F.conv2d(padded, filt, stride=2, groups=padded.shape[1])

    with torch.autocast(padded.device.type, enabled=False):
        wide = full_precision(padded)
        halved = F.conv2d(wide, filt.to(wide.dtype), stride=2, groups=padded.shape[1])
    return halved.to(padded.dtype)


def halve_by_slices(padded: Tensor, line: Sequence[float]) -> Tensor:
    """`filter_and_halve` as a sum of shifted slices, one axis after the other."""
    last = len(line) - 1
    for dim in (2, 3):
        size = padded.shape[dim]
        whole = [slice(None)] * dim

        parts = []
        for k, tap in enumerate(line):
            index = (*whole, slice(k, size - last + k, 2))
            parts.append(tap * padded[index])
        padded = sum(parts)
    return padded


class BlurDown(nn.Module):
    """Anti-aliased halving: blur with [1,2,1]x[1,2,1]/16, then keep every second pixel (Zhang 2019, arXiv 1904.11486).

    The filter is a buffer `filt`, so that state dicts equal the released ones.
    """

    LINE = (0.25, 0.5, 0.25)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("filt", binomial_filter(self.LINE, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,C,ceil(H/2),ceil(W/2)); the border is reflected."""
        return filter_and_halve(reflect_pad(x, 1), self.filt, self.LINE)


class BlurUp(nn.Module):
    """Anti-aliased doubling: insert zeros, then blur with [1,3,3,1]x[1,3,3,1]/16, the border repeated (Zhang 2019).

    That is bilinear interpolation, which is what runs, 1.7 times as fast as a transposed convolution on a CPU. The
    filter `filt` is kept for state dicts equal to the released ones; on a GPU the backward pass uses it.
    """

    LINE = (0.25, 0.75, 0.75, 0.25)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("filt", binomial_filter(self.LINE, channels, gain=4.0))

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,C,2H,2W)."""
        return _Double.apply(x, self.filt) if x.is_cuda else double(x)


def double(x: Tensor) -> Tensor:
    """Bilinear interpolation (B,C,H,W) -> (B,C,2H,2W)."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class _Double(torch.autograd.Function):
    """Bilinear doubling; its adjoint is the filter of `BlurUp` with stride 2 on the gradient, its border repeated."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, filt: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,C,2H,2W)."""
        ctx.save_for_backward(filt)
        return double(x).to(x.dtype)  # autocast would have it in float32

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        """(B,C,2H,2W) -> (B,C,H,W)."""
        (filt,) = ctx.saved_tensors
        padded = F.pad(grad, (1,) * 4, mode="replicate")
        return filter_and_halve(padded, filt.to(grad.dtype), BlurUp.LINE), None
