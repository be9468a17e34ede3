"""What an experiment file asks for: every run of rows x data sets x seeds, with its command line."""

import contextlib
import io
import itertools
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from options import TestOptions, TrainOptions, parse
from scripts import evaluate
from util.errors import UserError
from util.parser import show_value
from util.registry import did_you_mean

FLAG_TABLES = ("flags", "test", "evaluate")
INHERITED = (*FLAG_TABLES, "data", "cluster")  # from the file that `base` names
TABLES = ("name", "about", "base", "seeds", "baseline", "rows", "sweep", "paper", *INHERITED)
# Flags that a file may not give, and why.
OURS = {
    "name": "the grid names its runs",
    "seed": "seeds = [0, 1] at the head of the file, or in a row, says which",
    "checkpoints_dir": "the grid has a folder of its own (--out)",
    "results_dir": "the grid has a folder of its own (--out)",
    "max_minutes": "scripts/experiment.py takes it",
    "gpu_ids": "scripts/experiment.py --devices says which",
    "from_scratch": "it would undo the work of an earlier start",
}


@dataclass(frozen=True)
class Job:
    """One run: trained, translated and measured; the commands are those that a person would type.

    Attributes:
        run: its name, also that of its folders.
        row, data, seed: its place in the table.
        train, test, evaluate: arguments of train.py, test.py and scripts/evaluate.py.
    """

    run: str
    row: str
    data: str
    seed: int
    train: list[str]
    test: list[str]
    evaluate: list[str]
    checkpoints_dir: str
    results_dir: str

    @property
    def folder(self) -> Path:
        """Of the run: all that its row of the table needs."""
        return Path(self.checkpoints_dir) / self.run

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return asdict(self)


@dataclass
class Grid:
    """An experiment file, read and checked.

    Attributes:
        rows: label -> flags; data: label -> flags.
        seeds: of all rows but those in `row_seeds`, which have seeds of their own.
        paper: figure -> data set -> row -> the value that a paper prints.
        folder: where runs, results and the report go.
    """

    name: str
    about: str
    seeds: list[int]
    baseline: str
    rows: dict[str, dict[str, Any]]
    data: dict[str, dict[str, Any]]
    flags: dict[str, Any]
    test: dict[str, Any]
    evaluate: dict[str, Any]
    paper: dict[str, dict[str, dict[str, float]]]
    folder: Path
    file: Path
    row_seeds: dict[str, list[int]] = field(default_factory=dict)
    cluster: dict[str, Any] = field(default_factory=dict)

    def all_seeds(self) -> list[int]:
        """Those of any row, each once."""
        lists = [self.seeds, *self.row_seeds.values()]
        return list(dict.fromkeys(itertools.chain.from_iterable(lists)))

    def jobs(self) -> list[Job]:
        """All runs, first those of the first seed, so that a table begins to fill in all rows."""
        return [
            self._job(row, data, seed)
            for seed, data, row in itertools.product(self.all_seeds(), self.data, self.rows)
            if seed in self.row_seeds.get(row, self.seeds)
        ]

    def _job(self, row: str, data: str, seed: int) -> Job:
        run = f"{slug(data)}-{slug(row)}-seed{seed}"
        checkpoints, results = self.folder / "checkpoints", self.folder / "results"
        own = {"name": run, "seed": seed, "checkpoints_dir": checkpoints}
        train = own | {"display_id": 0} | self.flags | self.data[data] | self.rows[row]
        where = {"name": run, "checkpoints_dir": checkpoints, "results_dir": results}
        return Job(
            run, row, data, seed,
            train=as_flags(train), test=as_flags(where | self.test), evaluate=as_flags(where | self.evaluate),
            checkpoints_dir=str(checkpoints), results_dir=str(results),
        )  # fmt: skip


def as_flags(values: Mapping[str, Any]) -> list[str]:
    """Options as one types them."""
    return [part for name, value in values.items() for part in (f"--{name}", show_value(value))]


