"""One process at a time writes a folder: the lock in it, which the system drops when its holder dies."""

import errno
import fcntl
import os
import socket
from pathlib import Path
from typing import IO

from util.errors import UserError
from util.files import is_alive

LOCK = ".lock"
NO_LOCKS_HERE = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class FolderLock:
    """Held by the process that writes a folder. One lock file may be held once on all machines that share the folder.

    A POSIX lock is used because worker processes do not inherit it: it ends with the process that took it, however that
    ended, so no stale lock is ever in the way. Where the file system has no locks, the process named in the file is
    looked for on this machine.

    Args:
        folder: made where there is none.
        doing: what its holder does, as in "is training this run".
        remedy: what another process can do instead of waiting.
    """

    def __init__(self, folder: Path, doing: str, remedy: str) -> None:
        self.path, self.doing, self.remedy = folder / LOCK, doing, remedy
        self._file: IO[str] | None = None

    def take(self) -> None:
        """Take the lock, unless this process has it.

        Raises:
            UserError: another process holds it.
        """
        if self._file is not None and self._is_mine():
            return
        self.drop()

        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("a+", encoding="utf-8", errors="replace")  # held until `drop`
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _read(file)
            if error.errno not in NO_LOCKS_HERE or _lives_here(holder):
                file.close()
                raise UserError(self._in_use(holder)) from None

        file.truncate(0)
        file.write(f"{os.getpid()} {socket.gethostname()}\n")
        file.flush()
        self._file = file

    def drop(self) -> None:
        """Let others write the folder; does nothing without the lock."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _is_mine(self) -> bool:
        """Whether the file that is locked still lies in the folder: somebody may have deleted it."""
        try:
            there, held = os.stat(self.path), os.fstat(self._file.fileno())
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)

    def _in_use(self, holder: str) -> str:
        process, _, host = holder.partition(" ")
        where = f"process {process or '?'} on {host or 'another machine'}"
        return (
            f"{where} {self.doing}, {self.path.parent}: wait for it, stop it "
            f"(kill {process or 'N'}), or {self.remedy}"
        )


def _read(file: IO[str]) -> str:
    file.seek(0)
    return file.read(300).strip()


def _lives_here(holder: str) -> bool:
    """Whether a process of this machine, named as in the lock file, is alive and not this one."""
    process, _, host = holder.partition(" ")
    if host != socket.gethostname() or not process.isdecimal() or int(process) == os.getpid():
        return False
    return is_alive(int(process))
