"""Whether kernels win against plain or compiled code: both compute a map, forward and backward, and are timed.

fused_layers.py asks, once for each kind of map, on the GPU itself.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from util.errors import first_line

Form = Callable[..., Tensor]  # a map, and what is to be added -> a map
Inputs = tuple[Tensor, ...]

FASTER = 0.98  # the kernels' time over the plain form's, at most
CLOSE = 0.02  # relative difference of results and gradients, at most: half precision rounds at other places
TURNS, REPEATS = 4, 8  # of a timing
HOLD = 20_000_000  # cycles, some 10 ms, that a GPU is held while the host fills its queue


class Outcome(NamedTuple):
    """What a trial has found; the times, in ms, are those of a pass forward and backward."""

    wins: bool
    kernels_ms: float = math.nan
    plain_ms: float = math.nan
    why: str = ""  # there are no times


def compare(kernels: Form, plain: Form, inputs: Inputs) -> Outcome:
    """Whether the kernels compute what the plain form does, both ways, in less time.

    They do not win where they compute something else, or cannot run. A block that is computed twice (recompute.py) must
    not see what the trial keeps for its ways back: it would wait for that the second time, when nothing is tried.
    """
    try:
        with saved_tensors_hooks(as_it_is, as_it_is):  # only the innermost hooks see a tensor
            found, expected = both_ways(kernels, inputs), both_ways(plain, inputs)
            if not all(map(close, found, expected)):
                return Outcome(False, why="they compute something else")
            times = milliseconds(kernels, inputs), milliseconds(plain, inputs)
    except Exception as error:
        # Whatever a compiler or a driver has to say: the plain form can go on.
        return Outcome(False, why=first_line(error))
    finally:
        slope_like.cache_clear()  # they are as large as the maps
    return Outcome(times[0] < FASTER * times[1], *times)


def as_it_is(x: Tensor) -> Tensor:
    """A tensor (any shape), kept and given back unchanged."""
    return x


def both_ways(form: Form, inputs: Inputs) -> list[Tensor]:
    """What a form makes of its inputs, and their gradients for a loss that depends on all of it."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs]
        y = form(*leaves)
    slope = slope_like(y.shape, y.dtype, y.device)
    return [y.detach(), *torch.autograd.grad(y, leaves, slope)]


@cache
def slope_like(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A gradient for results of a shape, in channels last, no two entries alike; made once for each trial."""
    size = shape.numel()
    slope = torch.linspace(-1, 1, size, device=device, dtype=dtype).view(shape)
    return slope.contiguous(memory_format=torch.channels_last)


def close(found: Tensor, expected: Tensor) -> bool:
    """Equal up to rounding."""
    found, expected = found.float(), expected.float()
    return bool((found - expected).norm() <= CLOSE * expected.norm())


def milliseconds(form: Form, inputs: Inputs) -> float:
    """The least time, in several short series, that a GPU is busy with a pass forward and backward.

    The host launches slower than such kernels run, and a recorded step does not wait for it: so the GPU is held until
    its queue holds them all.
    """
    found = []
    for _ in range(TURNS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(HOLD)
        start.record()
        for _ in range(REPEATS):
            both_ways(form, inputs)
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) / REPEATS)
    return min(found)
