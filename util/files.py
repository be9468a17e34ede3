"""Files written whole or not at all."""

import contextlib
import hashlib
import os
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
