"""The report that measures the generator now and then, logs the figures and keeps the best checkpoint."""

import json
import time
from typing import Any

from util.logs.log_files import append, keep_until
from util.run.folder import run_dir
from util.run.report import Evaluator, Run, Writing

VALUES = "evaluation.jsonl"  # in the run's folder: a line per measurement


class Evaluations(Writing):
    """Measures at --eval_freq and where the run is complete.

    Every value goes to the logs and into evaluation.jsonl. Where the first figure is the best so far, the weights are
    kept as best_net_<name>.pth, and the state is saved beside them.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.path = run_dir(run.opt) / VALUES
        self.best: dict[str, Any] | None = None
        self.measured_at = -1
        self.spent, self.began = 0.0, time.perf_counter()

        if run.opt.eval_freq and run.runtime.is_main:
            for row in keep_until(self.path, run.progress.images):
                self.best = row if row["best"] else self.best
                self.measured_at = row["images"]

    def after_step(self, last: bool) -> None:
        """Measure where it is due; a run that is stopped before its end is not measured for that."""
        progress, every = self.run.progress, self.run.opt.eval_freq
        if every and (progress.due(every) or (last and progress.finished)):
            self.measure()

    def after_epoch(self, epoch: int) -> None:
        """Measure where the run is complete."""
        progress = self.run.progress
        if self.run.opt.eval_freq and progress.finished and progress.images != self.measured_at:
            self.measure()

    def close(self) -> None:
        """Say what measuring cost, and which checkpoint is the best."""
        if self.best is None or not self.spent:
            return
        share = self.spent / (time.perf_counter() - self.began)
        name = next(iter(self.best["figures"]))
        self.run.visualizer.message(
            f"measuring took {self.spent:.0f} s, {share:.1%} of the training time; "
            f"best {name} {self.best['figures'][name]:.4g} at image {self.best['images']} "
            "(best_net_G.pth; test.py --epoch best)"
        )

    def measure(self) -> None:
        """Measure now; the other processes wait."""
        run = self.run
        run.model.check_finite(run.checkpoint.last_saved)
        began = time.perf_counter()
        is_best = False
        if run.evaluator:
            is_best = self._measure(run.evaluator)

        # all processes save together
        if run.runtime.agree(int(is_best), True):
            self.write(run.checkpoint.save_best, last=False)
        run.runtime.barrier()

        seconds = time.perf_counter() - began
        self.spent += seconds
        self.measured_at = run.progress.images
        run.progress.leave_out(seconds)

    def _measure(self, evaluator: Evaluator) -> bool:
        """Whether the figures are the best so far."""
        run, progress = self.run, self.run.progress
        found = evaluator(run.model)
        first = evaluator.measures[0]

        value = found.figures[first.name]
        is_best = self.best is None or first.is_better(value, self.best["figures"][first.name])
        row = {
            "images": progress.images,
            "epoch": min(progress.epoch, progress.final_epoch),
            "figures": found.figures,
            "best": is_best,
            "split": evaluator.split,
            "n": found.counts,
            "weights": "moving average" if run.model.averages else "plain",
            "seconds": round(found.seconds, 3),
        }
        if is_best:
            self.best = row
        append(self.path, json.dumps(row, allow_nan=False))
        self._show(evaluator, row)
        return is_best

    def _show(self, evaluator: Evaluator, row: dict[str, Any]) -> None:
        values = []
        for measure in evaluator.measures:
            values.append(f"{evaluator.title(measure)} {row['figures'][measure.name]:.4g}")

        first = evaluator.measures[0].name
        best = "the best so far"
        if not row["best"]:
            best = f"best {self.best['figures'][first]:.4g} at image {self.best['images']}"
        counts = " / ".join(str(count) for count in row["n"].values())
        line = (
            f"(epoch: {row['epoch']}, iters: {row['images']}) {row['split']}, {counts} images: "
            f"{', '.join(values)} ({best}; {row['seconds']:.0f} s)"
        )
        self.run.visualizer.evaluation(row["epoch"], row["images"], row["figures"], line)
