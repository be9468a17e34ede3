"""The tables of a grid for a paper: LaTeX with the booktabs package, figures without costs."""

import re
from collections.abc import Iterable, Sequence

from scripts.evaluating.words import HUNDREDFOLD, rounded
from scripts.experiments.grid import Grid
from scripts.experiments.table import (
    PAPER,
    Cell,
    Column,
    Table,
    best_rows,
    floor_rows,
    notes,
    remarks,
)
from util.hardware import provenance

ESCAPED = {character: f"\\{character}" for character in "&%$#_{}"}
ESCAPED |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}

CHECKPOINTS = {"last": "at the end of training", "best": "of the best checkpoint"}
ARROWS = {"low": r" $\downarrow$", "high": r" $\uparrow$"}  # which way a figure is better


def as_latex(grid: Grid, found: Sequence[Table]) -> str:
    """A tabular for each data set and checkpoint. What must be read with it stands in comments, for the caption to say.

    A cell holds the mean and, from several seeds, the standard deviation; the best of a column is bold.
    """
    head = f"{grid.name}: {grid.file}, commit {provenance.versions()['commit']}"
    lines = [comment(head), comment("needs \\usepackage{booktabs}")]
    for table in found:
        lines += ["", comment(table.data)]
        lines += [comment(text) for text in (*told_of_seeds(table), *remarks(table))]
        for checkpoint, words in CHECKPOINTS.items():
            if any(column.source == checkpoint for column in table.columns):
                lines += ["", comment(f"{table.data}, {words}"), *tabular(table, checkpoint)]
    return "\n".join([*lines, "", *(comment(text) for text in notes(grid)), ""])


def told_of_seeds(table: Table) -> list[str]:
    """How many seeds the rows have."""
    counts = {row: len(seeds) for row, seeds in table.seeds.items()}
    if len(set(counts.values())) == 1:
        return [f"seeds of every row: {next(iter(counts.values()))}"]
    told = "; ".join(f"{count} of {row}" for row, count in counts.items())
    return [f"numbers of seeds: {told}"]


def tabular(table: Table, checkpoint: str) -> list[str]:
    """The lines of one table: a row each, and the floors below a rule. A paper's figures stand beside ours."""
    columns = {
        place: column
        for place, column in enumerate(table.columns)
        if column.source in (checkpoint, PAPER)
    }
    heads = [heading(table, column) for column in columns.values()]
    lines = [f"\\begin{{tabular}}{{l{'r' * len(columns)}}}", "\\toprule"]
    lines += [line(["", *heads]), "\\midrule"]

    winners = {place: best_rows(table, place) for place in columns}
    for row, cells in table.rows.items():
        shown = [number(cells[place], bold=row in winners[place]) for place in columns]
        lines.append(line([escaped(row), *shown]))

    floors = floor_rows(table)
    if floors:
        lines.append("\\midrule")
    for floor, texts in floors.items():
        shown = [
            texts.get(column.title, "") if column.source == checkpoint else ""
            for column in columns.values()
        ]
        lines.append(line([f"\\emph{{{escaped(floor)}}}", *map(escaped, shown)]))
    return [*lines, "\\bottomrule", "\\end{tabular}"]


def heading(table: Table, column: Column) -> str:
    """The head of a column, with an arrow that says which way is better."""
    title = column.title.removesuffix(HUNDREDFOLD)
    text = escaped(title)
    if title != column.title:
        text += r" $\times$100"
    if column.source == PAPER:
        return f"{text} ({PAPER})"
    return text + ARROWS[table.better[column.title]]


def number(cell: Cell | float | None, bold: bool) -> str:
    """A cell: the mean, and the deviation where there are several seeds."""
    if cell is None:
        return "--"
    if not isinstance(cell, Cell):
        return f"{cell:.3g}"
    text = rounded(cell.stats["mean"])
    if bold:
        text = f"\\textbf{{{text}}}"
    if cell.stats["sd"] is not None:
        text += f" $\\pm$ {rounded(cell.stats['sd'])}"
    return text


def line(cells: Iterable[str]) -> str:
    """One line of a tabular."""
    return " & ".join(cells) + r" \\"


def comment(text: str) -> str:
    """A line that LaTeX skips."""
    return "% " + " ".join(text.split())


def escaped(text: str) -> str:
    """Text in which no character has a meaning for LaTeX."""
    return re.sub(r"[&%$#_{}\\~^]", lambda match: ESCAPED[match.group()], text)
