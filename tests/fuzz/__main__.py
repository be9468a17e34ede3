"""Run random command lines in this process and report those that end in a traceback: `python -m tests.fuzz`."""

import argparse
import contextlib
import io
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from pathlib import Path
from random import Random
from types import FrameType

import torch

from models import create_model
from models.inference.translate import translate
from options import TestOptions, TrainOptions, parse
from tests.fuzz.command_lines import draw, models, shown
from tests.helpers import make_dataset
from train import train
from util.errors import exit_status
from util.hardware.runtime import Runtime

DEPTHS = ("parse", "build", "step", "test")  # how far a command line is tried
SHARES = (45, 15, 25, 15)  # of a hundred
ADDRESS_SPACE = 12 * 2**30  # so that a senseless size fails at once instead of filling the machine
PATIENCE = 60  # seconds of computing for one command line


class TooSlow(Exception):
    """A command line took longer than `PATIENCE`."""


class Fuzzer:
    """Draws and runs command lines in a folder of its own.

    Attributes:
        ends: how command lines ended -> how many.
        reasons: what was said when one was refused -> how often.
        faults: where a traceback came from -> the command lines.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ends: Counter = Counter()
        self.faults: defaultdict[str, list[str]] = defaultdict(list)
        self.reasons: Counter = Counter()
        make_dataset(folder / "DATA", 4)
        make_dataset(folder / "PAIRS", 2)
        for phase in ("train", "test"):
            shutil.copytree(folder / "PAIRS" / f"{phase}A", folder / "PAIRS" / phase)
        (folder / "EMPTY").mkdir()

    def run(self, seed: int) -> None:
        """One random command line, the same for the same seed."""
        rng = Random(seed)
        [depth] = rng.choices(DEPTHS, SHARES)
        command = (
            "test.py"
            if depth == "test" or (depth == "parse" and rng.random() < 0.4)
            else "train.py"
        )
        options = TestOptions() if command == "test.py" else TrainOptions()
        names = models(options.is_train)
        if depth == "test":  # of the runs that there are, and of methods that need none
            kept = sorted(path.name for path in (self.folder / "kept").glob("*"))
            names = [*kept, "strotss", "test"]
        argv = draw(rng, options, rng.choice(names), mild=depth != "parse")

        line = f"{seed}: {command} {shown(argv)}"
        try:
            with quiet() as errors, deadline():
                status = exit_status(lambda: self.try_out(depth, options, argv))
            end = "refused" if status else "done"
            said = [text for text in errors.getvalue().split("error: ")[1:] if text.count("\n") > 1]
            self.reasons[f"{depth}: {errors.getvalue()[7:87]}"] += 1
            if status and said:
                self.note("a message of several lines", line)
        except SystemExit:
            end = "help"
        except TooSlow:
            end = "slow"
            self.note("took too long", line)
        except Exception as error:
            end = "TRACEBACK"
            self.note(origin(error), line)
        self.ends[f"{depth}: {end}"] += 1

    def try_out(self, depth: str, options: TrainOptions | TestOptions, argv: list[str]) -> None:
        """As far as `depth` says."""
        if depth in ("build", "step"):
            shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        if depth == "test":
            self.restore(argv[1])
        opt = parse(options, argv)
        if depth == "build":
            create_model(opt, Runtime.from_options(opt))
        elif depth == "step" and not opt.dry_run:
            train(opt)
            self.keep(opt.model)
        elif depth == "test":
            translate(opt)

    def note(self, fault: str, line: str) -> None:
        """Count a fault, and show it at once where it is new."""
        if fault not in self.faults:
            print(f"{fault}\n    {line}", file=sys.stderr, flush=True)
        self.faults[fault].append(line)

    def keep(self, model: str) -> None:
        """Keep the newest run of a method, for test.py."""
        run = self.folder / "checkpoints" / "run"
        if (run / "latest_net_G.pth").exists() or list(run.glob("latest_net_*")):
            kept = self.folder / "kept" / model
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(run, kept)

    def restore(self, model: str) -> None:
        """Lay a run where test.py looks for it: of this method, or of any."""
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        kept = sorted((self.folder / "kept").glob("*"))
        own = [path for path in kept if path.name == model] or kept
        if own:
            shutil.copytree(own[0], self.folder / "checkpoints" / "run")

    def report(self) -> str:
        """What happened, faults last."""
        lines = [f"{count:6} {end}" for end, count in sorted(self.ends.items())]
        for place, command_lines in sorted(self.faults.items()):
            lines += ["", f"{len(command_lines)} x {place}", *command_lines[:3]]
        return "\n".join(lines)


def origin(error: Exception) -> str:
    """The kind of an error, its first line, and the last two lines of this project's code that it came through."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in frame.filename
    ]
    place = " < ".join(
        f"{os.path.relpath(frame.filename, START)}:{frame.lineno}"
        for frame in reversed(frames[-2:])
    )
    text = str(error).splitlines()
    return f"{type(error).__name__} at {place}: {text[0][:120] if text else ''}"


START = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def quiet():
    """Nothing that a command prints is shown; yields what it writes to standard error."""
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        yield errors


@contextlib.contextmanager
def deadline():
    """While entered, a command line that takes too long ends."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def fuzz(first: int, count: int, folder: Path, seconds: float | None = None) -> Fuzzer:
    """Run `count` command lines, from the seed `first` on, until so many seconds of computing are over."""
    began, here = time.process_time(), os.getcwd()
    fuzzer = Fuzzer(folder)
    os.chdir(folder)
    try:
        for seed in range(first, first + count):
            fuzzer.run(seed)
            if seconds and time.process_time() - began > seconds:
                break
    finally:
        os.chdir(here)
    return fuzzer


def main() -> int:
    """Run the command line; the exit status is 1 where there was a traceback."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="command lines (default: 2000)")
    parser.add_argument("--first", type=int, default=0, help="seed of the first (default: 0)")
    parser.add_argument("--reasons", action="store_true", help="also show why they were refused")
    args = parser.parse_args()

    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = fuzz(args.first, args.count, Path(folder))
    if args.reasons:
        print(*(f"{count:6} {text!r}" for text, count in fuzzer.reasons.most_common()), sep="\n")
    print(fuzzer.report())
    return 1 if fuzzer.faults else 0


if __name__ == "__main__":
    sys.exit(main())
