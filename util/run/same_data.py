"""Whether a run goes on with the images that it has learned from, told by their names and sizes in bytes."""

import hashlib
import os
from collections.abc import Iterable

PARTS = 64  # in which images are told apart, so that a mended file is not taken for other data
MENDED = 8  # at most one part of so many may have changed, or a single one


def data_print(files: Iterable[tuple[str, int]]) -> str:
    """What tells the images of a domain from others, from their (name, size in bytes), in order."""
    names, sizes, count = hashlib.sha256(), {}, 0
    for count, (name, size) in enumerate(files, start=1):
        entry = f"{name}\0".encode(errors="surrogateescape")
        names.update(entry)
        sizes.setdefault((count - 1) % PARTS, hashlib.sha256()).update(entry + b"%d\0" % size)

    parts = ".".join(checksum.hexdigest()[:4] for checksum in sizes.values())
    return f"{count} images, {names.hexdigest()[:16]}, {parts}"


def file_sizes(paths: Iterable[str], folder: str) -> Iterable[tuple[str, int]]:
    """(name below the folder, size in bytes) of each file."""
    for path in paths:
        yield os.path.relpath(path, folder), os.path.getsize(path)


def changed_parts(then: str, now: str) -> int | None:
    """How many parts of the images have changed, none or so few that files were mended; None for other images."""
    *names_then, sizes_then = then.split(", ")
    *names_now, sizes_now = now.split(", ")
    if names_then != names_now:
        return None

    pairs = list(zip(sizes_then.split("."), sizes_now.split("."), strict=True))
    changed = sum(one != other for one, other in pairs)
    few = changed == 0 or (changed <= max(1, len(pairs) // MENDED) and changed < len(pairs))
    return changed if few else None
