"""Why training ends: all epochs are done, a limit is reached, or somebody asked for it; said once, in words."""

import signal
import time
from argparse import Namespace
from types import FrameType
from typing import NamedTuple

from util.hardware.runtime import Runtime
from util.run.folder import run_dir
from util.run.progress import Progress

SIGNALS = (signal.SIGINT, signal.SIGTERM)
BY_SIGNAL = 128  # the exit status of a shell for a command that a signal ended, beside its number


class Ending(NamedTuple):
    """The exit status of the run, and why it ended."""

    status: int
    text: str


class Stop:
    """While entered, the first Ctrl-C or SIGTERM is a polite question, which the loop answers between two steps.

    A second one interrupts.

    Args:
        opt: with --max_steps and --max_minutes.
        runtime: all processes of a run end at the same step.
        progress: how far the run is.
    """

    def __init__(self, opt: Namespace, runtime: Runtime, progress: Progress) -> None:
        self.opt, self.runtime, self.progress = opt, runtime, progress
        self.started = time.monotonic()
        self.requested = 0  # the number of the signal
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "Stop":
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def due(self) -> Ending | None:
        """Why training ends after the step that was just done; None where it goes on."""
        opt, progress = self.opt, self.progress
        confer = progress.due(
            opt.print_freq
        )  # several processes compare notes now and then, since that takes time

        number = self.runtime.agree(self.requested, confer)
        if number:
            return Ending(
                BY_SIGNAL + number, f"stopped at {self._where()}; the same command continues"
            )
        if progress.cut_short:
            return self.final()
        if opt.max_minutes and self.runtime.agree(int(self._minutes() >= opt.max_minutes), confer):
            limit = f"--max_minutes {opt.max_minutes:g}"
            return Ending(0, f"{limit} are over at {self._where()}; the same command continues")
        return None

    def final(self) -> Ending:
        """How a run ends that has no step left to do."""
        opt, progress = self.opt, self.progress
        now = f"now: python test.py --name {opt.name}"
        if progress.limited:
            return Ending(0, f"--max_steps {opt.max_steps} is reached at {self._where()}; {now}")
        if progress.images == progress.images_at_start:
            return Ending(0, f"already complete, nothing was trained: {run_dir(opt)}; {now}")
        return Ending(0, f"training is complete: {run_dir(opt)}; {now}")

    def _where(self) -> str:
        return f"epoch {self.progress.epoch}, image {self.progress.images}"

    def _minutes(self) -> float:
        return (time.monotonic() - self.started) / 60

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = number
