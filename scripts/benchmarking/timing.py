"""Timing in turns: every contestant runs a few steps, then the next, round after round, so that drift meets all."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from scripts.benchmarking.device import Device, Span
from scripts.benchmarking.survival import Failures

SETUP_STEPS = 5  # those in which libraries choose, code is compiled and a step is recorded


@dataclass
class Timing:
    """Seconds per iteration, one value a round."""

    wall: list[float] = field(default_factory=list)
    process: list[float] = field(default_factory=list)
    device: list[float] = field(default_factory=list)
    setup: float = 0.0

    def add(self, span: Span, iterations: int) -> None:
        """Note one round."""
        self.wall.append(span.wall / iterations)
        self.process.append(span.process / iterations)
        if span.device is not None:
            self.device.append(span.device / iterations)

    @property
    def best(self) -> list[float]:
        """By the clock to report: the device's where there is one."""
        return self.device or self.wall

    def summary(self) -> dict[str, float | list[float] | None]:
        """Milliseconds per iteration: median, least and interquartile range; the rounds themselves beside them."""
        low, _, high = quartiles(self.best)
        return {
            "ms": 1e3 * statistics.median(self.best),
            "ms_min": 1e3 * min(self.best),
            "ms_iqr": 1e3 * (high - low),
            "wall_ms": 1e3 * statistics.median(self.wall),
            "process_ms": 1e3 * statistics.median(self.process),
            "process_ms_min": 1e3 * min(self.process),
            "setup_s": self.setup,
            "rounds_ms": [1e3 * seconds for seconds in self.best],
        }


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Quartiles, of a single value that value."""
    if len(values) == 1:
        return (values[0],) * 3
    return tuple(statistics.quantiles(values, n=4, method="inclusive"))


def time_in_turns(
    device: Device,
    work: dict[str, Callable[[], Any]],
    iterations: int,
    rounds: int,
    warm_up: int,
    failures: Failures | None = None,
) -> dict[str, Timing]:
    """Rounds A B C A B C ... of so many iterations each, after a warm-up; what fails has no timing."""
    failures = Failures(keep_going=False) if failures is None else failures
    timings = {name: Timing() for name in work}
    first = min(SETUP_STEPS, warm_up)
    for name, run in work.items():
        with failures.around(name):
            with device.measure() as span:
                for _ in range(first):
                    run()
            timings[name].setup = span.wall
            for _ in range(warm_up - first):
                run()

    for _ in range(rounds):
        for name, run in work.items():
            if name in failures:
                continue
            with failures.around(name):
                with device.measure() as span:
                    for _ in range(iterations):
                        run()
                timings[name].add(span, iterations)

    timings = {name: timing for name, timing in timings.items() if name not in failures}

    # what the first steps took beyond steps that are set up
    for timing in timings.values():
        timing.setup = max(0.0, timing.setup - first * min(timing.wall))
    return timings


def speed_up(slow: Timing, fast: Timing) -> dict[str, float | None]:
    """How many times as fast: by medians, with the extremes of single rounds, and by the process's CPU seconds."""
    per_round = [a / b for a, b in zip(slow.best, fast.best, strict=True)]
    return {
        "ratio": statistics.median(slow.best) / statistics.median(fast.best),
        "ratio_low": min(per_round),
        "ratio_high": max(per_round),
        "ratio_of_minima": min(slow.best) / min(fast.best),
        "ratio_process": None if slow.device else min(slow.process) / min(fast.process),
    }
