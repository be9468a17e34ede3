"""Pictures as files: tensors to 8-bit arrays, PNG files that are never half written, and grids."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from util.files import atomic_path

PNG_COMPRESSION = 3  # files a few percent larger than the default 6, written in about half the time


def to_uint8(tensor: Tensor) -> np.ndarray:
    """Turn (C,H,W) or (B,C,H,W) floats in [-1, 1] into a (H,W,C) or (B,H,W,C) array of 0..255.

    Values are rounded to the nearest level and clamped; NaN becomes black. A uint8 tensor only
    changes its layout. The conversion runs on the tensor's device, so that a quarter of the bytes
    travels; the array shares no memory with the tensor. Raises ValueError for other ranks.
    """
    if tensor.ndim not in (3, 4):
        raise ValueError(f"a picture must be (C,H,W) or (B,C,H,W), got shape {tuple(tensor.shape)}")

    tensor = tensor.detach()
    if tensor.dtype != torch.uint8:
        unit = tensor.float().nan_to_num(nan=-1.0).clamp(-1, 1)
        tensor = ((unit + 1) * 127.5).round().to(torch.uint8)
    return tensor.movedim(-3, -1).contiguous().to("cpu", copy=True).numpy()


def save_png(picture: Tensor | np.ndarray, path: Path | str) -> None:
    """Write one picture as PNG under `path`, atomically: a (C,H,W) tensor as in `to_uint8` or a (H,W,C) uint8 array.

    One channel gives a grey file, three RGB, four RGBA; other counts raise ValueError. OSError
    where the disk refuses.
    """
    array = to_uint8(picture) if isinstance(picture, Tensor) else picture
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"cannot save {array.dtype} {array.shape} as {path}: "
            "need uint8 (H,W,C) with C = 1, 3 or 4"
        )

    image = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", compress_level=PNG_COMPRESSION)


def grid(images: Sequence[np.ndarray], columns: int, gap: int = 4) -> np.ndarray:
    """Lay (H,W,C) uint8 arrays out in rows of `columns`, on white, `gap` pixels apart; returns one (H,W,3) array.

    Every cell has the size of the largest picture; grey pictures become RGB, a fourth channel is dropped.
    """
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    cell_height = max(image.shape[0] for image in images)
    cell_width = max(image.shape[1] for image in images)

    height = rows * (cell_height + gap) - gap
    width = columns * (cell_width + gap) - gap
    canvas = np.full((height, width, 3), 255, np.uint8)

    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top, left = row * (cell_height + gap), column * (cell_width + gap)
        bottom, right = top + image.shape[0], left + image.shape[1]
        canvas[top:bottom, left:right] = image[..., :3]  # one channel broadcasts
    return canvas
