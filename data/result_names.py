"""What the result of a translated image is called: its place below its folder, once per file."""

from collections.abc import Sequence
from itertools import chain, count
from os.path import abspath
from pathlib import Path


def unique_names(paths: Sequence[str | Path], root: str | Path) -> list[str]:
    """Return one distinct relative name without suffix per path: its place below `root`, or its stem outside of it.

    `a.jpg` is "a"; an `a.png` after it, which would overwrite it, is "a_png"; the same file once more is "a_png_2".
    Upper and lower case count as equal, as they do on some disks. Names never hold ".." or an absolute path.
    """
    top = Path(abspath(root))
    taken: set[str] = set()
    names = []
    for path in (Path(abspath(path)) for path in paths):
        inside = path.relative_to(top) if top in path.parents else Path(path.name)
        stem = inside.as_posix().removesuffix(inside.suffix)
        suffixed = f"{stem}_{inside.suffix[1:]}"
        candidates = chain([stem, suffixed], (f"{suffixed}_{number}" for number in count(2)))
        name = next(c for c in candidates if c.casefold() not in taken and not c.endswith(".."))
        taken.add(name.casefold())
        names.append(name)
    return names
