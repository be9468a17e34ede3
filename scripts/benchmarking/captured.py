"""Work recorded as a CUDA graph, so that what is timed is its kernels and not the Python that launches them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from models.step.cuda_graph import WARM_UP, CudaRecorder
from scripts.benchmarking.device import Device
from util.errors import first_line

Work = Callable[[], Any]


class Captured:
    """Some work as it is timed: `run` does it, replayed on a GPU.

    Args:
        work: does the same on the same memory each time. Without a GPU it is run as it is.
        prepare: makes what the work takes; it is neither recorded nor timed.

    Attributes:
        recorded: whether `run` replays a recording.
        reason: why it does not, in words, on a GPU.
    """

    def __init__(
        self, device: Device, work: Callable[..., Any], prepare: Work | None = None
    ) -> None:
        self.work, self.prepare = work, prepare
        self.recorded, self.reason = False, None
        self.run: Work = self._as_it_is
        if device.on_gpu:
            self._record()

    def _as_it_is(self) -> None:
        if self.prepare is None:
            self.work()
        else:
            self.work(self.prepare())

    def _record(self) -> None:
        """Warm up and record on one stream, as autograd needs it."""
        recorder = CudaRecorder()
        try:
            for _ in range(WARM_UP):
                recorder.run(self._as_it_is)

            work = self.work
            if self.prepare is not None:
                given: list[Any] = []
                recorder.run(lambda: given.append(self.prepare()))
                self.kept = given  # a replay reads it
                work = partial(self.work, *given)
            self.run = recorder.record(work)
            self.recorded = True
        except Exception as error:  # such as a read by the host; it can be timed as it is
            self.reason = first_line(error)
            torch.cuda.synchronize()
