"""How much memory is free."""

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
