"""Instance norm, ReLU and reflection border as two kernels, where a GPU has shown that they win.

The plain form is eleven operators forward and thirteen backward, or what a compiler makes of them. Which of the two
runs is decided once for each kind of map, by a trial on the GPU itself: both compute it, forward and backward, and the
kernels are used where they give the same and take less time.
"""

import importlib.util
from collections.abc import Callable, Sequence
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from models.networks.blocks import InstanceNorm
from models.networks.resampling import ReflectionPad

Form = Callable[[Tensor], Tensor]

FASTER = 0.98  # the kernels' time over the plain form's, at most
CLOSE = 0.02  # relative difference of results and gradients, at most: half precision rounds at other places
PIXELS, CHANNELS = 64, 64  # of a tile
PARTS = 64  # in which an image's pixels are summed, at most
TURNS, REPEATS = 5, 10  # of a trial

_wins: dict[tuple, bool] = {}


def border_of(part: Sequence[nn.Module]) -> int | None:
    """The width of the border where layers are instance norm, ReLU and, if any, a reflection border; else None."""
    kinds = [type(layer) for layer in part]
    if kinds == [InstanceNorm, nn.ReLU]:
        return 0
    return part[2].width if kinds == [InstanceNorm, nn.ReLU, ReflectionPad] else None


def runs_kernels(part: Sequence[nn.Module], x: Tensor, plain: Form) -> bool:
    """Whether layers run as kernels on maps like x (B,C,H,W); tried now where that is not known yet.

    Args:
        plain: the layers as they would run otherwise.
    """
    width = border_of(part)
    if width is None or not usable(x, width):
        return False

    kind = (part[0].eps, width, x.shape, x.dtype, x.device, getattr(plain, "func", plain))
    if kind not in _wins:
        if not torch.is_grad_enabled() or torch.cuda.is_current_stream_capturing():
            return False  # no moment for a trial
        _wins[kind] = kernels_win(partial(run_kernels, part), plain, x)
    return _wins[kind]


def usable(x: Tensor, width: int) -> bool:
    """Whether the kernels can compute a map: on a GPU, in channels last; which form wins may differ between runs."""
    last = x.is_cuda and x.is_contiguous(memory_format=torch.channels_last)
    fits = width < min(x.shape[2:]) and x.shape[2] * x.shape[3] > 1
    known = last and fits and x[0].numel() < 2**31 and x.dtype != torch.float64
    return known and has_triton() and not torch.are_deterministic_algorithms_enabled()


@cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


def run_kernels(part: Sequence[nn.Module], x: Tensor) -> Tensor:
    """Instance norm, ReLU and border of (B,C,H,W) by the kernels."""
    return NormReluBorder.apply(x, part[0].eps, True, border_of(part))


def kernels_win(kernels: Form, plain: Form, x: Tensor) -> bool:
    """Whether the kernels compute what the plain form does, both ways, in less time; False where they cannot run."""
    try:
        same = all(map(close, both_ways(kernels, x), both_ways(plain, x)))
        return same and seconds(kernels, x) < FASTER * seconds(plain, x)
    except Exception:  # whatever a compiler or a driver has to say: the plain form can go on
        return False


def both_ways(form: Form, x: Tensor) -> tuple[Tensor, Tensor]:
    """What a form makes of x, and the gradient of a loss that depends on all of it."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        y = form(leaf)
    slope = torch.linspace(-1, 1, y.numel(), device=y.device, dtype=y.dtype).view(y.shape)
    return y.detach(), torch.autograd.grad(
        y, leaf, slope.contiguous(memory_format=torch.channels_last)
    )[0]


def close(found: Tensor, expected: Tensor) -> bool:
    """Equal up to rounding."""
    found, expected = found.float(), expected.float()
    return bool((found - expected).norm() <= CLOSE * expected.norm())


def seconds(form: Form, x: Tensor) -> float:
    """The least time of several short series, forward and backward."""
    found = []
    for _ in range(TURNS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(REPEATS):
            both_ways(form, x)
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end))
    return min(found)


class NormReluBorder(torch.autograd.Function):
    """Instance norm, with `relu` a ReLU, and a reflection border of `width` pixels, of maps in channels last."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, eps: float, relu: bool, width: int) -> Tensor:
        """(B,C,H,W) -> (B,C,H+2*width,W+2*width)."""
        from models.networks import norm_kernels

        launch = Launch(x, width)
        y, partial_sums, moments = launch.padded(), launch.sums(), launch.moments()
        tile = {"BP": PIXELS, "BC": launch.block}

        shared = (launch.pixels, launch.channels, launch.per_split, launch.splits)
        norm_kernels.sum_map[launch.grid(launch.splits)](x, partial_sums, *shared, **tile)
        shared = (launch.height, launch.width, launch.channels, launch.splits, eps)
        norm_kernels.normalize[launch.grid_over(y)](
            x, partial_sums, y, moments, *shared, RELU=relu, PAD=width, **tile
        )

        ctx.save_for_backward(x, moments)
        ctx.relu, ctx.border = relu, width
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of x."""
        from models.networks import norm_kernels

        x, moments = ctx.saved_tensors
        launch = Launch(x, ctx.border)
        grad = grad.contiguous(memory_format=torch.channels_last)
        partial_sums, out = launch.sums(), torch.empty_like(x)
        how = {"RELU": ctx.relu, "PAD": ctx.border, "BP": PIXELS, "BC": launch.block}

        shared = (launch.height, launch.width, launch.channels)
        norm_kernels.sum_gradient[launch.grid(launch.splits)](
            grad, x, moments, partial_sums, *shared, launch.per_split, launch.splits, **how
        )
        norm_kernels.differentiate[launch.grid_over(x)](
            grad, x, moments, partial_sums, out, *shared, launch.splits, **how
        )
        return out, None, None, None


class Launch:
    """How kernels are laid over a map (B,C,H,W) in channels last, and the memory that they need.

    Attributes:
        pixels, channels, height, width: of the map.
        splits, per_split: parts of an image that are summed on their own, and pixels of each.
        block: channels of a tile.
    """

    def __init__(self, x: Tensor, border: int) -> None:
        self.x, self.border = x, border
        self.images, self.channels, self.height, self.width = x.shape
        self.pixels = self.height * self.width

        parts = min(PARTS, -(-self.pixels // (4 * PIXELS)))
        self.per_split = -(-self.pixels // parts)
        self.splits = -(-self.pixels // self.per_split)
        self.block = min(CHANNELS, 1 << (self.channels - 1).bit_length())

    def grid(self, parts: int) -> tuple[int, int, int]:
        """Programs for each image, so many parts of its pixels, and each block of channels."""
        return self.images, parts, -(-self.channels // self.block)

    def grid_over(self, y: Tensor) -> tuple[int, int, int]:
        """Programs for the tiles of a map."""
        return self.grid(-(-y.shape[2] * y.shape[3] // PIXELS))

    def padded(self) -> Tensor:
        """Memory for the map with its border."""
        size = (
            self.images,
            self.channels,
            self.height + 2 * self.border,
            self.width + 2 * self.border,
        )
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
