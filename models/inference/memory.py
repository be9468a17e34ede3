"""What to say when an image does not fit into memory: how large it is, what was asked for, and which flag helps."""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from data.transforms import LEAST_SIDE
from util.errors import asked_for


def does_not_fit(opt: Namespace, batch: Mapping[str, Any], error: str) -> str:
    """The line for a batch of one sample: the sizes of its images, what was asked for, and what makes it less."""
    images: dict[str, Tensor] = {}
    for role in "AB":
        if role in batch:
            [path] = batch[f"{role}_paths"]
            images[path] = batch[role]

    sizes = [f"{path}: {image.shape[3]} x {image.shape[2]}" for path, image in images.items()]
    largest = max(images.values(), key=Tensor.numel)
    asked = asked_for(error)
    need = f", {asked}" if asked else ""

    remedies = []
    if hasattr(opt, "tile") and opt.netG in ("stylegan2", "smallstylegan2"):
        remedies.append("--tile 512")
    remedies.append(smaller(opt, largest))
    if largest.is_cuda:
        remedies.append("--gpu_ids -1 to translate on the CPU")
    return (
        f"{' and '.join(sizes)} pixels do not fit into the memory of {largest.device}{need}; "
        f"give {', or '.join(remedies)}"
    )


def smaller(opt: Namespace, image: Tensor) -> str:
    """The flags that halve the sides of an image (1,C,H,W), or of the result where a method has a size for that."""
    sides = image.shape[2:]
    if hasattr(opt, "long_side"):
        return f"--long_side {max((opt.long_side or max(sides)) // 2, LEAST_SIDE)}"
    return f"--preprocess resize_shortside --load_size {max(min(sides) // 2, LEAST_SIDE)}"
