"""The only file that knows hardware: device, precision, layout, seeds, determinism and several processes.

On one CPU everything here does nothing or the plain thing, so that models and the loop are written once.
"""

import contextlib
import os
import platform
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._functorch import config as functorch_config

from util.errors import UserError, is_main_process
from util.hardware import provenance
from util.hardware.batch_norm import share_batch_norms
from util.hardware.watch import LostProcess, Watch, lost_text

# values of --amp
PRECISIONS = {"auto": None, "bf16": torch.bfloat16, "fp16": torch.float16, "off": None}


@runtime_checkable
class Compilable(Protocol):
    """A module that can have its parts compiled."""

    def compile_parts(self, on: bool = True) -> None:
        """From now on run compiled code, or plain code again; values change by rounding alone."""


def print_once(*lines: str) -> None:
    """Print lines on the main process alone, at once."""
    if is_main_process():
        with contextlib.suppress(OSError):  # the terminal may have been closed
            print(*lines, sep="\n", flush=True)


def choose_device(gpu_ids: str | None, local_rank: int = 0) -> torch.device:
    """The device that --gpu_ids asks for, the best one without the flag; of several, that of this process.

    Raises:
        UserError: the GPU does not exist, or several are named for one process.
    """
    count = torch.cuda.device_count()
    if gpu_ids is None:
        return torch.device("cuda", local_rank) if count else torch.device("cpu")
    if gpu_ids == "-1":
        return torch.device("cpu")

    if "," in gpu_ids:
        numbers = gpu_ids.split(",")
        if "RANK" not in os.environ or local_rank >= len(numbers):
            raise UserError(
                f"--gpu_ids {gpu_ids}: one process drives one GPU; for several run "
                f"torchrun --nproc_per_node {len(numbers)} train.py ..."
            )
        return choose_device(numbers[local_rank].strip())
    if not gpu_ids.isdecimal():
        raise UserError(f"--gpu_ids {gpu_ids}: expected the number of a GPU, or -1 for the CPU")
    if int(gpu_ids) >= count:
        there_are = f"{count} CUDA GPUs" if count > 1 else f"{count or 'no'} CUDA GPU"
        raise UserError(
            f"--gpu_ids {gpu_ids}: this machine has {there_are} that torch can use; "
            "give -1 for the CPU, or leave the flag out to take the best device"
        )
    return torch.device("cuda", int(gpu_ids))


def choose_precision(amp: str, device: torch.device, training: bool = False) -> torch.dtype | None:
    """The type that --amp asks for, None for float32.

    auto: bfloat16 on GPUs that compute in it and, to train, on CPUs that do; float32 elsewhere.
    """
    if amp != "auto":
        return PRECISIONS[amp]

    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = training and cpu_computes_in_bf16()
    return PRECISIONS["bf16" if able else "off"]


def cpu_computes_in_bf16() -> bool:
    """Whether the CPU has instructions for products in bfloat16 (AVX512-BF16, AMX); without them it is slower."""
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        supported = getattr(torch.cpu, name, None)  # not in every version of torch
        if supported and supported():
            return True
    return False


def plans_gpu(gpu_ids: str | None) -> bool:
    """Whether --gpu_ids leads to a GPU; nothing is started."""
    return set((gpu_ids or "").split(",")) != {"-1"} and torch.cuda.is_available()


def planned_precision(gpu_ids: str | None, amp: str, tf32: bool, training: bool) -> str:
    """In words, the precision in which networks will run that are asked for like this; nothing is started."""
    on_gpu = plans_gpu(gpu_ids)
    dtype = choose_precision(amp, torch.device("cuda" if on_gpu else "cpu"), training)
    if dtype is None and on_gpu and tf32:
        return "float32 with TF32 convolutions"
    return precision_name(dtype)


def precision_name(dtype: torch.dtype | None) -> str:
    """bfloat16, float16 or, for None, float32."""
    return str(dtype or torch.float32).removeprefix("torch.")


def draw_as_plain_code() -> None:
    """Let compiled code draw the random numbers that plain code would draw, so that the two can be compared."""
    from torch._inductor import config  # slow to import, so only where something is compiled

    config.fallback_random = True


def recorded_memory() -> int:
    """Bytes that recorded steps keep for their next replay, which torch does not count as allocated.

    Each recording has a pool of its own. What its tensors need stays reserved there, although torch calls most of it
    free once the step is recorded.
    """
    kept = 0
    for segment in torch.cuda.memory_snapshot():
        if tuple(segment["segment_pool_id"]) != (0, 0):
            kept += segment["total_size"] - segment["allocated_size"]
    return kept


