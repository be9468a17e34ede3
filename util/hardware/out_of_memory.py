"""Memory ran out: what took the most, and which flags take less, in one line."""

from argparse import Namespace
from collections.abc import Callable

import torch

from util.errors import UserError, asked_for, is_out_of_memory
from util.hardware.memory import recorded_memory
from util.parser import show_value

GB = 1e9
SHOWN = 4  # of the largest consumers

# Flags that take less memory, with a value that does where there is one -> when they are worth naming.
IN_TRAINING: dict[str, Callable[[Namespace], bool]] = {
    "batch_size": lambda opt: opt.batch_size > 1,
    "crop_size": lambda opt: opt.crop_size > 64,
    "ngf": lambda opt: opt.ngf > 64,
    "ndf": lambda opt: opt.ndf > 64,
    "grad_checkpoint true": lambda opt: not opt.grad_checkpoint,
    "amp bf16": lambda opt: opt.amp == "off",
    "cache none": lambda opt: opt.cache != "none",
    "cuda_graph off": lambda opt: opt.cuda_graph != "off" and recorded_memory() > 0,
}


class OutOfMemory:
    """Around training, which may run out of memory: raises a UserError that says what a user can do.

    Args:
        opt: the options, all of them.
        device: where networks run.

    Attributes:
        consumers: what takes memory for long -> bytes; asked for only when there is none left.
    """

    def __init__(self, opt: Namespace, device: torch.device) -> None:
        self.opt, self.device = opt, device
        self.flags = IN_TRAINING
        self.consumers: Callable[[], dict[str, int]] = dict

    def __enter__(self) -> "OutOfMemory":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        told = error is None or isinstance(error, UserError)
        if not told and is_out_of_memory(error):
            raise UserError(self.explain(error)) from error

    def explain(self, error: BaseException) -> str:
        """The message for an error of this kind."""
        asked = asked_for(str(error))
        need = f" ({asked})" if asked else ""
        return f"out of memory on {self.device}{need}.{self._largest()} {self._remedy()}"

    def _largest(self) -> str:
        found = self.consumers()
        if self.device.type == "cuda":
            rest = torch.cuda.max_memory_allocated(self.device) - sum(found.values())
            found["what a step computes on its way"] = max(rest, 0)
            found["what recorded steps keep"] = recorded_memory()
        sizes = sorted(found.items(), key=lambda pair: -pair[1])[:SHOWN]
        parts = [f"{name} {size / GB:.2f} GB" for name, size in sizes if size]
        return f" Largest: {', '.join(parts)}." if parts else ""

    def _remedy(self) -> str:
        shown = []
        for flag, useful in self.flags.items():
            if useful(self.opt):
                name, _, value = flag.partition(" ")
                now = show_value(getattr(self.opt, name))
                shown.append(f"--{flag}" if value else f"a smaller --{name} (now {now})")
        return f"Less takes: {', '.join(shown)}" if shown else "Use a device with more memory"
