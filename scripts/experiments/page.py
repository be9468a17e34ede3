"""The page of a grid: sortable tables, curves of all runs over each other, the same inputs through every row."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from dominate import svg, tags
from dominate.util import raw
from PIL import Image

from data.image_folder import list_images
from data.result_names import unique_names
from scripts.experiments.collect import RunRow
from scripts.experiments.figures import COLOURS, INPUT, colour_number, translations
from scripts.experiments.grid import Grid, slug
from scripts.experiments.table import Cell, Table, best_rows, floor_lines, notes, remarks, shown
from util.images import save_png
from util.pages import html
from util.pages.files import Picture, write_page
from util.pages.html import printable
from util.words import counted

ASSETS = Path(__file__).resolve().parent
DASHES = ("", "dashed", "dotted")  # of the first, second and further seeds
PICTURES, SIDE = 12, 176  # inputs that are shown, and pixels of a picture
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420, 230, 48, 14, 8, 24


def write_grid_page(
    grid: Grid, found: Sequence[Table], facts: Mapping[str, str], figures: Sequence[Path]
) -> Path:
    """Write index.html into the grid's folder and return its path; it needs no network.

    `figures` are the PNG files of scripts/experiments/figures.py, below that folder.
    """
    path = grid.folder / "index.html"
    pictures = path.with_name("page_pictures")
    shutil.rmtree(pictures, ignore_errors=True)

    body: list[Any] = [tags.style(raw(_style()))]
    if grid.about:
        body.append(tags.p(printable(grid.about)))
    for number, table in enumerate(found):
        body += [tags.h2(printable(table.data)), _table(grid, table)]
        told = [tags.li(printable(text)) for text in remarks(table)]
        if told:
            body.append(tags.ul(*told))
        body += [tags.h3("Curves over images"), _legend(grid), _charts(grid, table.runs)]
        for figure in figures_of(table, figures, "trade_off"):
            body.append(tags.h3("Realism against correspondence, last checkpoint"))
            body.append(tags.img(src=relative(figure, grid), alt=figure.stem, cls="figure"))
        rows = _pictures(grid, table, pictures / str(number))
        if rows:
            body += [
                tags.h3("The same inputs, first seed, last checkpoint"),
                html.picture_rows(rows, SIDE),
            ]

    body += [tags.h2("How to read this"), tags.ul(*(tags.li(text) for text in notes(grid)))]
    files = ["table.md", "table.csv", "table.tex", *(relative(figure, grid) for figure in figures)]
    body += [html.fact_table(facts), html.links({file: file for file in files})]
    body.append(tags.script(raw((ASSETS / "page.js").read_text(encoding="utf-8"))))

    runs = sum(len(table.runs) for table in found)
    parts = [f"{runs} of {counted(len(grid.jobs()), 'run')}"]
    parts += [counted(len(grid.rows), "row"), counted(len(grid.all_seeds()), "seed")]
    summary = " · ".join(parts)
    write_page(path, html.page(grid.name, summary, body))
    return path


def _style() -> str:
    """The page's own style, with the colours of rows."""
    lines = [f".k{number} {{ --line: {colour}; }}" for number, colour in enumerate(COLOURS)]
    return "\n".join([(ASSETS / "page.css").read_text(encoding="utf-8"), *lines])


def figures_of(table: Table, figures: Sequence[Path], kind: str) -> list[Path]:
    """The figure of this kind of one data set, where it was drawn."""
    return [path for path in figures if path.stem == f"{slug(table.data)}_{kind}"]


def relative(path: Path, grid: Grid) -> str:
    """A file of the grid, as its page names it."""
    return path.relative_to(grid.folder).as_posix()


def _table(grid: Grid, table: Table) -> tags.div:
    heads = [tags.th("row", data_sort="text"), tags.th("seeds", data_sort="number")]
    heads += [tags.th(printable(column.head), data_sort="number") for column in table.columns]

    winners = [best_rows(table, place) for place in range(len(table.columns))]
    lines = []
    for row, cells in table.rows.items():
        name = [_dot(grid, row), printable(row)]
        if row == grid.baseline:
            name.append(tags.small(" baseline"))
        count = len(table.seeds[row])
        line = [
            tags.td(*name, data_value=printable(row)),
            tags.td(str(count), data_value=str(count)),
        ]
        for cell, best in zip(cells, winners, strict=True):
            style = "best" if row in best else ""
            line.append(tags.td(shown(cell), data_value=_value(cell), cls=style))
        lines.append(tags.tr(*line))

    for floor, texts in floor_lines(table).items():
        cells = [tags.td(text, data_value=text) for text in (floor, "", *texts)]
        lines.append(tags.tr(*cells, cls="floor"))
    head = tags.thead(tags.tr(*heads))
    return tags.div(tags.table(head, tags.tbody(*lines), cls="results"), cls="wide")


