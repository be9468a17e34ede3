"""Runs the stages, each a process of its own with a limit, and writes all results anew after each."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scripts.on_gpu.notes import read_notes
from scripts.on_gpu.plan import LEAST, WARM, WARM_BESIDE, Stage, limit_of, still_fitting
from scripts.on_gpu.table import findings, page
from util.files import atomic_path

LOOK_EVERY = 1.0  # seconds
LONGEST_LOG = 4 << 20  # bytes of each file of output that are kept, the last ones

Command = Callable[[str, Path], list[str]]  # name of a stage, where its notes go -> what runs it


class Conductor:
    """One run of all stages.

    Args:
        out: the folder that comes back: results.json, table.md, findings.txt and log.txt, and what a stage keeps there.
        work: another folder, for notes and logs of single stages.
        command: how a stage is started.
        limit: seconds for all.
        scale: how many times as long a stage may take here as planned, for a rehearsal on a slow machine.
    """

    def __init__(
        self, out: Path, work: Path, command: Command, limit: float, shown: str, scale: float = 1.0
    ) -> None:
        self.out, self.work, self.command = out, work, command
        self.scale = scale
        self.end = time.monotonic() + limit
        self.result: dict[str, Any] = {"command": shown, "limit_s": limit, "stages": {}}
        self.warm: subprocess.Popen | None = None

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def run(self, stages: Sequence[Stage], warm: bool) -> dict[str, Any]:
        """All stages that time allows; returns the result, which is on the disk."""
        for stage in stages:
            self.result["stages"][stage.name] = {"title": stage.title, "state": "waits"}
        try:
            for number, stage in enumerate(stages):
                beside = stage.name in WARM_BESIDE
                if not beside:
                    self._end_warm()
                elif warm and self.warm is None:
                    self.warm = self._start(WARM)
                self._run_one(stage, stages[number:])
        finally:
            self._end_warm()
            self.publish()
        return self.result

    def _run_one(self, stage: Stage, waiting: Sequence[Stage]) -> None:
        entry = self.result["stages"][stage.name]
        planned = [other._replace(seconds=self.scale * other.seconds) for other in waiting]
        fitting = [other.name for other in still_fitting(planned, self.left)]
        if stage.name not in fitting or self.left < LEAST:
            entry["state"] = "given up: no time was left"
            self.publish()
            return

        print(f"\n== {stage.name}: {stage.title}", flush=True)
        entry["state"] = "runs"
        limit = limit_of(stage, planned[1:], self.left, self.scale)
        began = time.monotonic()
        process = self._start(stage)
        try:
            state = self._wait(process, stage, began + limit)
        finally:
            end(process)  # it has a session of its own, and would outlive a Ctrl-C

        entry |= self._notes(stage) | {"state": state, "seconds": time.monotonic() - began}
        self.publish()
        print(f"-- {stage.name}: {state}, {entry['seconds']:.0f} s", flush=True)

    def _start(self, stage: Stage) -> subprocess.Popen:
        path = self.work / f"{stage.name}.json"
        log = open(self.work / f"{stage.name}.log", "wb")  # noqa: SIM115 - the process writes it
        command = self.command(stage.name, path)
        return subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )

    def _wait(self, process: subprocess.Popen, stage: Stage, until: float) -> str:
        """Wait for a stage, taking over what it has so far; returns how it ended."""
        entry, seen = self.result["stages"][stage.name], None
        while process.poll() is None:
            if time.monotonic() > until:
                end(process)
                return f"ended after {until - self.end + self.result['limit_s']:.0f} s of the run"
            try:
                process.wait(LOOK_EVERY)
            except subprocess.TimeoutExpired:
                found = self._notes(stage)
                if found != seen:
                    seen = found
                    entry |= found
                    self.publish()
        if process.returncode == 0:
            return "done"
        lines = self._log(stage).strip().splitlines() or [""]
        return f"failed with status {process.returncode}: {lines[-1][:200]}"

    def _end_warm(self) -> None:
        """From here on stages are timed, so nothing may run beside them."""
        if self.warm is None:
            return
        finished = self.warm.poll() is not None
        end(self.warm)
        state = "done" if self.warm.returncode == 0 else "ended before it was done"
        if finished and self.warm.returncode:
            state = f"failed: {(self._log(WARM).strip().splitlines() or [''])[-1][:200]}"
        self.result["stages"][WARM.name] = {"title": WARM.title, "state": state}
        self.result["stages"][WARM.name] |= self._notes(WARM)
        self.warm = None
        self.publish()

    def _notes(self, stage: Stage) -> dict[str, Any]:
        return read_notes(self.work / f"{stage.name}.json")

    def _log(self, stage: Stage) -> str:
        path = self.work / f"{stage.name}.log"
        data = path.read_bytes()[-LONGEST_LOG:] if path.exists() else b""
        return data.decode("utf-8", "replace")

    def publish(self) -> None:
        """Write all that is known."""
        logs = ""
        for path in sorted(self.work.glob("*.log"), key=lambda p: p.stat().st_mtime):
            logs += (
                f"==== {path.stem}\n{path.read_bytes()[-LONGEST_LOG:].decode('utf-8', 'replace')}\n"
            )
        files = {
            "results.json": json.dumps(self.result, indent=1) + "\n",
            "table.md": page(self.result),
            "findings.txt": "\n".join(findings(self.result)) + "\n",
            "log.txt": logs[-2 * LONGEST_LOG :],
        }
        for name, text in files.items():
            with atomic_path(self.out / name) as temporary:
                temporary.write_text(text, encoding="utf-8")


def end(process: subprocess.Popen) -> None:
    """End a stage and all that it has started; it leads a process group of its own."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
