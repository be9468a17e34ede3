"""The parts that every page is made of: skeleton and style, picture rows, tables, links, charts."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote

import dominate
import numpy as np
from dominate import svg, tags
from dominate.util import raw

from util.pages.curve import Curve
from util.pages.files import Picture

CSS = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --text: #1b1e26; --muted: #646b7a; --rule: #e2e5eb;
  --accent: #2f6feb; }
@media (prefers-color-scheme: dark) { :root { --page: #111318; --card: #1a1d24; --text: #e6e8ee; --muted: #969dac;
  --rule: #2b303a; --accent: #6ea0ff; } }
* { box-sizing: border-box; }
body { max-width: 1760px; margin: 0 auto; padding: 28px 24px 60px; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { margin: 0; font-size: 26px; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 34px 0 12px; font-size: 18px; }
h3 { margin: 0 0 10px; font-size: 14px; font-weight: 600; overflow-wrap: anywhere; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
.summary { margin: 4px 0 0; color: var(--muted); }
nav { display: flex; flex-wrap: wrap; gap: 6px; margin: 16px 0; }
nav a, nav b { padding: 3px 11px; border: 1px solid var(--rule); border-radius: 999px; background: var(--card);
  font-size: 13px; }
nav b { background: var(--accent); border-color: var(--accent); color: var(--card); }
table { margin: 16px 0; border-collapse: collapse; font-size: 13px; }
th, td { padding: 3px 18px 3px 0; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
th { color: var(--muted); font-weight: 500; white-space: nowrap; }
.row, .chart { padding: 14px 17px; border: 1px solid var(--rule); border-radius: 12px; background: var(--card); }
.rows { display: flex; flex-wrap: wrap; gap: 12px; }
.row { min-width: 180px; max-width: 100%; content-visibility: auto; contain-intrinsic-size: auto 340px; }
.pictures { display: flex; flex-wrap: wrap; gap: 14px; }
figure { margin: 0; max-width: 100%; }
figure img { display: block; width: 100%; height: auto; border-radius: 6px; background: var(--rule); }
figcaption { margin-top: 5px; color: var(--muted); font-size: 13px; text-align: center; overflow-wrap: anywhere; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 12px; }
.chart h3 { display: flex; justify-content: space-between; margin: 0 0 4px; }
.chart h3 span { color: var(--muted); font-weight: 400; font-variant-numeric: tabular-nums; }
.chart svg { display: block; width: 100%; height: auto; }
.chart path { fill: none; stroke: var(--accent); stroke-linejoin: round; stroke-linecap: round; }
.chart .raw { opacity: .3; }
.chart .smooth { stroke-width: 2; }
.chart line { stroke: var(--rule); }
.chart text { fill: var(--muted); font-size: 11px; }
.chart .x { text-anchor: middle; }
.chart .y { text-anchor: end; dominant-baseline: middle; }
"""
# between two pictures of a card; its padding and border, as in the style above
CARD_GAP, CARD_FRAME = 14, 36
CHART_WIDTH, CHART_HEIGHT = 360, 190
CHART_LEFT, CHART_RIGHT, CHART_TOP, CHART_BOTTOM = 44, 14, 8, 24
CHART_POINTS = 300  # a run of any length is drawn with at most this many points per curve
SMOOTHING = 12  # span of the smoothed curve, in drawn points


def url(path: str) -> str:
    """Quote a relative file path for src and href, whatever characters (or undecodable bytes) its name has."""
    return quote(os.fsencode(path), safe="/")


def printable(name: str) -> str:
    """Return `name` fit for a UTF-8 page: bytes of a file name that are no UTF-8 show as replacement characters."""
    return os.fsencode(name).decode("utf-8", "replace")


def page(title: str, summary: str, body: Iterable[tags.html_tag]) -> str:
    """Return a whole page that works from file://: title, one line of summary, then `body`."""
    document = dominate.document(title=printable(title), lang="en")
    document.head.add(
        tags.meta(charset="utf-8"),
        tags.meta(name="viewport", content="width=device-width, initial-scale=1"),
        tags.style(raw(CSS)),
    )
    document.body.add(tags.h1(printable(title)), tags.p(summary, cls="summary"), *body)
    return document.render(pretty=False)


def heading(text: str) -> tags.h2:
    """Return the heading of a part of the page."""
    return tags.h2(text)


def links(targets: Mapping[str, str], current: str | None = None) -> tags.nav:
    """Return a row of links, {text: relative path}; the text `current` is marked instead of linked."""
    row = tags.nav()
    for text, target in targets.items():
        row.add(tags.b(text) if text == current else tags.a(text, href=url(target)))
    return row


def fact_table(facts: Mapping[str, str]) -> tags.table:
    """Return a two-column table of names and values."""
    table = tags.table()
    for name, value in facts.items():
        table.add(tags.tr(tags.th(printable(name)), tags.td(printable(str(value)))))
    return table


def table(rows: Sequence[Mapping[str, str]]) -> tags.div:
    """Return a table of rows with the same columns, whose names are its head; it scrolls where it is wide."""
    head = tags.tr(*(tags.th(printable(column)) for column in rows[0]))
    lines = [tags.tr(*(tags.td(printable(text)) for text in row.values())) for row in rows]
    return tags.div(tags.table(tags.thead(head), tags.tbody(*lines)), style="overflow-x: auto")