class Runtime:
    """Where and how the program runs; a null object on one CPU.

    Args:
        gpu_ids: value of --gpu_ids, None for the best device.
        seed: seeds torch on this process; further processes add their rank.
        deterministic: ask for bit-identical reruns on a GPU.
        amp: auto, bf16, fp16 or off; see `choose_precision`.
        tf32: let a GPU's convolutions round float32 factors to 10 bits. Matrix products, those of graphs and
            contrastive losses among them, never do.
        training: whether weights are to be learned; see `choose_precision`.
        channels_last: auto (on a GPU, and on a CPU in bfloat16), on or off; the layout in which these convolve fastest.
        compile: auto (on a GPU), on or off; compile what `Compilable` modules have to compile.
        cuda_graph: auto (on a GPU, for one process), on or off; record a training step once, then replay it.

    Attributes:
        device, rank, world_size, is_main: this process and its place among all.
        amp_dtype: what autocast computes in, None for float32.
        memory_format: torch.channels_last or torch.contiguous_format, for images and networks.
        compiled: the parts of networks that run compiled code.
        capture: whether training steps are recorded and replayed; `no_capture`: why not, although asked for.
    """

    def __init__(
        self, gpu_ids: str | None = None, seed: int = 0, deterministic: bool = False, *, amp: str = "auto",
        training: bool = False, tf32: bool = True, channels_last: str = "auto", compile: str = "auto",
        cuda_graph: str = "auto",
    ) -> None:  # fmt: skip
        self.world_size = int(os.environ.get("WORLD_SIZE", 1))
        self.rank = int(os.environ.get("RANK", 0))
        self.is_main = is_main_process()
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
        if cuda_graph == "on" and not self.capture:
            self.no_capture = "it is for one process" if on_gpu else "it needs a GPU"

        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            # Where torch has no deterministic operator for a GPU it warns, and names it;
            # ours have none of these.
            torch.use_deterministic_algorithms(True, warn_only=True)

        self.watch: Watch | None = None
        if self.world_size > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if on_gpu else "gloo")
            self.watch = Watch(self.rank, self.world_size)
            dist.barrier()
            self.watch.start()
        torch.manual_seed(seed + self.rank)

    @classmethod
    def from_options(cls, opt: Namespace) -> "Runtime":
        """The runtime that a command line asks for."""
        speed = {"amp": opt.amp, "tf32": opt.tf32, "channels_last": opt.channels_last}
        speed["training"] = opt.is_train
        if opt.is_train:
            speed |= {"compile": opt.compile, "cuda_graph": opt.cuda_graph}
        else:
            # At test "auto" is off: the first pictures would wait longer than compiled code
            # could make up for in a small test set.
            speed |= {"compile": "on" if opt.compile == "on" else "off", "cuda_graph": "off"}
        return cls(opt.gpu_ids, opt.seed, opt.deterministic, **speed)

    def __enter__(self) -> "Runtime":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        """Leave the other processes; an error that ends this one ends them too, and is told once."""
        if error is None:
            self.close()
        elif self.watch is not None:
            first = self.watch.fail(" ".join(str(error).split()) or type(error).__name__)
            if isinstance(error, UserError):
                error.shown = first

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

    def as_one(self, action: Callable[[], None]) -> None:
        """Let the main process do something while the others wait; raises on all of them what it raises there."""
        error: Exception | None = None
        if self.is_main:
            try:
                action()
            except (UserError, OSError) as raised:
                error = raised
        if self.world_size > 1:
            found = [error if error is None else str(error)]
            with self.together():
                dist.broadcast_object_list(found, src=0)
            if error is None and found[0] is not None:
                error = UserError(found[0])
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
            for part in self.compiles(module):
                part.compile_parts()
                self.compiled.append(part)

        if self.world_size > 1:
            with self.together():
                for tensor in module.state_dict().values():
                    whole = tensor.contiguous()  # NCCL takes no other; mostly that is a copy
                    dist.broadcast(whole, src=0)
                    tensor.copy_(whole)
        return module

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

    def run_compiled(self, on: bool) -> None:
        """Let the compiled parts run compiled code, or plain code."""
        for part in self.compiled:
            part.compile_parts(on)

    def any(self, flags: Tensor) -> Tensor:
        """Element-wise "on any process" of a 0/1 tensor, or the largest number on any, in place."""
        if self.world_size > 1:
            with self.together():
                dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return flags

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

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world_size > 1:
            with self.together():
                dist.barrier()

    def agree(self, number: int, confer: bool) -> int:
        """The number, the largest of all processes; several compare theirs only when `confer`, else it is 0."""
        if self.world_size == 1:
            return number
        if not confer:
            return 0
        return int(self.any(torch.tensor(number, device=self.device)))

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
            facts.append(f"{torch.get_num_threads()} threads")

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

    def close(self) -> None:
        """Leave the other processes, once all have come so far."""
        if self.world_size > 1 and dist.is_initialized():
            self.barrier()
            if self.watch is not None:
                self.watch.leave()
            dist.destroy_process_group()
