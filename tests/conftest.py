"""Settings shared by all tests: one CPU thread per worker, so that parallel workers do not fight, and fixed seeds."""

import os

import pytest
import torch

from util.hardware import devices

torch.set_num_threads(1)

# Compiled code without vector instructions: to find out which ones this machine has takes more time than to compile.
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "0")


@pytest.fixture(autouse=True)
def fixed_seed():
    """Each test starts from the same random state, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def same_precision_on_every_cpu(monkeypatch):
    """--amp auto is float32, whatever the CPU has; commands in processes of their own name it (tests/helpers.py)."""
    monkeypatch.setattr(devices, "cpu_computes_in_bf16", lambda: False)
