"""An experiment file: read, over the file that it names as its base, and checked."""

import itertools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.experiments.checks import check_grid
from scripts.experiments.grid import FLAG_TABLES, Grid, slug
from util.errors import UserError
from util.parser import show_value
from util.registry import did_you_mean

INHERITED = (*FLAG_TABLES, "data", "cluster")  # from the file that `base` names
OF_ROWS = ("rows", "seeds", "baseline", "sweep", "paper")  # from there too, in a file without rows
TABLES = ("name", "about", "base", *OF_ROWS, *INHERITED)


def read_grid(path: Path, out: Path | None = None) -> Grid:
    """Read an experiment file.

    Raises:
        UserError: it does not exist, is no TOML, or asks for something that is not understood; the message names it.
    """
    content = read_tables(path)
    if "base" in content:
        content = inherit(content, path)
    for key in ("rows", "data"):
        if not isinstance(content.get(key), dict) or not content[key]:
            raise UserError(f"{path}: [{key}.LABEL] is missing; at least one is needed")
        for label, flags in content[key].items():
            if not isinstance(flags, dict):
                raise UserError(f"{path}: [{key}.{label}] is a table of flags, not {flags!r}")

    name = content.get("name", path.stem)
    rows = swept(content["rows"], content.get("sweep", {}))
    row_seeds = {row: flags.pop("seeds") for row, flags in rows.items() if "seeds" in flags}
    grid = Grid(
        name=name,
        about=content.get("about", ""),
        seeds=content.get("seeds", [0]),
        baseline=content.get("baseline", next(iter(rows))),
        rows=rows,
        data=content["data"],
        paper=content.get("paper", {}),
        folder=out or Path("results") / "grids" / slug(name),
        file=path,
        row_seeds=row_seeds,
        cluster=content.get("cluster", {}),
        **{table: content.get(table, {}) for table in FLAG_TABLES},
    )
    check_grid(grid)
    return grid


def read_tables(path: Path) -> dict[str, Any]:
    """What a file says, with known names; raises UserError."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path} cannot be read as an experiment file: {error}") from None

    for key in content:
        if key not in TABLES:
            hint = did_you_mean(key, TABLES)
            raise UserError(f"{path}: {key} is unknown; {hint}there are: {', '.join(TABLES)}")
    return content


def inherit(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A file's tables over those of the file that it names as its base; raises UserError.

    Without rows of its own it takes the base's, with what belongs to them: the same table with other seeds or flags.
    """
    base = path.parent / content["base"]
    below = read_tables(base)
    if "base" in below:
        raise UserError(f"{path}: its base {base} has a base itself; name one file with all flags")

    merged = dict(content)
    for table in INHERITED:
        if table in below:
            merged[table] = below[table] | content.get(table, {})
    if "rows" not in content:
        merged = {key: below[key] for key in OF_ROWS if key in below} | merged
    return merged


def swept(rows: Mapping[str, dict], sweep: Mapping[str, list]) -> dict[str, dict]:
    """Every row with every combination of the swept flags, whose values become part of its label."""
    if not sweep:
        return {label: dict(flags) for label, flags in rows.items()}

    found = {}
    for label, flags in rows.items():
        for values in itertools.product(*sweep.values()):
            chosen = dict(zip(sweep, values, strict=True))
            words = ", ".join(f"{name} {show_value(value)}" for name, value in chosen.items())
            found[f"{label}, {words}"] = flags | chosen
    return found
