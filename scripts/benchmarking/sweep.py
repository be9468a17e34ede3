"""Measurements of one contestant at a time: memory and larger batches in processes of their own, files, translation."""

import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data import create_loader
from data.loader import Loader
from scripts.benchmarking.contest import Contestant, Settings
from scripts.benchmarking.counting import LiveMemory
from scripts.benchmarking.official import Released
from scripts.benchmarking.ours import LADDER, Ours, create_translator
from scripts.benchmarking.release import Release
from scripts.benchmarking.step import REFERENCE, RELEASED, Turns
from scripts.benchmarking.timing import time_in_turns
from util.hardware.memory import recorded_memory

SCRIPT = Path(__file__).resolve().parent.parent / "benchmark.py"


def measure_alone(
    name: str, settings: Settings, release: Release | None, batch: int, turns: Turns
) -> dict[str, float]:
    """Time and memory of a step in this process, which should be a fresh one.

    On a GPU: the peak of allocated memory in steady training together with what recorded steps keep for themselves,
    that alone, and what torch keeps reserved. On a CPU: the peak of all living tensors, weights included.
    """
    device = settings.device

    def build() -> Contestant:
        if name in RELEASED:
            return Released(name, release, Ours(REFERENCE, settings, batch), **RELEASED[name])
        return Ours(name, settings, batch)

    if not device.on_gpu:
        with LiveMemory() as memory:
            contestant = build()
            contestant.step()
            gc.collect()
            memory.peak = memory.now  # what was there while it was built does not count
            contestant.step()
        found = {"allocated_gb": memory.peak / 1e9}
    else:
        contestant = build()

    contestant.enter()
    timings = time_in_turns(device, {name: contestant.step}, turns.iterations, 1, turns.warm_up)
    seconds = timings[name].best[0]

    if device.on_gpu:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        with device.measure():
            for _ in range(3):
                contestant.step()
        found = gpu_memory()

    return {
        **found,
        "ms": 1e3 * seconds,
        "ms_per_pair": 1e3 * seconds / batch,
        "pairs_per_s": batch / seconds,
    }


def gpu_memory() -> dict[str, float]:
    """The peak since it was last forgotten, in GB, recorded steps included; what they keep; what torch has reserved."""
    kept = recorded_memory()
    return {
        "allocated_gb": (torch.cuda.max_memory_allocated() + kept) / 1e9,
        "recorded_gb": kept / 1e9,
        "reserved_gb": torch.cuda.max_memory_reserved() / 1e9,
    }


def in_fresh_process(flags: Sequence[str], name: str, batch: int, timeout: float) -> dict[str, Any]:
    """`measure_alone` in a process of its own; where that fails, its last line as `failed`."""
    command = [sys.executable, str(SCRIPT), *flags, "--alone", name, "--batch", str(batch)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {timeout:.0f} s"}

    if result.returncode:
        lines = (result.stderr.strip() or "no message").splitlines()
        return {"failed": lines[-1][:200]}
    return json.loads(result.stdout.strip().splitlines()[-1])


def time_files(
    contestant: Contestant, epochs: Iterator[Any], images: int, turns: Turns, device: Any
) -> dict:
    """Steps fed by a loader: milliseconds a step, those of them that the host waited for data, images a second."""
    contestant.enter()
    for _ in range(turns.warm_up):
        contestant.run_on(next(epochs))

    waited, steps = 0.0, turns.iterations * turns.rounds
    with device.measure() as span:
        for _ in range(steps):
            began = time.perf_counter()
            batch = next(epochs)
            waited += time.perf_counter() - began
            contestant.run_on(batch)

    return {
        "ms": 1e3 * span.wall / steps,
        "data_ms": 1e3 * waited / steps,
        "pairs_per_s": images * steps / span.wall,
    }


def endless(loader: Loader) -> Iterator[dict[str, Any]]:
    """Batches of one epoch after the other."""
    for epoch in count(1):
        yield from loader.epoch(epoch)


def measure_files(
    settings: Settings,
    variant: str,
    folder: Path,
    threads: Sequence[int],
    release: Release | None,
    turns: Turns,
) -> list[dict[str, Any]]:
    """Training from image files with each way of loading, ours and the released one."""
    ways = [("none", workers) for workers in threads]
    ways += [("ram", 0), ("device", 0)]

    rows = []
    for cache, workers in ways:
        flags = f"{LADDER[variant]} --cache {cache} --num_threads {workers}"
        ours = Ours(variant, settings, flags=flags, data=str(folder))
        loader = create_loader(ours.opt, ours.runtime)
        epochs = endless(loader)
        row = {"step": variant, "cache": cache, "num_threads": workers}
        rows.append(row | time_files(ours, epochs, 1, turns, settings.device))
        del ours, loader, epochs

    if release is not None:
        contestant = Released("released (A)", release, Ours(REFERENCE, settings))
        for workers in threads:
            epochs = release.batches(str(folder), workers)
            row = {"step": contestant.name, "cache": "its own", "num_threads": workers}
            rows.append(row | time_files(contestant, epochs, 1, turns, settings.device))
    return rows


def translation(settings: Settings, variant: str, batch: int) -> Callable[[], dict[str, Tensor]]:
    """A batch of pictures through what test.py translates with, in its precision."""
    model, images = create_translator(settings, variant, batch)

    def translate() -> dict[str, Tensor]:
        with torch.inference_mode(), model.runtime.autocast():
            return model.show({"A": images})

    return translate


def measure_translation(
    settings: Settings, variant: str, batches: Sequence[int], turns: Turns
) -> list[dict[str, Any]]:
    """Images a second through what test.py translates with, without reading and writing files."""
    rows = []
    for batch in batches:
        translate = translation(settings, variant, batch)
        timings = time_in_turns(
            settings.device, {"": translate}, turns.iterations, turns.rounds, turns.warm_up
        )
        row = {"batch": batch, **timings[""].summary()}
        rows.append(row | {"images_per_s": 1e3 * batch / row["ms"]})
    return rows
