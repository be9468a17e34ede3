"""The error that a user can mend: shown as one line, without a traceback."""

import errno
import os
import re
import sys
from collections.abc import Callable

BAD_INPUT = 2  # of a command that a user's error ended

# What the system says about disks, folders and names, whatever the program does right.
OF_THE_SYSTEM = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENFILE),
)

# What torch says when there is too little memory.
UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
ASKED = re.compile(r"(?:[Tt]ried to allocate|allocate memory: .*?) ?([\d.]+) ?(bytes|[KMG]iB)")

INTERRUPTED = 130  # as a shell has it for Ctrl-C


def is_main_process() -> bool:
    """Whether this is the first of the processes that torchrun has started, or the only one; it alone speaks."""
    return int(os.environ.get("RANK", 0)) == 0


class UserError(Exception):
    """Bad input from outside (a flag, a file, a folder). The message names the culprit and the remedy.

    Attributes:
        shown: whether this process prints it; None: the main process does, since all have found the same.
    """

    shown: bool | None = None

    def __str__(self) -> str:
        """The message in one line, whatever names of files it holds."""
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in super().__str__())


class UnfitImage(UserError):
    """An image that a method cannot translate, such as one of too few pixels: test.py names it and goes on."""


def exit_status(command: Callable[[], int | None]) -> int:
    """Run a command; returns its exit status. A `UserError` becomes one line on standard error.

    So does what the system says of a disk, a folder or a name, and a lack of memory.
    """
    try:
        return command() or 0
    except UserError as error:
        shown = is_main_process() if error.shown is None else error.shown
        if shown:
            print(f"error: {in_one_line(str(error))}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        if error.errno not in OF_THE_SYSTEM:
            raise
        name = f"{error.filename}: " if error.filename else ""
        print(f"error: {name}{error.strerror}; see to that disk or folder", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("error: interrupted; the same command starts again", file=sys.stderr)
        return INTERRUPTED
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        print(f"error: {too_little_memory(error)}", file=sys.stderr)
        return BAD_INPUT


def in_one_line(text: str) -> str:
    """The text with control characters, such as a line break inside a name, as one would type them in Python."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is about too little memory, of a GPU or of the machine, here or in a worker."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's
        return True
    text = str(error)
    return any(part in text for part in ("out of memory", "can't allocate memory", "MemoryError"))


def asked_for(error: str) -> str:
    """What could not be had, in words, by the text of an error; empty where it does not say."""
    found = ASKED.search(error)
    if not found:
        return ""
    number, unit = found.groups()
    return f"{float(number) * UNITS[unit] / UNITS['GiB']:.2f} GiB more were asked for"


def too_little_memory(error: BaseException) -> str:
    """What was asked for, and which flags make it less."""
    asked = asked_for(str(error))
    need = f" ({asked})" if asked else ""
    return (
        f"there is too little memory{need}: lower --batch_size, --crop_size, --load_size or the size of the networks "
        "(--ngf, --ndf), or take a machine with more"
    )


def first_line(error: Exception) -> str:
    """An error in one line; a second one is added where the first only announces it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__

    wanted = 2 if lines[0].endswith(":") else 1
    return " ".join(lines[:wanted])
