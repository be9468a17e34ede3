"""What lies between two convolutions as a few kernels, where a GPU has shown that they win.

Instance norm with its activation and border, or with what is added to it, is two kernels each way; a border, a halving
and a doubling are one. Plain code takes eleven operators forward for the first alone, and a compiler's code reads some
maps several times. Which form runs is decided once for each kind of map, by a trial on the GPU itself: both compute it,
forward and backward, and the kernels are used where they give the same and keep the GPU busy for less time.
"""

import importlib.util
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from models.networks.blocks import InstanceNorm
from models.networks.kernel_trial import Form, Outcome, compare
from models.networks.resampling import BlurDown, BlurUp, ReflectionPad

PIXELS, CHANNELS, WARPS = 128, 64, 8  # of a tile
PARTS = 64  # in which an image's pixels are summed, at most; a power of two
FEWEST = 16  # channels that kernels are worth while for
MOST_PIXELS = (
    2**20
)  # of a map: its doubled one has four times as many, and a launch takes 65,535 times 128
SETTINGS = ("eps", "negative_slope", "width")  # of layers that kernels know


class Trial(NamedTuple):
    """A trial for one kind of map, `against` plain or compiled code."""

    layers: str
    shape: tuple[int, ...]
    dtype: str
    against: str
    outcome: Outcome


trials: dict[tuple, Trial] = {}  # of this process, by the kind of layers and map


def winning_kernels(
    part: Sequence[nn.Module], x: Tensor, plain: Form, residual: Tensor | None = None
) -> Form | None:
    """Layers as kernels where those win on maps like x (B,C,H,W), else None; tried now where that is not known yet.

    Args:
        plain: the layers as they would run otherwise.
        residual: what is added to their result, of its shape.
    """
    form = kernel_form(part, adds=residual is not None) if usable(part, x, residual) else None
    if form is None:
        return None

    layers = tuple((type(layer), *(getattr(layer, s, None) for s in SETTINGS)) for layer in part)
    size = (*x.shape[:2], octave(x))  # each trial takes time, and photographs have many sizes
    kind = (layers, residual is None, size, x.dtype, x.device, getattr(plain, "func", plain))
    if kind not in trials:
        if not torch.is_grad_enabled() or torch.cuda.is_current_stream_capturing():
            return None  # no moment for a trial
        inputs = (x,) if residual is None else (x, residual)
        shown = ", ".join(map(repr, part)) + (" + residual" if residual is not None else "")
        outcome = compare(form, plain, inputs)
        trials[kind] = Trial(shown, tuple(x.shape), str(x.dtype), name_of(plain), outcome)
    return form if trials[kind].outcome.wins else None


def name_of(plain: Form) -> str:
    """What layers would run as otherwise: "plain" code or "compiled"."""
    code = getattr(plain, "func", plain)
    return "compiled" if hasattr(code, "_torchdynamo_orig_callable") else "plain"


def octave(x: Tensor) -> int:
    """How many pixels a map (B,C,H,W) has, up to a factor of two."""
    return (x.shape[2] * x.shape[3]).bit_length()


def run_kernels(part: Sequence[nn.Module], x: Tensor, residual: Tensor | None = None) -> Tensor:
    """(B,C,H,W) through layers that have a `kernel_form`."""
    form = kernel_form(part, adds=residual is not None)
    return form(x) if residual is None else form(x, residual)


def kernel_form(part: Sequence[nn.Module], adds: bool = False) -> Form | None:
    """Layers as kernels; None where there are none for them.

    There are for an instance norm with its activation and border, each if any, or with what it `adds` to; and for a
    border, a halving or a doubling, alone or after that.
    """
    waiting = list(part)
    first = None
    if waiting and type(waiting[0]) is InstanceNorm:
        eps, slope = waiting.pop(0).eps, 1.0
        if waiting and type(waiting[0]) in (nn.ReLU, nn.LeakyReLU):
            slope = getattr(waiting.pop(0), "negative_slope", 0.0)
        border = waiting.pop(0).width if waiting and type(waiting[0]) is ReflectionPad else 0
        if adds and (slope != 1 or border or waiting):
            return None
        first = partial(normalize, eps=eps, slope=slope, border=border)

    if not waiting:
        return first
    if adds or len(waiting) > 1 or type(waiting[0]) not in RESIZED:
        return None
    return partial(in_turn, first, RESIZED[type(waiting[0])](waiting[0]))


