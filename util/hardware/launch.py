"""Several GPUs named in one command: the command is started again, once for each, by torchrun's own launcher."""

import logging
import os
import sys

import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from util.errors import UserError


def start_processes(gpu_ids: str | None) -> None:
    """Where --gpu_ids names several, run this command on all of them and exit; otherwise do nothing.

    It is what `torchrun --standalone --nproc_per_node N` does, without its report on a process that has failed: that
    one has said itself what was wrong.

    Raises:
        UserError: one of them does not exist, or is named twice.
    """
    numbers = [number.strip() for number in (gpu_ids or "").split(",")]
    if len(numbers) < 2 or "RANK" in os.environ:
        return
    check_numbers(numbers, torch.cuda.device_count())

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // len(numbers))))
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    launcher = ["--standalone", "--nproc_per_node", str(len(numbers))]
    try:
        run(parse_args([*launcher, *sys.argv]))
    except ChildFailedError as error:
        sys.exit(status_of(error))
    sys.exit(0)


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
