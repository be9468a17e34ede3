"""From what is known of runs to the table of a data set: as Markdown, as CSV, and what must be read with it."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scripts.evaluating.words import HUNDREDFOLD, best_number, rounded
from scripts.experiments.collect import COSTS, RunRow, asked_row
from scripts.experiments.grid import Grid
from scripts.experiments.job import EPOCHS
from scripts.experiments.statistics import paired_test, summary

PAPER = "paper"  # the source of a column with what a paper prints


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
        words = rounded(stats["mean"])
        if stats["sd"] is not None:
            low, high = stats["interval"]
            words += f" ± {rounded(stats['sd'])} [{rounded(low)}, {rounded(high)}]"
        elif self.over_images:
            low, high = self.over_images
            words += f" ({rounded(low)} to {rounded(high)})"
        if stats["n"] != self.seeds:
            words += f" (n {stats['n']})"
        if self.test and self.test["n"] > 1:
            words += f" p {self.test['p']:.2g}"
            if self.test["n"] != stats["n"]:
                words += f" (n {self.test['n']})"
        return words


@dataclass(frozen=True)
class Column:
    """What a column shows.

    Attributes:
        title: of the figure, or the cost.
        source: whose figure: that of the checkpoint "last" or "best", or what a "paper" prints; a cost has none.
    """

    title: str
    source: str = ""

    @property
    def head(self) -> str:
        """Its heading."""
        return f"{self.title} {self.source}".strip()


@dataclass
class Table:
    """What is known of one data set: columns, and per row a cell each; None where nothing was measured.

    `left_out`: runs with figures of other flags or weights than they have now, and of which checkpoints those are.
    """

    data: str
    columns: list[Column]
    rows: dict[str, list[Cell | float | None]]
    runs: list[RunRow]
    seeds: dict[str, list[int]]
    left_out: dict[str, list[str]] = field(default_factory=dict)

    @property
    def better(self) -> dict[str, str]:
        """Title of a figure -> "low" or "high"."""
        return {title: way for run in self.runs for title, way in run.better.items()}


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
    columns = columns_of(grid, data, runs)
    return Table(
        data=data,
        columns=columns,
        rows={
            row: [cell(grid, data, runs, column, row) for column in columns] for row in grid.rows
        },
        runs=list(runs),
        seeds={row: sorted(run.seed for run in runs if run.row == row) for row in grid.rows},
    )


def columns_of(grid: Grid, data: str, runs: Sequence[RunRow]) -> list[Column]:
    """Each figure at each checkpoint that some run has, what the paper prints of it, and the costs."""
    titles = dict.fromkeys(title for run in runs for title in run.first.figures)
    checkpoints = [name for name in EPOCHS if any(name in run.measured for run in runs)]

    columns = []
    for title in titles:
        columns += [Column(title, checkpoint) for checkpoint in checkpoints]
        if paper_values(grid, data, title):
            columns.append(Column(title, PAPER))
    return columns + [Column(cost) for cost in COSTS]


def cell(
    grid: Grid, data: str, runs: Sequence[RunRow], column: Column, row: str
) -> Cell | float | None:
    """What a column has for a row; None where nothing is known."""
    if column.source == PAPER:
        return paper_values(grid, data, column.title).get(row)
    if column.source:
        return figure_cell(runs, grid.baseline, column.source, column.title, row)
    return mean_cost(runs, column.title, row)


def paper_values(grid: Grid, data: str, title: str) -> Mapping[str, float]:
    """What the paper prints of a figure, by row."""
    return grid.paper.get(title.removesuffix(HUNDREDFOLD), {}).get(data, {})


def figure_cell(
    runs: Sequence[RunRow], baseline: str, checkpoint: str, title: str, row: str
) -> Cell | None:
    """A figure of a row over its seeds, tested against the baseline; None where it was not measured."""
    values = by_seed(runs, row, checkpoint, title)
    if not values:
        return None

    test = None
    if row != baseline:
        test = paired_test(values, by_seed(runs, baseline, checkpoint, title))
    seeds = sum(run.row == row for run in runs)
    images = over_images(runs, row, checkpoint, title)
    return Cell(summary(list(values.values())), test, seeds, images)


def mean_cost(runs: Sequence[RunRow], cost: str, row: str) -> float | None:
    """A cost of a row, the mean of its seeds."""
    known = [run.costs[cost] for run in runs if run.row == row and run.costs[cost] is not None]
    return float(np.mean(known)) if known else None


def by_seed(runs: Sequence[RunRow], row: str, checkpoint: str, title: str) -> dict[int, float]:
    """A figure of one row, by seed."""
    values = {}
    for run in runs:
        value = run.at(checkpoint).figures.get(title)
        if run.row == row and value is not None:
            values[run.seed] = value
    return values


def over_images(
    runs: Sequence[RunRow], row: str, checkpoint: str, title: str
) -> tuple[float, float] | None:
    """The interval over images of the one run of a row that has a figure; None where several have it."""
    found = []
    for run in runs:
        one = run.at(checkpoint)
        if run.row == row and one.figures.get(title) is not None:
            found.append(one.intervals.get(title))
    return found[0] if len(found) == 1 else None


def shown(cell: Cell | float | None) -> str:
    """A cell as text."""
    if cell is None:
        return "-"
    return cell.text() if isinstance(cell, Cell) else f"{cell:.3g}"


def best_rows(table: Table, place: int) -> list[str]:
    """The rows with the best mean in a column of ours: all whose number looks the same there.

    None for costs and the paper's figures, where rows have unequal numbers of seeds, and where all look the same.
    """
    cells = {
        row: cells[place] for row, cells in table.rows.items() if isinstance(cells[place], Cell)
    }
    way = table.better.get(table.columns[place].title)
    if way is None or len({cell.stats["n"] for cell in cells.values()}) != 1:
        return []

    means = {row: cell.stats["mean"] for row, cell in cells.items()}
    best = best_number(list(means.values()), low=way == "low")
    return [row for row, mean in means.items() if rounded(mean) == best]


def floor_rows(table: Table) -> dict[str, dict[str, str]]:
    """What figures must be read against: the floor in words -> title -> text; a range where runs differ."""
    last = [run.at("last") for run in table.runs]
    found: dict[str, dict[str, str]] = {}
    for floor in dict.fromkeys(floor for one in last for floor in one.floors):
        known = [one.floors.get(floor, {}) for one in last]
        titles = dict.fromkeys(title for one in known for title in one)
        found[floor] = {
            title: span([one[title] for one in known if title in one]) for title in titles
        }
    return found


def floor_lines(table: Table) -> dict[str, list[str]]:
    """The floors as lines of a table with all columns: each stands once, below the end of training."""
    return {
        floor: [
            texts.get(column.title, "") if column.source == "last" else ""
            for column in table.columns
        ]
        for floor, texts in floor_rows(table).items()
    }


def span(values: Sequence[float]) -> str:
    """One number where all look alike in a table, else the least and the largest."""
    low, high = rounded(min(values)), rounded(max(values))
    return low if low == high else f"{low} to {high}"


def as_markdown(grid: Grid, found: Sequence[Table]) -> str:
    """All tables, with what they must be read with."""
    lines = [f"# {grid.name}", "", grid.about, ""]
    for one in found:
        lines += [f"## {one.data}", ""]
        heads = ["", "seeds", *(column.head for column in one.columns)]
        lines += [_line(heads), _line(["---"] * len(heads))]
        for row, cells in one.rows.items():
            name = f"{row} (baseline)" if row == grid.baseline else row
            lines.append(_line([name, str(len(one.seeds[row])), *map(shown, cells)]))
        lines += [_line([f"*{floor}*", "", *cells]) for floor, cells in floor_lines(one).items()]
        lines += ["", *(f"- {text}" for text in remarks(one)), ""]
    return "\n".join([*lines, *(f"- {text}" for text in notes(grid)), ""])


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
        for warning in run.first.warnings:
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
        "measured_last.json and measured_best.json in the folder of a run also have each figure at equal numbers of "
        "images and, where pictures occur more than once, without them.",
    ]


def as_csv(found: Sequence[Table]) -> str:
    """One line per run and checkpoint; beside a figure the ends of its interval over images, where it has one."""
    everything = [one for table in found for run in table.runs for one in run.measured.values()]
    titles = list(dict.fromkeys(title for one in everything for title in one.figures))
    heads = [head for title in titles for head in (title, f"{title} low", f"{title} high")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["data", "row", "seed", "checkpoint", *heads, *COSTS, "run", "recipe", "commit"]
    )
    for one in found:
        for run in one.runs:
            for checkpoint, measured in run.measured.items():
                values = []
                for title in titles:
                    values.append(measured.figures.get(title, ""))
                    values += measured.intervals.get(title, ("", ""))
                cost = ["" if run.costs[name] is None else run.costs[name] for name in COSTS]
                place = [run.data, run.row, run.seed, checkpoint]
                writer.writerow([*place, *values, *cost, run.name, run.recipe, run.commit])
    return text.getvalue()
