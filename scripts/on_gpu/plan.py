"""Which stages there are, in which order they run, and which are given up when time is short."""

from collections.abc import Sequence
from typing import NamedTuple

PATIENCE = (
    2.0  # a stage may take this many times what it is planned for, while no other needs the time
)
LEAST = 4.0  # seconds that are worth starting a stage for


class Stage(NamedTuple):
    """One stage, a module of this folder with a function `run(setup, notes)`.

    Attributes:
        name: of the module.
        seconds: what it is planned for.
        title: what it finds out.
        given_up: the higher, the sooner it is given up; 0 never is.
    """

    name: str
    seconds: float
    title: str
    given_up: int = 0


STAGES = (
    Stage("facts", 15, "what the machine is, and what it could do at best"),
    Stage("recipes", 100, "every recipe, recorded against plain steps"),
    Stage("layers", 40, "layers against float64; a CPU's run taken up"),
    Stage("ladder", 100, "the step, lever by lever, beside the released networks"),
    Stage("kernels", 20, "where a recorded step spends its time", 1),
    Stage("compiled", 100, "the compiled and recorded step", 2),
    Stage("batches", 45, "larger batches", 4),
    Stage("translating", 40, "images a second through test.py", 3),
    Stage("levers", 40, "each lever beside its plain form", 5),
    Stage("small", 60, "whether small compiled steps pass their trial", 6),
)
WARM = Stage("warm", 0, "compiles beside the first stages, to fill the compiler's cache")
WARM_BESIDE = ("recipes", "layers")  # all others take times, so nothing may run beside them


def still_fitting(waiting: Sequence[Stage], left: float) -> list[Stage]:
    """The stages that fit into the seconds that are left: the least needed are given up first, then the last ones."""
    kept = list(waiting)
    while kept and sum(stage.seconds for stage in kept) > left:
        droppable = [stage for stage in kept if stage.given_up]
        if not droppable:
            break
        kept.remove(max(droppable, key=lambda stage: stage.given_up))
    return kept


def limit_of(stage: Stage, later: Sequence[Stage], left: float, scale: float = 1.0) -> float:
    """Seconds after which a stage is ended: what it is planned for, and of what no later stage needs as much again.

    The last one has all that is left.
    """
    if not later:
        return left
    needed = sum(other.seconds for other in later if not other.given_up)
    patient = PATIENCE * scale * stage.seconds
    return min(left, max(scale * stage.seconds, min(patient, left - needed)))
