"""Compiled code that outlasts a machine: written beside the results, and taken from what was carried."""

import time

import torch

from scripts.on_gpu.notes import Notes
from scripts.on_gpu.setup import Setup

CACHE = "compiled.cache"  # for one version of torch and one kind of GPU; others compile anew


def keep_compiled(setup: Setup, notes: Notes) -> None:
    """Write what this process has compiled; compiling from nothing takes minutes."""
    with notes.around("compiled code to keep"):
        artifacts = torch.compiler.save_cache_artifacts()
        if artifacts is None:
            notes.find(True, "nothing was compiled that could be kept")
            return
        data, _ = artifacts
        path = setup.out / CACHE
        path.write_bytes(data)
        notes.find(True, f"compiled code is kept in {CACHE}, {len(data) / 2**20:.1f} MiB")


def take_compiled(setup: Setup, notes: Notes) -> None:
    """Put compiled code of an earlier run where the compiler finds it."""
    path = setup.carried / CACHE if setup.carried else None
    if path is None or not path.is_file():
        return
    with notes.around("compiled code that was carried"):
        began = time.perf_counter()
        torch.compiler.load_cache_artifacts(path.read_bytes())
        seconds = time.perf_counter() - began
        notes.find(True, f"compiled code was carried here, and read in {seconds:.1f} s")
