"""What a report is: one thing that the training loop does now and then; util/run/reports.py has the list."""

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from util.hardware.runtime import Runtime
from util.logs.visualizer import Visualizer
from util.metrics.measures import Measure
from util.run.checkpoint import Checkpoint
from util.run.progress import Progress
from util.run.weights import NotSaved


class Evaluation(Protocol):
    """What a measurement found: `figures` by measure, `counts` of images, `seconds` that it took."""

    figures: dict[str, float]
    counts: dict[str, int]
    seconds: float


class Evaluator(Protocol):
    """What measures a model.

    `measures`, the first of which decides; `title` of one; `yardstick`: what figures that are compared have in common;
    `scaled`: the part of it that follows from the options of a run.
    """

    measures: Sequence[Measure]
    title: Callable[[Measure], str]
    yardstick: Callable[[], dict[str, str]]
    scaled: Callable[[Mapping[str, Any]], str]
    __call__: Callable[[Any], Evaluation]


@dataclass
class Run:
    """The parts of a run under way that reports look at.

    `evaluator` measures the model, on the main process, where it is asked for. `not_saved`: what could not be written
    where the run ends, which is raised once all else is saved.
    """

    opt: Namespace
    runtime: Runtime
    model: Any  # a BaseModel
    progress: Progress
    checkpoint: Checkpoint
    visualizer: Visualizer
    evaluator: Evaluator | None = None
    not_saved: list[NotSaved] = field(default_factory=list)

    def close(self) -> None:
        """Write what waits, and let others train this run."""
        self.visualizer.close()
        self.checkpoint.close()


class Report:
    """One thing that is done now and then; a subclass overrides what it needs."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def after_step(self, last: bool) -> None:
        """A step is done; `last`: training ends with it, within its epoch."""

    def after_epoch(self, epoch: int) -> None:
        """An epoch is done, learning rates have moved on."""

    def between_steps(self) -> None:
        """Training ends, since there is no next batch; no step has been done since `after_step`."""

    def close(self) -> None:
        """Training has ended, also by an error."""


class Writing(Report):
    """Writes files without which training can go on; what cannot be written now is tried again at the next time."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.failed = False

    def write(self, action: Callable[[], None], last: bool) -> None:
        """Do it, or warn and go on; where there is no next time, `Saves` raises the error once the run is saved."""
        try:
            action()
        except NotSaved as error:
            if last:
                self.run.not_saved.append(error)
            elif not self.failed:
                where = f"training goes on and tries again; last saved: {self.run.checkpoint.last_saved}"
                self.run.visualizer.message(f"warning: {error}; {where}")
            self.failed = True
        else:
            if self.failed:
                self.run.visualizer.message("saving works again")
            self.failed = False
