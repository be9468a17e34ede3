"""Ways to run a model's step: plain, compiled, recorded. A fast way is relied on only after a trial (trial.py)."""

from collections.abc import Callable
from typing import Any

from models.step.cuda_graph import Batch, CudaRecorder, RecordedStep
from models.step.trial import REROUNDED, TRIALS, UNTOLD, difference
from util.errors import UserError, first_line, is_out_of_memory
from util.hardware.runtime import Runtime

Say = Callable[[str], None]
Work = Callable[[Batch], None]  # all that a step does on the device


class PlainStep:
    """The work of a step, run by Python."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, batch: Batch) -> None:
        self.model.set_input(batch)
        self.model.optimize_parameters()


class CompiledStep(PlainStep):
    """The work of a step with compiled networks, unless the first batch shows that they do not compute the same.

    Where that batch moves no weight, as where float16 overflows, a later one shows it, and until then they run as
    they are.

    Args:
        model: a BaseModel, its networks placed by a runtime that compiles.
        say: prints a line.
    """

    def __init__(self, model: Any, say: Say) -> None:
        super().__init__(model)
        self.say = say
        self.trials = 0
        self.tried = False
        self.failure: str | None = None

    def __call__(self, batch: Batch) -> None:
        if not self.tried:
            self._try(batch)

        super().__call__(batch)

    def _try(self, batch: Batch) -> None:
        self.trials += 1
        unlike = difference(self.model, batch, self._plain, self._compiled, REROUNDED)
        self.model.runtime.run_compiled(unlike is None)
        if unlike == UNTOLD and self.trials < TRIALS:
            return

        self.tried, self.failure = True, unlike
        if unlike:
            reason = f"since compiling failed its trial: {unlike}"
            self.say(f"--compile: networks run as they are, {reason}")

    def _plain(self, batch: Batch) -> None:
        self.model.runtime.run_compiled(False)
        super().__call__(batch)

    def _compiled(self, batch: Batch) -> None:
        runtime = self.model.runtime
        runtime.run_compiled(True)
        try:
            super().__call__(batch)
        except UserError:
            raise
        except Exception as error:  # of a compiler; memory has advice of its own
            if runtime.world_size == 1 or is_out_of_memory(error):
                raise
            who = f"process {runtime.rank} of {runtime.world_size}"
            raise UserError(
                f"--compile failed on {who}: {first_line(error)}; give --compile off"
            ) from error


class Step:
    """`step(batch)`: one whole step, its work and what is counted after it."""

    def __init__(self, model: Any, work: Work) -> None:
        self.model, self.work = model, work

    def __call__(self, batch: Batch) -> None:
        self.work(batch)
        self.model.finish_step()


def create_step(model: Any, runtime: Runtime, say: Say) -> Step:
    """The way to run a model's steps that the options ask for; says why where it cannot be had."""
    work: Work = CompiledStep(model, say) if runtime.compiled else PlainStep(model)

    reason = runtime.no_capture or (runtime.capture and model.not_recordable)
    if reason:
        say(f"--cuda_graph: steps are run one by one, since {reason}")
    elif runtime.capture:
        work = RecordedStep(work, CudaRecorder(), say)
    return Step(model, work)
