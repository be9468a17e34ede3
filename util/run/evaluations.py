"""The report that measures the generator now and then, logs the figures and keeps the best checkpoint."""

import json
import time
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from util.logs.log_files import append, keep_until
from util.run.folder import run_dir, saved_record
from util.run.report import Evaluator, Run, Writing
from util.run.weights import or_not_saved

VALUES = "evaluation.jsonl"  # in the run's folder: a line per measurement
FIELDS = {"best": bool, "figures": dict}  # without which a line is none


class Lines(Writing):
    """A text file that grows line by line; those that cannot be written now wait for the next time."""

    def __init__(self, run: Run, path: Path) -> None:
        super().__init__(run)
        self.path = path
        self.waiting: deque[str] = deque()

    def add(self, line: str, last: bool) -> None:
        """Write a line after those that wait."""
        self.waiting.append(line)
        self.write_waiting(last)

    def write_waiting(self, last: bool) -> None:
        """Write the lines that wait, see `Writing.write`."""
        if self.waiting:
            self.write(self._append, last)

    def _append(self) -> None:
        with or_not_saved(f"write {self.path}", self.path.parent):
            while self.waiting:
                append(self.path, self.waiting[0])
                self.waiting.popleft()


class Verdict(NamedTuple):
    """A measurement, None on a process that does not measure, and whether it is better than the best so far."""

    row: dict[str, Any] | None
    better: bool


