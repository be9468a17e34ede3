"""Device choice, random states, and two real processes that must agree."""

import subprocess
import textwrap
from datetime import timedelta

import pytest
import torch

from tests.helpers import REPO, run_together
from util.errors import UserError
from util.hardware import team, watch
from util.hardware.devices import choose_device
from util.hardware.provenance import git_commit
from util.hardware.runtime import Runtime
from util.hardware.team import Team


def test_device_choice_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert choose_device(None) == torch.device("cpu")
    assert choose_device("-1") == torch.device("cpu")
    with pytest.raises(
        UserError, match=r"--gpu_ids 0: this machine has no CUDA GPU .*give -1 for the CPU"
    ):
        choose_device("0")
    with pytest.raises(UserError, match="torchrun --nproc_per_node 2"):
        choose_device("0,1")
    with pytest.raises(UserError, match="expected the number of a GPU"):
        choose_device("gpu")


def test_device_choice_with_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device(None, local_rank=1) == torch.device("cuda", 1)
    assert choose_device("1") == torch.device("cuda", 1)
    assert choose_device("-1") == torch.device("cpu")
    with pytest.raises(UserError, match="has 2 CUDA GPUs"):
        choose_device("2")


@pytest.mark.parametrize("tf32", [True, False])
def test_a_gpu_rounds_factors_of_convolutions_only_where_it_may(monkeypatch, tf32):
    for name in ("allow_tf32", "benchmark"):
        monkeypatch.setattr(torch.backends.cudnn, name, not tf32)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    before = torch.backends.cuda.matmul.allow_tf32
    Runtime("0", amp="off", tf32=tf32, compile="off")
    assert torch.backends.cudnn.allow_tf32 is tf32
    assert torch.backends.cuda.matmul.allow_tf32 == before, "graphs stay in float32"


def test_seeds_and_random_states():
    runtime = Runtime("-1", seed=3)
    first = torch.rand(2)
    state = runtime.rng_state()
    second = torch.rand(2)
    Runtime("-1", seed=3)
    assert torch.equal(torch.rand(2), first)
    runtime.set_rng_state(state)
    assert torch.equal(torch.rand(2), second)


def test_runs_with_neighbouring_seeds_share_no_process(monkeypatch):
    """One process has --seed itself."""
    drawn = []
    for seed in range(3):
        for rank in range(3):
            monkeypatch.setenv("RANK", str(rank))
            Runtime("-1", seed=seed)
            drawn.append(torch.rand(1).item())
        assert drawn[-3] == torch.rand(1, generator=torch.Generator().manual_seed(seed)).item()
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize(("device", "backend"), [("cpu", "gloo"), ("cuda:1", "nccl")])
def test_processes_wait_long_for_each_other(monkeypatch, device, backend):
    """One measures or translates while the others wait; whether it lives is looked after all the time."""
    met = {}

    def init_process_group(backend, **arguments):
        assert looking == [1]
        met.update(arguments, backend=backend)

    looking = []
    watching = type("Watching", (), {"start": lambda self: looking.append(1)})
    store = torch.distributed.HashStore()
    monkeypatch.setattr(team, "rendezvous", lambda *_, **__: iter([(store, 0, 2)]))
    monkeypatch.setattr(team, "Watch", lambda rank, world_size: watching())
    monkeypatch.setattr(team.dist, "init_process_group", init_process_group)
    monkeypatch.setenv("WORLD_SIZE", "2")
    Team().meet(torch.device(device))
    assert met["backend"] == backend and met["timeout"] >= timedelta(days=1)
    assert met["device_id"] == (torch.device(device) if backend == "nccl" else None)


def test_a_process_that_never_comes_is_missed(monkeypatch):
    server = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(server.port))
    monkeypatch.setattr(watch, "MEETING", timedelta(seconds=0.2))
    with pytest.raises(UserError, match="not all 2 processes have come"):
        watch.Watch(0, 2).start()


def test_means_are_read_together():
    assert Runtime("-1").mean({"a": torch.tensor(1.5), "b": torch.tensor(2)}) == {
        "a": 1.5,
        "b": 2.0,
    }
    assert Runtime("-1").mean({}) == {}


