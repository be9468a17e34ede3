"""Several GPUs named in one command: the command is started again, once for each, by torchrun's own launcher."""

import logging
import os
import signal
import sys

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from util.errors import UserError

# Signals that the launcher passes on to its processes: torchrun's own, and those that SLURM sends (util/run/stop.py).
PASSED_ON = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
SHUTDOWN = 150  # seconds that processes then have to end: a step may be the first, which compiles, or measure after it


def start_processes(gpu_ids: str | None) -> None:
    """Where --gpu_ids names several, run this command on all of them and exit; otherwise do nothing.

    It is what `torchrun --standalone --nproc_per_node N` does, without its report on a process that has failed or was
    asked to end: that one has said itself what happened.

    Raises:
        UserError: one of them does not exist, or is named twice.
    """
    numbers = [number.strip() for number in (gpu_ids or "").split(",")]
    if len(numbers) < 2 or "RANK" in os.environ:
        return
    check_numbers(numbers, torch.cuda.device_count())

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // len(numbers))))
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    set_signals()
    launcher = ["--standalone", "--nproc_per_node", str(len(numbers))]
    try:
        run(parse_args([*launcher, *sys.argv]))
    except ChildFailedError as error:
        sys.exit(status_of(error))
    except SignalException as error:
        sys.exit(128 + error.sigval)
    sys.exit(0)


def set_signals() -> None:
    """Say which signals torchrun's launcher passes on, and how long it then waits, where the user has not.

    It reads both from the environment; a version of torch that does not know one of them goes on without it.
    """
    names = list(PASSED_ON)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        names.remove("SIGHUP")  # started with nohup
    os.environ.setdefault("PET_SIGNALS_TO_HANDLE", ",".join(names))
    os.environ.setdefault("PET_SHUTDOWN_TIMEOUT", str(SHUTDOWN))


def check_numbers(numbers: list[str], count: int) -> None:
    """Raise UserError unless these are different GPUs of `count`, or -1, the CPU, several times over."""
    if set(numbers) == {"-1"}:
        return
    for number in numbers:
        if not number.isdecimal() or int(number) >= count:
            raise UserError(
                f"--gpu_ids {','.join(numbers)}: {number!r} is no GPU of this machine, which has {count}; "
                "give numbers from 0 on, -1 for the CPU, or leave the flag out"
            )
    if len(set(numbers)) < len(numbers):
        raise UserError(f"--gpu_ids {','.join(numbers)}: one GPU is named twice")


def status_of(error: ChildFailedError) -> int:
    """The exit status of the process that failed first; as a shell has it where a signal ended it."""
    _, failure = error.get_first_failure()
    return failure.exitcode if failure.exitcode >= 0 else 128 - failure.exitcode
