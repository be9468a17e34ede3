"""Why training ends: all epochs are done, a limit is reached, or somebody asked for it; said once, in words."""

import os
import shlex
import signal
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import NamedTuple

from util.errors import UserError
from util.hardware.runtime import Runtime
from util.run.folder import run_dir
from util.run.progress import Progress

# Ctrl-C, a scheduler's request, a closed terminal, and what SLURM sends where --signal asks for it.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
BY_SIGNAL = 128  # the exit status of a shell for a command that a signal ended, beside its number
CONFER = 2.0  # seconds between two times at which several processes compare notes
INSIST = 2.0  # seconds after the first signal from which on Ctrl-C interrupts: a launcher passes on what came here too
PATIENCE = 20  # seconds that one of several processes waits for its data after a signal


class Ending(NamedTuple):
    """The exit status of the run, and why it ended."""

    status: int
    text: str


class NoBatch(BaseException):
    """There is no next batch, although the epoch is not over: a signal came meanwhile, or reading failed.

    No Exception, as what reads an image takes any Exception for a fault of the image.

    `error`: what to tell the user, None for a signal.
    """

    def __init__(self, error: UserError | None = None) -> None:
        super().__init__(str(error or "a signal"))
        self.error = error


class Stop:
    """While entered, the first signal of SIGNALS is a polite question, which the loop answers between two steps.

    One process that waits for a batch, maybe forever, answers at once. A later Ctrl-C interrupts, INSIST seconds after
    the first signal; any other repetition changes nothing, since torchrun passes on what has reached its processes too.

    Args:
        opt: with --max_steps and --max_minutes.
        runtime: all processes of a run end at the same step.
        progress: how far the run is.
    """

    def __init__(self, opt: Namespace, runtime: Runtime, progress: Progress) -> None:
        self.opt, self.runtime, self.progress = opt, runtime, progress
        self.started = time.monotonic()
        self.requested = 0  # the number of the signal
        self._requested_at = self.started
        self._waiting = False
        self._steps = self._confer_at = self._confer_last = 0
        self._conferred = self.started
        self._previous: dict[int, object] = {}
        self._launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None

    def __enter__(self) -> "Stop":
        for number in SIGNALS:
            if signal.getsignal(number) == signal.SIG_IGN and number == signal.SIGHUP:
                continue  # started with nohup
            self._previous[number] = signal.signal(number, self._note)
        self._previous[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._lose_patience)
        return self

    def __exit__(self, *_: object) -> None:
        signal.alarm(0)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def fetch(self, batches: Iterable) -> Iterator:
        """Pass batches on.

        Raises:
            NoBatch: a signal came while the next one was waited for, or it cannot be read; no step is under way then.
            UserError: one of several processes cannot have its part of the batch.
        """
        iterator = iter(batches)
        while True:
            try:
                try:
                    self._waiting = True
                    batch = next(iterator, None)
                finally:
                    self._waiting = False
            except UserError as error:
                if self.runtime.world_size > 1:
                    raise  # a save takes all processes, and the others are within a step
                raise NoBatch(error) from error
            if batch is None:
                return
            yield batch

    def due(self) -> Ending | None:
        """Why training ends after the step that was just done; None where it goes on."""
        opt, progress = self.opt, self.progress
        # Ended by --max_steps within an epoch: a signal that came meanwhile changes nothing.
        if progress.finished:
            return self.final()

        if self._launcher is not None and os.getppid() != self._launcher:
            self.requested = self.requested or signal.SIGHUP  # torchrun was killed
        confer = self._time_to_confer()

        if self.runtime.agree(self.requested, confer):
            return self.asked()
        if opt.max_minutes and self.runtime.agree(int(self._minutes() >= opt.max_minutes), confer):
            limit = f"--max_minutes {opt.max_minutes:g}"
            return Ending(0, f"{limit} are over at {self._where()}; {self._go_on()}")
        return None

    def _time_to_confer(self) -> bool:
        """Whether several processes compare notes after this step, which takes time; they agree on when."""
        self._steps += 1
        if self._steps < self._confer_at:
            return False
        now = time.monotonic()
        per_step = (now - self._conferred) / max(self._steps - self._confer_last, 1)
        steps = self.runtime.agree(min(int(CONFER / max(per_step, 1e-4)), 10_000), confer=True)
        self._conferred, self._confer_last = now, self._steps
        self._confer_at = self._steps + max(steps, 1)
        return True

    def asked(self) -> Ending:
        """How a run ends that a signal, to this process or another, has asked to."""
        number = self.requested or signal.SIGTERM
        return Ending(BY_SIGNAL + number, f"stopped at {self._where()}; {self._go_on()}")

    def final(self) -> Ending:
        """How a run ends that has nothing left to do."""
        opt, progress = self.opt, self.progress
        now = f"now: python test.py --name {shlex.quote(opt.name)}"
        if progress.limited:
            return Ending(0, f"--max_steps {opt.max_steps} is reached at {self._where()}; {now}")
        if progress.finished_at_start:
            return Ending(0, f"already complete, nothing was trained: {run_dir(opt)}; {now}")
        return Ending(0, f"training is complete: {run_dir(opt)}; {now}")

    def _where(self) -> str:
        return f"epoch {self.progress.epoch}, image {self.progress.images}"

    def _go_on(self) -> str:
        """How the run goes on; --from_scratch, typed again, would move it aside."""
        exception = " without --from_scratch" if self.opt.from_scratch else ""
        return f"the same command{exception} continues"

    def _minutes(self) -> float:
        return (time.monotonic() - self.started) / 60

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            insists = time.monotonic() - self._requested_at >= INSIST
            if number == signal.SIGINT and insists:
                raise KeyboardInterrupt
            return

        self.requested, self._requested_at = number, time.monotonic()
        if not self._waiting:
            return
        if self.runtime.world_size == 1:
            raise NoBatch
        signal.alarm(PATIENCE)  # the others may be within a step that needs this process

    def _lose_patience(self, number: int, frame: FrameType | None) -> None:
        if self._waiting:
            text = f"a signal came, and no image for {PATIENCE} s"
            raise UserError(f"{text}; {self._go_on()} from the last save")
