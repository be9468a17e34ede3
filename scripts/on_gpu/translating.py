"""Stage: images a second: G alone, launched and recorded, and test.py from files to files."""

import time
from pathlib import Path

import torch

from models.inference.translate import translate
from options import TestOptions, parse
from scripts.benchmarking.captured import Captured
from scripts.benchmarking.sweep import translation
from scripts.benchmarking.timing import time_in_turns
from scripts.checking.pictures import draw_pictures
from scripts.on_gpu.notes import Notes
from scripts.on_gpu.setup import RECORDED, Setup
from util.pages import gallery

BATCHES = (1, 8, 32)
WRITERS = (4, 16)


def run(setup: Setup, notes: Notes) -> None:
    """G, then the command."""
    for batch in BATCHES[:2] if setup.tiny else BATCHES:
        with notes.around(f"G at batch {batch}"):
            time_generator(setup, notes, batch)
    with notes.around("test.py"):
        time_command(setup, notes)


def time_generator(setup: Setup, notes: Notes, batch: int) -> None:
    """One after the other by Python, and as one launch."""
    work = translation(setup.settings(), RECORDED, batch)
    recorded = Captured(setup.device, work)
    if not recorded.recorded:
        notes.find(False, f"G at batch {batch} is not recorded: {recorded.reason}")
    ways = {"launched": work, "recorded": recorded.run}
    turns = setup.turns
    timings = time_in_turns(setup.device, ways, turns.iterations, turns.rounds, turns.warm_up)
    for name, timing in timings.items():
        milliseconds = timing.summary()["ms"]
        row = {"batch": batch, "G": name, "ms": milliseconds}
        notes.row("G alone", **row, **{"images/s": 1e3 * batch / milliseconds})


def time_command(setup: Setup, notes: Notes) -> None:
    """test.py on pictures of one size, with fewer and more threads that write."""
    count, size = (8, 64) if setup.tiny else (200, 256)
    folder = draw_pictures(setup.folder / "pictures", count, (size, size))
    run_folder = untrained(setup, folder)

    for writers in WRITERS:
        gallery.WRITERS = writers
        flags = ["--name", "untrained", "--checkpoints_dir", str(run_folder.parent)]
        flags += ["--dataroot", str(folder), "--results_dir", str(setup.folder / f"of_{writers}")]
        opt = parse(TestOptions(), [*flags, "--preprocess", "none", "--num_threads", "8"])
        began = time.perf_counter()
        translate(opt)
        seconds = time.perf_counter() - began
        row = {"writers": writers, "batch": opt.batch_size, "images": count}
        notes.row("test.py", **row, s=seconds, **{"images/s": count / seconds})
        notes.find(
            True, f"test.py, {writers} writers: {count / seconds:.0f} images/s, start included"
        )


def untrained(setup: Setup, data: Path) -> Path:
    """A run that has weights and a record, and was never trained."""
    from scripts.on_gpu.recorded import build

    folder = setup.folder / "checkpoints" / "untrained"
    flags = ["--dataroot", str(data), "--model", "cut", "--display_id", "0", "--compile", "off"]
    flags += ["--name", folder.name, "--checkpoints_dir", str(folder.parent)]
    if setup.tiny:
        flags += [
            "--netG",
            "resnet_4blocks",
            "--ngf",
            "4",
            "--load_size",
            "64",
            "--crop_size",
            "64",
        ]
    opt, runtime, _, model = build(*flags)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {key: value.cpu() for key, value in model.networks["G"].state_dict().items()}
    torch.save(weights, folder / "latest_net_G.pth")

    from util.run.folder import save_record

    save_record(opt, runtime.versions())
    return folder
