"""What runs otherwise on a GPU, as far as a CPU can show it: defaults, memory, streams, plans of cuts, broadcasts."""

import pickle
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import train
from data.cache import PixelCache
from models.inference import translate
from models.step.cuda_graph import CudaRecorder
from options import TestOptions, parse
from tests.test_models import build
from util.errors import UserError
from util.hardware.memory import recorded_memory
from util.hardware.runtime import Runtime
from util.run.progress import Progress

OF_NO_RUN = ["--dataroot", "photos", "--checkpoints_dir", "no-such-folder"]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", 8),
        ("--batch_size 1", 1),
        ("--gpu_ids -1", 1),
        ("--model strotss --dataroot photos", 1),  # a picture of minutes fills a GPU
    ],
)
def test_translating_on_a_gpu_takes_several_images_at_once(monkeypatch, flags, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert parse(TestOptions(), [*OF_NO_RUN, *flags.split()]).batch_size == expected


def test_translating_on_a_cpu_takes_one():
    assert parse(TestOptions(), [*OF_NO_RUN, "--gpu_ids", "-1"]).batch_size == 1


class Greedy:
    """A model that has memory for two images at once."""

    def __init__(self, room: int) -> None:
        self.room, self.seen = room, []
        self.opt = SimpleNamespace()

    def show(self, batch):
        self.seen.append(len(batch["A"]))
        if len(batch["A"]) > self.room:
            raise torch.OutOfMemoryError
        return {"fake_B": batch["A"] + 1}


def test_a_batch_that_does_not_fit_is_halved():
    batch = {
        "A": torch.arange(5.0).view(5, 1, 1, 1),
        "A_size": [(1, 1)] * 5,
        "A_paths": [f"{number}.png" for number in range(5)],
        "index": [3, 1, 4, 0, 2],
    }
    model = Greedy(room=2)
    assert torch.equal(translate.show(model, batch)["fake_B"], batch["A"] + 1)
    assert model.seen == [5, 2, 3, 1, 2]
    with pytest.raises(UserError, match=r"0\.png: 1 x 1 pixels do not fit into the memory"):
        translate.show(Greedy(room=0), batch)


def test_the_memory_of_recorded_steps_counts(monkeypatch):
    """Of each pool what torch does not count as allocated; pool (0, 0) is that of all other tensors."""
    segments = [
        {"segment_pool_id": (0, 0), "total_size": 1000, "allocated_size": 300},
        {"segment_pool_id": (0, 1), "total_size": 700, "allocated_size": 100},
        {"segment_pool_id": (1, 2), "total_size": 50, "allocated_size": 50},
    ]
    assert recorded_memory() == 0, "without a GPU"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: segments)
    assert recorded_memory() == 600

    runtime = Runtime("-1")
    runtime.device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 400)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    assert runtime.memory() == {"memory": pytest.approx(1000 / 1e9)}


def test_images_of_an_epoch_are_gone_when_the_next_one_begins(monkeypatch):
    """Else a cache of another size would need memory beside the one that it replaces."""

    class Batch(dict):
        pass

    class Loader:
        images_per_step, last, began = 1, None, 0

        def epoch(self, epoch, start):
            assert self.last is None or self.last() is None
            self.began += 1
            for _ in range(2):
                batch = Batch()
                self.last = weakref.ref(batch)
                yield batch
                del batch

    loader, progress = Loader(), Progress(1, 3, steps_per_epoch=2, images_per_step=1)
    model = SimpleNamespace(end_epoch=lambda: None)
    stop = SimpleNamespace(due=lambda: None, final=lambda: "end", fetch=lambda batches: batches)
    run = SimpleNamespace(model=model, progress=progress)
    assert train.run_epochs(loader, lambda batch: None, run, [], stop) == "end"
    assert loader.began == 3


def test_plans_of_many_cuts_reach_the_device_at_once(tmp_path, monkeypatch):
    real, sent = PixelCache.plan, []

    def plan(self, views):
        sent.append(len(views))
        return real(self, views)

    monkeypatch.setattr(PixelCache, "plan", plan)
    _, _, cached, _ = build(tmp_path, "patchgcl", None, "--cache", "device")
    _, _, decoded, _ = build(tmp_path, "patchgcl", None)
    batches = [list(loader.epoch(1)) for loader in (cached, decoded)]
    assert sent == [8]  # four batches of an A and a B
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one["A"], other["A"]) and torch.equal(one["B"], other["B"])


def test_what_processes_share_at_the_start_is_contiguous(monkeypatch):
    """NCCL sends nothing else; a weight in channels last is not, and gets its values all the same."""

    def broadcast(tensor, src):
        assert tensor.is_contiguous()
        tensor.fill_(3)

    monkeypatch.setattr(torch.distributed, "broadcast", broadcast)
    runtime = Runtime("-1", channels_last="on")
    runtime.world_size = 2
    net = runtime.place(nn.Conv2d(4, 4, 3))
    assert not net.weight.is_contiguous() and (net.weight == 3).all() and (net.bias == 3).all()


class OnAnotherGPU(torch.Tensor):
    """Stands for a tensor on a GPU of another process."""

    def cpu(self):
        return self.as_subclass(torch.Tensor)

    def __reduce_ex__(self, protocol):
        raise AssertionError("the main process would put this on a GPU that is not its own")


def test_what_processes_remember_reaches_the_main_one_on_the_host(tmp_path, monkeypatch):
    _, runtime, _, model = build(tmp_path, "cycle_gan", None, "--pool_size", "2")
    pool = model.memories["pool_B"]
    pool(torch.full((1, 3, 32, 32), 0.5))
    for name in ("images", "filled"):
        setattr(pool, name, getattr(pool, name).as_subclass(OnAnotherGPU))

    other = nn.Linear(2, 1).requires_grad_(False)
    other.register_buffer("seen", torch.ones(3).as_subclass(OnAnotherGPU))
    model.memories["other"] = other

    monkeypatch.setattr(runtime, "gather", lambda own: [pickle.loads(pickle.dumps(own))])
    [memories] = model.state_dict()["memories"]
    assert memories["pool_B"]["_extra_state"]["filled"] == 1
    assert torch.equal(memories["other"]["seen"], torch.ones(3))
    model.load_state_dict(model.state_dict())


@needs_gpu
def test_a_recording_that_fails_leaves_the_stream_as_it_was():
    before, x = torch.cuda.current_stream(), torch.ones(4, device="cuda")
    with pytest.raises(RuntimeError):
        CudaRecorder().record(lambda: x.sum().item())
    assert torch.cuda.current_stream() == before
    torch.cuda.synchronize()
