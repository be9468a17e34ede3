"""Photographs with their label maps: halves of one file, or two folders with equal names."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from data.image_file import read_image
from data.image_folder import list_images, phase_folder
from data.label_maps import colours_of, ids_of, is_deep, read_map
from data.picture_set import images_by_name, partners
from util.errors import UserError
from util.metrics.segmentation import LabelSet

Pair = tuple[Image.Image, np.ndarray]  # a photograph, and its (H,W) classes


def read_labels(path: str, labels: LabelSet, size: tuple[int, int] | None = None) -> np.ndarray:
    """A label map, at another (width, height) where one is given: (H,W) classes.

    Raises:
        UserError: the file cannot be read, or holds colours where ids are expected, or the other way round.
    """
    return classes_of(read_map(path), path, labels, size)


def classes_of(
    image: Image.Image, path: str, labels: LabelSet, size: tuple[int, int] | None
) -> np.ndarray:
    """The same for a map as it is stored, all of a file or a part; `path` is for messages."""
    if size and image.size != size:
        image = image.resize(size, Image.Resampling.NEAREST)  # mixes no colours
    if not labels.in_colour:
        return labels.read(ids_of(image, path))

    if is_deep(image) or not greys_of(image) <= labels.colours.keys():
        raise UserError(
            f"{path} holds numbers where the colours of label maps are expected: give coloured files, "
            "or a set of ids with --labels"
        )
    return labels.read(colours_of(image))


def greys_of(image: Image.Image) -> set[tuple[int, int, int]]:
    """The colours of a grey picture; none of one that may be in colour."""
    if image.mode not in ("1", "L"):
        return set()
    return {(value, value, value) for value in np.unique(image.convert("L")).tolist()}


def read_pairs(dataroot: Path, phase: str, photo: str, labels: LabelSet, side: int) -> list[Pair]:
    """All pairs of a phase, scaled to squares; see `each_pair`."""
    return list(each_pair(dataroot, phase, photo, labels, side))


def each_pair(
    dataroot: Path, phase: str, photo: str, labels: LabelSet, side: int | None = None
) -> Iterator[Pair]:
    """The pairs of a phase, one after another.

    Args:
        photo: "A" or "B", the domain of the photographs; the other one holds label maps.
        side: photographs and maps are scaled to squares of this side; None: each keeps its size.

    Raises:
        UserError: no pairs are found, or a photograph has no label map.
    """
    size = (side, side) if side else None
    together = phase_folder(str(dataroot), phase)
    if together:
        for path in list_images(together):
            yield _halves(path, photo, labels, size)
        return

    other = {"A": "B", "B": "A"}[photo]
    folders = [phase_folder(str(dataroot), phase, letter) for letter in (photo, other)]
    if None in folders:
        raise UserError(
            f"--dataroot {dataroot} has no folder {phase} of files with photograph and label map side by side, "
            f"nor {phase}A and {phase}B"
        )
    photos = images_by_name(Path(folders[0]))
    for name, path in partners(list(photos), Path(folders[1])):
        if path is None:
            raise UserError(
                f"{folders[1]} has no label map {name}, but {folders[0]} has the photograph"
            )
        image = read_image(str(photos[name]), 3)
        yield resized(image, size), read_labels(path, labels, size)


def resized(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    """A photograph at another (width, height), or as it is."""
    return image.resize(size, Image.Resampling.BICUBIC) if size else image


def _halves(path: str, photo: str, labels: LabelSet, size: tuple[int, int] | None) -> Pair:
    """A file with A on the left and B on the right."""
    stored = read_map(path)
    width, height = stored.size
    half = width // 2
    left, right = (0, 0, half, height), (width - half, 0, width, height)
    of_photo, of_labels = (left, right) if photo == "A" else (right, left)

    picture = resized(read_image(path, 3).crop(of_photo), size)
    return picture, classes_of(stored.crop(of_labels), path, labels, size)
