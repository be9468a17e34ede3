"""The processes that decode images: whether there is memory to hand images over, and what to say when one is lost."""

import shutil
import signal
import time
from typing import NoReturn

from torch.utils.data import DataLoader

from data.base_dataset import BaseDataset
from util.errors import UserError

REAPED = 2.0  # seconds until the system has told how a process ended
SHARED_MEMORY = "/dev/shm"
REMEDY = "give --num_threads 0, or make it larger (docker run --shm-size 1g, or --ipc=host)"


def shared_memory_is_short(why: str) -> str:
    """What to say where images cannot be handed over."""
    return f"{SHARED_MEMORY}, through which worker processes hand over images, is too small ({why}): {REMEDY}"


def check_shared_memory(
    dataset: BaseDataset, batch: list[tuple[int, int]], host: DataLoader
) -> None:
    """See that the batches that wait at any time fit into shared memory; nothing is done where there is none to ask.

    Args:
        batch: the keys (epoch, index) of one batch, as large as the others.
        host: with its number of workers, and of batches that each prepares.

    Raises:
        UserError: they do not fit.
    """
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return

    needed = 0
    for epoch, index in batch:
        for view in dataset.plan(epoch, index).values():
            _, _, width, height = view.box
            needed += view.source.channels * width * height
    waiting = host.num_workers * (host.prefetch_factor + 1)
    if needed * waiting > free:
        sizes = f"{free / 1e6:.0f} MB are free, {waiting} batches take {needed * waiting / 1e6:.0f}"
        raise UserError(shared_memory_is_short(sizes))


def raise_lost_worker(host: DataLoader, error: Exception) -> NoReturn:
    """Say why a worker process is gone; raises the error as it is where none is."""
    workers = host._iterator._workers if host._iterator is not None else []
    deadline = time.monotonic() + REAPED
    codes: dict[int, int] = {}
    while workers and not codes and time.monotonic() < deadline:
        codes = {worker.pid: worker.exitcode for worker in workers if worker.exitcode}
        time.sleep(0.01)
    if not codes:
        raise error

    process, code = next(iter(codes.items()))
    if code == -signal.SIGBUS:
        raise UserError(shared_memory_is_short("a worker met a bus error")) from error
    reason = f"exit status {code}"
    if code < 0:
        reason = signal.Signals(-code).name
    if code == -signal.SIGKILL:
        reason += ", by the system where memory is short"
    raise UserError(
        f"worker process {process}, which decodes images, is gone ({reason}): the same command continues; "
        "fewer --num_threads take less memory"
    ) from error


def stop_workers(host: DataLoader) -> None:
    """End the worker processes: on request, when the loader is gone, or at exit (which would wait for them forever)."""
    if host._iterator is None:
        return
    workers = host._iterator._workers
    host._iterator._shutdown_workers()
    for worker in workers:
        if worker.is_alive():  # it waits for a file that does not come, and leaves signals to us
            worker.kill()