def in_turn(first: Form | None, then: Form, x: Tensor) -> Tensor:
    """(B,C,H,W) through one form, if there is one, and another."""
    return then(x if first is None else first(x))


def normalize(
    x: Tensor, residual: Tensor | None = None, *, eps: float, slope: float, border: int
) -> Tensor:
    """Instance norm of (B,C,H,W), then what is below 0 times `slope`, a mirrored border, `residual` added."""
    return Normalize.apply(x, residual, eps, slope, border)


# what changes a map's size -> its form
RESIZED: dict[type[nn.Module], Callable[[Any], Form]] = {
    ReflectionPad: lambda layer: lambda x: Border.apply(x, layer.width),
    BlurDown: lambda layer: lambda x: Halve.apply(x),
    BlurUp: lambda layer: lambda x: Double.apply(x),
}


def usable(part: Sequence[nn.Module], x: Tensor, residual: Tensor | None) -> bool:
    """Whether the kernels can compute a map: on a GPU, in channels last; which form wins may differ between runs."""
    maps = [x] if residual is None else [x, residual]
    if not all(map(is_last, maps)):
        return False

    alike = residual is None or (residual.shape == x.shape and residual.dtype == x.dtype)
    border = max((layer.width for layer in part if type(layer) is ReflectionPad), default=1)
    fits = border < min(x.shape[2:]) and x.shape[1] >= FEWEST
    fits = fits and x[0].numel() < 2**29 and x[0, 0].numel() < MOST_PIXELS
    known = alike and fits and x.dtype != torch.float64
    return known and has_triton() and not torch.are_deterministic_algorithms_enabled()


def is_last(x: Tensor) -> bool:
    """Whether a map is on a GPU, in channels last."""
    return x.is_cuda and x.is_contiguous(memory_format=torch.channels_last)


@cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


# -- what the kernels compute --------------------------------------------------------------------------------------


class Normalize(torch.autograd.Function):
    """Instance norm, then what is below 0 times `slope`, a mirrored border, and what is added, in channels last."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, residual: Tensor | None, eps: float, slope: float, border: int
    ) -> Tensor:
        """(B,C,H,W) -> (B,C,H+2*border,W+2*border)."""
        from models.networks import fused_kernels

        launch = Launch(x)
        y = launch.empty(launch.height + 2 * border, launch.width + 2 * border)
        partial_sums, moments = launch.sums(), launch.moments()

        shared = (launch.pixels, launch.channels, launch.per_split, launch.splits)
        fused_kernels.sum_map[launch.grid(launch.splits)](x, partial_sums, *shared, **launch.tile)
        fused_kernels.normalize[launch.grid_over(y)](
            x, x if residual is None else residual, partial_sums, y, moments,
            launch.height, launch.width, launch.channels, launch.splits, eps, slope,
            PAD=border, ADDS=residual is not None, SPLITS=PARTS, **launch.tile,
        )  # fmt: skip

        ctx.save_for_backward(x, moments)
        ctx.slope, ctx.border, ctx.adds = slope, border, residual is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x and of what is added."""
        from models.networks import fused_kernels

        x, moments = ctx.saved_tensors
        launch = Launch(x)
        grad = grad.contiguous(memory_format=torch.channels_last)
        partial_sums, out = launch.sums(), torch.empty_like(x)

        maps = (grad, x, moments, partial_sums)
        size = (launch.height, launch.width, launch.channels)
        how = {"PAD": ctx.border, **launch.tile}
        fused_kernels.sum_gradient[launch.grid(launch.splits)](
            *maps, *size, launch.per_split, launch.splits, ctx.slope, **how
        )
        fused_kernels.differentiate[launch.grid_over(x)](
            *maps, out, *size, launch.splits, ctx.slope, SPLITS=PARTS, **how
        )
        return out, grad if ctx.adds else None, None, None, None


