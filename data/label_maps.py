"""Label maps: pictures whose colours or numbers name regions, such as those of a content and of a style."""

import os
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from data.image_file import opened
from data.image_folder import list_images
from data.pixels import on_white
from data.transforms import Size
from util.errors import UserError

AS_STORED = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")  # and those of deep grey, "I" and "I;16"
NUMBERED = ("1", "L", "LA", "P", "PA")  # a number per pixel: a grey value, or a place in a palette
GREY_STEP = 0x010101  # from one grey to the next, where colours are numbered 0xRRGGBB

LEAST_PIXELS = 10  # a label with no more than these in one of the pictures is taken for noise
LARGEST_RATIO = 100  # of the areas that a label has in the two pictures


def label_file(where: str, image: str, flag: str) -> str:
    """The label map of an image, as `label_files` finds it."""
    return label_files(where, [image], flag)[0]


def label_files(where: str, images: Sequence[str], flag: str) -> list[str]:
    """The label map of each image: the file `where`, or the one of its name in that folder.

    Raises:
        UserError: an image has none, or several; the message begins with `flag`.
    """
    if not os.path.isdir(where):
        if not os.path.isfile(where):
            raise UserError(f"{flag} {where} is neither a label map nor a folder of them")
        return [where] * len(images)

    by_stem: dict[str, list[str]] = {}
    for path in list_images(where):
        by_stem.setdefault(_stem(path), []).append(path)

    files = []
    for image in images:
        stem = _stem(image)
        found = by_stem.get(stem, [])
        if len(found) != 1:
            problem = "holds several label maps" if found else "holds no label map"
            raise UserError(f"{flag} {where} {problem} named {stem}, which {image} needs")
        files += found
    return files


def read_map(path: str) -> Image.Image:
    """A label map upright and as it is stored: nothing is scaled, and no colours go through a profile.

    Raises:
        UserError: the file cannot be decoded, or holds floating-point numbers.
    """
    with opened(path) as image:
        image.load()
        if image.mode == "F":
            raise UserError(
                f"{path}: a label map holds colours or whole numbers, and this one floating-point numbers: "
                "store it with whole numbers"
            )
        if image.mode not in AS_STORED and not is_deep(image):
            image = image.convert("RGB")
        return ImageOps.exif_transpose(image)


def is_deep(image: Image.Image) -> bool:
    """Whether it is grey of more than 8 bits."""
    return image.mode.startswith("I")


def ids_of(image: Image.Image, path: str) -> np.ndarray:
    """The numbers of a label map that `read_map` gave: (H,W) uint8; of a palette, the places in it.

    Raises:
        UserError: it holds colours, or numbers beyond 255; the message names `path`.
    """
    if image.mode in NUMBERED:
        return np.asarray(image.getchannel(0)).astype(np.uint8)

    if is_deep(image):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 255:
            raise UserError(
                f"{path} holds the numbers {values.min()} to {values.max()}, and ids lie between 0 and 255: "
                "give the label map of ids"
            )
        return values.astype(np.uint8)

    red, green, blue, *_ = (np.asarray(channel) for channel in image.split())
    if not np.array_equal(red, green) or not np.array_equal(green, blue):
        raise UserError(
            f"{path} holds colours where ids are expected: give grey files of ids, or say with --labels "
            "which colours the label maps have"
        )
    return red


def colours_of(image: Image.Image) -> np.ndarray:
    """The colours of a label map of 8 bits that `read_map` gave: (H,W,3) uint8; what is transparent is white."""
    return np.asarray(on_white(image).convert("RGB"))


def read_labels(path: str, size: Size) -> Tensor:
    """A label map at the size (width, height) of its image: (H,W) int64, a number per colour or per deep grey value.

    The grey value 7 has one number in files of any depth.
    """
    image = read_map(path).resize(size, Image.Resampling.NEAREST)
    if is_deep(image):
        return torch.from_numpy(np.asarray(image).astype(np.int64) * GREY_STEP)
    red, green, blue = np.moveaxis(colours_of(image).astype(np.int64), 2, 0)
    return torch.from_numpy(red << 16 | green << 8 | blue)


def common_labels(content_HW: Tensor, style_HW: Tensor) -> list[int]:
    """Labels of both maps: more than 10 pixels in each, and areas of a ratio below 100."""
    areas = []
    for labels in (content_HW, style_HW):
        values, counts = labels.unique(return_counts=True)
        areas.append(dict(zip(values.tolist(), counts.tolist(), strict=True)))

    content, style = areas
    common = []
    for label in content.keys() & style.keys():
        small, large = sorted((content[label], style[label]))
        if small > LEAST_PIXELS and large < LARGEST_RATIO * small:
            common.append(label)
    return sorted(common)


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0].casefold()
