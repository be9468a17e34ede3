"""A second queue of a GPU's work, so that two parts of a step that do not need each other run at the same time.

Without a GPU all work is done where it stands.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Beside:
    """Work beside the rest of a step, from the last `mark` on.

    What runs `in_parallel` may read whatever was computed before the mark, in this queue or the other, and nothing that
    came after it. The rest may read its results once `join` was called. Autograd goes backward through either part in
    the queue in which it went forward, and waits where gradients meet.

    Tensors that it reads must stay alive until `join`: each queue has memory of its own, which it reuses by itself.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.used = False  # since the last `join`
        self._stream: torch.cuda.Stream | None = None
        self._start: torch.cuda.Event | None = None

    def mark(self) -> None:
        """What comes after this, the parallel work does not wait for."""
        if self.on_gpu:
            self._start = torch.cuda.Event()
            self._start.record()

    @contextmanager
    def in_parallel(self) -> Iterator[None]:
        """Run the block in the second queue."""
        if not self.on_gpu or self._start is None:
            yield
            return

        if self._stream is None:
            self._stream = torch.cuda.Stream()
        self._stream.wait_event(self._start)
        self.used = True
        with torch.cuda.stream(self._stream):
            yield

    def join(self) -> None:
        """Go on only when the parallel work is done."""
        if self.used:
            torch.cuda.current_stream().wait_stream(self._stream)
            self.used = False
