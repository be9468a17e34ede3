"""Data sets of smooth noise, for runs that are only to run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

ROLES = ("trainA", "trainB", "testA", "testB")


def draw_pictures(
    folder: Path, count: int = 8, size: tuple[int, int] = (40, 36), roles: Sequence[str] = ROLES
) -> Path:
    """The folder, with `count` pictures of `size` (width, height) for each role; the same at each call."""
    rng = np.random.default_rng(0)
    for role in roles:
        (folder / role).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
            picture = coarse.resize(size, Image.Resampling.BICUBIC)
            picture.save(folder / role / f"{number}.png")
    return folder
