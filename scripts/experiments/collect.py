"""From folders of runs to the table: a run's row comes from its folder alone, a grid's from those of its runs."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scripts.evaluating import floors
from scripts.evaluating.words import scaled, title_of
from scripts.experiments.grid import Grid, Job
from scripts.experiments.job import (
    EPOCHS,
    RECORD,
    measured_as_asked,
    measured_file,
    trained_as_asked,
)
from scripts.experiments.statistics import paired_test, summary
from util.logs.sink import EVALUATION
from util.run.folder import describe_history, saved_record

COSTS = ("images/s", "hours", "memory GB", "M parameters")
STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")


@dataclass(frozen=True)
class RunRow:
    """One run: figures by checkpoint ("last", "best") and title, what it cost, and its curves.

    `intervals`: of the figures, over images, laid out as they are; `changes`: which flags changed while it was trained;
    `warnings`: what scripts/evaluate.py warned of.
    """

    name: str
    row: str
    data: str
    seed: int
    recipe: str
    commit: str
    figures: Mapping[str, Mapping[str, float]]
    better: Mapping[str, str]
    floors: Mapping[str, Mapping[str, float]]
    costs: Mapping[str, float | None]
    curves: Mapping[str, list[tuple[int, float]]] = field(default_factory=dict)
    changes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)


def run_row(folder: Path) -> RunRow | None:
    """The row of a run, from its folder; None where nothing was measured."""
    measured = {}
    for column in EPOCHS:
        path = measured_file(folder, column)
        if path.is_file():
            measured[column] = json.loads(path.read_text(encoding="utf-8"))
    if not measured:
        return None

    record, job = saved_record(folder), _json(folder / RECORD)
    options = record.get("options", {})
    first = next(iter(measured.values()))
    records = _records(folder / "metrics.jsonl")
    return RunRow(
        name=folder.name,
        row=job.get("row", folder.name),
        data=job.get("data", Path(options.get("dataroot", "?")).name),
        seed=options.get("seed", 0),
        recipe=record.get("recipe", "?"),
        commit=record.get("versions", {}).get("commit", "?"),
        figures={column: values_of(result) for column, result in measured.items()},
        better={title_of(n, e): e["better"] for n, e in first["figures"].items()}
        | {"score": "high"},
        floors=floors_of(first),
        costs=costs(folder, records, job),
        curves=curves(records),
        changes=describe_history(record),
        warnings=first.get("warnings", []),
        intervals={column: intervals_of(result) for column, result in measured.items()},
    )


def asked_row(job: Job) -> tuple[RunRow | None, list[str]]:
    """The row of a job, with the figures that are those of its present flags and weights, and the columns that are not.

    The job says where in the table they stand; the folder may be of a time when labels were others.
    """
    found = run_row(job.folder)
    if found is None:
        return None, []
    current = {
        column: figures
        for column, figures in found.figures.items()
        if trained_as_asked(job) and measured_as_asked(job, column)
    }
    old = [column for column in found.figures if column not in current]
    if not current:
        return None, old
    return replace(found, figures=current, row=job.row, data=job.data, seed=job.seed), old


def values_of(result: Mapping[str, Any]) -> dict[str, float]:
    """The figures of one evaluation by title, in the unit of tables."""
    values = {"score": result["score"]} if "score" in result else {}
    for name, entry in result["figures"].items():
        values[title_of(name, entry)] = scaled(name, entry["value"])
    return values


def intervals_of(result: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """The bootstrap intervals over images of one evaluation by title, in the unit of tables."""
    found = {}
    for name, entry in result["figures"].items():
        if entry.get("interval"):
            low, high = entry["interval"]
            found[title_of(name, entry)] = (scaled(name, low), scaled(name, high))
    return found


def floors_of(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What figures must be read against: floor in words -> title -> value."""
    found: dict[str, dict[str, float]] = {}
    for name, entry in result["figures"].items():
        for floor, values in entry.get("floors", {}).items():
            if values["value"] is not None:
                found.setdefault(floors.WORDS[floor], {})[title_of(name, entry)] = scaled(
                    name, values["value"]
                )
    return found


def costs(
    folder: Path, records: Sequence[Mapping], job: Mapping[str, Any]
) -> dict[str, float | None]:
    """Speed, training hours, memory (of the GPU; without one, of the process) and parameters of the generator."""
    steps = [record for record in records if "time" in record and record["time"] is not None]
    hours, before = 0.0, 0
    for record in steps:
        hours += record["time"] * (record["images"] - before) / 3600
        before = record["images"]

    speeds = [record["images/s"] for record in steps]
    memory = [record["memory"] for record in steps if "memory" in record]
    host = job.get("host_memory_gb")
    values = (
        float(np.median(speeds)) if speeds else None,
        hours if steps else None,
        max(memory) if memory else host,
        parameters(folder, job.get("translated_with", [])),
    )
    return dict(zip(COSTS, values, strict=True))


