"""Runs the jobs of a grid on this machine's free devices, one process each; one that fails stops no other."""

import fcntl
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from scripts.experiments.grid import Grid, Job
from scripts.experiments.job import UNFINISHED, missing
from util.errors import UserError
from util.files import atomic_path

ROOT = Path(__file__).resolve().parent.parent.parent
LARGEST_USE = 0.1  # of a GPU's memory: below, it counts as free
TAIL = 3  # last lines of a failed job that are shown
LEAST_MINUTES = 0.05


@dataclass
class Outcome:
    """What became of the jobs, by run."""

    skipped: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    cut_off: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def summary(self) -> str:
        """In one line."""
        counts = {
            "done before": self.skipped,
            "done now": self.done,
            "not finished": self.cut_off,
            "failed": self.failed,
        }
        return ", ".join(f"{len(runs)} {words}" for words, runs in counts.items() if runs)


def free_devices() -> list[str]:
    """The GPUs that hardly hold anything, of those that CUDA_VISIBLE_DEVICES leaves; the CPU where there is no GPU.

    Raises:
        UserError: every GPU is in use.
    """
    query = [
        "nvidia-smi",
        "--query-gpu=index,uuid,memory.used,memory.total",
        "--format=csv,noheader,nounits",
    ]
    try:
        text = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return ["cpu"]

    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    found, free = [], []
    for line in text.strip().splitlines():
        index, uuid, used, total = (part.strip() for part in line.split(","))
        if allowed is not None and not is_among(index, uuid, allowed.split(",")):
            continue
        found.append(index)
        if float(used) <= LARGEST_USE * float(total):
            free.append(index)
    if found and not free:
        raise UserError(
            f"all GPUs ({len(found)}) are in use; name those to share with --devices 0,1"
        )
    return free or ["cpu"]


def is_among(index: str, uuid: str, allowed: Sequence[str]) -> bool:
    """Whether CUDA_VISIBLE_DEVICES names a GPU, by its number or by how its UUID begins."""
    return any(
        name == index or (name and uuid.startswith(name)) for name in map(str.strip, allowed)
    )


class Launcher:
    """Hands jobs to workers, one per device.

    Args:
        grid: where logs and locks go.
        devices: a worker for each; "cpu", or a GPU's number.
        minutes: stop handing out, and let runs save and stop, after so many; None: no limit.
    """

    def __init__(self, grid: Grid, devices: Sequence[str], minutes: float | None = None) -> None:
        self.folder, self.devices = grid.folder, devices
        self.deadline = time.monotonic() + 60 * minutes if minutes else None
        self.outcome = Outcome()
        self.stopped = threading.Event()
        self.waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self.processes: set[subprocess.Popen] = set()

    def run(self, jobs: Sequence[Job]) -> Outcome:
        """Run jobs that are left to do; returns when all are done, have failed, or the time is over."""
        for job in jobs:
            self.waiting.put(job)

        workers = [threading.Thread(target=self._work, args=(device,)) for device in self.devices]
        with self._stopping_politely():
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()

        while not self.waiting.empty():
            self.outcome.cut_off.append(self.waiting.get().run)
        return self.outcome

    def _work(self, device: str) -> None:
        while not self.stopped.is_set() and self._minutes_left() > LEAST_MINUTES:
            try:
                job = self.waiting.get_nowait()
            except queue.Empty:
                return
            try:
                self._run_one(job, device)
            except Exception as error:  # such as a full disk: it is told, and the others go on
                self.outcome.failed[job.run] = f"{type(error).__name__}: {error}"
                print(f"{job.run}: FAILED: {error}", flush=True)

    def _run_one(self, job: Job, device: str) -> None:
        log_path = self.folder / "logs" / f"{job.run}.txt"
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock(job) as lock, log_path.open("a") as log:
            if lock is None:
                print(f"{job.run}: another process is at it; left to that one", flush=True)
                self.outcome.cut_off.append(job.run)
                return

            print(
                f"{job.run}: {', '.join(missing(job)) or 'nothing left'} on {device}; {log_path}",
                flush=True,
            )
            status = self._process(job, device, log, lock)
        self._note(job, status, log_path)

    def _process(self, job: Job, device: str, log: IO, lock: IO) -> int:
        """Start the job and wait for it; returns its exit status."""
        path = self.folder / "jobs" / f"{job.run}.json"
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(job.as_dict(), indent=2) + "\n")
        command = [sys.executable, str(ROOT / "scripts" / "experiments" / "job.py"), str(path)]
        if self.deadline:
            command.append(f"{self._minutes_left():.3f}")

        environment = dict(os.environ)
        environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # numbers are then those of nvidia-smi
        environment["CUDA_VISIBLE_DEVICES"] = "" if device == "cpu" else device
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=[lock.fileno()],  # held until this process ends, whatever becomes of ours
            process_group=0,  # Ctrl-C reaches the launcher alone, which asks politely, once
        )
        self.processes.add(process)
        if self.stopped.is_set():
            process.send_signal(signal.SIGTERM)
        status = process.wait()
        self.processes.discard(process)
        return status

    def _note(self, job: Job, status: int, log: Path) -> None:
        if status == 0:
            self.outcome.done.append(job.run)
            print(f"{job.run}: done", flush=True)
        elif status == UNFINISHED or self.stopped.is_set():
            self.outcome.cut_off.append(job.run)
            print(f"{job.run}: not finished; the same command goes on with it", flush=True)
        else:
            lines = log.read_text(errors="replace").strip().splitlines()[-TAIL:]
            self.outcome.failed[job.run] = "\n".join(lines)
            print(f"{job.run}: FAILED with status {status}; {log}", flush=True)

    def _minutes_left(self) -> float:
        if self.deadline is None:
            return float("inf")
        return (self.deadline - time.monotonic()) / 60

    @contextmanager
    def _lock(self, job: Job) -> Iterator[IO | None]:
        """A file that no other process holds open for this job, None where one does."""
        path = self.folder / "jobs" / f"{job.run}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield None
                return
            yield file

    @contextmanager
    def _stopping_politely(self) -> Iterator[None]:
        """While entered, Ctrl-C or SIGTERM asks the runs to save and stop, and starts no further one."""

        def ask(number: int, frame: object) -> None:
            self.stopped.set()
            for process in list(self.processes):
                process.send_signal(signal.SIGTERM)

        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # it is where nohup started this
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, ask) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
