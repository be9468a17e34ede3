"""Beside the first stages: compiles the full-size step once, so that later ones find the code in inductor's cache."""

import time

from scripts.benchmarking.ours import Ours
from scripts.on_gpu.cache import take_compiled
from scripts.on_gpu.notes import Notes
from scripts.on_gpu.setup import Setup

VARIANT = "bf16+nhwc+compile"


def run(setup: Setup, notes: Notes) -> None:
    """Two compiled steps."""
    take_compiled(setup, notes)
    began = time.perf_counter()
    contestant = Ours(VARIANT, setup.settings())
    contestant.step()
    seconds = time.perf_counter() - began
    notes.figure("seconds", seconds)
    notes.find(True, f"compiled beside the first stages in {seconds:.0f} s")
