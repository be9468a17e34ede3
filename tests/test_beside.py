"""Parts of a step that a GPU does at the same time: that neither reads what the other is writing."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from models.step.cuda_graph import RecordedStep
from models.step.runners import PlainStep
from tests.recorder import CpuRecorder
from tests.test_models import build
from util.hardware.beside import Beside
from util.hardware.runtime import Runtime

USERS = [
    ("patchgcl", "official", ""),
    ("patchgcl", None, "--graph_features generator --accumulate 2"),
]
USERS += [("sinpatchgcl", None, "")]


class Watched(Beside):
    """Does all work where it stands, and notes what each queue has written that the other must not read yet."""

    def __init__(self) -> None:
        super().__init__(on=False)
        self.inside = False
        self.unordered: dict[bool, set[int]] = {True: set(), False: set()}  # by inside: memory

    def mark(self):
        self.unordered[False].clear()

    def forget_mark(self):
        self._mark = None

    @contextmanager
    def in_parallel(self):
        if self._mark is None:
            self.unordered[False].clear()
        self.inside = self.used = True
        yield
        self.inside = False

    def join(self):
        self.unordered[True].clear()
        self.used = False


class Races(TorchDispatchMode):
    """Finds operators that read what the other queue may still be writing; backward passes are autograd's to order."""

    def __init__(self, beside: Watched) -> None:
        super().__init__()
        self.beside, self.found, self.operators = beside, [], 0
        self.kept = []  # so that no memory is handed out twice

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        read, made = tensors((args, kwargs)), tensors(result)
        self.kept += made
        if not self.in_backward():
            self.note(function, read, made)
        return result

    @staticmethod
    def in_backward() -> bool:
        return torch._C._current_graph_task_id() != -1

    def note(self, function, read, made) -> None:
        self.operators += self.beside.inside
        other = self.beside.unordered[not self.beside.inside]
        if any(memory(x) in other for x in read):
            self.found.append(f"{function} {'inside' if self.beside.inside else 'outside'}")

        schema = zip(function._schema.arguments, read, strict=False)
        changed = [
            x for argument, x in schema if argument.alias_info and argument.alias_info.is_write
        ]
        new = [x for x in made if memory(x) not in {memory(y) for y in read}]
        self.beside.unordered[self.beside.inside] |= {memory(x) for x in (*new, *changed)}


def tensors(tree) -> list[torch.Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, torch.Tensor)]


def memory(x: torch.Tensor) -> int:
    return x.untyped_storage().data_ptr()


def races_of(tmp_path, model, preset, flags, beside) -> Races:
    """Those of two steps."""
    _, _, loader, model = build(tmp_path, model, preset, *flags.split())
    model.beside = beside
    races = Races(beside)
    for batch in list(loader.epoch(1))[:2]:
        with races:
            model.set_input(batch)
            model.optimize_parameters()
        model.finish_step()
    assert races.operators > 100, "nothing ran in parallel"
    return races


@pytest.mark.parametrize(("model", "preset", "flags"), USERS, ids=lambda value: value or "default")
def test_what_runs_in_parallel_reads_nothing_that_is_being_written(tmp_path, model, preset, flags):
    assert not races_of(tmp_path, model, preset, flags, Watched()).found


def test_a_race_would_be_found(tmp_path):
    """Features of an image that `forward` puts together, if they did not wait for it."""

    class Careless(Watched):
        def forget_mark(self):
            self.mark()
            self._mark = "set"

    found = races_of(tmp_path, "patchgcl", "official", "", Careless()).found
    assert found and all(race.endswith("inside") for race in found)

    class Hasty(Watched):
        def join(self):
            pass

    found = races_of(tmp_path, "patchgcl", "official", "", Hasty()).found
    assert found and all(race.endswith("outside") for race in found)


def test_where_a_recorded_step_fails_it_is_tried_in_one_piece(tmp_path):
    """Only when that fails too are steps run one by one."""
    _, _, loader, model = build(tmp_path, "patchgcl", None)
    model.beside._stream, model.beside.on, said = SimpleNamespace(), True, []

    @contextmanager
    def in_parallel():
        yield

    model.beside.in_parallel, model.beside.mark = in_parallel, lambda: None
    recorder = CpuRecorder(model.changing_tensors)
    record, attempts = recorder.record, []

    def failing(work):
        attempts.append(model.beside.on)
        if model.beside.on:
            raise RuntimeError("operation not permitted")
        return record(work)

    recorder.record = failing
    step = RecordedStep(PlainStep(model), recorder, said.append)
    for epoch in (1, 2):
        for batch in loader.epoch(epoch):
            step(batch)
            model.finish_step()
    assert attempts == [True, False] and step.recordings and step.failure is None
    assert said == [
        "--cuda_graph: no parts of a step run at the same time, since recording failed: operation not permitted"
    ]


def test_without_a_gpu_there_is_no_second_queue():
    assert not Runtime("-1", overlap=True).overlap
