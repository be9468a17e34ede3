"""The Triton kernels of what lies between convolutions: what they compute, and that only a trial lets them run."""

import copy
import subprocess
import sys
import weakref
from functools import partial

import pytest
import torch
from torch import nn

from models.networks import fused_layers, kernel_trial
from models.networks.blocks import AffineInstanceNorm, InstanceNorm
from models.networks.chain import run_layers
from models.networks.recompute import recompute_blocks
from models.networks.resampling import BlurUp, ReflectionPad
from models.networks.resnet_generator import ResnetBlock
from tests.helpers import REPO, environment

INTERPRETED = """
import sys

import torch
import torch.nn.functional as F
from torch import nn

from models.networks import chain, fused_layers
from models.networks.blocks import AffineInstanceNorm, InstanceNorm
from models.networks.resampling import BlurDown, BlurUp, ReflectionPad

assert "models.networks.fused_kernels" not in sys.modules, "imported where nothing asked for it"
fused_layers.PIXELS, fused_layers.CHANNELS = 8, 4  # several tiles, and parts of them
norm, relu, leaky = InstanceNorm(), nn.ReLU(), nn.LeakyReLU(0.2)
cases = [
    ((2, 5, 4, 6), [norm, relu, ReflectionPad(1)], False, torch.float32),
    ((1, 3, 2, 3), [norm, relu, ReflectionPad(1)], False, torch.float32),  # each pixel is mirrored twice
    ((2, 6, 7, 5), [norm, ReflectionPad(3)], False, torch.float32),
    ((1, 4, 9, 8), [norm, relu], False, torch.float16),
    ((2, 5, 4, 6), [norm, leaky], False, torch.float32),
    ((2, 5, 4, 6), [norm], True, torch.float32),
    ((1, 4, 3, 8), [norm, relu, BlurDown(4)], False, torch.float32),
    ((2, 3, 5, 6), [ReflectionPad(1)], False, torch.float32),
    ((2, 3, 4, 3), [BlurDown(3)], False, torch.float32),
    ((1, 3, 2, 7), [BlurDown(3)], False, torch.float32),
    ((2, 3, 3, 4), [BlurUp(3)], False, torch.float32),
    ((1, 5, 2, 5), [norm, leaky, BlurUp(5)], False, torch.float32),
]
for shape, part, adds, dtype in cases:
    inputs = [(3 + 2 * torch.randn(shape)).to(dtype) for _ in range(2 if adds else 1)]
    inputs = [x.to(memory_format=torch.channels_last).requires_grad_() for x in inputs]
    y = fused_layers.kernel_form(part, adds)(*inputs)
    slope = torch.randn(y.shape).to(dtype)
    y.backward(slope)

    exact = [x.detach().double().contiguous().requires_grad_() for x in inputs]
    expected = chain.run_layers([layer.double() for layer in part], *exact)
    expected.backward(slope.double())

    close = 1e-5 if dtype == torch.float32 else 2e-3
    found = [y, *(x.grad for x in inputs)]
    for one, wanted in zip(found, [expected, *(x.grad for x in exact)], strict=True):
        assert one.dtype == dtype and one.is_contiguous(memory_format=torch.channels_last), part
        torch.testing.assert_close(one.double(), wanted, rtol=close, atol=close, msg=str(part))

x = torch.full((1, 4, 2, 2), float("nan")).to(memory_format=torch.channels_last)
assert fused_layers.kernel_form([norm, relu, ReflectionPad(1)])(x).isnan().all()
print("equal")
"""

LOOP = """
import torch
import triton
import triton.language as tl


@triton.jit
def count(out, start, end, STEP: tl.constexpr):
    found = 0
    for _ in range(start * STEP, end, STEP):
        found += 1
    tl.store(out, found)


count[(1,)](torch.zeros(1), 1, 9, STEP=2)
"""


def interpreted(tmp_path, script: str) -> subprocess.CompletedProcess:
    """A script by Triton's interpreter, which has to be asked for before Triton is imported."""
    path = tmp_path / "interpreted.py"
    path.write_text(script)
    env = environment({"TRITON_INTERPRET": "1", "PYTHONPATH": str(REPO)})
    return subprocess.run(
        [sys.executable, path], cwd=REPO, env=env, capture_output=True, text=True, timeout=300
    )


@pytest.mark.skipif(not fused_layers.has_triton(), reason="needs Triton")
def test_the_kernels_compute_what_layers_do_both_ways(tmp_path):
    result = interpreted(tmp_path, INTERPRETED)
    if result.returncode and "TypeError" in interpreted(tmp_path, LOOP).stderr:
        pytest.skip("this Triton's interpreter cannot count with this NumPy")
    assert result.stdout == "equal\n", result.stderr


def test_only_layers_that_the_kernels_know_are_theirs():
    norm, relu, border = InstanceNorm(), nn.ReLU(), ReflectionPad(1)
    for part in ([norm], [norm, nn.LeakyReLU(0.2)], [norm, relu, border], [border], [BlurUp(3)]):
        assert fused_layers.kernel_form(part)
    assert fused_layers.kernel_form([norm], adds=True)

    for other in ([], [relu], [nn.BatchNorm2d(3), relu], [norm, relu, norm], [border, relu]):
        assert fused_layers.kernel_form(other) is None
    assert fused_layers.kernel_form([AffineInstanceNorm(3)]) is None
    for part in ([norm, relu], [norm, border], [border]):
        assert fused_layers.kernel_form(part, adds=True) is None
    assert not fused_layers.winning_kernels([norm], torch.rand(1, 3, 4, 4), pytest.fail)  # no GPU


