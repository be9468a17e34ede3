"""Which device a command line leads to, and in which precision networks run there."""

import os

import torch

from util.errors import UserError

# values of --amp
PRECISIONS = {"auto": None, "bf16": torch.bfloat16, "fp16": torch.float16, "off": None}


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
