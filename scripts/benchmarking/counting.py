"""What a step does, counted and not timed: operators, bytes, FLOPs, values read by the host, live memory, kernels."""

import os
import sys
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from util.errors import first_line

READS = ("item", "tolist", "cpu", "numpy", "__array__")
READS += ("__bool__", "__int__", "__float__", "__index__")
# their sizes depend on values
WAITING = ("nonzero", "masked_select", "equal", "unique", "repeat_interleave")


class Operators(TorchDispatchMode):
    """Counts operators, and the bytes that they read and write (views move none)."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.bytes = 0
        self.waits = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        self.names[name] += 1
        self.waits += name.startswith(WAITING)

        if not function.is_view:
            tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
            self.bytes += sum(x.numel() * x.element_size() for x in tensors)
        return result


class HostReads(TorchFunctionMode):
    """Counts calls of Python that take a tensor's values, or the tensor, to the host: on a GPU each one waits.

    Those of torch's optimisers do not count: they read counters that are kept on the host.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in READS and not _within_optimizer():
            self.names[name] += 1
        return function(*args, **(kwargs or {}))


def _within_optimizer() -> bool:
    frame, place = sys._getframe(2), f"torch{os.sep}optim{os.sep}"
    return frame is not None and place in frame.f_code.co_filename


class LiveMemory(TorchDispatchMode):
    """The bytes of all tensors alive that were made since it was entered, and their peak; scratch space inside an
    operator does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.finalize] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = {storage._cdata for storage in _storages((args, kwargs))}

        for storage in _storages(result):
            if storage._cdata not in given:  # else a view, or changed in place
                self._note(storage)
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        known = self._known.get(key)
        if known is not None and known.alive:
            return

        size = storage.nbytes()
        self._known[key] = weakref.finalize(storage, self._forget, size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _forget(self, size: int) -> None:
        self.now -= size


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    """The memory behind the dense tensors among some arguments or results."""
    tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
    return [tensor.untyped_storage() for tensor in tensors if tensor.layout == torch.strided]


def count(work: Callable[[], Any]) -> dict[str, int]:
    """FLOPs (one multiply-add is 2), operators, bytes moved and host reads of some work."""
    flops, operators, reads = FlopCounterMode(display=False), Operators(), HostReads()
    with reads, flops, operators:
        work()

    return {
        "flops": flops.get_total_flops(),
        "operators": sum(operators.names.values()),
        "bytes": operators.bytes,
        "host_reads": sum(reads.names.values()) + operators.waits,
    }


def peak_memory(work: Callable[[], Any], on_gpu: bool) -> int:
    """The most bytes in use at once during some work beyond those in use before it."""
    if not on_gpu:
        with LiveMemory() as memory:
            kept = work()
        del kept
        return memory.peak

    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()

    kept = work()
    torch.cuda.synchronize()
    del kept
    return torch.cuda.max_memory_allocated() - before


def count_syncs(work: Callable[[], Any]) -> int | None:
    """How often some work makes the host wait for the GPU, as torch itself reports it; None without a GPU."""
    if not torch.cuda.is_available():
        return None

    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode(mode)

    return sum("synchroniz" in str(warning.message) for warning in caught)


def trace_kernels(work: Callable[[], Any], steps: int = 3) -> dict[str, float | str]:
    """Kernels a step, and how much of the time the GPU had none to run; empty without a GPU."""
    if not torch.cuda.is_available():
        return {}

    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    try:
        with torch.profiler.profile(activities=kinds) as profile:
            for _ in range(steps):
                work()
            torch.cuda.synchronize()

        events = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
        kernels = [e.time_range for e in events if not e.is_user_annotation]
        spans = sorted((span.start, span.end) for span in kernels)
    except (RuntimeError, AttributeError) as error:
        return {"trace": first_line(error)}
    if not spans:
        return {"trace": "the profiler saw no kernel"}

    whole = max(end for _, end in spans) - spans[0][0]
    return {"kernels": len(spans) / steps, "gpu_idle": 1 - busy_time(spans) / whole}


def busy_time(spans: Iterable[tuple[float, float]]) -> float:
    """How long any of these spans (start, end) lasted; where several overlap, the time counts once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