def picture_rows(rows: Iterable[tuple[str, Sequence[Picture]]], size: int) -> tags.div:
    """Return one card per (heading, pictures); pictures are `size` pixels wide and link to their files.

    A figure is as wide as its file, on a line of its own where pictures leave too little room.
    Narrow cards stand side by side. Images load when they come into view, so that thousands of them
    are no burden.
    """
    cards = [_picture_row(printable(heading), pictures, size) for heading, pictures in rows]
    return tags.div(*cards, cls="rows")


def _picture_row(heading: str, pictures: Sequence[Picture], size: int) -> tags.section:
    figures = tags.div(cls="pictures")
    widths = [picture.width if picture.is_figure else size for picture in pictures]
    for picture, width in zip(pictures, widths, strict=True):
        label, link = printable(picture.label), url(picture.file)
        shape = {"width": picture.width, "height": picture.height}
        image = tags.img(src=link, alt=label, loading="lazy", **shape)
        link_to_file = tags.a(image, href=link, target="_blank")
        caption = tags.figcaption(label)
        figures.add(tags.figure(link_to_file, caption, style=f"width: {width}px"))

    count = sum(not picture.is_figure for picture in pictures)
    side_by_side = count * (size + CARD_GAP) - CARD_GAP
    width = max(side_by_side, *widths) + CARD_FRAME
    return tags.section(tags.h3(heading), figures, cls="row", style=f"width: {width}px")


def curve_charts(curves: Mapping[str, Curve]) -> tags.div:
    """Return one small chart per curve over images seen: raw values faint, smoothed ones on top; NaN is a gap."""
    charts = tags.div(cls="charts")
    for name, curve in curves.items():
        charts.add(_curve_chart(name, curve))
    return charts


def _curve_chart(name: str, curve: Curve) -> tags.div:
    """Draw one curve as inline SVG. Outliers (the outer 1 %) run along the frame, so that one spike hides nothing."""
    heading = tags.h3(name, tags.span(f"{curve.latest:.4g}" if len(curve) else ""))

    x, y = _thin(*curve.arrays())
    finite = y[np.isfinite(y)]
    if finite.size == 0:
        return tags.div(heading, tags.p("no finite value yet", cls="summary"), cls="chart")

    low, high = np.percentile(finite, (1, 99))
    y = np.clip(y, low, high)
    x_end = float(x[-1]) or 1.0
    y_ticks = nice_ticks(float(np.nanmin(y)), float(np.nanmax(y)), 4)

    def place_x(value):
        return CHART_LEFT + value / x_end * (CHART_WIDTH - CHART_LEFT - CHART_RIGHT)

    def place_y(value):
        share = (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return CHART_HEIGHT - CHART_BOTTOM - share * (CHART_HEIGHT - CHART_BOTTOM - CHART_TOP)

    box, label = f"0 0 {CHART_WIDTH} {CHART_HEIGHT}", f"{name} over images seen"
    drawing = svg.svg(viewBox=box, role="img", aria_label=label)
    for tick in y_ticks:
        height = round(float(place_y(tick)), 1)
        drawing.add(svg.line(x1=CHART_LEFT, x2=CHART_WIDTH - CHART_RIGHT, y1=height, y2=height))
        drawing.add(svg.text(f"{tick:.10g}", x=CHART_LEFT - 6, y=height, cls="y"))
    for tick in nice_ticks(0.0, x_end, 4):
        if tick <= x_end:
            place = round(place_x(tick), 1)
            drawing.add(svg.text(short_number(tick), x=place, y=CHART_HEIGHT - 6, cls="x"))

    for kind, values in (("raw", y), ("smooth", _smooth(y))):
        drawing.add(svg.path(d=_path(place_x(x), place_y(values)), cls=kind))
    return tags.div(heading, drawing, cls="chart")


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average neighbouring points until at most CHART_POINTS are left; a stretch without a finite value stays NaN."""
    if len(x) <= CHART_POINTS:
        return x, y

    starts = np.linspace(0, len(x), CHART_POINTS, endpoint=False).astype(int)
    lengths = np.diff(np.append(starts, len(x)))
    middle = np.add.reduceat(x, starts) / lengths

    finite = np.isfinite(y)
    counts = np.add.reduceat(finite, starts, dtype=float)
    sums = np.add.reduceat(np.where(finite, y, 0.0), starts)
    means = np.full(len(starts), np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return middle, means


def _smooth(y: np.ndarray) -> np.ndarray:
    """Exponential mean with bias correction, so that it starts at the first value; NaN is skipped."""
    decay = 1 - 2 / (SMOOTHING + 1)
    total = weight = 0.0
    smooth = np.full_like(y, np.nan)
    for index, value in enumerate(y):
        if np.isfinite(value):
            total = decay * total + (1 - decay) * value
            weight = decay * weight + (1 - decay)
            smooth[index] = total / weight
    return smooth


def _path(x: np.ndarray, y: np.ndarray) -> str:
    """Return the SVG path through the points, lifted over NaN."""
    commands, pen = [], "M"
    for left, top in zip(x, y, strict=True):
        if np.isfinite(top):
            commands.append(f"{pen}{left:.1f} {top:.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(commands)


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Return about `count` round numbers, evenly spaced, the first <= low and the last >= high."""
    if high <= low:
        low -= abs(low) * 0.1 or 0.5
        high += abs(high) * 0.1 or 0.5

    # the smallest round step that is not below the rough one
    rough = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(rough))
    steps = (factor * magnitude for factor in (1, 2, 2.5, 5, 10))
    step = next(step for step in steps if step >= rough * (1 - 1e-9))

    first, last = math.floor(low / step), math.ceil(high / step)
    return [index * step for index in range(first, last + 1)]


def short_number(value: float) -> str:
    """Write an image count as 400, 12k or 1.5M."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:g}"
