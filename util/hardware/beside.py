"""A second queue of a GPU's work, so that two parts of a step that do not need each other run at the same time."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Beside:
    """Work beside the rest of a step; where it is not `on`, as without a GPU, where it stands.

    What runs `in_parallel` may read all that was computed before the last `mark`; without a mark, before the block. The
    rest may read its results once `join` was called. Autograd goes backward through each part in the queue in which it
    went forward, and waits where gradients meet.

    What the block reads must stay alive until `join`: each queue has memory of its own, which it reuses by itself.

    Attributes:
        used: since the last `finish`.
    """

    def __init__(self, on: bool) -> None:
        self.on = on
        self.used = False
        self._stream: torch.cuda.Stream | None = None
        self._mark: torch.cuda.Event | None = None

    def mark(self) -> None:
        """What is computed from here on, parallel work neither waits for nor reads."""
        if self.on:
            self._mark = torch.cuda.Event()
            self._mark.record()

    def forget_mark(self) -> None:
        """Parallel work waits for all that was computed before it."""
        self._mark = None

    @contextmanager
    def in_parallel(self) -> Iterator[None]:
        """Run the block in the second queue."""
        if not self.on:
            yield
            return

        if self._stream is None:
            self._stream = torch.cuda.Stream()
        if self._mark is None:
            self._stream.wait_stream(torch.cuda.current_stream())
        else:
            self._stream.wait_event(self._mark)

        self.used = True
        with torch.cuda.stream(self._stream):
            yield

    def join(self) -> None:
        """Go on only when the parallel work so far is done; its way back through autograd is still to come."""
        if self.used:
            torch.cuda.current_stream().wait_stream(self._stream)

    def finish(self) -> None:
        """Go on only when all parallel work is done, the way back too."""
        self.join()
        self.used = False

    def stop(self) -> bool:
        """From now on do all work where it stands; whether any of it ever ran in parallel."""
        ran, self.on = self._stream is not None and self.on, False
        return ran
