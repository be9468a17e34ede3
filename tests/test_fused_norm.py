"""The Triton kernels of norm, ReLU and border: what they compute, and that only a trial lets them run."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from models.networks import fused_norm
from models.networks.blocks import InstanceNorm
from models.networks.resampling import ReflectionPad
from tests.helpers import REPO, environment

INTERPRETED = """
import sys

import torch
import torch.nn.functional as F

from models.networks import chain, fused_norm

assert "models.networks.norm_kernels" not in sys.modules, "imported where nothing asked for it"
fused_norm.PIXELS, fused_norm.CHANNELS = 8, 4  # several tiles, and parts of them
cases = [
    ((2, 5, 4, 6), 1, True, torch.float32),
    ((1, 3, 2, 3), 1, True, torch.float32),  # each pixel is mirrored twice
    ((2, 6, 7, 5), 3, False, torch.float32),
    ((1, 4, 9, 8), 0, True, torch.float16),
]
for shape, width, relu, dtype in cases:
    x = (3 + 2 * torch.randn(shape)).to(dtype).to(memory_format=torch.channels_last)
    x.requires_grad_()
    y = fused_norm.NormReluBorder.apply(x, 1e-5, relu, width)
    slope = torch.randn(y.shape).to(dtype)
    y.backward(slope)

    exact = x.detach().double().requires_grad_()
    expected = F.instance_norm(exact, eps=1e-5)
    expected = expected.relu() if relu else expected
    expected = F.pad(expected, (width,) * 4, mode="reflect") if width else expected
    expected.backward(slope.double())

    close = 1e-5 if dtype == torch.float32 else 2e-3
    for found, wanted in ((y, expected), (x.grad, exact.grad)):
        assert found.dtype == dtype and found.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(found.double(), wanted, rtol=close, atol=close)

x = torch.full((1, 4, 2, 2), float("nan")).to(memory_format=torch.channels_last)
assert fused_norm.NormReluBorder.apply(x, 1e-5, True, 1).isnan().all()
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


@pytest.mark.skipif(not fused_norm.has_triton(), reason="needs Triton")
def test_the_kernels_compute_norm_relu_and_border_both_ways(tmp_path):
    result = interpreted(tmp_path, INTERPRETED)
    if result.returncode and "TypeError" in interpreted(tmp_path, LOOP).stderr:
        pytest.skip("this Triton's interpreter cannot count with this NumPy")
    assert result.stdout == "equal\n", result.stderr


def test_only_layers_that_the_kernels_know_are_theirs():
    norm, relu = InstanceNorm(), nn.ReLU()
    assert fused_norm.border_of([norm, relu]) == 0
    assert fused_norm.border_of([norm, relu, ReflectionPad(3)]) == 3
    for other in ([norm], [norm, nn.LeakyReLU(0.2)], [nn.BatchNorm2d(3), relu], [norm, relu, norm]):
        assert fused_norm.border_of(other) is None
    assert not fused_norm.runs_kernels([norm, relu], torch.rand(1, 3, 4, 4), pytest.fail)  # no GPU


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
    monkeypatch.setattr(fused_norm, "seconds", lambda form, x: times[id(form)])
    x = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    assert fused_norm.kernels_win(kernels, nn.functional.relu, x) == wins
