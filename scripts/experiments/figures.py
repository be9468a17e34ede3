"""Figures of a grid for papers and documents: curves over seeds, realism against correspondence, pictures of all rows.

    figures/DATA_curves.png       what was measured while training, the mean of the seeds; PDF beside it
    figures/DATA_trade_off.png    how real pictures look against how they keep their inputs, a dot per row; PDF too
    figures/DATA_pictures.png     the same inputs through every row

Matplotlib is imported when the first figure is drawn, and nowhere else.
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from scripts.evaluating import floors
from scripts.experiments.collect import RunRow
from scripts.experiments.grid import Grid, slug
from scripts.experiments.table import Table, by_seed
from util.files import atomic_path
from util.logs.sink import EVALUATION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLDER = "figures"
# a colour per row, then again from the first
COLOURS = ("#8b5cf6", "#2f6feb", "#e8590c", "#d6336c", "#0c9fb3", "#b08900", "#5c7cfa", "#74a12e")
COLOURS += ("#495057", "#e03131", "#1b6e3c", "#7a1f4b")
REALISM = ("FID", "KID")  # how titles of such figures begin
CORRESPONDENCE = ("edges", "self-similarity")
DO_NOTHING = floors.WORDS[floors.DO_NOTHING]
INPUT = "input"

DPI = 150
PANEL = (4.0, 3.0)  # inches
SHOWN = 6  # inputs in the figure of pictures
GAP, HEAD = 4, 40  # pixels between pictures, and for the labels above them
NARROWEST = 160  # pixels of a column; smaller pictures are enlarged by a whole number
LETTER = 9  # pixels of a label's letter, about


def write_figures(grid: Grid, found: Sequence[Table]) -> list[Path]:
    """Draw what there is to draw into the grid's folder; returns the PNG files."""
    written = []
    for table in found:
        drawn = {
            "curves": draw_curves(grid, table),
            "trade_off": draw_trade_off(grid, table),
            "pictures": draw_pictures(translations(grid, table)),
        }
        for kind, figure in drawn.items():
            if figure is None:
                continue
            path = grid.folder / FOLDER / f"{slug(table.data)}_{kind}.png"
            save(figure, path)
            if kind != "pictures":
                save(figure, path.with_suffix(".pdf"))
            written.append(path)
    return written


def save(figure: "Figure", path: Path) -> None:
    """Write a figure whole, or not at all; the same figure gives the same bytes."""
    nameless = {"CreationDate": None} if path.suffix == ".pdf" else {"Software": None}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], metadata=nameless)


def colour_number(grid: Grid, row: str) -> int:
    """Which of COLOURS is a row's."""
    return list(grid.rows).index(row) % len(COLOURS)


def colour_of(grid: Grid, row: str) -> str:
    """The colour of a row, on the page as in figures."""
    return COLOURS[colour_number(grid, row)]


