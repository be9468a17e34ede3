"""Turns the first Ctrl-C or SIGTERM into a polite question that the training loop answers between two steps."""

import signal
from types import FrameType


class StopSignal:
    """While entered, `requested` turns into the number of the first SIGINT or SIGTERM; a second one interrupts."""

    def __init__(self) -> None:
        self.requested = 0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = number