def _value(cell: Cell | float | None) -> str:
    if cell is None:
        return ""
    return repr(cell.stats["mean"] if isinstance(cell, Cell) else cell)


def _dot(grid: Grid, row: str) -> tags.span:
    return tags.span(cls=f"dot k{colour_number(grid, row)}")


def _legend(grid: Grid) -> tags.p:
    parts = []
    for row in grid.rows:
        parts.append(tags.span(_dot(grid, row), printable(row), " \u2003"))
    return tags.p(
        *parts, "solid: the first seed, dashed: the second, dotted: further ones", cls="summary"
    )


def _charts(grid: Grid, runs: Sequence[RunRow]) -> tags.div:
    """A chart per figure and loss, with a curve per run."""
    names = dict.fromkeys(name for run in runs for name in run.curves)
    seeds = grid.all_seeds()
    charts = tags.div(cls="charts")
    for name in names:
        drawn = []
        for run in runs:
            if name in run.curves and run.row in grid.rows:
                colour = colour_number(grid, run.row)
                order = seeds.index(run.seed) if run.seed in seeds else 0
                dash = DASHES[min(order, len(DASHES) - 1)]
                drawn.append((f"curve k{colour} {dash}", run.curves[name]))
        if drawn:
            charts.add(_chart(name, drawn))
    return charts


def _chart(name: str, drawn: Sequence[tuple[str, list[tuple[int, float]]]]) -> tags.div:
    """Curves over each other as inline SVG; the outer 1 % of all values run along the frame."""
    values = np.array([value for _, points in drawn for _, value in points])
    low, high = np.percentile(values, (1, 99))
    end = max(images for _, points in drawn for images, _ in points)
    ticks = html.nice_ticks(float(low), float(high), 4)

    def across(images: float) -> float:
        return LEFT + images / end * (WIDTH - LEFT - RIGHT)

    def up(value: float) -> float:
        share = (np.clip(value, ticks[0], ticks[-1]) - ticks[0]) / (ticks[-1] - ticks[0])
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    drawing = svg.svg(viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=f"{name} over images")
    for tick in ticks:
        height = round(float(up(tick)), 1)
        drawing.add(svg.line(x1=LEFT, x2=WIDTH - RIGHT, y1=height, y2=height))
        drawing.add(svg.text(f"{tick:.10g}", x=LEFT - 6, y=height, cls="y"))
    for tick in html.nice_ticks(0.0, float(end), 4):
        if tick <= end:
            place = round(across(tick), 1)
            drawing.add(svg.text(html.short_number(tick), x=place, y=HEIGHT - 6, cls="x"))

    for style, points in drawn:
        steps = [f"{across(images):.1f} {up(value):.1f}" for images, value in points]
        drawing.add(svg.path(d="M" + "L".join(steps), cls=style))
    return tags.div(tags.h3(name), drawing, cls="chart")


def _pictures(grid: Grid, table: Table, folder: Path) -> list[tuple[str, list[Picture]]]:
    """A card per input: the input, and what the first seed of every row makes of it."""
    sources = translations(grid, table)
    if not sources:
        return []

    inputs = next(iter(sources.values())).with_name("real_A")
    paths = list_images(str(inputs))
    names = unique_names(paths, inputs)
    chosen = np.linspace(0, len(names) - 1, min(PICTURES, len(names))).astype(int)
    cards = []
    for name in dict.fromkeys(names[place] for place in chosen):
        files = {INPUT: inputs / f"{name}.png"}
        files |= {row: images / f"{name}.png" for row, images in sources.items()}
        pictures = [
            _small(label, file, folder, grid.folder)
            for label, file in files.items()
            if file.is_file()
        ]
        cards.append((name, pictures))
    return cards


def _small(label: str, file: Path, folder: Path, root: Path) -> Picture:
    """A small copy of a picture beside the page, which then needs no other folder."""
    with Image.open(file) as image:
        small = image.convert("RGB")
    small.thumbnail((2 * SIDE, 2 * SIDE))
    target = folder / f"{len(list(folder.glob('*.png'))) if folder.is_dir() else 0:04d}.png"
    save_png(np.asarray(small), target)
    return Picture(label, target.relative_to(root).as_posix(), *small.size)