class Evaluations(Writing):
    """Measures at --eval_freq and where the run is complete.

    Every value goes to the logs and into evaluation.jsonl. Where the first figure is the best so far, the weights are
    kept as best_net_<name>.pth. The best is what lies there: a better value whose weights could not be saved is none.

    The weights come first, then the line, then the state. So a process that dies in between goes on from before the
    measurement, drops what it wrote of it, and measures again.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.path = run_dir(run.opt) / VALUES
        self.best: dict[str, Any] | None = None
        self.lines = Lines(run, self.path)
        self.measured_at = -1
        self.spent, self.began = 0.0, time.perf_counter()

        if run.opt.eval_freq:
            if run.runtime.is_main:
                self._read_back()
            self.measured_at = run.runtime.tell(self.measured_at)

    def _read_back(self) -> None:
        """Take up what was measured before this start."""
        for row in keep_until(self.path, self.run.progress.images, FIELDS):
            self.best = row if row["best"] else self.best
            self.measured_at = row["images"]

        if self.best:
            self._complete(self.best)

    def _complete(self, best: dict[str, Any]) -> None:
        """Add what lines of earlier versions of this program do not say, from the record of the run.

        Which images they were measured on is not to be had: they are taken for the same.
        """
        options = saved_record(self.path.parent).get("options", {})
        best.setdefault("decides", next(iter(best["figures"])))
        best.setdefault("feature", options.get("eval_feature", self.run.opt.eval_feature))
        if "preprocess" in options:
            best.setdefault("scaled", self.run.evaluator.scaled(options))

    def after_step(self, last: bool) -> None:
        """Measure where it is due; a run that is stopped before its end is not measured for that."""
        self.lines.write_waiting(last)
        progress, every = self.run.progress, self.run.opt.eval_freq
        if every and (progress.due(every) or (last and progress.finished)):
            self.measure(last)

    def after_epoch(self, epoch: int) -> None:
        """Measure where the run is complete."""
        progress = self.run.progress
        if self.run.opt.eval_freq and progress.finished and progress.images != self.measured_at:
            self.measure(last=True)

    def close(self) -> None:
        """Say what measuring cost, and which checkpoint is the best."""
        self.lines.write_waiting(last=False)
        if self.best is None or not self.spent:
            return
        share = self.spent / (time.perf_counter() - self.began)
        self.run.visualizer.message(
            f"measuring took {self.spent:.0f} s, {share:.1%} of the training time; "
            f"{describe_best(self.best)} (best_net_G.pth; test.py --epoch best)"
        )

    def measure(self, last: bool) -> None:
        """Measure now; the other processes wait.

        Args:
            last: the run ends here, and its state is saved next, by the report that does so. That report raises what
                could not be kept of the measurement.
        """
        run = self.run
        run.model.check_finite(run.checkpoint.last_saved)
        began = time.perf_counter()
        verdict = self._judge()
        kept = verdict.better and self._keep(last)
        if verdict.row is not None:
            self._note(verdict.row, kept, last)
            self._show(run.evaluator, verdict.row, self._rank(verdict))
        if verdict.better and not last:
            self.write(run.checkpoint.save_latest, last)
        run.runtime.barrier()

        seconds = time.perf_counter() - began
        self.spent += seconds
        self.measured_at = run.progress.images
        run.progress.leave_out(seconds)

    def _judge(self) -> Verdict:
        """Measure; all processes learn the verdict, since they save together."""
        run, row, better = self.run, None, False
        if run.evaluator:
            row = self._evaluate(run.evaluator)
            better = self._is_better(run.evaluator, row)
        return Verdict(row, bool(run.runtime.agree(int(better), True)))

    def _keep(self, last: bool) -> bool:
        """Save the weights as the best; returns whether they lie on the disk."""
        self.write(partial(self.run.checkpoint.save_weights, "best"), last)
        return not self.failed

    def _evaluate(self, evaluator: Evaluator) -> dict[str, Any]:
        """The figures, with all that they depend on."""
        run, progress = self.run, self.run.progress
        found = evaluator(run.model)
        return {
            "images": progress.images,
            "epoch": min(progress.epoch, progress.final_epoch),
            "figures": found.figures,
            "best": False,
            **evaluator.yardstick(),
            "n": found.counts,
            "weights": "moving average" if run.model.averages else "plain",
            "seconds": round(found.seconds, 3),
        }

    def _is_better(self, evaluator: Evaluator, row: dict[str, Any]) -> bool:
        """Whether the first figure is better than the best so far, or the first of its kind."""
        if self.best is None:
            return True

        unlike = []
        for name in (*evaluator.yardstick(), "n"):
            then, now = self.best.get(name, row[name]), row[name]
            if then != now:
                unlike.append(f"{name} {in_words(then)} -> {in_words(now)}")
        if unlike:
            self.run.visualizer.message(
                f"{describe_best(self.best)} was measured otherwise ({', '.join(unlike)}) and cannot be compared: "
                "the best is looked for anew from here"
            )
            self.best = None
            return True

        first = evaluator.measures[0]
        return first.is_better(row["figures"][first.name], self.best["figures"][first.name])

    def _note(self, row: dict[str, Any], is_kept: bool, last: bool) -> None:
        """Put a measurement on record."""
        row["best"] = is_kept
        if is_kept:
            self.best = row
        self.lines.add(json.dumps(row, allow_nan=False), last)

    def _rank(self, verdict: Verdict) -> str:
        """How a measurement that is on record stands among the others, in words."""
        if verdict.row["best"]:
            return "the best so far"
        if verdict.better:
            return "the best so far, but its weights could not be saved"
        value = self.best["figures"][self.best["decides"]]
        return f"best {value:.4g} at image {self.best['images']}"

    def _show(self, evaluator: Evaluator, row: dict[str, Any], rank: str) -> None:
        """Tell the logs."""
        values = []
        for measure in evaluator.measures:
            values.append(f"{evaluator.title(measure)} {row['figures'][measure.name]:.4g}")
        line = (
            f"(epoch: {row['epoch']}, iters: {row['images']}) {row['split']}, {in_words(row['n'])} images: "
            f"{', '.join(values)} ({rank}; {row['seconds']:.0f} s)"
        )
        self.run.visualizer.evaluation(row["epoch"], row["images"], row["figures"], line)


def describe_best(row: dict[str, Any]) -> str:
    """The measurement that was the best, in words."""
    name = row["decides"]
    return f"best {name} {row['figures'][name]:.4g} at image {row['images']}"


def in_words(fact: Any) -> str:
    """A fact of a measurement; of images their numbers."""
    return " / ".join(map(str, fact.values())) if isinstance(fact, dict) else str(fact)
