"""What a file that should hold weights is instead, by its bytes, and whether they are those that were written."""

import zipfile
import zlib
from pathlib import Path

from util.errors import first_line

HEAD = 1024  # bytes that tell what a file is
BEGINNINGS = (
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file itself with git lfs pull"),
    (b"<!doctype html", "a web page, not weights: download the file itself"),
    (b"<html", "a web page, not weights: download the file itself"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"\x89hdf\r\n", "an HDF5 file, of Keras say: convert it to a state dict of torch"),
)
ZIP = b"PK\x03\x04"


def reason_not_readable(path: Path) -> str | None:
    """Why torch cannot read a file or must not; None where nothing speaks against trying.

    torch.save writes a checksum beside each tensor and torch.load does not look at it: changed bytes would be loaded as
    other numbers. A file in torch's format before 1.6 has none.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        return error.strerror or str(error)

    kind = what_it_is(head)
    if kind or not head.startswith(ZIP):
        return kind

    try:
        with zipfile.ZipFile(path) as archive:
            changed = archive.testzip()
    except (
        OSError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
        ValueError,
        EOFError,
        NotImplementedError,
    ) as error:
        return f"cut off or overwritten: {first_line(error)}"
    if changed:
        return f"bytes of {changed} have changed since it was written"
    return None


def what_it_is(head: bytes) -> str | None:
    """What a file is that begins with these bytes, where that is known and not weights of torch."""
    if not head:
        return "it is empty"
    start = head.lstrip().lower()
    for beginning, name in BEGINNINGS:
        if start.startswith(beginning):
            shown = head.strip()[:24].decode("ascii", "replace").split("\n")[0]
            return (
                f"it starts with {shown!r}: it is {name}"
                if shown.isprintable()
                else f"it is {name}"
            )
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 10**8:
        return "it is a safetensors file: convert it to a state dict of torch"
    return None
