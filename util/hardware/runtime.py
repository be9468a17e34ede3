"""Where and how networks run: device, precision, layout, seeds, determinism, what is compiled and recorded.

On one CPU everything here does nothing or the plain thing, so that models and the loop are written once.
"""

import copy
import os
import platform
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._functorch import config as functorch_config

from util.hardware import provenance
from util.hardware.batch_norm import share_batch_norms
from util.hardware.devices import choose_device, choose_precision, precision_name
from util.hardware.memory import recorded_memory
from util.hardware.team import Team
from util.words import counted

# between the seeds of two processes: runs with the seeds 0, 1, 2 ... share no random numbers
SEEDS_APART = 1_000_003


@runtime_checkable
class Compilable(Protocol):
    """A module that can have its parts compiled; `compiled`: whether they run so now."""

    compiled: bool

    def compile_parts(self, on: bool = True) -> None:
        """From now on run compiled code, or plain code again; values change by rounding alone."""


def draw_as_plain_code() -> None:
    """Let compiled code draw the random numbers that plain code would draw, so that the two can be compared."""
    from torch._inductor import config  # slow to import, so only where something is compiled

    config.fallback_random = True


class Runtime(Team):
    """Where and how the program runs; a null object on one CPU.

    Args:
        gpu_ids: value of --gpu_ids, None for the best device.
        seed: seeds torch on this process; further processes add SEEDS_APART each.
        deterministic: ask for bit-identical reruns on a GPU.
        amp: auto, bf16, fp16 or off; see `choose_precision`.
        tf32: let a GPU's convolutions round float32 factors to 10 bits. Matrix products, those of graphs and
            contrastive losses among them, never do.
        training: whether weights are to be learned; see `choose_precision`.
        channels_last: auto (on a GPU, and on a CPU in bfloat16), on or off; the layout in which these convolve fastest.
        compile: auto (on a GPU), on or off; compile what `Compilable` modules have to compile.
        cuda_graph: auto (on a GPU, for one process), on or off; record a training step once, then replay it.
        overlap: whether parts of a training step that do not need each other run at the same time, on a GPU.

    Attributes:
        device: where this process computes; its place among all is the team's.
        amp_dtype: what autocast computes in, None for float32.
        memory_format: torch.channels_last or torch.contiguous_format, for images and networks.
        compiled: the parts of networks that run compiled code.
        capture: whether training steps are recorded and replayed; `no_capture`: why not, although asked for.
        overlap: whether parts of a step run at the same time.
    """

    def __init__(
        self, gpu_ids: str | None = None, seed: int = 0, deterministic: bool = False, *, amp: str = "auto",
        training: bool = False, tf32: bool = True, channels_last: str = "auto", compile: str = "auto",
        cuda_graph: str = "auto", overlap: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.device = choose_device(gpu_ids, int(os.environ.get("LOCAL_RANK", 0)))
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.cuda.set_device(self.device)
            torch.backends.cudnn.benchmark = not deterministic
            torch.backends.cudnn.allow_tf32 = tf32

        self.amp_dtype = choose_precision(amp, self.device, training)
        fastest = on_gpu or self.amp_dtype == torch.bfloat16
        last = fastest if channels_last == "auto" else channels_last == "on"
        self.memory_format = torch.channels_last if last else torch.contiguous_format

        self.compile = on_gpu if compile == "auto" else compile == "on"
        self.compiled: list[Compilable] = []
        if self.compile:
            draw_as_plain_code()

        self.capture = on_gpu and self.world_size == 1 and cuda_graph != "off"
        self.no_capture = None
        self.overlap = on_gpu and overlap
        if cuda_graph == "on" and not self.capture:
            self.no_capture = "it is for one process" if on_gpu else "it needs a GPU"

        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            # Where torch has no deterministic operator for a GPU it warns, and names it;
            # ours have none of these.
            torch.use_deterministic_algorithms(True, warn_only=True)

        self.meet(self.device)
        torch.manual_seed(seed + self.rank * SEEDS_APART)

    @classmethod
    def from_options(cls, opt: Namespace) -> "Runtime":
        """The runtime that a command line asks for."""
        speed = {"amp": opt.amp, "tf32": opt.tf32, "channels_last": opt.channels_last}
        speed["training"] = opt.is_train
        if opt.is_train:
            speed |= {"compile": opt.compile, "cuda_graph": opt.cuda_graph, "overlap": opt.overlap}
        else:
            # At test "auto" is off: the first pictures would wait longer than compiled code
            # could make up for in a small test set.
            speed |= {"compile": "on" if opt.compile == "on" else "off", "cuda_graph": "off"}
        return cls(opt.gpu_ids, opt.seed, opt.deterministic, **speed)

    def autocast(self) -> torch.autocast:
        """The context in which networks run: convolutions and matrix products in `amp_dtype`, weights in float32."""
        enabled = self.amp_dtype is not None
        return torch.autocast(
            self.device.type, self.amp_dtype, enabled=enabled, cache_enabled=not self.capture
        )

    def images(self, pixels: Tensor) -> Tensor:
        """uint8 pixels (B,C,H,W), 0..255 -> images on the device, float32, -1..1; pinned memory is not waited for."""
        pixels = pixels.to(self.device, non_blocking=True)
        return pixels.to(torch.float32, memory_format=self.memory_format).div_(127.5).sub_(1)

    def learning_rate(self, value: float) -> float | Tensor:
        """A learning rate as an optimiser needs it: a recorded step reads it from the device."""
        return torch.tensor(value, device=self.device) if self.capture else value

    def place(self, module: nn.Module) -> nn.Module:
        """Move a module to the device, in its layout, compile its parts, and make it equal on all processes."""
        module.to(self.device, memory_format=self.memory_format)

        if self.compile:
            parts = self.compiles(module)
            for part in parts:
                part.compile_parts()
            self.compiled += parts

        if self.world_size > 1:
            with self.together():
                for tensor in module.state_dict().values():
                    whole = tensor.contiguous()  # NCCL takes no other; mostly that is a copy
                    dist.broadcast(whole, src=0)
                    tensor.copy_(whole)
        return module

    def copy_of(self, module: nn.Module) -> nn.Module:
        """A copy of a module that was placed; its parts run compiled or plain code as those of the first do."""
        other = copy.deepcopy(module)
        if self.compile:
            self.compiled += self.compiles(other)
        return other

    def share_statistics(self, module: nn.Module) -> None:
        """Let batch normalisation in a module that trains see the batch of all processes."""
        if self.world_size > 1:
            share_batch_norms(module)

    def keep_graphs(self) -> None:
        """Compile so that a later backward pass may go through the same graph (`Move.keep_graph`).

        By default compiled code reuses what a forward pass has kept as soon as one backward pass has read it.
        """
        if self.compile:
            functorch_config.donated_buffer = False

    @staticmethod
    def compiles(module: nn.Module) -> list[Compilable]:
        """The parts of a module that --compile compiles."""
        return [part for part in module.modules() if isinstance(part, Compilable)]

    def run_compiled(self, on: bool) -> None:
        """Let the compiled parts run compiled code, or plain code."""
        for part in self.compiled:
            part.compile_parts(on)

    @contextmanager
    def uncompiled(self) -> Iterator[None]:
        """While entered, compiled parts run plain code: for maps of sizes that would have to be compiled anew."""
        before = [part.compiled for part in self.compiled]
        self.run_compiled(False)
        try:
            yield
        finally:
            for part, was in zip(self.compiled, before, strict=True):
                part.compile_parts(was)

    def rng_state(self) -> list[dict[str, Tensor]]:
        """Random states of all processes, by rank."""
        state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        if self.world_size == 1:
            return [state]

        states: list[Any] = [None] * self.world_size
        with self.together():
            dist.all_gather_object(states, state)
        return states

    def set_rng_state(self, states: list[dict[str, Tensor]]) -> None:
        """Go on with the random numbers where they were saved (a rank that is new starts from its seed)."""
        if self.rank >= len(states):
            return
        torch.set_rng_state(states[self.rank]["cpu"])
        if self.device.type == "cuda" and "cuda" in states[self.rank]:
            torch.cuda.set_rng_state(states[self.rank]["cuda"], self.device)

    def describe(self) -> str:
        """The device in words."""
        if self.device.type == "cuda":
            facts = [torch.cuda.get_device_name(self.device)]
        else:
            facts = [platform.machine() + " CPU"]

        if self.world_size > 1:
            facts.append(f"{self.world_size} processes")
        else:
            facts.append(counted(torch.get_num_threads(), "thread"))

        facts.append(precision_name(self.amp_dtype))
        if self.memory_format == torch.channels_last:
            facts.append("channels_last")
        if self.compile:
            facts.append("compiled")
        if self.capture:
            facts.append("recorded steps")
        return f"{self.device} ({', '.join(facts)})"

    def memory(self) -> dict[str, float]:
        """The most GPU memory in use since the last call, in GB, that of recorded steps included; nothing on a CPU."""
        if self.device.type != "cuda":
            return {}

        peak = (torch.cuda.max_memory_allocated(self.device) + recorded_memory()) / 1e9
        torch.cuda.reset_peak_memory_stats(self.device)
        return {"memory": peak}

    def versions(self) -> dict[str, str]:
        """What a result depends on: commit, library versions, hardware."""
        return provenance.versions(self.describe())
