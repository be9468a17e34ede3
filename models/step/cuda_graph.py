"""Training steps recorded once and replayed: the host then launches one graph instead of thousands of kernels."""

import gc
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from data.deferred import Deferred, held_by, kind_of
from models.step.trial import NO_ROOM, REORDERED, TRIALS, UNTOLD, difference
from util.errors import first_line, is_out_of_memory

WARM_UP = 3  # steps of a kind of batch that run as they are: libraries choose algorithms, optimisers get their states
SHAPES = 4  # kinds of batches that are recorded for each turn; each keeps its memory, so further ones run as they are

Batch = dict[str, Any]


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
        graph, random = torch.cuda.CUDAGraph(), torch.cuda.get_rng_state()
        stream = torch.cuda.current_stream()

        try:
            # other threads, such as the one that pins pictures, may go on asking the driver for memory
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                work()
        except Exception:
            torch.cuda.set_stream(stream)  # a recording that fails leaves its own behind
            renew_generator(random)
            raise

        return graph.replay


def renew_generator(random: torch.Tensor) -> None:
    """Give the GPU's random numbers a new state: a recording that failed may have left the old one waiting for more."""
    index = torch.cuda.current_device()
    fresh = torch.Generator(torch.device("cuda", index))
    fresh.set_state(random)
    torch.cuda.default_generators[index].graphsafe_set_state(fresh.graphsafe_get_state())


class RecordedStep:
    """A step that is recorded after a few warm-up steps, for each kind of batch, and then replayed.

    The first replay is a trial, on another batch than the recorded one.

    Every step counts, those of the warm-up too. Random numbers go on as they would; learning rates, losses and
    pictures are read from and written to tensors that stay in place. Where recording fails, or a replay is not the
    step that Python would have run, training goes on without it, after one line with the reason. So it does where steps
    run by Python do not fit into memory beside what recordings keep.

    Args:
        step: runs a step of its `model`, a BaseModel whose optimisers were made for `runtime.capture`.
        recorder: runs and records.
        say: prints a line.
    """

    def __init__(self, step: Any, recorder: CudaRecorder, say: Callable[[str], None]) -> None:
        self.step, self.model = step, step.model
        self.recorder, self.say = recorder, say
        self.failure: str | None = None
        self.warm: dict[tuple, int] = {}
        self.recordings: dict[tuple, Recording] = {}

    def __call__(self, batch: Batch) -> None:
        self._drop_dead()
        kinds = [(role, kind_of(entry)) for role, entry in batch.items()]
        kind = (self.model.turn, *kinds)

        if kind in self.recordings and not self.recordings[kind].tried:
            self._try(kind, batch)
        if kind in self.recordings and self.recordings[kind].tried:
            self.recordings[kind].replay(batch)
            return

        self._run_beside_recordings(batch)
        self.warm[kind] = self.warm.get(kind, 0) + 1
        room = len(self.recordings) < SHAPES * self.model.CYCLE and kind not in self.recordings
        if self.warm[kind] >= WARM_UP and room and not self.failure:
            self._record(kind, batch)

    def _drop_dead(self) -> None:
        for kind, recording in list(self.recordings.items()):
            if not recording.reads_what_lives:
                del self.recordings[kind]

    def _run(self, batch: Batch) -> None:
        self.recorder.run(partial(self.step, batch))

    def _run_beside_recordings(self, batch: Batch) -> None:
        """A plain step; where it does not fit beside what recordings keep, they are let go and it is done anew."""
        restore = None
        try:
            if self.recordings:
                restore = self.model.remember()
            self._run(batch)
            return
        except (RuntimeError, MemoryError) as error:
            if not (self.recordings and is_out_of_memory(error)):
                raise

        # The error, and what it kept alive, is gone by now.
        if restore:
            restore()
            del restore
        self._let_go(*self.recordings)
        self._give_up("other steps do not fit into memory beside what a recorded one keeps")
        self._run(batch)

    def _let_go(self, *kinds: tuple) -> None:
        """Delete recordings, and give their memory back."""
        for kind in kinds:
            del self.recordings[kind]
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _record(self, kind: tuple, batch: Batch) -> None:
        before = Shown(self.model)

        # Gradients of earlier steps lie outside the recording's memory.
        for optimizer in self.model.optimizers.values():
            optimizer.zero_grad(set_to_none=True)

        inputs = {}
        for key, entry in batch.items():
            inputs[key] = entry if held_by(entry) is None else entry.clone()

        try:
            replay = self.recorder.record(partial(self.step, inputs))
        except Exception as error:  # of a driver or a compiler: a plain step may still do
            reason = NO_ROOM if is_out_of_memory(error) else first_line(error)
            self._give_up(f"recording failed: {reason}")
        else:
            shown = Shown(self.model).since(before)
            self.recordings[kind] = Recording(self.model, inputs, replay, shown)

        before.restore()  # what was recorded has not been done

    def _try(self, kind: tuple, batch: Batch) -> None:
        recording = self.recordings[kind]
        recording.trials += 1

        unlike = difference(self.model, batch, self._run, recording.replay, REORDERED)
        if unlike == UNTOLD and recording.trials < TRIALS:
            return

        recording.tried = True
        if unlike:
            del recording
            self._let_go(kind)
            self._give_up(f"a recorded step failed its trial: {unlike}")

    def _give_up(self, reason: str) -> None:
        if self.model.beside.stop():  # a step in one piece may still do
            self.say(f"--cuda_graph: no parts of a step run at the same time, since {reason}")
            return

        self.failure = reason
        self.say(f"--cuda_graph: steps are run one by one, since {reason}")


class Recording:
    """One recorded step: where its batch goes, and where the model finds its losses and pictures afterwards."""

    def __init__(
        self, model: Any, inputs: Batch, replay: Callable[[], None], shown: "Shown"
    ) -> None:
        self.model, self.run, self.shown = model, replay, shown
        self.tried, self.trials = False, 0

        self.places, self._sources = {}, []
        for key, entry in inputs.items():
            if held_by(entry) is not None:
                self.places[key] = held_by(entry)
            if isinstance(entry, Deferred):
                self._sources.append(weakref.ref(entry.source))

    @property
    def reads_what_lives(self) -> bool:
        """False once images that it cuts from are gone, such as those of an epoch with another --load_size."""
        return all(source() is not None for source in self._sources)

    def replay(self, batch: Batch) -> None:
        """The same step on another batch of this kind."""
        for key, place in self.places.items():
            place.copy_(held_by(batch[key]), non_blocking=True)

        self.run()
        self.shown.restore()


class Shown:
    """The losses and pictures that a model reports as its last step's."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.losses = dict(model.losses)
        made = [name for name in model.visual_names if hasattr(model, name)]
        self.pictures = {name: getattr(model, name) for name in made}

    def since(self, before: "Shown") -> "Shown":
        """Only what is new: a step of a cycle does not compute the losses of the others."""
        self.losses = changed(before.losses, self.losses)
        self.pictures = changed(before.pictures, self.pictures)
        return self

    def restore(self) -> None:
        """Let the model report these."""
        self.model.losses.update(self.losses)
        for name, picture in self.pictures.items():
            setattr(self.model, name, picture)


def changed(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """The entries that are another object than before, or were not there."""
    return {name: value for name, value in after.items() if before.get(name) is not value}
