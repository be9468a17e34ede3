"""Stage: the compiled and recorded step, beside the recorded one and the released networks, and its kernels."""

from scripts.benchmarking.step import REFERENCE
from scripts.on_gpu.kernels import profile
from scripts.on_gpu.ladder import Race
from scripts.on_gpu.notes import Notes
from scripts.on_gpu.setup import COMPILED, OVERLAPPED, RECORDED, Setup


def run(setup: Setup, notes: Notes) -> None:
    """The reference is there for its weights and gradients."""
    race = Race(setup, notes)
    for name in (REFERENCE, RECORDED, OVERLAPPED, COMPILED):
        race.enter(name)
    race.enter_released()
    race.time(setup.turns)

    with notes.around("profile"):
        if COMPILED in race.contestants:
            profile(race.contestants[COMPILED].step_alone, COMPILED, notes)
