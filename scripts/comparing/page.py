"""The page of scripts/compare.py: a column per method, a row per input, and a viewer that wipes between any two."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dominate import tags
from dominate.util import raw

from scripts.comparing.facts import best
from util.pages import html
from util.pages.html import Picture, printable

ASSETS = Path(__file__).resolve().parent
COLOURS = 8  # as many as the style has, then again from the first


@dataclass(frozen=True)
class Column:
    """What stands in one column: the input, its truth, or what a method makes of it.

    `number` counts the methods. `facts` say how it was trained, `figures` how it measures as a whole, `scores` image by
    image; `page` is its own page.
    """

    title: str
    kind: str  # input, truth or method
    number: int = 0
    recipe: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    page: str = ""

    @property
    def colour(self) -> str:
        """The class that colours all that belongs to the column."""
        return f"c{self.number % COLOURS}" if self.kind == "method" else f"c-{self.kind}"

    def named(self) -> list:
        """Its dot and its title."""
        return [tags.span(cls=f"dot {self.colour}"), printable(self.title)]


def write_comparison(
    path: Path,
    columns: Sequence[Column],
    rows: Mapping[str, Sequence[Picture | None]],
    facts: Mapping[str, str],
    options: Mapping[str, Sequence[str]],
) -> Path:
    """Write the page and return its path; it needs no network and no other file than the pictures.

    Args:
        path: where it goes; files of pictures are relative to its folder.
        columns: from left to right.
        rows: name of the input -> its picture in each column, None where there is none.
        facts: a table of what holds for all.
        options: option -> its value in each method's column, for those that differ.
    """
    methods = [column for column in columns if column.kind == "method"]
    title = " · ".join(column.title for column in methods)
    summary = f"{len(rows)} inputs · {len(methods)} methods"
    body = [
        tags.style(raw((ASSETS / "page.css").read_text(encoding="utf-8"))),
        tags.div(*map(_card, methods), cls="methods"),
        *_figures_table(methods),
        *_options_table(methods, options),
        tags.details(tags.summary("How this page was made"), html.fact_table(facts)),
        _toolbar(columns),
        tags.div(*(_row(name, row, columns) for name, row in rows.items()), cls="rows"),
        tags.script(raw((ASSETS / "page.js").read_text(encoding="utf-8"))),
    ]
    html.write_page(path, html.page(title, summary, body))
    return path


def _card(column: Column) -> tags.section:
    """A method: its name, its recipe, and how it was trained."""
    facts = [
        tags.div(tags.dt(name), tags.dd(printable(value))) for name, value in column.facts.items()
    ]
    heading = tags.h3(
        tags.a(*column.named(), href=html.url(column.page), title="all that test.py wrote for it")
    )
    return tags.section(heading, tags.p(column.recipe, cls="recipe"), tags.dl(*facts), cls="method")


def _figures_table(methods: Sequence[Column]) -> Iterable[tags.html_tag]:
    """How the methods measure, the best of each figure in bold; nothing where nothing was measured."""
    names = list(dict.fromkeys(name for column in methods for name in column.figures))
    if not names:
        return []
    head = tags.tr(tags.th(), *(tags.th(name) for name in names))
    lines = []
    for column in methods:
        cells = []
        for name in names:
            value = column.figures.get(name)
            text = "-" if value is None else f"{value:.3f}"
            winner = value is not None and value == best(
                name, [method.figures.get(name) for method in methods]
            )
            cells.append(tags.td(tags.b(text) if winner else text))
        lines.append(tags.tr(tags.th(*column.named()), *cells))
    return [tags.div(tags.table(head, *lines, cls="figures"), cls="wide")]


def _options_table(
    methods: Sequence[Column], options: Mapping[str, Sequence[str]]
) -> Iterable[tags.html_tag]:
    """The options in which the runs differ; nothing where they do not."""
    if not options:
        return []
    head = tags.tr(tags.th(), *(tags.th(printable(column.title)) for column in methods))
    lines = [
        tags.tr(tags.th(name), *(tags.td(printable(v)) for v in values))
        for name, values in options.items()
    ]
    title = f"Options that differ ({len(options)})"
    return [tags.details(tags.summary(title), tags.div(tags.table(head, *lines), cls="wide"))]


def _toolbar(columns: Sequence[Column]) -> tags.div:
    """What stays in view: which columns are shown, what the pointer compares with, and how large pictures are."""
    chips = [
        tags.button(
            *column.named(), type="button", cls="chip", data_kind=column.kind, data_colour=column.colour,
            aria_pressed="true",
        )
        for column in columns
    ]  # fmt: skip
    choices = [
        tags.option(printable(c.title), value=str(number)) for number, c in enumerate(columns)
    ]
    with_what = tags.label(
        "hover compares with ",
        tags.select(*choices, tags.option("nothing", value=""), id="with"),
        cls="hover",
    )
    size = tags.label(
        "size ", tags.input_(id="size", type="range", min="96", max="768", step="16", value="256")
    )
    return tags.div(tags.div(*chips, id="columns"), with_what, size, id="toolbar", hidden=True)


def _row(name: str, pictures: Sequence[Picture | None], columns: Sequence[Column]) -> tags.section:
    """One input and what became of it; pictures load when they come into view and link to their files."""
    figures = []
    for number, (picture, column) in enumerate(zip(pictures, columns, strict=True)):
        if picture is None:
            continue
        link = html.url(picture.file)
        alt = f"{printable(name)}: {printable(column.title)}"
        image = tags.img(
            src=link, alt=alt, loading="lazy", width=picture.width, height=picture.height
        )
        score = column.scores.get(name)
        caption = column.named()
        caption += (
            []
            if score is None
            else [tags.span(f"{score:.2f}", cls="score", title="score of this image")]
        )
        figures.append(
            tags.figure(
                tags.a(image, href=link), tags.figcaption(*caption), data_column=str(number)
            )
        )
    heading = tags.h3(printable(name))
    return tags.section(
        heading, tags.div(*figures, cls="side-by-side"), cls="row", data_name=printable(name)
    )