def parameters(folder: Path, names: Sequence[str]) -> float | None:
    """Millions of parameters in what translates, from the files of weights that test.py took.

    Where a method has networks for both directions, those of A -> B count.
    """
    files = [folder / name for name in names if not is_way_back(name, names)]
    if not files or not all(path.is_file() for path in files):
        return None

    counted = 0
    for path in files:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        counted += sum(v.numel() for key, v in state.items() if not key.endswith(STATISTICS))
    return counted / 1e6


def is_way_back(name: str, names: Sequence[str]) -> bool:
    """Whether a file holds a network of B -> A whose like for A -> B is there too: net_G_B beside net_G_A."""
    twin = name.replace("_B.pth", "_A.pth").replace("_B_ema.pth", "_A_ema.pth")
    return twin != name and twin in names


def curves(records: Iterable[Mapping]) -> dict[str, list[tuple[int, float]]]:
    """Every loss and every figure of held-out images over images seen; those figures come first."""
    found: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        for name, value in record["losses"].items():
            if value is not None:
                found.setdefault(name, []).append((record["images"], value))
    ordered = sorted(found, key=lambda name: not name.startswith(EVALUATION))
    return {name: found[name] for name in ordered}


def _records(path: Path) -> list[dict]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


@dataclass(frozen=True)
class Cell:
    """One figure of one row: the seeds in short, and the paired test.

    `seeds`: how many the row has; `over_images`: the interval over images, of a figure that comes from one seed.
    """

    stats: Mapping[str, Any]
    test: Mapping[str, Any] | None = None
    seeds: int = 1
    over_images: tuple[float, float] | None = None

    def text(self) -> str:
        """As tables show it: mean, deviation, interval, p of the test against the baseline.

        How many seeds a number is from is said where it is not all of the row.
        """
        stats = self.stats
        words = self.mean()
        if stats["sd"] is not None:
            low, high = stats["interval"]
            words += f" ± {stats['sd']:.3f} [{low:.3f}, {high:.3f}]"
        elif self.over_images:
            low, high = self.over_images
            words += f" ({low:.3f} to {high:.3f})"
        if stats["n"] != self.seeds:
            words += f" (n {stats['n']})"
        if self.test and self.test["n"] > 1:
            words += f" p {self.test['p']:.2g}"
            if self.test["n"] != stats["n"]:
                words += f" (n {self.test['n']})"
        return words

    def mean(self) -> str:
        """The mean as tables show it."""
        return f"{self.stats['mean']:.3f}"


@dataclass
class Table:
    """What is known of one data set: columns, and per row a cell each; None where nothing was measured.

    `left_out`: runs with figures of other flags or weights than they have now, and of which checkpoints those are.
    """

    data: str
    columns: list[str]
    rows: dict[str, list[Cell | float | None]]
    runs: list[RunRow]
    seeds: dict[str, list[int]]
    left_out: dict[str, list[str]] = field(default_factory=dict)


def tables(grid: Grid) -> list[Table]:
    """A table per data set, from the folders of the runs."""
    found = []
    for data in grid.data:
        rows = {job.run: asked_row(job) for job in grid.jobs() if job.data == data}
        one = table(grid, data, [run for run, _ in rows.values() if run is not None])
        one.left_out = {name: old for name, (_, old) in rows.items() if old}
        found.append(one)
    return found


def table(grid: Grid, data: str, runs: Sequence[RunRow]) -> Table:
    """The rows of one data set; the paper's figures stand beside ours."""
    titles = list(dict.fromkeys(t for run in runs for t in next(iter(run.figures.values()))))
    checkpoints = [column for column in EPOCHS if any(column in run.figures for run in runs)]
    columns, rows = [], {row: [] for row in grid.rows}
    seeds = {row: sorted(run.seed for run in runs if run.row == row) for row in rows}
    for title in titles:
        printed = grid.paper.get(title.removesuffix(" x100"), {}).get(data, {})
        for checkpoint in checkpoints:
            columns.append(f"{title} {checkpoint}")
            base = by_seed(runs, grid.baseline, checkpoint, title)
            for row, cells in rows.items():
                values = by_seed(runs, row, checkpoint, title)
                if not values:
                    cells.append(None)
                    continue
                test = None if row == grid.baseline else paired_test(values, base)
                stats, images = summary(list(values.values())), None
                if len(values) == 1:
                    images = over_images(runs, row, checkpoint, title)
                cells.append(Cell(stats, test, len(seeds[row]), images))
        if printed:
            columns.append(f"{title} paper")
            for row, cells in rows.items():
                cells.append(printed.get(row))

    for cost in COSTS:
        columns.append(cost)
        for row, cells in rows.items():
            known = [
                run.costs[cost] for run in runs if run.row == row and run.costs[cost] is not None
            ]
            cells.append(float(np.mean(known)) if known else None)
    return Table(data, columns, rows, list(runs), seeds)


