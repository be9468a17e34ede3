"""The machine under a benchmark: clocks, what it could do at best, and what else it was doing."""

import contextlib
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from util.errors import UserError
from util.hardware.cores import cpu_count

SMI_FIELDS = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")
SMI_FIELDS += ("utilization.gpu", "driver_version")


@dataclass
class Span:
    """What some work took, in seconds; `device` is measured by the GPU's own clock, None on a CPU."""

    wall: float = 0.0
    process: float = 0.0
    device: float | None = None

    @property
    def best(self) -> float:
        """The clock to report: the device's where there is one."""
        return self.wall if self.device is None else self.device


class Device:
    """A torch device with clocks.

    Raises:
        UserError: a GPU is asked for that torch cannot use.
    """

    def __init__(self, kind: str) -> None:
        if kind == "auto":
            kind = "cuda" if torch.cuda.is_available() else "cpu"
        if kind == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda: torch finds no GPU on this machine; give --device cpu")

        self.torch = torch.device(kind)
        self.on_gpu = kind == "cuda"
        self.gpu_ids = "0" if self.on_gpu else "-1"

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.on_gpu:
            torch.cuda.synchronize()

    @contextlib.contextmanager
    def measure(self) -> Iterator[Span]:
        """Fills the span that it yields when the block ends, after one wait for the device."""
        span = Span()
        self.synchronize()
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if self.on_gpu else []
        wall, process = time.perf_counter(), time.process_time()
        if events:
            events[0].record()

        yield span

        if events:
            events[1].record()
        self.synchronize()
        span.wall, span.process = time.perf_counter() - wall, time.process_time() - process
        if events:
            span.device = events[0].elapsed_time(events[1]) / 1e3

    def rates(self, seconds: float = 0.5) -> dict[str, float]:
        """Matrix product rates in TFLOP/s and copy bandwidth in GB/s (read plus written), on random data."""
        kinds = {"fp32": (torch.float32, False)}
        if self.on_gpu:
            kinds |= {"tf32": (torch.float32, True), "bf16": (torch.bfloat16, False)}

        found = {}
        for name, (dtype, tf32) in kinds.items():
            rate = self._matmul_rate(dtype, tf32, seconds)
            found[f"matmul_{name}_tflops"] = rate / 1e12

        count = 1 << 30 if self.on_gpu else 1 << 25
        source = torch.randn(count, device=self.torch)
        target = torch.empty_like(source)
        best = self._best(partial(target.copy_, source), seconds)
        found["copy_gbytes"] = 2 * 4 * count / best / 1e9
        return found

    def _matmul_rate(self, dtype: torch.dtype, tf32: bool, seconds: float) -> float:
        """FLOP/s of a product of two large square matrices."""
        side = 8192 if self.on_gpu else 1024
        a = torch.randn(side, side, device=self.torch).to(dtype)
        b = torch.randn(side, side, device=self.torch).to(dtype)

        switch = torch.backends.cuda.matmul
        before, switch.allow_tf32 = switch.allow_tf32, tf32
        best = self._best(partial(torch.matmul, a, b), seconds)
        switch.allow_tf32 = before
        return 2 * side**3 / best

    def _best(self, work, seconds: float) -> float:
        """Seconds of the fastest of several short series."""
        for _ in range(3):
            work()
        with self.measure() as once:
            work()
        fitting = int(seconds / 5 / max(once.best, 1e-6))
        times = min(max(3, fitting), 500)

        series = []
        for _ in range(5):
            with self.measure() as span:
                for _ in range(times):
                    work()
            series.append(span.best / times)
        return min(series)

    def state(self) -> dict[str, Any]:
        """Clocks, power and who else is computing, for the record."""
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        found: dict[str, Any] = {"time": time.strftime("%Y-%m-%d %H:%M:%S"), "load_1min": load}

        if self.on_gpu and shutil.which("nvidia-smi"):
            values = _smi(f"--query-gpu={','.join(SMI_FIELDS)}").split(",")
            for field, value in zip(SMI_FIELDS, values, strict=False):
                found[field] = value.strip()
            found["gpu_processes"] = len(_smi("--query-compute-apps=pid").split())
        return found

    def hardware(self) -> dict[str, Any]:
        """What this machine is."""
        facts: dict[str, Any] = {
            "cpu": _cpu_name(),
            "cores": cpu_count(),
            "threads": torch.get_num_threads(),
            "simd": torch.backends.cpu.get_cpu_capability(),
        }

        if self.on_gpu:
            properties = torch.cuda.get_device_properties(0)
            facts["gpu"] = torch.cuda.get_device_name(0)
            facts["gpu_memory_gb"] = round(properties.total_memory / 1e9, 1)
            facts["multiprocessors"] = properties.multi_processor_count
        return facts


def _smi(query: str) -> str:
    command = ["nvidia-smi", query, "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
