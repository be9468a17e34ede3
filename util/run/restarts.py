"""Starts that a scheduler or a launcher makes by itself: the same command once more, within one job."""

import os
from pathlib import Path

BEGUN_BY = ".begun_by"  # in a run's folder: the job whose --from_scratch began it
# The same at every start of a job; the wider one first.
JOBS = ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID")
RESTARTS = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")


def this_job() -> str | None:
    """What tells this job from others; None where nobody would start it again by itself."""
    for name in JOBS:
        if os.environ.get(name):
            return f"{name} {os.environ[name]}"
    return None


def is_restart() -> bool:
    """Whether this start is not the first one of its job."""
    return any(os.environ.get(name, "") not in ("", "0") for name in RESTARTS)


def note_job(folder: Path) -> None:
    """Write into the folder of a run which job has begun it; nothing outside of a job."""
    job = this_job()
    if job is not None:
        (folder / BEGUN_BY).write_text(job, encoding="utf-8")


def begun_by_this_job(folder: Path) -> bool:
    """Whether an earlier start of this job has begun the run: the same command is to go on with it then."""
    path = folder / BEGUN_BY
    return is_restart() and path.is_file() and path.read_text(encoding="utf-8") == this_job()