def by_seed(runs: Sequence[RunRow], row: str, checkpoint: str, title: str) -> dict[int, float]:
    """A figure of one row, by seed."""
    values = {}
    for run in runs:
        value = run.figures.get(checkpoint, {}).get(title)
        if run.row == row and value is not None:
            values[run.seed] = value
    return values


def over_images(
    runs: Sequence[RunRow], row: str, checkpoint: str, title: str
) -> tuple[float, float] | None:
    """The interval over images of a figure that one run of a row has."""
    intervals = (run.intervals.get(checkpoint, {}).get(title) for run in runs if run.row == row)
    return next((interval for interval in intervals if interval), None)


def shown(cell: Cell | float | None) -> str:
    """A cell as text."""
    if cell is None:
        return "-"
    return cell.text() if isinstance(cell, Cell) else f"{cell:.3g}"


def floor_rows(table: Table) -> dict[str, list[str]]:
    """What the columns must be read against, in words -> a text per column; a range where runs differ."""
    found: dict[str, list[str]] = {}
    for floor in dict.fromkeys(floor for run in table.runs for floor in run.floors):
        known = [run.floors.get(floor, {}) for run in table.runs]
        cells = []
        for column in table.columns:
            title, _, checkpoint = column.rpartition(" ")
            values = [one[title] for one in known if title in one]
            cells.append(span(values) if values and checkpoint == "last" else "")
        found[floor] = cells
    return found


def span(values: Sequence[float]) -> str:
    """One number where all look alike in a table, else the least and the largest."""
    low, high = f"{min(values):.3f}", f"{max(values):.3f}"
    return low if low == high else f"{low} to {high}"


def as_markdown(grid: Grid, found: Sequence[Table]) -> str:
    """All tables, with what they must be read with."""
    lines = [f"# {grid.name}", "", grid.about, ""]
    for one in found:
        lines += [f"## {one.data}", ""]
        heads = ["", "seeds", *one.columns]
        lines += [_line(heads), _line(["---"] * len(heads))]
        for row, cells in one.rows.items():
            name = f"{row} (baseline)" if row == grid.baseline else row
            lines.append(_line([name, str(len(one.seeds[row])), *map(shown, cells)]))
        lines += [_line([f"*{floor}*", "", *cells]) for floor, cells in floor_rows(one).items()]
        lines += ["", *(f"- {text}" for text in remarks(one)), ""]
    return "\n".join([*lines, *notes(grid), ""])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def remarks(table: Table) -> list[str]:
    """What a reader must know of a table: figures left out, flags that changed, what evaluating warned of."""
    found = []
    for name, old in table.left_out.items():
        found.append(
            f"{name}: {' and '.join(old)} left out, measured under other flags or with other weights than it has now; "
            "run the experiment again"
        )
    for run in table.runs:
        found += [f"{run.name}: {change}" for change in run.changes]

    runs_by_warning: dict[str, list[str]] = {}
    for run in table.runs:
        for warning in run.warnings:
            runs_by_warning.setdefault(warning, []).append(run.name)
    for warning, names in runs_by_warning.items():
        whose = "all runs" if len(names) == len(table.runs) else ", ".join(names)
        found.append(f"{whose}: {warning}")
    return found


def notes(grid: Grid) -> list[str]:
    """How to read the tables."""
    return [
        "Mean ± standard deviation [95 % bootstrap interval of the mean] over seeds. p is a two-sided sign-flip test "
        f"against {grid.baseline!r} at equal seeds; with N seeds it cannot fall below 2 / 2^N.",
        "A figure of one seed stands with its 95 % bootstrap interval over images (low to high). It says nothing about "
        "other seeds.",
        "*last* is the end of training. *best* is the checkpoint that measured best on the images of --eval_split; "
        "the figures of both are those of the test set.",
    ]


def as_csv(found: Sequence[Table]) -> str:
    """One line per run and checkpoint; beside a figure the ends of its interval over images, where it has one."""
    titles = list(
        dict.fromkeys(t for one in found for r in one.runs for f in r.figures.values() for t in f)
    )
    heads = [head for title in titles for head in (title, f"{title} low", f"{title} high")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["data", "row", "seed", "checkpoint", *heads, *COSTS, "run", "recipe", "commit"]
    )
    for one in found:
        for run in one.runs:
            for checkpoint, figures in run.figures.items():
                values, intervals = [], run.intervals.get(checkpoint, {})
                for title in titles:
                    values += [figures.get(title, ""), *intervals.get(title, ("", ""))]
                cost = ["" if run.costs[name] is None else run.costs[name] for name in COSTS]
                place = [run.data, run.row, run.seed, checkpoint]
                writer.writerow([*place, *values, *cost, run.name, run.recipe, run.commit])
    return text.getvalue()
