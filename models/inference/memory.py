"""What to say when an image does not fit into memory: how large it is, what was asked for, and which flag helps."""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from util.errors import asked_for


def does_not_fit(opt: Namespace, batch: Mapping[str, Any], error: str) -> str:
    """The line for a batch of one image: its size, what was asked for, and what makes it less."""
    role = "A" if "A" in batch else "B"
    images, [path] = batch[role], batch[f"{role}_paths"]
    height, width = images.shape[2:]
    asked = asked_for(error)
    need = f", {asked}" if asked else ""

    remedies = []
    if hasattr(opt, "tile") and opt.netG in ("stylegan2", "smallstylegan2"):
        remedies.append("--tile 512")
    remedies.append(f"--preprocess resize_shortside --load_size {max(min(height, width) // 2, 8)}")
    if images.is_cuda:
        remedies.append("--gpu_ids -1 to translate on the CPU")
    return (
        f"{path}: {width} x {height} pixels do not fit into the memory of {images.device}{need}; "
        f"give {', or '.join(remedies)}"
    )
