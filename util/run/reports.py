"""What the training loop does now and then, as a list of reports: print, show, save, trace.

A new one is a class here or beside what it reports, and a line in `create_reports`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from util.run.evaluations import Evaluations
from util.run.folder import run_dir
from util.run.health import Health
from util.run.profiler import StepProfiler
from util.run.report import Report, Run, Writing
from util.run.stop import Ending, NoBatch, Stop

SPREAD = "spread of the pictures"


class Losses(Report):
    """Moves the bar; prints the losses at --print_freq and at the end, and the learning rate after an epoch."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.health = Health(run.model.optimizers)

    def after_step(self, last: bool) -> None:
        run, progress = self.run, self.run.progress
        run.visualizer.advance(progress.images_per_step)
        if not (progress.due(run.opt.print_freq) or progress.all_steps_done):
            return

        run.model.check_finite(run.checkpoint.last_saved)
        losses = run.runtime.mean(run.model.get_current_losses() | self._spread())
        spread = losses.pop(SPREAD, None)
        times = progress.times() | run.runtime.memory()
        run.visualizer.print_losses(progress.epoch, progress.images, losses, times)
        for warning in self.health.notice(losses, spread):
            run.visualizer.message(warning)

    def _spread(self) -> dict[str, Tensor]:
        """What translated pictures vary by, the least of all kinds; 0-d, nothing where there are none."""
        pictures = self.run.model.get_current_visuals()
        fakes = [picture.float().std() for name, picture in pictures.items() if name[:4] == "fake"]
        return {SPREAD: torch.stack(fakes).min()} if fakes else {}

    def after_epoch(self, epoch: int) -> None:
        run = self.run
        text = f"end of epoch {epoch} of {run.progress.final_epoch}"
        if not run.progress.finished:
            text += f", learning rate {run.model.learning_rate:.2g} from here"
        run.visualizer.message(text)


class Record(Writing):
    """Writes what the run is trained with, once something is trained with it."""

    def after_step(self, last: bool) -> None:
        self.write(self.run.checkpoint.record, last)


class Pictures(Report):
    """Shows pictures at --display_freq; those of --update_html_freq, the first and the last step stay on the page."""

    def after_step(self, last: bool) -> None:
        run, progress = self.run, self.run.progress
        ends = progress.images == progress.images_per_step or progress.all_steps_done
        save = ends or progress.due(run.opt.update_html_freq)
        if save or progress.due(run.opt.display_freq):
            pictures = run.model.get_current_visuals()
            if pictures:
                run.visualizer.display(pictures, progress.epoch, progress.images, save)


class Trace(Report):
    """Records --profile steps for Perfetto, those of the main process."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        steps = run.opt.profile if run.runtime.is_main else 0
        self.profiler = StepProfiler(steps, run_dir(run.opt), run.visualizer.message)

    def after_step(self, last: bool) -> None:
        self.profiler.advance()

    def close(self) -> None:
        self.profiler.close()


class Saves(Writing):
    """Saves the run at --save_latest_freq and where it ends, weights that are kept at --save_epoch_freq.

    It is the last of the reports. So where the run ends, it raises what they and itself could not write.
    """

    def write(self, action: Callable[[], None], last: bool) -> None:
        super().write(action, last)
        if last and self.run.not_saved:
            raise self.run.not_saved[-1]

    def after_step(self, last: bool) -> None:
        if last or self.run.progress.due(self.run.opt.save_latest_freq):
            self.write(self.run.checkpoint.save_latest, last)

    def after_epoch(self, epoch: int) -> None:
        finished = self.run.progress.finished
        if epoch % self.run.opt.save_epoch_freq == 0 or finished:
            self.write(partial(self.run.checkpoint.save_epoch, epoch), finished)

    def between_steps(self) -> None:
        self.write(self.run.checkpoint.save_latest, last=True)


def create_reports(run: Run) -> list[Report]:
    """All reports of a run, in the order in which they are made; what can fail a run comes before it is saved."""
    measured = Evaluations(run)
    return [Record(run), Losses(run), Pictures(run), measured, Trace(run), Saves(run)]


@contextmanager
def reporting(run: Run) -> Iterator[list[Report]]:
    """The reports of a run, closed with it, however it ends."""
    reports = create_reports(run)
    try:
        yield reports
    finally:
        for report in reports:
            report.close()
        run.close()


def end_between_steps(reason: NoBatch, reports: Sequence[Report], stop: Stop) -> Ending:
    """Save what has been done, where there is no next batch; returns why, or raises what a user must mend."""
    for report in reports:
        report.between_steps()
    if reason.error:
        raise reason.error
    return stop.asked()
