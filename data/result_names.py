"""What the result of a translated image is called: its place below its folder, once per file."""

from collections.abc import Iterator, Sequence
from itertools import count
from os.path import abspath
from pathlib import Path


def unique_names(paths: Sequence[str | Path], root: str | Path) -> list[str]:
    """Return one distinct relative name without suffix per path: its place below `root`, or its stem outside of it.

    `a.jpg` is "a"; an `a.png` after it, which would overwrite it, is "a_png"; the same file once
    more is "a_png_2". Upper and lower case count as equal, as they do on some disks. Names never
    hold ".." or an absolute path.
    """
    top = Path(abspath(root))
    taken: set[str] = set()
    names = []
    for path in paths:
        for name in _candidates(Path(abspath(path)), top):
            if name.casefold() not in taken and not name.endswith(".."):
                break
        taken.add(name.casefold())
        names.append(name)
    return names


def _candidates(path: Path, top: Path) -> Iterator[str]:
    """What a file may be called, the first choice first, without end."""
    inside = path.relative_to(top) if top in path.parents else Path(path.name)
    stem = inside.as_posix().removesuffix(inside.suffix)
    yield stem

    suffixed = f"{stem}_{inside.suffix[1:]}"
    yield suffixed
    for number in count(2):
        yield f"{suffixed}_{number}"
