"""The tables of a grid for a paper: LaTeX with the booktabs package, figures without costs."""

import re
from collections.abc import Iterable, Sequence

from scripts.evaluating.words import rounded
from scripts.experiments.grid import Grid
from scripts.experiments.table import Cell, Table, best_rows, floor_rows, notes, remarks
from util.hardware import provenance

ESCAPED = {character: f"\\{character}" for character in "&%$#_{}"}
ESCAPED |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def as_latex(grid: Grid, found: Sequence[Table]) -> str:
    """A tabular for each data set. What must be read with it stands in comments, for the caption to say.

    A cell holds the mean and, from several seeds, the standard deviation; the best of a column is bold.
    """
    head = f"{grid.name}: {grid.file}, commit {provenance.versions()['commit']}"
    lines = [comment(head), comment("needs \\usepackage{booktabs}")]
    for table in found:
        lines += ["", comment(table.data)]
        lines += [comment(text) for text in (*told_of_seeds(table), *remarks(table))]
        lines += tabular(table)
    return "\n".join([*lines, "", *(comment(text) for text in notes(grid)), ""])


def told_of_seeds(table: Table) -> list[str]:
    """How many seeds the rows have."""
    counts = {row: len(seeds) for row, seeds in table.seeds.items()}
    if len(set(counts.values())) == 1:
        return [f"seeds of every row: {next(iter(counts.values()))}"]
    return ["seeds: " + ", ".join(f"{row} {count}" for row, count in counts.items())]


def tabular(table: Table) -> list[str]:
    """The lines of one table: a row each, and the floors below a rule."""
    places = [place for place in range(len(table.columns)) if is_figure(table, place)]
    winners = {place: best_rows(table, place) for place in places}

    lines = [f"\\begin{{tabular}}{{l{'r' * len(places)}}}", "\\toprule"]
    lines += [line(["", *(escaped(table.columns[place]) for place in places)]), "\\midrule"]
    for row, cells in table.rows.items():
        shown = [number(cells[place], bold=row in winners[place]) for place in places]
        lines.append(line([escaped(row), *shown]))

    floors = floor_rows(table)
    if floors:
        lines.append("\\midrule")
    for floor, texts in floors.items():
        shown = [escaped(texts[place]) for place in places]
        lines.append(line([f"\\emph{{{escaped(floor)}}}", *shown]))
    return [*lines, "\\bottomrule", "\\end{tabular}"]


def is_figure(table: Table, place: int) -> bool:
    """Whether a column holds figures, ours or a paper's; the others say what a run cost."""
    checkpoint = table.columns[place].rpartition(" ")[2]
    return checkpoint == "paper" or any(isinstance(row[place], Cell) for row in table.rows.values())


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
