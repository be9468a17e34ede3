"""How much memory is free, and how much recorded steps keep."""

import torch

GIB = 2**30


def free_memory(device: torch.device) -> int | None:
    """Free bytes on a GPU, or available bytes of main memory on Linux; None where that is not known."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free

    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":") for line in file)
    except OSError:
        return None
    if "MemAvailable" not in lines:
        return None

    kibibytes, *_ = lines["MemAvailable"].split()
    return int(kibibytes) * 1024


def recorded_memory() -> int:
    """Bytes that recorded steps keep for their next replay, which torch does not count as allocated; 0 without a GPU.

    Each recording has a pool of its own. What its tensors need stays reserved there, although torch calls most of it
    free once the step is recorded.
    """
    if not torch.cuda.is_initialized():
        return 0

    kept = 0
    for segment in torch.cuda.memory_snapshot():
        if tuple(segment["segment_pool_id"]) != (0, 0):
            kept += segment["total_size"] - segment["allocated_size"]
    return kept
