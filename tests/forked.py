"""Runs commands in processes forked from this one, which has imported all they need: see `helpers.run_forked`."""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

import train
from models.inference.translate import translate
from options import TestOptions, parse
from scripts import kill_runs


def work_of(args: list[str]) -> Callable[[], int | None]:
    """What `python ARGS` does."""

    def work() -> int | None:
        sys.argv = args
        if args[0] == "train.py":
            return train.main()
        translate(parse(TestOptions()))
        return 0

    return work


def main() -> None:
    """Read the commands from the command line; print how each ended, and what it said, as JSON."""
    torch.set_num_threads(1)
    found = []
    for args, processes in json.loads(sys.argv[1]):
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log"
            statuses = kill_runs.wait_for(kill_runs.start(work_of(args), processes, log))
            found.append((statuses, log.read_text()))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