def slug(label: str) -> str:
    """A label as part of a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", label).strip("_")


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
    """A file's tables over those of the file that it names as its base; raises UserError."""
    base = path.parent / content["base"]
    below = read_tables(base)
    if "base" in below:
        raise UserError(f"{path}: its base {base} has a base itself; name one file with all flags")

    merged = dict(content)
    for table in INHERITED:
        if table in below:
            merged[table] = below[table] | content.get(table, {})
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


def check_grid(grid: Grid) -> None:
    """Raise UserError for flags that a run sets itself, labels that name one run, and commands that are refused."""
    where = str(grid.file)
    for place, seeds in {"": grid.seeds, **grid.row_seeds}.items():
        if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
            table = f"[rows.{place}] " if place else ""
            raise UserError(f"{where}: {table}seeds is a list of whole numbers, such as [0, 1, 2]")
    if grid.baseline not in grid.rows:
        hint = did_you_mean(grid.baseline, grid.rows)
        raise UserError(
            f"{where}: baseline {grid.baseline!r} is no row; {hint}there are: {', '.join(grid.rows)}"
        )

    for figure, by_data in grid.paper.items():
        for data, values in by_data.items():
            check_known(grid, f"paper.{figure}.{data}", [data], grid.data)
            check_known(grid, f"paper.{figure}.{data}", values, grid.rows)

    tables = {"flags": grid.flags, "test": grid.test, "evaluate": grid.evaluate}
    tables |= {f"rows.{label}": flags for label, flags in grid.rows.items()}
    tables |= {f"data.{label}": flags for label, flags in grid.data.items()}
    for table, flags in tables.items():
        for name in flags:
            if name in OURS:
                raise UserError(f"{where}: [{table}] {name}: leave it out, {OURS[name]}")

    jobs = grid.jobs()
    understood = set()
    for job in jobs:
        if sum(other.run == job.run for other in jobs) > 1:
            raise UserError(
                f"{where}: two runs would be called {job.run}; give labels that differ in letters"
            )
        if (job.row, job.data) in understood:
            continue  # the same command but for its seed
        understood.add((job.row, job.data))
        try:
            parse(TrainOptions(), job.train)
        except UserError as error:
            raise UserError(f"{where}: row {job.row!r}, data {job.data!r}: {error}") from None
    check_test_flags(grid)
    check_evaluate_flags(grid, jobs[0])


def check_known(grid: Grid, table: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise UserError for a label in a table that is none of the file's."""
    for name in names:
        if name not in known:
            raise UserError(
                f"{grid.file}: [{table}] {name!r} is no label of the file; {did_you_mean(name, known)}"
                f"there are: {', '.join(known)}"
            )


def check_data(grid: Grid) -> None:
    """Raise UserError where a data set is not there; a report alone does not need it."""
    for label, flags in grid.data.items():
        where = flags.get("dataroot", grid.flags.get("dataroot", ""))
        if not os.path.isdir(where):
            raise UserError(f"{grid.file}: [data.{label}] dataroot {where} is not a folder")


def check_evaluate_flags(grid: Grid, job: Job) -> None:
    """Raise UserError for a flag of [evaluate] that scripts/evaluate.py does not take."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            evaluate.parse_arguments(job.evaluate)
    except SystemExit:
        reason = said.getvalue().strip().splitlines()[-1].partition("error: ")[2]
        raise UserError(f"{grid.file}: [evaluate]: {reason}") from None


def check_test_flags(grid: Grid) -> None:
    """Raise UserError for a flag of [test] that test.py does not know."""
    options = TestOptions()
    known = set()
    for flags in grid.rows.values():
        model = str(flags.get("model", grid.flags.get("model", "patchgcl")))
        known |= {*options.build_parser(options.peek(["--model", model])).declared()}
    for name in grid.test:
        if name not in known:
            raise UserError(
                f"{grid.file}: [test] {name} is no flag of test.py; {did_you_mean(name, known)}"
            )
