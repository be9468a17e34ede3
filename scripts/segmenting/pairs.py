"""Photographs with their label maps: halves of one file, or two folders with equal names."""

from pathlib import Path

import numpy as np
from PIL import Image

from data.image_file import read_image
from data.image_folder import list_images, phase_folder
from data.picture_set import images_by_name, partners
from util.errors import UserError
from util.metrics.segmentation import LabelSet

Pair = tuple[Image.Image, np.ndarray]  # a photograph, and its (H,W) classes


def read_labels(path: str, labels: LabelSet, size: tuple[int, int] | None = None) -> np.ndarray:
    """A label map, at another (width, height) where one is given: (H,W) classes.

    Raises:
        UserError: the file cannot be read, or holds colours where ids are expected.
    """
    image = read_image(path, 3 if labels.in_colour else 1)
    return labels.read(np.asarray(resized_labels(image, size)))


def resized_labels(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    """The picture of a label map at another size; no colours are mixed."""
    if size is None or image.size == size:
        return image
    return image.resize(size, Image.Resampling.NEAREST)


def read_pairs(dataroot: Path, phase: str, photo: str, labels: LabelSet, side: int) -> list[Pair]:
    """All pairs of a phase, scaled to squares.

    Args:
        photo: "A" or "B", the domain of the photographs; the other one holds label maps.

    Raises:
        UserError: no pairs are found, or a photograph has no label map.
    """
    size = (side, side)
    together = phase_folder(str(dataroot), phase)
    if together:
        return [_halves(path, photo, labels, size) for path in list_images(together)]

    other = {"A": "B", "B": "A"}[photo]
    folders = [phase_folder(str(dataroot), phase, letter) for letter in (photo, other)]
    if None in folders:
        raise UserError(
            f"--dataroot {dataroot} has no folder {phase} of files with photograph and label map side by side, "
            f"nor {phase}A and {phase}B"
        )
    photos = images_by_name(Path(folders[0]))
    pairs = []
    for name, path in partners(list(photos), Path(folders[1])):
        if path is None:
            raise UserError(
                f"{folders[1]} has no label map {name}, but {folders[0]} has the photograph"
            )
        image = read_image(str(photos[name]), 3).resize(size, Image.Resampling.BICUBIC)
        pairs.append((image, read_labels(path, labels, size)))
    return pairs


def _halves(path: str, photo: str, labels: LabelSet, size: tuple[int, int]) -> Pair:
    """A file with A on the left and B on the right."""
    image = read_image(path, 3)
    width, height = image.size
    half = width // 2
    left, right = image.crop((0, 0, half, height)), image.crop((width - half, 0, width, height))
    picture, shown = (left, right) if photo == "A" else (right, left)

    shown = resized_labels(shown, size)
    if not labels.in_colour:
        shown = shown.convert("L")
    return picture.resize(size, Image.Resampling.BICUBIC), labels.read(np.asarray(shown))
