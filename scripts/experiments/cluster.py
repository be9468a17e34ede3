"""Runs the jobs of a grid on a cluster, through submitit (SLURM), which is needed for this alone."""

import signal
from collections.abc import Sequence

from scripts.experiments.grid import Grid, Job
from scripts.experiments.job import UNFINISHED, run_job
from scripts.experiments.launch import Outcome
from util.errors import UserError
from util.run.stop import BY_SIGNAL

MOST_STARTS = 100  # of one run; submitit's own limit is three
WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)  # what a node's end is announced with


class Task:
    """One job as submitit pickles it; where a node's time ends, it is put into the queue again and goes on."""

    def __call__(self, job: Job) -> int:
        """Run the job; returns its status.

        Training takes the signal that announces the end, saves, and ends. The signal is then handed on to submitit,
        which puts the job into the queue again and ends this process.
        """
        status = run_job(job)
        if status - BY_SIGNAL in WARNINGS:
            signal.raise_signal(status - BY_SIGNAL)
        return status

    def checkpoint(self, job: Job):
        """What submitit calls before the node is taken away: the run has been saved by then, or goes on before that."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job)


def run_on_cluster(grid: Grid, jobs: Sequence[Job], wait: bool) -> Outcome:
    """Hand jobs that are left to do to the cluster that [cluster] of the file describes, with submitit's parameters.

    Raises:
        UserError: submitit is missing, or refuses the parameters.
    """
    try:
        import submitit
    except ImportError as error:
        raise UserError(f"--cluster needs submitit ({error}): pip install submitit") from None

    parameters = {"slurm_max_num_timeout": MOST_STARTS, **grid.cluster}
    kind = parameters.pop("executor", None)
    starts = {"slurm_max_num_timeout": parameters.pop("slurm_max_num_timeout")}
    try:
        folder = str(grid.folder / "logs" / "%j")
        executor = submitit.AutoExecutor(folder, cluster=kind, **starts)
        executor.update_parameters(name=grid.name, **parameters)
    except (RuntimeError, ValueError, NameError, TypeError, AssertionError) as error:
        raise UserError(f"{grid.file}: [cluster]: submitit says: {error}") from None

    outcome = Outcome()
    submitted = executor.map_array(Task(), jobs) if jobs else []
    for job, handle in zip(jobs, submitted, strict=True):
        print(f"{job.run}: submitted as {handle.job_id}, {handle.paths.stdout}")

    if not wait:
        outcome.cut_off += [job.run for job in jobs]
        return outcome
    for job, handle in zip(jobs, submitted, strict=True):
        _collect(job, handle, outcome)
    return outcome


def _collect(job: Job, handle, outcome: Outcome) -> None:
    """Wait for one job and note what became of it."""
    error = handle.exception()
    status = None if error else handle.result()
    if error:
        outcome.failed[job.run] = str(error).strip().splitlines()[-1]
    elif status == UNFINISHED:
        outcome.cut_off.append(job.run)
    elif status:
        outcome.failed[job.run] = f"status {status}; {handle.paths.stdout}"
    else:
        outcome.done.append(job.run)