def panels(count: int, across: int) -> "tuple[Figure, list[Axes]]":
    """A figure of `count` panels, at most `across` beside each other."""
    from matplotlib.figure import Figure

    columns = min(count, across)
    rows = -(-count // columns)
    figure = Figure((columns * PANEL[0], rows * PANEL[1] + 0.4), dpi=DPI, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes[count:]:
        ax.set_axis_off()
    for ax in axes[:count]:
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes[:count]


def add_legend(figure: "Figure", ax: "Axes") -> None:
    """The labels of one panel, below all of them."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)


# --- curves ---------------------------------------------------------------------------------------------------------


def draw_curves(grid: Grid, table: Table) -> "Figure | None":
    """A panel per figure that was measured while training: a thin line per seed, a thick one for their mean."""
    names = dict.fromkeys(
        name for run in table.runs for name in run.curves if name.startswith(EVALUATION)
    )
    if not names:
        return None

    figure, axes = panels(len(names), across=3)
    for name, ax in zip(names, axes, strict=True):
        ax.set(title=name.removeprefix(EVALUATION), xlabel="images")
        for row in grid.rows:
            seeds = [
                run.curves[name] for run in table.runs if run.row == row and name in run.curves
            ]
            if not seeds:
                continue
            if len(seeds) > 1:
                for points in seeds:
                    ax.plot(*np.transpose(points), color=colour_of(grid, row), alpha=0.4, lw=0.8)
            ax.plot(*mean_curve(seeds), color=colour_of(grid, row), lw=1.8, label=row)
    add_legend(figure, axes[0])
    return figure


def mean_curve(seeds: Sequence[Sequence[tuple[int, float]]]) -> tuple[list[int], list[float]]:
    """Images and the mean over seeds, where all of them were measured."""
    tables = [dict(points) for points in seeds]
    common = sorted(set.intersection(*map(set, tables))) if tables else []
    return common, [float(np.mean([values[place] for values in tables])) for place in common]


# --- realism against correspondence ---------------------------------------------------------------------------------


def draw_trade_off(grid: Grid, table: Table) -> "Figure | None":
    """A panel per pair of a figure of realism and one of correspondence, of the last checkpoint on the test set."""
    titles = list(dict.fromkeys(t for run in table.runs for t in run.at("last").figures))
    pairs = [
        (across, up)
        for up in titles
        for across in titles
        if up.startswith(REALISM) and across.startswith(CORRESPONDENCE)
    ]
    if not pairs:
        return None

    better = {title: way for run in table.runs for title, way in run.better.items()}
    figure, axes = panels(len(pairs), across=2)
    for (across, up), ax in zip(pairs, axes, strict=True):
        ax.set(xlabel=in_words(across, better), ylabel=in_words(up, better))
        for row in grid.rows:
            points = points_of(table.runs, row, across, up)
            if not points:
                continue
            if len(points) > 1:
                ax.scatter(*np.transpose(points), s=14, color=colour_of(grid, row), alpha=0.45)
            middle = np.mean(points, axis=0)
            ax.scatter(*middle, s=70, color=colour_of(grid, row), label=row, zorder=3)
        floor = doing_nothing(table.runs)
        if up in floor and across in floor:
            ax.scatter(floor[across], floor[up], marker="x", color="#666", label=DO_NOTHING)
    add_legend(figure, axes[0])
    return figure


def in_words(title: str, better: Mapping[str, str]) -> str:
    """A figure's title with the way that is better."""
    way = {"low": "lower is better", "high": "higher is better"}
    return f"{title} ({way[better[title]]})"


def doing_nothing(runs: Sequence[RunRow]) -> Mapping[str, float]:
    """Figures of the inputs themselves, by title, from the first run that has them at its last checkpoint."""
    known = (run.at("last").floors.get(DO_NOTHING, {}) for run in runs)
    return next((floor for floor in known if floor), {})


def points_of(runs: Sequence[RunRow], row: str, across: str, up: str) -> list[tuple[float, float]]:
    """Two figures of the last checkpoint, for each seed of a row that has both."""
    one, other = by_seed(runs, row, "last", across), by_seed(runs, row, "last", up)
    return [(one[seed], other[seed]) for seed in sorted(one.keys() & other.keys())]


# --- pictures -------------------------------------------------------------------------------------------------------


def translations(grid: Grid, table: Table) -> dict[str, Path]:
    """Row -> folder of what the first seed that was translated made of the test images."""
    found = {}
    for run in table.runs:
        folder = grid.folder / "results" / run.name / "test_latest" / "images" / "fake_B"
        if run.row not in found and folder.is_dir():
            found[run.row] = folder
    return found


def draw_pictures(folders: Mapping[str, Path]) -> "Figure | None":
    """A row per input: the input and what each row of the grid makes of it, pixel by pixel."""
    if not folders:
        return None
    first = next(iter(folders.values()))
    columns = {INPUT: first.with_name("real_A"), **folders}
    shared = [set(names_in(folder)) for folder in columns.values()]
    names = sorted(set.intersection(*shared))
    if not names:
        return None
    chosen = [names[int(i)] for i in np.linspace(0, len(names) - 1, min(SHOWN, len(names)))]

    lines = [[picture(folder / name) for folder in columns.values()] for name in chosen]
    return sheet(list(columns), lines)


def names_in(folder: Path) -> list[str]:
    """File names of pictures as test.py writes them."""
    return [path.name for path in folder.glob("*.png")]


def picture(path: Path) -> np.ndarray:
    """(H,W,3), uint8."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def sheet(labels: Sequence[str], lines: Sequence[Sequence[np.ndarray]]) -> "Figure":
    """Pictures (H,W,3) in rows and columns, with a label above each column.

    A pixel of a picture is one of the figure, or a square of 2 x 2, 3 x 3 and so on where pictures are small.
    """
    from matplotlib.figure import Figure

    times = -(-NARROWEST // max(image.shape[1] for line in lines for image in line))
    lines = [[image.repeat(times, 0).repeat(times, 1) for image in line] for line in lines]
    widths = [max(line[i].shape[1] for line in lines) for i in range(len(labels))]
    heights = [max(image.shape[0] for image in line) for line in lines]
    width = sum(widths) + GAP * (len(widths) - 1)
    height = HEAD + sum(heights) + GAP * (len(heights) - 1)
    figure = Figure((width / DPI, height / DPI), dpi=DPI)

    top = HEAD
    for line, high in zip(lines, heights, strict=True):
        left = 0
        for image, wide in zip(line, widths, strict=True):
            rows, columns = image.shape[:2]
            place = (left / width, 1 - (top + rows) / height, columns / width, rows / height)
            ax = figure.add_axes(place)
            ax.imshow(image, interpolation="nearest", aspect="auto")
            ax.set_axis_off()
            left += wide + GAP
        top += high + GAP

    left = 0
    for label, wide in zip(labels, widths, strict=True):
        middle = (left + wide / 2) / width
        words = "\n".join(textwrap.wrap(label, wide // LETTER))
        figure.text(middle, 1 - HEAD / 2 / height, words, ha="center", va="center", fontsize=7)
        left += wide + GAP
    return figure
