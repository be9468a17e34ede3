"""Label maps: pictures whose colours say which region of a content belongs to which region of a style."""

import os

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.image_file import read_image
from data.image_folder import list_images
from data.transforms import Size
from util.errors import UserError

LEAST_PIXELS = 10  # a label with no more than these in one of the pictures is taken for noise
LARGEST_RATIO = 100  # of the areas that a label has in the two pictures


def label_file(where: str, image: str, flag: str) -> str:
    """The label map of an image: the file `where`, or the one of its name in that folder.

    Raises:
        UserError: there is none, or there are several; the message begins with `flag`.
    """
    if not os.path.isdir(where):
        if not os.path.isfile(where):
            raise UserError(f"{flag} {where} is neither a label map nor a folder of them")
        return where

    stem = _stem(image)
    found = [path for path in list_images(where) if _stem(path) == stem]
    if len(found) != 1:
        problem = "holds no label map" if not found else "holds several label maps"
        raise UserError(f"{flag} {where} {problem} named {stem}, which {image} needs")
    return found[0]


def read_labels(path: str, size: Size) -> Tensor:
    """A label map at the size (width, height) of its image: (H,W) int64, a number per colour."""
    image = read_image(path, 3).resize(size, Image.Resampling.NEAREST)
    red, green, blue = np.moveaxis(np.asarray(image, dtype=np.int64), 2, 0)
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
