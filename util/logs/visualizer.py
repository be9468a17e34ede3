"""What a run shows and leaves behind, through sinks that cannot stop or slow it: console, log files, page, others."""

import math
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from torch import Tensor

from util.images import to_uint8
from util.logs.background import CLOSE_SECONDS, BackgroundWriter
from util.logs.console import Console
from util.logs.log_files import RunLog
from util.logs.sink import EVALUATION, Frame, Sink
from util.logs.tensorboard_display import TensorBoardDisplay
from util.logs.training_page import TrainingPage
from util.logs.visdom_display import VisdomDisplay
from util.logs.wandb_display import WandbDisplay
from util.run.folder import record_of

QUIET_SECONDS = 600  # between two warnings that the same log cannot be written


class Visualizer:
    """The one object that the training loop reports to.

    Console and text files are served in the loop, the others by a thread. A sink that raises is switched off with
    one line; the others and the training go on. With `enabled=False` (every rank but the first) no method does a thing.
    """

    def __init__(
        self,
        opt: Namespace,
        run_dir: Path,
        total_images: int,
        versions: Mapping[str, str] | None = None,
        enabled: bool = True,
    ) -> None:
        """Reads the logging options from `opt`; UserError where a library that they ask for is not installed.

        `total_images`: images of the whole run, for the bar and the time left; `versions`: what trains it, for logs
        that show that.
        """
        self.enabled = enabled
        self.console = Console(total_images)
        self.log = RunLog(Path(run_dir))
        self.off: set[str] = set()
        self.warned: dict[str, float] = {}  # when it was said last that a log cannot be written
        sinks = make_sinks(opt, Path(run_dir), versions or {})
        self.writer = BackgroundWriter(sinks, self._guard, self.message)

    def start(self, images_done: int) -> None:
        """Begin, or go on after `images_done` images: what was logged beyond them is dropped, it will come again."""
        if not self.enabled:
            return

        self._guard(self.console, self.console.start, images_done)
        records = self._guard(self.log, self.log.start, images_done) or []
        self.writer.start(records, images_done)

    def print_losses(
        self, epoch: int, images: int, losses: Mapping[str, float], times: Mapping[str, float]
    ) -> None:
        """Log losses (and times, in seconds) after `images` images, in CUT's look; NaN and infinity are welcome."""
        if not self.enabled:
            return

        counters = [f"epoch: {epoch}", f"iters: {images}"]
        counters += [f"{name}: {value:.3f}" for name, value in times.items()]
        values = [f"{name}: {value:.3f}" for name, value in losses.items()]
        line = f"({', '.join(counters)}) {' '.join(values)}"
        record = make_record(epoch, images, losses, times)

        self._guard(self.log, self.log.losses, line, record)
        self._guard(self.console, self.console.losses, line, epoch, losses)
        self.writer.add_record(record)

    def evaluation(self, epoch: int, images: int, figures: Mapping[str, float], line: str) -> None:
        """Log figures of held-out images after `images` images, as curves of their own, and a line that tells them."""
        if not self.enabled:
            return

        named = {f"{EVALUATION}{name}": value for name, value in figures.items()}
        record = make_record(epoch, images, named, {})
        self._guard(self.log, self.log.losses, line, record)
        self._guard(self.console, self.console.message, line)
        self.writer.add_record(record)

    def advance(self, images: int) -> None:
        """Count `images` more images on the bar."""
        if self.enabled:
            self._guard(self.console, self.console.advance, images)

    def display(self, visuals: Mapping[str, Tensor], epoch: int, images: int, save: bool) -> None:
        """Show the first image of each (B,C,H,W) batch in [-1, 1]; with `save` it is written and put on the page.

        The pictures are copied before this returns, so that the next step may overwrite the tensors.
        """
        on = [sink for sink in self.writer.sinks if sink.name not in self.off]
        wanted = any(sink.live or save for sink in on)
        if self.enabled and wanted:
            self._guard(self.writer, self._display, visuals, epoch, images, save)

    def message(self, text: str) -> None:
        """Put a line on the console and into loss_log.txt."""
        if self.enabled:
            self._guard(self.log, self.log.message, text)
            self._guard(self.console, self.console.message, text)

    def close(self) -> None:
        """Write everything that waits; further calls do nothing."""
        if not self.enabled:
            return

        if not self.writer.close():
            text = f"a log did not finish within {CLOSE_SECONDS:.0f} s and is left behind"
            self.message(f"warning: {text}")
        if self.writer.dropped:
            self.message(f"warning: {self.writer.dropped} displays were dropped in all")

        self._guard(self.console, self.console.close)
        self.enabled = False

    def _display(self, visuals: Mapping[str, Tensor], epoch: int, images: int, save: bool) -> None:
        pictures = {label: to_uint8(batch[0]) for label, batch in visuals.items()}
        kept_all = self.writer.add_frame(Frame(epoch, images, pictures, save))
        if not kept_all and self.writer.dropped == 1:
            text = "pictures come faster than the logs take them; some will not be shown"
            self.message(f"warning: {text}")

    def _guard(self, sink: object, action: Callable, *arguments: object) -> object:
        """Run one action of a sink that is not off; if it raises, switch the sink off and say so, once.

        Files that cannot be written now are tried again, with what comes next.
        """
        if sink.name in self.off:
            return None

        try:
            result = action(*arguments)
        except Exception as error:  # whatever a sink trips over, training goes on
            reason = " ".join(str(error).split()) or type(error).__name__
            if isinstance(error, OSError) and getattr(sink, "tries_again", False):
                self._warn(sink.name, reason)
                return None
            self.off.add(sink.name)
            self.message(f"warning: {sink.name} is off for the rest of this run: {reason}")
            return None
        return result

    def _warn(self, name: str, reason: str) -> None:
        """Say that a sink has trouble with a file and will try again, unless that was said a moment ago."""
        now = time.monotonic()
        if now - self.warned.get(name, -math.inf) > QUIET_SECONDS:
            self.warned[name] = now
            self.message(f"warning: {name} cannot be written now, which is tried again: {reason}")