def raising(x):
    raise RuntimeError("no such architecture")


@pytest.mark.parametrize(
    ("kernels", "took", "wins"),
    [
        (torch.relu, (0.9, 1.0), True),
        (torch.relu, (0.99, 1.0), False),
        (lambda x: 1.1 * torch.relu(x), (0.5, 1.0), False),
        (lambda x: torch.relu(x).detach() + 0 * x, (0.5, 1.0), False),
        (raising, (0.5, 1.0), False),
    ],
    ids=["faster", "no faster", "another result", "another gradient", "an error"],
)
def test_kernels_run_only_where_a_trial_shows_that_they_win(monkeypatch, kernels, took, wins):
    times = {id(kernels): took[0], id(nn.functional.relu): took[1]}
    monkeypatch.setattr(kernel_trial, "milliseconds", lambda form, inputs: times[id(form)])
    x = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    assert kernel_trial.compare(kernels, nn.functional.relu, (x,))[0] == wins


def keeping_more(part, adds=False):
    """Stands for layers as kernels: the same values and gradients, but other tensors are kept for the way back."""

    def form(x, residual=None):
        y = run_layers(part, x, residual)
        return torch.relu(y) - torch.relu(-y)

    return form


@pytest.fixture
def kernels_win(monkeypatch):
    """Trials on a CPU, of stand-ins for the kernels, by a clock that lets these win; gives the trials made."""

    def milliseconds(form, inputs):
        kernel_trial.both_ways(form, inputs)
        return 1.0 if isinstance(form, partial) else 0.5  # chains give their layers so

    monkeypatch.setattr(fused_layers, "usable", lambda *_: True)
    monkeypatch.setattr(fused_layers, "kernel_form", keeping_more)
    monkeypatch.setattr(kernel_trial, "milliseconds", milliseconds)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(fused_layers, "trials", {})
    return fused_layers.trials


def test_a_trial_within_a_block_that_is_computed_twice_is_no_part_of_it(monkeypatch, kernels_win):
    """The first step of --grad_checkpoint: what the block keeps, and what it keeps the second time, are the same."""
    block = ResnetBlock(4, "instance", use_dropout=False)
    x = torch.randn(2, 4, 6, 6)

    with monkeypatch.context() as plain:
        plain.setattr(fused_layers, "usable", lambda *_: False)
        expected = both_ways(copy.deepcopy(block), x)
    assert not kernels_win

    assert recompute_blocks(block) == 1
    first, second = both_ways(block, x), both_ways(block, x)
    assert [trial.outcome.wins for trial in kernels_win.values()] == [True, True, True]
    for found in (first, second):
        assert all(map(torch.equal, found, expected))


def test_a_trial_says_what_it_tried_and_why_kernels_did_not_win(monkeypatch, kernels_win):
    part = [InstanceNorm()]
    compiled = torch.compile(run_layers, backend="eager")
    for run, form, why in (
        (run_layers, lambda x: x * 2, "they compute something else"),
        (compiled, lambda x: 1 / 0, "division by zero"),
    ):
        monkeypatch.setattr(fused_layers, "kernel_form", lambda *_, form=form, **__: form)
        x = torch.randn(1, 4, 8, 8)
        assert fused_layers.winning_kernels(part, x, partial(run, part)) is None
        assert [*kernels_win.values()][-1].outcome.why == why
    assert [trial.against for trial in kernels_win.values()] == ["plain", "compiled"]
    assert {trial.dtype for trial in kernels_win.values()} == {"torch.float32"}


def both_ways(block, x):
    """What a block makes of x, and all gradients that there are."""
    block.zero_grad()
    x = x.clone().requires_grad_()
    y = block(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in block.parameters() if p.grad is not None)]


def test_images_of_many_sizes_take_few_trials_and_leave_no_maps_behind(monkeypatch, kernels_win):
    slopes, real = [], kernel_trial.slope_like

    def slope_like(*kind):
        slope = real(*kind)
        slopes.append(weakref.ref(slope))
        return slope

    slope_like.cache_clear = real.cache_clear
    monkeypatch.setattr(kernel_trial, "slope_like", slope_like)
    part = [InstanceNorm()]
    for width in range(8, 64):
        x = torch.randn(1, 4, 8, width)
        assert fused_layers.winning_kernels(part, x, partial(run_layers, part))
    assert [trial.shape[3] for trial in kernels_win.values()] == [8, 16, 32]
    assert slopes and all(slope() is None for slope in slopes)

    for other in (
        torch.randn(2, 4, 8, 8),
        torch.randn(1, 5, 8, 8),
        torch.randn(1, 4, 8, 8).double(),
    ):
        before = len(kernels_win)
        fused_layers.winning_kernels(part, other, partial(run_layers, part))
        assert len(kernels_win) == before + 1, "another kind of map"
