"""What to say when an image does not fit into memory: how large it is, what was asked for, and which flag helps."""

import re
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from util.errors import UserError
from util.hardware.memory import GIB

UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": GIB}
ASKED = re.compile(r"(?:[Tt]ried to allocate|allocate memory: .*?) ?([\d.]+) ?(bytes|[KMG]iB)")


@contextmanager
def memory_explained(opt: Namespace, batch: Mapping[str, Any]) -> Iterator[None]:
    """While entered, a lack of memory becomes a UserError that names the images of the batch and the remedy."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(describe(opt, batch, str(error))) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is about too little memory, of a GPU or of the machine."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return "out of memory" in text or "can't allocate memory" in text


def describe(opt: Namespace, batch: Mapping[str, Any], error: str) -> str:
    """The line: image, size, what was asked for, and what makes it less."""
    role = "A" if "A" in batch else "B"
    images, paths = batch[role], batch[f"{role}_paths"]
    height, width = images.shape[2:]
    asked = ASKED.search(error)
    need = ""
    if asked:
        number, unit = asked.groups()
        need = f", {float(number) * UNITS[unit] / GIB:.2f} GiB more were asked for"

    which = paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    remedies = [] if len(paths) == 1 else ["--batch_size 1"]
    if hasattr(opt, "tile") and opt.netG in ("stylegan2", "smallstylegan2"):
        remedies.append("--tile 512")
    remedies.append(f"--preprocess resize_shortside --load_size {max(min(height, width) // 2, 8)}")
    if str(opt.gpu_ids) != "-1" and images.device.type == "cuda":
        remedies.append("--gpu_ids -1 to translate on the CPU")
    return (
        f"{which}: {width} x {height} pixels do not fit into the memory of {images.device}{need}; "
        f"give {', or '.join(remedies)}"
    )