class Border(torch.autograd.Function):
    """A mirrored border of `width` pixels."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, width: int) -> Tensor:
        """(B,C,H,W) -> (B,C,H+2*width,W+2*width)."""
        ctx.border, ctx.size = width, x.shape[2:]
        height, columns = x.shape[2:]
        return resize("add_border", x, (height + 2 * width, columns + 2 * width), PAD=width)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        """The gradient of x."""
        return resize("fold_border", grad, ctx.size, ctx.size, PAD=ctx.border), None


class Halve(torch.autograd.Function):
    """What BlurDown computes."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,C,ceil(H/2),ceil(W/2))."""
        ctx.size = x.shape[2:]
        height, width = ctx.size
        return resize("halve", x, ((height + 1) // 2, (width + 1) // 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        """The gradient of x."""
        return resize("spread_halves", grad, ctx.size, ctx.size)


class Double(torch.autograd.Function):
    """What BlurUp computes."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,C,2H,2W)."""
        ctx.size = x.shape[2:]
        height, width = ctx.size
        return resize("double", x, (2 * height, 2 * width))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        """The gradient of x."""
        return resize("gather_doubles", grad, ctx.size, ctx.size)


def resize(
    kernel: str, x: Tensor, size: Sequence[int], known_by: Sequence[int] | None = None, **how: int
) -> Tensor:
    """A map (B,C,H,W) by a kernel that changes its size.

    Args:
        size: height and width of the result.
        known_by: the height and width that the kernel is told; those of x if none are given.
    """
    from models.networks import fused_kernels

    x = x.contiguous(memory_format=torch.channels_last)
    launch = Launch(x)
    y = launch.empty(*size)
    height, width = known_by or x.shape[2:]
    run = getattr(fused_kernels, kernel)[launch.grid_over(y)]
    run(x, y, height, width, launch.channels, **how, **launch.tile)
    return y


class Launch:
    """How kernels are laid over a map (B,C,H,W) in channels last, and the memory that they need.

    Attributes:
        pixels, channels, height, width: of the map.
        splits, per_split: parts of an image that are summed on their own, and pixels of each.
        tile: pixels and channels that a program handles at once, and its warps.
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self.images, self.channels, self.height, self.width = x.shape
        self.pixels = self.height * self.width

        parts = min(PARTS, -(-self.pixels // PIXELS))
        self.per_split = -(-self.pixels // parts)
        self.splits = -(-self.pixels // self.per_split)
        self.block = min(CHANNELS, 1 << (self.channels - 1).bit_length())  # a power of two
        self.tile = {"BP": PIXELS, "BC": self.block, "num_warps": WARPS}

    def grid(self, parts: int) -> tuple[int, int, int]:
        """Programs for each image, so many parts of its pixels, and each block of channels."""
        return self.images, parts, -(-self.channels // self.block)

    def grid_over(self, y: Tensor) -> tuple[int, int, int]:
        """Programs for the tiles of a map."""
        return self.grid(-(-y.shape[2] * y.shape[3] // PIXELS))

    def empty(self, height: int, width: int) -> Tensor:
        """Memory for a map of another size."""
        size = (self.images, self.channels, height, width)
        like = {"dtype": self.x.dtype, "device": self.x.device}
        return torch.empty(size, **like, memory_format=torch.channels_last)

    def sums(self) -> Tensor:
        """Memory for two sums of each part."""
        return self._memory(self.images, self.splits, 2, self.channels)

    def moments(self) -> Tensor:
        """Memory for mean and scale of each map."""
        return self._memory(self.images, 2, self.channels)

    def _memory(self, *size: int) -> Tensor:
        return torch.empty(size, dtype=torch.float32, device=self.x.device)
