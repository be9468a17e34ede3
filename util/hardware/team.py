"""The processes that do one piece of work together: what they tell each other, and how they end."""

import contextlib
import copy
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import chain
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from util.errors import UserError, is_main_process
from util.hardware.watch import MEETING, LostProcess, Watch, lost_text

# How long a process waits for another within a collective: one may measure or translate for hours while the others
# wait, and those that are gone are found by `Watch`.
PATIENCE = timedelta(days=7)

Item = TypeVar("Item")
Result = TypeVar("Result")


def print_once(*lines: str) -> None:
    """Print lines on the main process alone, at once."""
    if is_main_process():
        with contextlib.suppress(OSError):  # the terminal may have been closed
            print(*lines, sep="\n", flush=True)


class Team:
    """This process among those that torchrun has started; alone, everything here does nothing or the plain thing.

    Attributes:
        rank, world_size, is_main: its place, how many there are, and whether it is the one that writes and prints.
        watch: looks after the others; None where there are none.
    """

    def __init__(self) -> None:
        self.world_size = int(os.environ.get("WORLD_SIZE", 1))
        self.rank = int(os.environ.get("RANK", 0))
        self.is_main = is_main_process()
        self.watch: Watch | None = None

    def meet(self, device: torch.device) -> None:
        """Wait for the other processes, and look after each other from here on; `device`: where this one computes.

        Raises:
            UserError: not all have come.
        """
        if self.world_size == 1 or dist.is_initialized():
            return

        store, rank, count = next(rendezvous("env://", timeout=MEETING))
        self.watch = Watch(rank, count)
        self.watch.start()

        on_gpu = device.type == "cuda"
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            store=dist.PrefixStore("group", store),
            rank=rank,
            world_size=count,
            timeout=PATIENCE,
            device_id=device if on_gpu else None,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        """Leave the other processes; an error that ends this one ends them too, and is told once."""
        if error is None:
            self.close()
        elif self.watch is not None:
            first = self.watch.fail(" ".join(str(error).split()) or type(error).__name__)
            if isinstance(error, UserError):
                error.shown = first

    def close(self) -> None:
        """Leave the other processes, once all have come so far."""
        if self.world_size > 1 and dist.is_initialized():
            self.barrier()
            if self.watch is not None:
                self.watch.leave()
            dist.destroy_process_group()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Around what all processes do together: raises LostProcess where that fails since one of them is gone."""
        try:
            yield
        except RuntimeError as error:
            who = self.watch.explain() if self.watch else None
            if who is None:
                raise
            raise LostProcess(lost_text(who)) from error

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world_size > 1:
            with self.together():
                dist.barrier()

    def alone(self) -> Self:
        """This process as if there were no others, for what it does by itself while they wait."""
        single = copy.copy(self)
        single.rank, single.world_size, single.watch = 0, 1, None
        return single

    def as_one(self, action: Callable[[], None]) -> None:
        """Let the main process do something while the others wait; raises on all of them what it raises there."""
        error: Exception | None = None
        if self.is_main:
            try:
                action()
            except (UserError, OSError) as raised:
                error = raised
        text = self.tell(error if error is None else str(error))
        if error is None and text is not None:
            error = UserError(text)
        if error is not None:
            raise error

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes by rank, on the main one; elsewhere nothing."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size if self.is_main else None
        with self.together():
            dist.gather_object(value, values)
        return values or []

    def tell(self, value: Any) -> Any:
        """The value that the main process has, on all."""
        if self.world_size == 1:
            return value
        found = [value]
        with self.together():
            dist.broadcast_object_list(found, src=0)
        return found[0]

    def spread(
        self, work: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item]
    ) -> list[Result]:
        """What the work makes of the items, one for one and in their order, on all processes.

        Each process works on a part of the items, those beside each other.
        """
        first, last = (part * len(items) // self.world_size for part in (self.rank, self.rank + 1))
        done = list(work(items[first:last])) if last > first else []
        if self.world_size == 1:
            return done

        parts: list[Any] = [None] * self.world_size
        with self.together():
            dist.all_gather_object(parts, done)
        return list(chain.from_iterable(parts))

    def any(self, flags: Tensor) -> Tensor:
        """Element-wise "on any process" of a 0/1 tensor, or the largest number on any, in place."""
        if self.world_size > 1:
            with self.together():
                dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return flags

    def agree(self, number: int, confer: bool) -> int:
        """The number, the largest of all processes; several compare theirs only when `confer`, else it is 0."""
        if self.world_size == 1:
            return number
        if not confer:
            return 0
        return int(self.any(torch.tensor(number, device=self.device)))

    def mean(self, values: dict[str, Tensor]) -> dict[str, float]:
        """Read 0-d tensors as numbers, averaged over processes, with a single wait for the device."""
        if not values:
            return {}

        stacked = torch.stack([value.detach().float() for value in values.values()])
        if self.world_size > 1:
            with self.together():
                dist.all_reduce(stacked)
            stacked /= self.world_size
        return dict(zip(values, stacked.tolist(), strict=True))

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average gradients over all processes, in one message.

        DistributedDataParallel expects one forward per backward and parameters that never freeze; a
        GAN step does neither, so the average is taken here, between backward and step.
        """
        if self.world_size == 1:
            return

        grads = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([grad.flatten() for grad in grads])
        with self.together():
            dist.all_reduce(flat)
        flat /= self.world_size

        parts = flat.split([grad.numel() for grad in grads])
        for grad, part in zip(grads, parts, strict=True):
            grad.copy_(part.view_as(grad))
