"""Training steps recorded once and replayed: the host then launches one graph instead of thousands of kernels."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from util.runtime import Runtime

WARM_UP = (
    3  # steps of a shape that run as they are, so that libraries choose algorithms and optimisers get their states
)
SHAPES = 4  # batch shapes that are recorded; each keeps its memory for good, so further ones run as they are

Batch = dict[str, Any]


class PlainStep:
    """`step(batch)`: one step of the model, run by Python."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, batch: Batch) -> None:
        self.model.set_input(batch)
        self.model.optimize_parameters()


class CudaRecorder:
    """Runs and records work on a stream of its own: autograd remembers on which stream a weight was first used."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()

    def run(self, work: Callable[[], None]) -> None:
        """Do the work now."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            work()
        torch.cuda.current_stream().wait_stream(self.stream)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record the work without doing it; what is returned does it, on the same memory each time."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            work()
        return graph.replay


class RecordedStep(PlainStep):
    """A step that is recorded after a few warm-up steps, for each shape of batch, and then replayed.

    Every step counts, those of the warm-up too. Random numbers go on as they would; learning rates, losses and
    pictures are read from and written to tensors that stay in place. Where recording fails, training goes on without
    it, after one line with the reason.

    Args:
        model: a BaseModel; its optimisers were made for `runtime.capture`.
        recorder: runs and records.
        say: prints a line.
    """

    def __init__(self, model: Any, recorder: CudaRecorder, say: Callable[[str], None]) -> None:
        super().__init__(model)
        self.recorder, self.say = recorder, say
        self.failed = False
        self.warm: dict[tuple, int] = {}
        self.recordings: dict[tuple, Recording] = {}

    def __call__(self, batch: Batch) -> None:
        shape = tuple((role, tuple(value.shape)) for role, value in batch.items() if isinstance(value, Tensor))
        if shape not in self.recordings and self._ready(shape):
            self._record(shape, batch)
        if shape in self.recordings:
            self.recordings[shape].replay(batch)
        else:
            self.recorder.run(partial(super().__call__, batch))

    def _ready(self, shape: tuple) -> bool:
        self.warm[shape] = self.warm.get(shape, 0) + 1
        return self.warm[shape] > WARM_UP and len(self.recordings) < SHAPES and not self.failed

    def _record(self, shape: tuple, batch: Batch) -> None:
        for optimizer in self.model.optimizers.values():
            optimizer.zero_grad(set_to_none=True)  # gradients of earlier steps lie outside the recording's memory
        inputs = {key: value.clone() if isinstance(value, Tensor) else value for key, value in batch.items()}
        try:
            replay = self.recorder.record(partial(super().__call__, inputs))
        except RuntimeError as error:
            self.failed = True
            self.say(f"--cuda_graph: steps are run one by one, since recording failed: {str(error).splitlines()[0]}")
            return
        self.recordings[shape] = Recording(self.model, inputs, replay)


class Recording:
    """One recorded step: where its batch goes, and where the model finds its losses and pictures afterwards."""

    def __init__(self, model: Any, inputs: Batch, replay: Callable[[], None]) -> None:
        self.model, self.inputs, self.run = model, inputs, replay
        self.losses = dict(model.losses)
        self.pictures = {name: getattr(model, name) for name in model.visual_names}

    def replay(self, batch: Batch) -> None:
        """The same step on another batch of this shape."""
        for key, value in self.inputs.items():
            if isinstance(value, Tensor):
                value.copy_(batch[key], non_blocking=True)
        self.run()
        self.model.losses.update(self.losses)
        for name, picture in self.pictures.items():
            setattr(self.model, name, picture)


def create_step(model: Any, runtime: Runtime, say: Callable[[str], None]) -> PlainStep:
    """The way to run a model's steps that the options ask for; says why where it cannot be had."""
    reason = runtime.no_capture or model.not_recordable
    if runtime.capture and not reason:
        return RecordedStep(model, CudaRecorder(), say)
    if reason:
        say(f"--cuda_graph: steps are run one by one, since {reason}")
    return PlainStep(model)
