"""What a file is that cannot be read as an image, and what to do about it: the line that a user sees."""

import os
import stat

from PIL import UnidentifiedImageError

from util.errors import UserError
from util.words import counted

HEAD = 512  # bytes that tell kinds of files apart
HEIC = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
VIDEO = (b"qt  ", b"isom", b"mp41", b"mp42", b"M4V ", b"avc1", b"3gp4", b"3gp5")
LFS = b"version https://git-lfs"
MAGIC = (
    (LFS, "a pointer of Git LFS, not the image itself; fetch it with: git lfs pull"),
    (b"%PDF", "a PDF document; convert its pages to .png"),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"\x1f\x8b", "a gzip archive; unpack it"),
    (b"\x93NUMPY", "a NumPy array; save it as a 16-bit .png or .tif"),
    (b"\x89HDF", "an HDF5 file; save its images as .png or .tif"),
    (b"\x1aE\xdf\xa3", "a video; extract its frames, with ffmpeg for example"),
    (b"\x76\x2f\x31\x01", "an OpenEXR image; convert it to 8 or 16 bits per channel"),
    (b"#?RADIANCE", "a Radiance HDR image; convert it to 8 or 16 bits per channel"),
    (b"FUJIFILM", "a camera's raw file; develop it to .jpg or .png"),
)
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
BANDS, BITS, SAMPLE_FORMAT = 277, 258, 339  # tags of TIFF


def check_is_file(path: str) -> None:
    """Raise UserError for what is no regular file, such as a named pipe, which would be waited for without end.

    Raises:
        OSError: there is nothing of this name.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISREG(mode):
        return
    kinds = {
        stat.S_ISFIFO: "a named pipe",
        stat.S_ISSOCK: "a socket",
        stat.S_ISDIR: "a folder",
        stat.S_ISCHR: "a device",
        stat.S_ISBLK: "a device",
    }
    kind = next(name for test, name in kinds.items() if test(mode))
    raise UserError(f"{path} is {kind}, not a file; remove it, or leave it out of this folder")


def describe_fault(path: str, error: Exception) -> str:
    """What is wrong with a file that a decoder has stumbled over, with a remedy."""
    what = _what_it_is(path, error)
    return f"{path}: {what}; replace the file, or leave it out with --skip_bad_images"


def _what_it_is(path: str, error: Exception) -> str:
    if os.path.islink(path) and not os.path.exists(path):
        return "a link to a file that is gone (No such file or directory)"
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        return "the file is empty (0 bytes)"

    if isinstance(error, UnidentifiedImageError):
        kind = _kind(path)
        return (
            f"not an image that can be read: it is {kind}"
            if kind
            else "not an image, whatever its name says"
        )

    detail = getattr(error, "strerror", None) or str(error) or type(error).__name__
    in_one_line = " ".join(detail.split())
    return f"the image cannot be read ({in_one_line})"


def _kind(path: str) -> str:
    """What the first bytes of a file say that it is, with what to do; empty where they say nothing."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError:
        return ""

    if head[4:8] == b"ftyp":
        if head[8:12] in HEIC:
            return "HEIC, which phones write under any name; convert it to .jpg or .png"
        if head[8:12] in VIDEO:
            return "a video; extract its frames, with ffmpeg for example"
    for magic, text in MAGIC:
        if head.startswith(magic):
            return text
    if head.startswith(TIFF):
        return _tiff(path)

    text = head.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page, as a failed download leaves it; download the image again"
    if b"<svg" in text:
        return "an SVG drawing; convert it to .png"
    return ""


def _tiff(path: str) -> str:
    """What kind of pixels a TIFF file holds that Pillow does not know."""
    from PIL import TiffImagePlugin

    try:
        with open(path, "rb") as file:
            tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
            file.seek(tags.next)
            tags.load(file)
        bands = int(tags.get(BANDS, 1))
        bits = max(tags.get(BITS, (1,)))
        floating = 3 in tags.get(SAMPLE_FORMAT, (1,))
    except Exception:  # a file that is damaged as well; parsers raise anything
        return "a TIFF file of a kind that Pillow does not read; convert it to 8 bits, RGB or grey"

    number = "floating-point numbers" if floating else f"{bits} bits"
    return (
        f"a TIFF file with {counted(bands, 'band')} of {number} each; convert it to RGB or grey, "
        "8 or 16 bits (of many bands, choose three)"
    )
