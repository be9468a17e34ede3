"""Reads one image file into 8-bit grey or RGB, upright, or says in one line what is wrong with it."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from util.errors import UserError

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


def cpu_count() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Results in the order of the items; threads suffice, since Pillow decodes and resizes without Python's lock."""
    with ThreadPoolExecutor(cpu_count()) as pool:
        yield from pool.map(function, items)


def read_size(path: str) -> tuple[int, int]:
    """(width, height) of the upright image, from the file's header alone; raises UserError for an unreadable file."""
    with _opened(path) as image:
        width, height = image.size
        lies_on_its_side = _orientation(image) >= 5
        return (height, width) if lies_on_its_side else (width, height)


def read_image(path: str, channels: int) -> Image.Image:
    """Decode the first frame of a file, turned upright: mode "L" (luminance) for 1 channel, "RGB" for 3.

    16-bit grey is scaled to 8 bits with rounding. Transparent pixels show white, as they do on a
    page: the colours that a file stores beneath them are arbitrary.

    Raises:
        UserError: the file cannot be decoded, or holds numbers whose range is not known.
    """
    with _opened(path) as image:
        turn = _TO_UPRIGHT.get(_orientation(image))  # asked before decoding
        image.load()

        pixels = _to_8_bit(image, path)
        if turn is not None:
            pixels = pixels.transpose(turn)
        return pixels.convert("L" if channels == 1 else "RGB")


def find_bad_images(paths: list[str]) -> dict[str, str]:
    """Decode every file and return what is wrong with those that fail, by path."""

    def fault(path: str) -> str | None:
        try:
            read_image(path, 3)
        except UserError as error:
            return str(error)
        return None

    faults = zip(paths, in_threads(fault, paths), strict=True)
    return {path: text for path, text in faults if text is not None}


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except UserError:
        raise
    except Exception as error:
        # decoders raise anything (SyntaxError, struct.error, ...), always because of the file
        reason = _reason(path, error)
        raise UserError(
            f"{path}: {reason}; replace the file, or leave it out with --skip_bad_images"
        ) from error


def _reason(path: str, error: Exception) -> str:
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        return "the file is empty (0 bytes)"
    if isinstance(error, UnidentifiedImageError):
        return "not an image, whatever its name says"

    detail = getattr(error, "strerror", None) or str(error) or type(error).__name__
    in_one_line = " ".join(detail.split())
    return f"the image cannot be read ({in_one_line})"


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation 1 to 8 as far as the header tells it; asked before decoding so that sizes agree."""
    if image.format == "TIFF":  # Pillow turns these itself, size included
        return 1

    try:
        # The base method: PNG's own would decode the whole file in search of a late EXIF chunk.
        return int(Image.Image.getexif(image).get(_ORIENTATION_TAG, 1))
    except (SyntaxError, ValueError, TypeError, OSError):  # damaged EXIF in a sound image
        return 1


def _to_8_bit(image: Image.Image, path: str) -> Image.Image:
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UserError(
                f"{path}: 32-bit values outside 0..65535; convert it to 8 or 16 bits per channel"
            )
        rounded = (values + 128) // 257
        return Image.fromarray(rounded.astype(np.uint8))

    if image.mode == "F":
        raise UserError(
            f"{path}: floating-point pixels have no known range; "
            "convert it to 8 or 16 bits per channel"
        )

    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        page = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(page, rgba).convert("RGB")
    return image
