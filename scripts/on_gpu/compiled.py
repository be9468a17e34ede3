"""Stage: the compiled and recorded step, beside the recorded one and the released networks, and its kernels."""

from scripts.benchmarking.step import REFERENCE
from scripts.on_gpu.cache import keep_compiled, take_compiled
from scripts.on_gpu.kernels import profile
from scripts.on_gpu.ladder import Race
from scripts.on_gpu.notes import Notes
from scripts.on_gpu.setup import COMPILED, OVERLAPPED, RECORDED, Setup


def run(setup: Setup, notes: Notes) -> None:
    """First what is most wanted, timed before anything else can go wrong; the reference is there for its weights."""
    take_compiled(setup, notes)
    race = Race(setup, notes)
    for name in (REFERENCE, RECORDED, COMPILED):
        race.enter(name)
    race.time(setup.turns)

    with notes.around("profile"):
        if COMPILED in race.contestants:
            profile(race.contestants[COMPILED].step_alone, COMPILED, notes)
    keep_compiled(setup, notes)

    race.enter_released()
    race.enter(OVERLAPPED)
    race.time(setup.turns, table="step, with others")
