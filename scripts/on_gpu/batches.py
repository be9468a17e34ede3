"""Stage: larger batches of the recorded step; compiled ones would each need code of their own."""

import gc

import torch

from scripts.benchmarking.ours import Ours
from scripts.benchmarking.timing import time_in_turns
from scripts.on_gpu.ladder import held, memory
from scripts.on_gpu.notes import Notes
from scripts.on_gpu.setup import RECORDED, Setup

BATCHES = (1, 4, 16)


def run(setup: Setup, notes: Notes) -> None:
    """Each batch alone."""
    best = 0.0
    for batch in BATCHES[:2] if setup.tiny else BATCHES:
        with notes.around(f"batch {batch}"):
            best = max(best, measure(setup, notes, batch))
        gc.collect()
        torch.cuda.empty_cache()
    notes.find(best > 0, f"most pairs a second: {best:.0f}")


def measure(setup: Setup, notes: Notes, batch: int) -> float:
    """Note a row; returns pairs a second."""
    before = held()
    contestant = Ours(RECORDED, setup.settings(), batch)
    used = memory(contestant, before)
    turns = setup.turns
    timing = time_in_turns(
        setup.device, {"": contestant.step_alone}, turns.iterations, turns.rounds, turns.warm_up
    )[""]
    milliseconds = timing.summary()["ms"]
    pairs = 1e3 * batch / milliseconds
    row = {"batch": batch, "ms": milliseconds, "ms a pair": milliseconds / batch}
    notes.row("batches", **row, **{"pairs/s": pairs}, **used)
    return pairs
