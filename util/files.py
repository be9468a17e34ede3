"""Files written whole or not at all."""

import contextlib
import errno
import hashlib
import math
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = re.compile(r"\.[0-9a-f]{12}(?:\.(?P<host>.+)\.(?P<process>\d+))?\.tmp")
HOUR = 3600
_looked_through: dict[Path, float] = {}  # folders, and when this process did it


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary name beside `path` that replaces it when the block ends well and vanishes when it fails.

    Readers see the old file or the new one, never half of one, even after a power cut. Parent folders are made. The
    temporary name is short (`path` may be as long as the system allows). It is this process's own, so that several may
    write one file: each writes a whole one, and the last stays. What killed processes have left in the folder is
    removed, see `remove_leftovers`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)

    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()
    temporary = path.with_name(f".{digest[:12]}.{socket.gethostname()}.{os.getpid()}.tmp")

    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes have left in a folder.

    A process looks through a folder when it first writes there, and then once an hour: folders of results are large.
    """
    now = time.monotonic()
    if now - _looked_through.get(folder, -math.inf) < HOUR:
        return
    _looked_through[folder] = now

    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = TEMPORARY.fullmatch(entry.name)
            if found and _is_left_over(entry, found):
                with contextlib.suppress(OSError):  # somebody else's, or gone meanwhile
                    os.unlink(entry.path)


def _is_left_over(entry: os.DirEntry, name: re.Match) -> bool:
    """Whether the writer of a temporary file is dead; one on another machine is when it has been silent for an hour."""
    if name["host"] == socket.gethostname():
        return not is_alive(int(name["process"]))
    return time.time() - entry.stat(follow_symlinks=False).st_mtime > HOUR


def is_alive(process: int) -> bool:
    """Whether a process of this machine is alive."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # it lives, and belongs to somebody else
    return True


def append(path: Path, line: str) -> None:
    """Add one line to a text file, all of it or nothing; it is on its way to the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)  # somebody may have deleted it
    before = None
    try:
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            before = file.tell()
            file.write(line + "\n")
    except OSError:
        if before is not None:
            with contextlib.suppress(OSError):
                os.truncate(path, before)  # a full disk takes a part of it
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
    (folder / ".tried").unlink(missing_ok=True)  # another process may try it too
