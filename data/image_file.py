"""Reads one image file into 8-bit grey or RGB, upright, or says in one line what is wrong with it."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import torch
from PIL import Image

from data.pixels import Levels, to_8_bit
from data.unreadable import check_is_file, describe_fault
from util.errors import UserError
from util.hardware.cores import cpu_count
from util.hardware.memory import GIB, free_memory

Image.MAX_IMAGE_PIXELS = None  # what memory allows is read, see `_check_memory`

Item = TypeVar("Item")
Result = TypeVar("Result")

_ORIENTATION_TAG = 0x0112
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_THEIR_SIDE = (5, 6, 7, 8)


LARGE = 50_000_000  # pixels: of larger images the memory is asked before they are decoded
BYTES_PER_PIXEL = 12  # while one is decoded, converted and copied


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Results in the order of the items; threads suffice, since Pillow decodes and resizes without Python's lock."""
    with ThreadPoolExecutor(cpu_count()) as pool:
        yield from pool.map(function, items)


class Header(NamedTuple):
    """What a file says of its image before it is decoded: (width, height) upright, mode, and whether more follow."""

    size: tuple[int, int]
    mode: str
    several: bool


def read_header(path: str) -> Header:
    """What the file's first bytes tell; raises UserError for an unreadable file."""
    with opened(path) as image:
        width, height = image.size
        lies_on_its_side = _orientation(image) in _ON_THEIR_SIDE
        size = (height, width) if lies_on_its_side else (width, height)
        # further pictures of MPO are previews, those of PSD layers
        several = image.format not in ("MPO", "PSD") and getattr(image, "is_animated", False)
        return Header(size, image.mode, bool(several))


def read_size(path: str) -> tuple[int, int]:
    """(width, height) of the upright image, from the file's header alone; raises UserError for an unreadable file."""
    return read_header(path).size


def read_image(path: str, channels: int, levels: Levels | None = None) -> Image.Image:
    """Decode the first frame of a file, turned upright: mode "L" (luminance) for 1 channel, "RGB" for 3.

    16-bit grey is scaled to 8 bits with rounding. Colours become sRGB where the file has another
    profile. Transparent pixels show white, as they do on a page: the colours that a file stores
    beneath them are arbitrary.

    Args:
        path: the file.
        channels: 1 or 3.
        levels: the values of a grey file that become black and white, see `to_8_bit`.

    Raises:
        UserError: the file cannot be decoded, holds numbers whose range is not known, or is too large for memory.
    """
    with opened(path) as image:
        turn = _TO_UPRIGHT.get(_orientation(image))  # asked before decoding
        _check_memory(path, image.size)
        image.load()

        pixels = to_8_bit(image, path, levels)
        if turn is not None:
            pixels = pixels.transpose(turn)
        return pixels.convert("L" if channels == 1 else "RGB")


# Of files that this process has decoded, by what a fault depends on.
_faults: dict[tuple, str | None] = {}


def find_bad_images(paths: list[str], levels: Levels | None = None) -> dict[str, str]:
    """Decode every file and return what is wrong with those that fail, by path.

    A process decodes a file once for this, until it changes: both halves of pairs, and images to measure on, are read
    from the same files as images to train on.
    """

    def fault(path: str) -> str | None:
        try:
            found = os.stat(path)
            key = (path, levels, found.st_mtime_ns, found.st_size)
        except OSError:
            return _fault(path, levels)  # which says so
        if key not in _faults:
            _faults[key] = _fault(path, levels)
        return _faults[key]

    faults = zip(paths, in_threads(fault, paths), strict=True)
    return {path: text for path, text in faults if text is not None}


def _fault(path: str, levels: Levels | None) -> str | None:
    """What is wrong with a file that cannot be decoded."""
    try:
        read_image(path, 3, levels)
    except UserError as error:
        return str(error)
    return None


@contextmanager
def opened(path: str) -> Iterator[Image.Image]:
    """The image of a file, not yet decoded; raises UserError for one that cannot be, also while it is in use."""
    try:
        check_is_file(path)
        with Image.open(path) as image:
            yield image
    except UserError:
        raise
    except Exception as error:
        # decoders raise anything (SyntaxError, struct.error, ...), always because of the file
        raise UserError(describe_fault(path, error)) from error


def _check_memory(path: str, size: tuple[int, int]) -> None:
    """Raise UserError where an image of (width, height) is too large to be decoded."""
    pixels = size[0] * size[1]
    if pixels < LARGE:
        return

    needed = pixels * BYTES_PER_PIXEL
    free = free_memory(torch.device("cpu"))
    if free is not None and needed > free:
        raise UserError(
            f"{path}: {size[0]} x {size[1]} pixels take {needed / GIB:.1f} GiB to read, and {free / GIB:.1f} GiB "
            "are free; make the image smaller, or leave it out with --skip_bad_images"
        )


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation as far as the header tells it; asked before decoding so that sizes agree.

    Upright is 1. Damaged files have any number, and what is not 2 to 8 counts as upright.
    """
    if image.format == "TIFF":  # Pillow turns these itself, size included
        return 1

    try:
        # The base method: PNG's own would decode the whole file in search of a late EXIF chunk.
        return int(Image.Image.getexif(image).get(_ORIENTATION_TAG, 1))
    except (SyntaxError, ValueError, TypeError, OSError):  # damaged EXIF in a sound image
        return 1
