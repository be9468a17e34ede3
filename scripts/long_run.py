"""Train for many tiny steps and see that memory and open files do not grow.

    python scripts/long_run.py                  20,000 steps of patchgcl
    python scripts/long_run.py --steps 2000     a trial

The run saves, prints and shows pictures as any does, only more often. After the first thousand steps, by which all
buffers have been made, resident memory and open files are noted; there may not be more of either at the end. A file
counts as open where it is at five moments in a row: one that is being written just then is not kept open.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.checking.pictures import draw_pictures
from scripts.kill_runs import IMAGES, OF_TRAINING
from util.parser import script_parser

TINY = (
    "--netG resnet_4blocks --ngf 2 --netD n_layers --n_layers_D 1 --ndf 2 --netF_nc 16 "
    "--load_size 20 --crop_size 16 --gpu_ids -1 "
    "--graph_features generator --num_patches 16 --num_threads 1 --display_id 0 --print_freq 50 "
    "--save_latest_freq 500 --update_html_freq 1000 --display_freq 1000 --save_epoch_freq 100 --keep_last 2 "
    "--display_winsize 32"
)
ROOM = 1.02  # memory may grow by so much: pages of the system come and go
MOMENTS = 5  # at which a file is open that is kept open


class Reading(NamedTuple):
    """What a process holds after some steps: resident memory, and what its open file descriptors stand for."""

    steps: int
    megabytes: float
    files: dict[int, str]

    def __str__(self) -> str:
        return f"{self.steps:6} steps {self.megabytes:8.1f} MB {len(self.files):4} open files"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, this process's by default."""
    parser = script_parser(__doc__)
    parser.add_argument("--steps", type=int, default=20_000, help="default: 20000")
    parser.add_argument("--every", type=int, default=1000, help="steps between readings")
    return parser.parse_args(argv)


def read(process: int, steps: int) -> Reading:
    """Resident memory and open files of a process, as Linux tells them."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    kilobytes = int(status["VmRSS"].split()[0])

    files = open_files(process)
    for _ in range(MOMENTS - 1):
        time.sleep(0.2)
        files = dict(files.items() & open_files(process).items())
    return Reading(steps, kilobytes / 1000, files)


def open_files(process: int) -> dict[int, str]:
    """File descriptor -> the file, pipe or socket that it stands for, at this moment."""
    files = {}
    for link in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since the folder was read
            files[int(link.name)] = os.readlink(link)
    return files


def steps_done(log: Path) -> int:
    """The steps, one image each, of the last line of the log."""
    if not log.exists():
        return 0
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 4000))
        lines = file.read().decode().splitlines()
    try:
        return json.loads(lines[-1])["images"]
    except (IndexError, ValueError):  # nothing yet, or half a line
        return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse_arguments(argv)
    with tempfile.TemporaryDirectory(prefix="long_run_") as name:
        folder = Path(name)
        draw_pictures(folder / "data", IMAGES, roles=OF_TRAINING)
        epochs = args.steps // IMAGES + 1
        where = ["--dataroot", folder / "data", "--checkpoints_dir", folder, "--name", "run"]
        steps = ["--n_epochs", epochs, "--n_epochs_decay", 0, "--max_steps", args.steps]
        command = [sys.executable, "train.py", *where, *steps, *TINY.split()]
        with open(folder / "output.txt", "w") as output:
            process = subprocess.Popen(
                list(map(str, command)), cwd=ROOT, stdout=output, stderr=output
            )
        readings = watch(process, folder / "run" / "metrics.jsonl", args.every)
        if process.returncode:
            print((folder / "output.txt").read_text()[-2000:], file=sys.stderr)
            return 1

    if len(readings) < 2:
        print(
            f"error: too few readings: --every {args.every} of --steps {args.steps}",
            file=sys.stderr,
        )
        return 2
    first, last = readings[0], readings[-1]
    print(f"from step {first.steps} to step {last.steps}:")
    print(f"resident memory {first.megabytes:.1f} -> {last.megabytes:.1f} MB")
    print(f"open files {len(first.files)} -> {len(last.files)}")

    # a descriptor may stand for another file by now: what counts is how many there are
    more = len(last.files) - len(first.files)
    if more > 0:
        print(
            "open now and not before:",
            *sorted(set(last.files.values()) - set(first.files.values())),
        )
    return 0 if more <= 0 and last.megabytes <= ROOM * first.megabytes else 1


def watch(process: subprocess.Popen, log: Path, every: int) -> list[Reading]:
    """Readings of a process until it ends, one each `every` steps."""
    readings: list[Reading] = []
    while process.poll() is None:
        steps = steps_done(log)
        if steps >= every * (len(readings) + 1):
            try:
                readings.append(read(process.pid, steps))
            except (OSError, KeyError):  # it has just ended
                break
            print(readings[-1], flush=True)
        time.sleep(0.2)
    process.wait()
    return readings


if __name__ == "__main__":
    sys.exit(main())
