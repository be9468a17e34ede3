"""Stage: where a recorded step spends its time, kernel by kernel, from a profile of three replays."""

from collections import Counter
from collections.abc import Callable

import torch

from models.networks.fused_layers import trials
from scripts.benchmarking.counting import busy_time
from scripts.benchmarking.ours import Ours
from scripts.on_gpu.notes import Notes
from scripts.on_gpu.setup import RECORDED, Setup

REPLAYS, SHOWN = 3, 200


def run(setup: Setup, notes: Notes) -> None:
    """The fastest step that needs no compiler."""
    contestant = Ours(RECORDED, setup.settings())
    profile(contestant.step_alone, RECORDED, notes)


def profile(step: Callable[[], None], name: str, notes: Notes) -> None:
    """Note a table of kernels, their number, the share of time in which none ran, and where Triton's kernels win."""
    for _ in range(8):
        step()
    torch.cuda.synchronize()

    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as trace:
        for _ in range(REPLAYS):
            step()
        torch.cuda.synchronize()

    spans, times, counts = [], Counter(), Counter()
    for event in trace.events():
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation:
            spans.append((event.time_range.start, event.time_range.end))
            times[event.name] += event.time_range.elapsed_us()
            counts[event.name] += 1
    if not spans:
        notes.find(False, f"{name}: the profiler saw no kernel")
        return

    wins, tried = Counter(), Counter()
    for trial in trials.values():
        row = trial._asdict() | {"shape": "x".join(map(str, trial.shape))}
        notes.row(f"trials of kernels in {name}", **row, **row.pop("outcome")._asdict())
        tried[trial.against] += 1
        wins[trial.against] += trial.outcome.wins
    for against, count in tried.items():
        line = f"Triton's kernels win {wins[against]} of {count} trials against {against} code"
        notes.find(True, f"{name}: {line}")

    total = sum(times.values())
    for kernel, spent in times.most_common(SHOWN):
        row = {"kernel": kernel[:110], "us a step": spent / REPLAYS}
        row |= {"launches": counts[kernel] / REPLAYS, "share": spent / total}
        notes.row(f"kernels of {name}", **row)

    idle = 1 - busy_time(spans) / (max(end for _, end in spans) - min(start for start, _ in spans))
    notes.figure(f"{name}: kernels", len(spans) / REPLAYS)
    notes.figure(f"{name}: kinds of kernels", len(times))
    line = f"{name}: {len(spans) / REPLAYS:.0f} kernels a step, {total / REPLAYS / 1e3:.2f} ms"
    notes.find(True, f"{line}, none ran for {idle:.0%} of the time")
