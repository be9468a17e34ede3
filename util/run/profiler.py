"""A trace of a few training steps, for Perfetto or chrome://tracing."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from util.files import explain_os_error

SKIPPED = 10  # steps before the trace: the first ones choose algorithms and compile
ROWS = 15  # of the table of operators


class StepProfiler:
    """Traces `steps` steps after the first ones and writes `trace.json.gz`; does nothing for 0 steps.

    Args:
        steps: steps to trace.
        folder: where the trace goes.
        say: prints a text.
    """

    def __init__(self, steps: int, folder: Path, say: Callable[[str], None]) -> None:
        self.folder, self.say = folder, say
        self.profile = None
        if not steps:
            return

        kinds = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            kinds.append(ProfilerActivity.CUDA)
        plan = schedule(wait=SKIPPED - 1, warmup=1, active=steps, repeat=1)
        self.profile = profile(
            activities=kinds, schedule=plan, on_trace_ready=self._write, profile_memory=True
        )
        self.profile.start()

    def advance(self) -> None:
        """One step is done."""
        if self.profile is not None:
            self.profile.step()

    def close(self) -> None:
        """Stop, also before the last traced step."""
        if self.profile is not None:
            self.profile.stop()
            self.profile = None

    def _write(self, finished: profile) -> None:
        path = self.folder / "trace.json.gz"
        try:
            finished.export_chrome_trace(str(path))
            trace = f"trace: {path}; open it at https://ui.perfetto.dev or in chrome://tracing"
        except OSError as error:
            trace = f"warning: could not write {path}: {explain_os_error(error, self.folder)}"

        operators = finished.key_averages()
        order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        self.say(operators.table(sort_by=order, row_limit=ROWS, max_name_column_width=50))
        self.say(trace)
