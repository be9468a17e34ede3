"""Files written whole or not at all."""

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary name beside `path` that replaces it when the block ends well and vanishes when it fails.

    Readers see the old file or the new one, never half of one, even after a power cut. Parent
    folders are made. The temporary name is short (`path` may be as long as the system allows) and
    always the same, so that what a killed process leaves behind is overwritten by the next write.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()
    temporary = path.with_name(f".{digest[:12]}.tmp")

    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


MEGABYTE = 1e6
FULL = (errno.ENOSPC, errno.EDQUOT)


def explain_os_error(error: OSError, folder: Path | str) -> str:
    """An error of the system in words; a full disk with the space that is free in `folder`."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno not in FULL:
        return reason
    free = free_bytes(folder)
    return reason if free is None else f"{reason} ({free / MEGABYTE:.0f} MB are free)"


def free_bytes(folder: Path | str) -> int | None:
    """Bytes that may be written in a folder, or in the nearest one above it that exists; None where nobody knows."""
    place = Path(folder).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        return shutil.disk_usage(place).free
    except OSError:
        return None


def try_folder(folder: Path) -> None:
    """Make a folder and write into it, as a save will; raises OSError where that cannot be done."""
    with atomic_path(folder / ".tried") as temporary:
        temporary.write_bytes(b"\0" * 4096)
    (folder / ".tried").unlink()