def names_the_commit(found: str) -> bool:
    """Whether git takes this for the commit of the checkout; outside one, whether it is "unknown"."""
    git = ["git", "-C", str(REPO), "rev-parse", "--verify", "--quiet"]
    head, named = (
        subprocess.run([*git, f"{name}^{{commit}}"], capture_output=True, text=True).stdout
        for name in ("HEAD", found)
    )
    return named == head if head else found == "unknown"


def test_the_commit_is_recorded():
    assert names_the_commit(git_commit().removesuffix("-dirty"))
    assert set(Runtime("-1").versions()) == {"commit", "python", "torch", "torchvision", "device"}


TWO_PROCESSES = """
import torch
from util.errors import UserError
from util.hardware.runtime import Runtime

runtime = Runtime("-1", seed=1)
rank = runtime.rank
net = torch.nn.Linear(2, 1)
runtime.place(net)
loss = (net(torch.full((1, 2), float(rank + 1))) ** 1).sum()
loss.backward()
runtime.average_gradients(net.parameters())
assert net.weight.grad.tolist() == [[1.5, 1.5]], net.weight.grad
assert runtime.mean({"x": torch.tensor(float(rank))}) == {"x": 0.5}
assert runtime.any(torch.tensor(float(rank))).item() == 1.0
assert runtime.agree(rank, confer=False) == 0
assert runtime.agree(15 * rank, confer=True) == 15
weights = torch.cat([p.detach().flatten() for p in net.parameters()])
total = weights.clone()
torch.distributed.all_reduce(total)
assert torch.allclose(total, 2 * weights)
states = runtime.rng_state()
assert len(states) == 2 and not torch.equal(states[0]["cpu"], states[1]["cpu"])
assert runtime.gather(rank) == ([0, 1] if runtime.is_main else [])

whole = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(1)) + torch.arange(4)[:, None, None, None]
plain, shared = torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3)
runtime.share_statistics(shared)
image = whole.clone().requires_grad_()
part = whole[2 * rank : 2 * rank + 2].clone().requires_grad_()
all_out, own_out = plain(image), shared(part)
(all_out ** 3).mean().backward()
(own_out ** 3).mean().backward()
runtime.average_gradients(shared.parameters())
torch.testing.assert_close(own_out, all_out[2 * rank : 2 * rank + 2])
torch.testing.assert_close(part.grad / 2, image.grad[2 * rank : 2 * rank + 2])
torch.testing.assert_close(shared.weight.grad, plain.weight.grad)
for a, b in zip(shared.state_dict().values(), plain.state_dict().values(), strict=True):
    torch.testing.assert_close(a, b)

def penalized(norm, images):
    images = images.double().requires_grad_()
    hidden = norm.double()(images).sin()
    [slope] = torch.autograd.grad(hidden.square().sum(), images, create_graph=True)
    norm.zero_grad()
    slope.square().mean().backward()
    return slope.detach(), norm

all_slope, plain = penalized(plain, whole)
own_slope, shared = penalized(shared, whole[2 * rank : 2 * rank + 2])
runtime.average_gradients(shared.parameters())
torch.testing.assert_close(own_slope, all_slope[2 * rank : 2 * rank + 2])
torch.testing.assert_close(shared.weight.grad, plain.weight.grad)
torch.testing.assert_close(shared.bias.grad, plain.bias.grad)

said = []
try:
    runtime.as_one(lambda: (_ for _ in ()).throw(UserError("no folder")))
except UserError as error:
    said.append(str(error))
assert said == ["no folder"]

assert runtime.tell(rank) == 0
seen = []
def squares(items):
    seen.extend(items)
    return [item * item for item in items]
assert runtime.spread(squares, range(5)) == [0, 1, 4, 9, 16]
assert seen == [[0, 1], [2, 3, 4]][rank], "each has done its part"
assert runtime.spread(squares, [7]) == [49]

runtime.barrier()
runtime.close()
print(f"rank {rank} agrees", flush=True)
"""


def test_two_processes_agree(tmp_path):
    """Forked here; that torchrun's own launcher starts them is tested with train.py."""
    script = tmp_path / "two.py"
    path = f"import sys\nsys.path.insert(0, {str(REPO)!r})\n"
    script.write_text(path + textwrap.dedent(TWO_PROCESSES))
    ended = run_together([script], 2)
    assert ended.statuses == [0, 0], ended.stderr
    assert "rank 0 agrees" in ended.stdout and "rank 1 agrees" in ended.stdout
