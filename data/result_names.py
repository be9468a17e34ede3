"""What the result of a translated image is called: its place below its folder, once per file."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from itertools import count
from os.path import abspath
from pathlib import Path

LONGEST = 255 - len(".npz")  # bytes that file systems take in a name, without the ending


def unique_names(paths: Sequence[str | Path], root: str | Path) -> list[str]:
    """Return one distinct relative name without suffix per path: its place below `root`, or its stem outside of it.

    `a.jpg` is "a"; an `a.png` after it, which would overwrite it, is "a_png"; the same file once
    more is "a_png_2". What would be too long for a file system ends in a checksum. Upper and lower
    case count as equal, as they do on some disks. Names never hold ".." or an absolute path.
    """
    top = Path(abspath(root))
    taken: set[str] = set()
    names = []
    for path in paths:
        for name in map(fitted, _candidates(Path(abspath(path)), top)):
            if name.casefold() not in taken and not name.endswith(".."):
                break
        taken.add(name.casefold())
        names.append(name)
    return names


def fitted(name: str) -> str:
    """The name, shortened where its last part is too long for a file system."""
    folder, slash, stem = name.rpartition("/")
    encoded = os.fsencode(stem)
    if len(encoded) <= LONGEST:
        return name
    checksum = hashlib.sha256(encoded).hexdigest()[:8]
    kept = encoded[: LONGEST - len(checksum) - 1].decode(errors="ignore")
    return f"{folder}{slash}{kept}~{checksum}"


def _candidates(path: Path, top: Path) -> Iterator[str]:
    """What a file may be called, the first choice first, without end."""
    inside = path.relative_to(top) if top in path.parents else Path(path.name)
    stem = inside.as_posix().removesuffix(inside.suffix)
    yield stem

    suffixed = f"{stem}_{inside.suffix[1:]}"
    yield suffixed
    for number in count(2):
        yield f"{suffixed}_{number}"
