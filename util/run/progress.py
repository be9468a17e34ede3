"""How far a run is, counted in images, and how long its steps take."""

import time
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sized
from typing import Any


class Progress:
    """Epoch, step and image counters; the part of a run's state that says where to go on.

    Args:
        first_epoch: number of the first epoch (1, or --epoch_count).
        last_epoch: number of the last epoch.
        steps_per_epoch: optimiser steps in an epoch.
        images_per_step: images a step consumes, over all processes.
        max_steps: stop after so many steps in total, None for no such limit.
    """

    def __init__(
        self,
        first_epoch: int,
        last_epoch: int,
        steps_per_epoch: int,
        images_per_step: int,
        max_steps: int | None = None,
    ) -> None:
        self.epoch = self.first_epoch = first_epoch
        self.last_epoch = last_epoch
        self.steps_per_epoch = steps_per_epoch
        self.images_per_step = images_per_step
        self.max_steps = max_steps

        self.step = 0  # steps done in this epoch
        self.images = 0  # images done since the run began
        self.images_at_start = 0  # of these, the ones before this start
        self.finished_at_start = False
        self._since, self._waited, self._timed_images = time.perf_counter(), 0.0, 0

    @classmethod
    def from_options(cls, opt: Namespace, steps: Sized, images_per_step: int) -> "Progress":
        """The counters of a run; `steps` is as long as an epoch."""
        last_epoch = opt.n_epochs + opt.n_epochs_decay
        return cls(opt.epoch_count, last_epoch, len(steps), images_per_step, opt.max_steps)

    @property
    def total_images(self) -> int:
        """Images of the whole run."""
        steps = (self.last_epoch - self.first_epoch + 1) * self.steps_per_epoch
        return min(steps, self.max_steps or steps) * self.images_per_step

    @property
    def limited(self) -> bool:
        """Whether max_steps, not the last epoch, ends the run."""
        steps = (self.last_epoch - self.first_epoch + 1) * self.steps_per_epoch
        return self.max_steps is not None and self.max_steps < steps

    @property
    def final_epoch(self) -> int:
        """The epoch in which the run ends, be it through max_steps."""
        if not self.limited:
            return self.last_epoch
        return self.first_epoch + (self.max_steps - 1) // self.steps_per_epoch

    @property
    def all_steps_done(self) -> bool:
        """No step is left to do; what ends the last epoch may be."""
        return self.images >= self.total_images

    @property
    def finished(self) -> bool:
        """Nothing is left to do: after the last step its epoch was ended too, unless max_steps cuts it short."""
        return self.all_steps_done and self.step < self.steps_per_epoch

    def epochs(self) -> Iterator[int]:
        """The epochs that are left, the one under way included, be it that all its steps are done but not its end.

        The clock of `times` starts here: what went before was loading.
        """
        self._since, self._waited, self._timed_images = time.perf_counter(), 0.0, 0
        while self.epoch <= self.last_epoch and not self.finished:
            yield self.epoch

    def advance(self) -> None:
        """One step is done."""
        self.step += 1
        self.images += self.images_per_step
        self._timed_images += self.images_per_step

    def finish_epoch(self) -> None:
        """All steps of this epoch are done."""
        self.epoch += 1
        self.step = 0

    def due(self, frequency: int) -> bool:
        """True when the last step reached or passed a multiple of `frequency` images."""
        return self.images // frequency > (self.images - self.images_per_step) // frequency

    def timed(self, batches: Iterable) -> Iterator:
        """Pass batches on, noting how long each was waited for (host time: nothing is synchronised)."""
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            batch = next(iterator, None)
            self._waited += time.perf_counter() - asked

            if batch is None:
                return
            yield batch

    def leave_out(self, seconds: float) -> None:
        """So much of the time since the last call of `times` was spent on something else than steps."""
        self._since += seconds

    def times(self) -> dict[str, float]:
        """Since the last call: seconds per image, `time` in all and `data` of that for images to come; seconds per
        `step` without that; images per second."""
        now, images = time.perf_counter(), max(self._timed_images, 1)
        elapsed = now - self._since
        computing = elapsed - self._waited
        times = {
            "time": elapsed / images,
            "data": self._waited / images,
            "step": computing / images * self.images_per_step,
            "images/s": images / elapsed,
        }

        self._since, self._waited, self._timed_images = now, 0.0, 0
        return times

    def state_dict(self) -> dict[str, Any]:
        """Counters to go on from."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "images": self.images,
            "first_epoch": self.first_epoch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from saved counters."""
        self.epoch, self.step, self.images = state["epoch"], state["step"], state["images"]
        self.images_at_start = self.images
        self.first_epoch = state["first_epoch"]
        self.finished_at_start = self.finished
