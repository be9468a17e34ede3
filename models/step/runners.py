"""Ways to run a model's step: plain, compiled, recorded. A fast way is relied on only after a trial (trial.py)."""

from collections.abc import Callable
from typing import Any

from models.step.cuda_graph import Batch, CudaRecorder, RecordedStep
from models.step.trial import REROUNDED, difference
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

    Args:
        model: a BaseModel, its networks placed by a runtime that compiles.
        say: prints a line.
    """

    def __init__(self, model: Any, say: Say) -> None:
        super().__init__(model)
        self.say = say
        self.tried = False
        self.failure: str | None = None

    def __call__(self, batch: Batch) -> None:
        if not self.tried:
            self.tried = True
            self.failure = difference(self.model, batch, self._plain, self._compiled, REROUNDED)
            self.model.runtime.run_compiled(self.failure is None)
            if self.failure:
                reason = f"since compiling failed its trial: {self.failure}"
                self.say(f"--compile: networks run as they are, {reason}")

        super().__call__(batch)

    def _plain(self, batch: Batch) -> None:
        self.model.runtime.run_compiled(False)
        super().__call__(batch)

    def _compiled(self, batch: Batch) -> None:
        self.model.runtime.run_compiled(True)
        super().__call__(batch)


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
