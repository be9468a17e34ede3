"""What a run shows and leaves behind, through sinks that cannot stop or slow it: console, log files, page, others."""

import math
import sys
import time
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Thread
from typing import Protocol

import numpy as np
from torch import Tensor
from tqdm import tqdm

from util.images import to_uint8
from util.run_files import RunLog, TrainingPage
from util.tensorboard_display import TensorBoardDisplay
from util.visdom_display import VisdomDisplay
from util.wandb_display import WandbDisplay

WAITING_FRAMES = 8  # displays that may wait for the page and other logs; a ninth pushes out the oldest
CLOSE_SECONDS = 60.0  # how long the end of a run waits for a sink that hangs


@dataclass(frozen=True)
class Frame:
    """The pictures of one moment: {label: (H,W,C) uint8}; `save` says whether they are to be kept."""

    epoch: int
    images: int
    pictures: Mapping[str, np.ndarray]
    save: bool


class Sink(Protocol):
    """A place that losses and pictures go to. Called from one background thread; an exception switches it off.

    A record is a line of metrics.jsonl: {"epoch", "images", "time", ..., "losses": {name: float or None}}.
    """

    name: str
    live: bool  # whether it also shows frames that are not saved

    def start(self, records: Sequence[dict], images_done: int) -> str | None:
        """Connect or open; `records` are those of the run that is being resumed. Returns where to look, for the log."""

    def losses(self, records: Sequence[dict]) -> None:
        """Take over the records that came since the last call."""

    def pictures(self, frame: Frame) -> None:
        """Show or keep one frame."""

    def close(self) -> None:
        """Flush."""


class Console:
    """The terminal: a progress bar where there is one, else a line per print with the time that is left."""

    name = "console"

    def __init__(self, total_images: int) -> None:
        self.total = total_images
        self.bar: tqdm | None = None

    def start(self, images_done: int) -> None:
        """Show the bar, if standard error is a terminal."""
        self.first = self.images = images_done
        self.started = time.monotonic()
        if sys.stderr.isatty():
            self.bar = tqdm(total=self.total, initial=images_done, unit="img", dynamic_ncols=True, mininterval=0.5)

    def advance(self, images: int) -> None:
        """Move the bar."""
        self.images += images
        if self.bar is not None:
            self.bar.update(images)

    def losses(self, line: str, epoch: int, losses: Mapping[str, float]) -> None:
        """Put the losses behind the bar, and print the line where there is no bar or the output goes to a file."""
        if self.bar is not None:
            self.bar.set_postfix_str(f"epoch {epoch}, " + ", ".join(f"{k} {v:.3f}" for k, v in losses.items()))
        if self.bar is None or not sys.stdout.isatty():
            self.message(f"{line} [{self._progress()}]")

    def message(self, text: str) -> None:
        """Print a line, above the bar."""
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self.bar is not None:
            self.bar.close()

    def _progress(self) -> str:
        """Return the share done and the time left, from the speed since the start."""
        done = self.images - self.first
        if done == 0 or self.total <= 0:
            return "ETA ?"
        left = (time.monotonic() - self.started) / done * max(self.total - self.images, 0)
        return f"{self.images / self.total:.1%}, ETA {tqdm.format_interval(left)}"


class BackgroundWriter:
    """One thread that serves the sinks. Losses are never dropped, they are handed over together; frames can be."""

    name = "pictures"

    def __init__(self, sinks: Sequence[Sink], guard: Callable, say: Callable[[str], None]) -> None:
        """`guard(sink, action, *arguments)` runs an action of a sink and switches the sink off if it raises."""
        self.sinks, self.guard, self.say = sinks, guard, say
        self.records: list[dict] = []
        self.frames: deque[Frame] = deque()
        self.dropped = 0
        self.closing = False
        self.news = Condition()
        self.thread = Thread(target=self._run, name="visualizer", daemon=True)

    def start(self, records: Sequence[dict], images_done: int) -> None:
        """Start the thread; its first work is to start the sinks."""
        self.start_arguments = (records, images_done)
        self.thread.start()

    def add_record(self, record: dict) -> None:
        """Hand over one record; returns at once."""
        with self.news:
            self.records.append(record)
            self.news.notify()

    def add_frame(self, frame: Frame) -> bool:
        """Hand over one frame; returns at once, False if the oldest waiting frame had to go for it."""
        with self.news:
            full = len(self.frames) == WAITING_FRAMES
            if full:
                self.frames.popleft()
                self.dropped += 1
            self.frames.append(frame)
            self.news.notify()
        return not full

    def close(self) -> bool:
        """Let the thread finish what waits; False if it hangs."""
        with self.news:
            self.closing = True
            self.news.notify()
        if self.thread.ident is not None:
            self.thread.join(CLOSE_SECONDS)
        return not self.thread.is_alive()

    def _run(self) -> None:
        for sink in self.sinks:
            where = self.guard(sink, sink.start, *self.start_arguments)
            if where:
                self.say(where)
        while True:
            with self.news:
                self.news.wait_for(lambda: self.records or self.frames or self.closing)
                records, self.records = self.records, []
                frame = self.frames.popleft() if self.frames else None
            if not records and frame is None:
                break
            for sink in self.sinks:
                if records:
                    self.guard(sink, sink.losses, records)
                if frame is not None:
                    self.guard(sink, sink.pictures, frame)
        for sink in self.sinks:
            self.guard(sink, sink.close)


