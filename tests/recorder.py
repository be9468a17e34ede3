"""A stand-in for CUDA graphs on a CPU: records a step's operators and does them again on the very same memory.

It has what makes CUDA graphs treacherous: no Python runs in a replay, so whatever Python decided, drew or kept is
frozen, and a tensor that is not written in place does not change. Unlike a CUDA graph it also does the work while it
records, so `record` puts back the state that it was given.
"""

from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten


class Tape(TorchDispatchMode):
    """Notes operators with their arguments and results, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        leaves, structure = tree_flatten((args, kwargs or {}))
        result = function(*args, **(kwargs or {}))
        # a tensor that has got another shape in place keeps it
        if torch.Tag.inplace_view not in function.tags:
            self.calls.append((function, list(leaves), structure, result))
        return result

    def replay(self) -> None:
        with torch.no_grad():
            for function, leaves, structure, result in self.calls:
                args, kwargs = tree_unflatten(leaves, structure)
                self._write(function(*args, **kwargs), result)

    @staticmethod
    def _write(new, old) -> None:
        """Results go where they went at the recording; views and operators in place have written there already."""
        for value, place in zip(tree_flatten(new)[0], tree_flatten(old)[0], strict=True):
            if isinstance(value, torch.Tensor) and value.data_ptr() != place.data_ptr():
                if place.shape != value.shape:  # since then, in place
                    place = place.as_strided(value.size(), value.stride())
                place.copy_(value)


class CpuRecorder:
    """The interface of models.step.cuda_graph.CudaRecorder."""

    def __init__(self, state: Callable[[], list[torch.Tensor]]) -> None:
        """`state`: all tensors that a step changes and that must be put back after recording."""
        self.state = state
        self.recorded = 0

    def run(self, work: Callable[[], None]) -> None:
        work()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        self.recorded += 1
        tensors = self.state()
        before, random = [t.clone() for t in tensors], torch.get_rng_state()
        with Tape() as tape:
            work()
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
        torch.set_rng_state(random)
        return tape.replay