def make_sinks(opt: Namespace, run_dir: Path, versions: Mapping[str, str]) -> list[Sink]:
    """Return the background sinks that `opt` asks for; a further one is one more line here."""
    sinks: list[Sink] = []
    size = opt.display_winsize
    if not opt.no_html:
        images = f"{opt.dataroot}, {opt.direction}"
        facts = {"recipe": opt.recipe, "data": images, "seed": str(opt.seed)}
        sinks.append(TrainingPage(run_dir / "web", opt.easy_label or opt.name, size, facts))

    if opt.display_id is None or opt.display_id > 0:
        server = (opt.display_server, opt.display_port, opt.display_env)
        visdom = VisdomDisplay(opt.name, *server, opt.display_id, opt.display_ncols, size)
        sinks.append(visdom)

    record = partial(record_of, opt, versions)  # the file is that of the start before this one
    if opt.use_tensorboard:
        sinks.append(TensorBoardDisplay(run_dir, record))
    if opt.use_wandb:  # last, because it may wait for a server
        sinks.append(WandbDisplay(opt.wandb_project_name, opt.name, run_dir, record))
    return sinks


def make_record(
    epoch: int, images: int, losses: Mapping[str, float], times: Mapping[str, float]
) -> dict:
    """Return the JSON object of one print: valid JSON also for NaN, as null plus its name in "nonfinite"."""

    def finite(value: float) -> float | None:
        return float(value) if math.isfinite(value) else None

    record: dict = {"epoch": epoch, "images": images}
    record |= {name: finite(value) for name, value in times.items()}
    record["losses"] = {name: finite(value) for name, value in losses.items()}

    numbers = {**times, **losses}
    nonfinite = [name for name, value in numbers.items() if not math.isfinite(value)]
    if nonfinite:
        record["nonfinite"] = nonfinite
    return record