class Visualizer:
    """The one object that the training loop reports to.

    Console and text files are served in the loop, the others by a thread. A sink that raises is switched off with
    one line; the others and the training go on. With `enabled=False` (every rank but the first) no method does a thing.
    """

    def __init__(self, opt: Namespace, run_dir: Path, total_images: int, enabled: bool = True) -> None:
        """Reads the logging options from `opt`; UserError where a library that they ask for is not installed.

        `total_images`: images of the whole run, for the bar and the time left.
        """
        self.enabled = enabled
        self.console = Console(total_images)
        self.log = RunLog(Path(run_dir))
        self.off: set[str] = set()
        self.writer = BackgroundWriter(make_sinks(opt, Path(run_dir)), self._guard, self.message)

    def start(self, images_done: int) -> None:
        """Begin, or go on after `images_done` images: what was logged beyond them is dropped, it will come again."""
        if not self.enabled:
            return
        self._guard(self.console, self.console.start, images_done)
        records = self._guard(self.log, self.log.start, images_done) or []
        self.writer.start(records, images_done)

    def print_losses(self, epoch: int, images: int, losses: Mapping[str, float], times: Mapping[str, float]) -> None:
        """Log losses (and times, in seconds) after `images` images, in CUT's look; NaN and infinity are welcome."""
        if not self.enabled:
            return
        counters = ", ".join([f"epoch: {epoch}", f"iters: {images}", *(f"{k}: {v:.3f}" for k, v in times.items())])
        line = f"({counters}) " + " ".join(f"{name}: {value:.3f}" for name, value in losses.items())
        record = make_record(epoch, images, losses, times)
        self._guard(self.log, self.log.losses, line, record)
        self._guard(self.console, self.console.losses, line, epoch, losses)
        self.writer.add_record(record)

    def advance(self, images: int) -> None:
        """Count `images` more images on the bar."""
        if self.enabled:
            self._guard(self.console, self.console.advance, images)

    def display(self, visuals: Mapping[str, Tensor], epoch: int, images: int, save: bool) -> None:
        """Show the first image of each (B,C,H,W) batch in [-1, 1]; with `save` it is written and put on the page.

        The pictures are copied before this returns, so that the next step may overwrite the tensors.
        """
        wanted = any((sink.live or save) and sink.name not in self.off for sink in self.writer.sinks)
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
            self.message(f"warning: a log did not finish within {CLOSE_SECONDS:.0f} s and is left behind")
        if self.writer.dropped:
            self.message(f"warning: {self.writer.dropped} displays were dropped in all")
        self._guard(self.console, self.console.close)
        self.enabled = False

    def _display(self, visuals: Mapping[str, Tensor], epoch: int, images: int, save: bool) -> None:
        pictures = {label: to_uint8(batch[0]) for label, batch in visuals.items()}
        kept_all = self.writer.add_frame(Frame(epoch, images, pictures, save))
        if not kept_all and self.writer.dropped == 1:
            self.message("warning: pictures come faster than the logs take them; some will not be shown")

    def _guard(self, sink: object, action: Callable, *arguments: object) -> object:
        """Run one action of a sink that is not off; if it raises, switch the sink off and say so, once."""
        if sink.name in self.off:
            return None
        try:
            return action(*arguments)
        except Exception as error:  # whatever a sink trips over, training goes on
            self.off.add(sink.name)
            reason = " ".join(str(error).split()) or type(error).__name__
            self.message(f"warning: {sink.name} is off for the rest of this run: {reason}")
            return None


def make_sinks(opt: Namespace, run_dir: Path) -> list[Sink]:
    """Return the background sinks that `opt` asks for; a further one is one more line here."""
    sinks: list[Sink] = []
    if not opt.no_html:
        sinks.append(TrainingPage(run_dir / "web", opt.name, opt.display_winsize))
    if opt.display_id is None or opt.display_id > 0:
        where = (opt.display_server, opt.display_port, opt.display_env)
        sinks.append(VisdomDisplay(opt.name, *where, opt.display_id, opt.display_ncols, opt.display_winsize))
    if opt.use_tensorboard:
        sinks.append(TensorBoardDisplay(run_dir))
    if opt.use_wandb:  # last, because it may wait for a server
        sinks.append(WandbDisplay(opt.wandb_project_name, opt.name, run_dir))
    return sinks


def make_record(epoch: int, images: int, losses: Mapping[str, float], times: Mapping[str, float]) -> dict:
    """Return the JSON object of one print: valid JSON also for NaN, as null plus its name in "nonfinite"."""
    nonfinite = [name for name, value in {**times, **losses}.items() if not math.isfinite(value)]

    def finite(values: Mapping[str, float]) -> dict[str, float | None]:
        return {name: float(value) if math.isfinite(value) else None for name, value in values.items()}

    record = {"epoch": epoch, "images": images, **finite(times), "losses": finite(losses)}
    return record | ({"nonfinite": nonfinite} if nonfinite else {})
