"""What a grid is: every run of rows x data sets x seeds, with its command line."""

import itertools
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from util.parser import show_value

FLAG_TABLES = ("flags", "test", "evaluate")  # flags of all runs, by the command that takes them


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
