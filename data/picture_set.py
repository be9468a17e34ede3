"""Folders of images as measures take them: 8-bit RGB, paired by name, with what tells images apart."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from data.image_file import in_threads, read_image, read_size
from data.image_folder import list_images
from data.pixels import Levels
from data.result_names import unique_names
from util.metrics.duplicates import SIDE, Looks

LOSSY = (".jpg", ".jpeg", ".webp")


class PictureSet(Dataset):
    """The images of a folder as (3,H,W) uint8, in the order of their names.

    Args:
        folder: searched in depth; or the files themselves.
        resize: every image is scaled to a square of this side; None: each keeps its size.
        paths: only these files of the folder.
        levels: the values of grey files that become black and white, see `read_image`.

    Raises:
        UserError: no image.
    """

    def __init__(
        self,
        folder: Path,
        resize: int | None = None,
        paths: Sequence[str] | None = None,
        levels: Levels | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.paths = list_images(str(folder)) if paths is None else list(paths)
        self.resize = resize
        self.levels = levels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(np.array(self.image(index))).permute(2, 0, 1)

    def image(self, index: int) -> Image.Image:
        """One image, RGB, as it is measured."""
        image = read_image(self.paths[index], 3, self.levels)
        if self.resize and image.size != (self.resize, self.resize):
            image = image.resize((self.resize, self.resize), Image.Resampling.BICUBIC)
        return image

    def unit(self, index: int) -> np.ndarray:
        """One image, (H,W,3) in [0,1]."""
        return np.asarray(self.image(index), dtype=np.float64) / 255

    def only(self, indices: Sequence[int]) -> "PictureSet":
        """Some of the images."""
        paths = [self.paths[index] for index in indices]
        return PictureSet(self.folder, self.resize, paths, self.levels)

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """Width and height of each image as it is measured, from the files' headers."""
        if self.resize:
            return [(self.resize, self.resize)] * len(self)
        return [read_size(path) for path in self.paths]

    @cached_property
    def file_sizes(self) -> Counter:
        """How many files are so wide and high."""
        return Counter(read_size(path) for path in self.paths)

    @property
    def formats(self) -> Counter:
        """How many files have which ending."""
        return Counter(os.path.splitext(path)[1].lower() for path in self.paths)

    @property
    def lossy(self) -> bool:
        """Whether most files have lost detail when they were saved."""
        return 2 * sum(self.formats[suffix] for suffix in LOSSY) > len(self)

    @cached_property
    def checksum(self) -> str:
        """Of the content of all files in their order; names do not count."""
        whole = hashlib.sha256()
        for path in self.paths:
            with open(path, "rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        return whole.hexdigest()

    @cached_property
    def looks(self) -> Looks:
        """What duplicates are found by."""
        found = list(in_threads(self._look, range(len(self))))
        checksums = [checksum for checksum, _ in found]
        return Looks(checksums, np.stack([thumbnail for _, thumbnail in found]))

    def _look(self, index: int) -> tuple[str, np.ndarray]:
        image = read_image(self.paths[index], 3, self.levels)
        pixels = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
        small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
        return pixels, np.asarray(small, dtype=np.float32).ravel() / 255


class Partner(NamedTuple):
    """A file of another folder that belongs to a picture."""

    name: str
    path: str | None


def images_by_name(folder: Path) -> dict[str, Path]:
    """The images of a folder by what test.py calls their results; raises UserError where there are none."""
    paths = list_images(str(folder))
    names = unique_names(paths, folder)
    return dict(zip(names, map(Path, paths), strict=True))


def partners(names: Sequence[str], folder: Path) -> Iterator[Partner]:
    """The image of a folder that goes with each result, None where there is none.

    Results are called as test.py calls them: of x.jpg and x.png in one folder, the second becomes x_png. So x_png goes
    with x.png, also in a folder where no x.jpg is beside it.
    """
    known = images_by_name(folder)
    by_file = {}
    for path in known.values():
        inside = path.relative_to(folder)
        stem = inside.with_suffix("").as_posix()
        by_file[f"{stem}_{inside.suffix[1:]}"] = path

    taken = {str(by_file[name]) for name in names if name not in known and name in by_file}
    for name in names:
        path = known.get(name)
        if path is None or str(path) in taken:
            path = by_file.get(name)
        yield Partner(name, None if path is None else str(path))
