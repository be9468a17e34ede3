"""The page of scripts/compare.py: a column per method, a row per input, and a viewer that wipes between any two."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dominate import tags
from dominate.util import raw

from scripts.comparing.facts import Measured, best
from scripts.evaluating.words import rounded
from util.pages import html
from util.pages.files import Picture, write_page
from util.pages.html import printable
from util.words import counted

ASSETS = Path(__file__).resolve().parent
COLOURS = 8  # as many as the style has, then again from the first


@dataclass(frozen=True)
class Column:
    """What stands in one column: the input, its truth, or what a method makes of it.

    `number` counts the methods. `facts` say how it was trained, `measured` how it measures; `page` is its own page.
    """

    title: str
    kind: str  # input, truth or method
    number: int = 0
    recipe: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    measured: Measured = field(default_factory=Measured)
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
    summary = f"{counted(len(rows), 'input')} · {counted(len(methods), 'method')}"
    style = (ASSETS / "page.css").read_text(encoding="utf-8")
    script = (ASSETS / "page.js").read_text(encoding="utf-8")

    cards = [_card(column) for column in methods]
    inputs = [_row(name, pictures, columns) for name, pictures in rows.items()]
    body = [
        tags.style(raw(style)),
        tags.div(*cards, cls="methods"),
        *_figures_table(methods),
        *_options_table(methods, options),
        tags.details(tags.summary("How this page was made"), html.fact_table(facts)),
        _toolbar(columns),
        tags.div(*inputs, cls="rows"),
        tags.script(raw(script)),
    ]
    write_page(path, html.page(title, summary, body))
    return path


def _card(column: Column) -> tags.section:
    """A method: its name, its recipe, and how it was trained."""
    facts = []
    for name, value in column.facts.items():
        facts.append(tags.div(tags.dt(name), tags.dd(printable(value))))

    if column.page:
        title = "all that test.py wrote for it"
        name = tags.a(*column.named(), href=html.url(column.page), title=title)
    else:
        name = tags.span(*column.named())
    recipe = tags.p(column.recipe, cls="recipe")
    return tags.section(tags.h3(name), recipe, tags.dl(*facts), cls="method")


def _figures_table(methods: Sequence[Column]) -> Iterable[tags.html_tag]:
    """How the methods measure, the best of each figure in bold; nothing where nothing was measured."""
    bests = {}
    for column in methods:
        for name in column.measured.figures:
            bests[name] = best(name, [method.measured.figures.get(name) for method in methods])
    if not bests:
        return []

    head = tags.tr(tags.th(), *(tags.th(name) for name in bests))
    lines = []
    for column in methods:
        cells = []
        for name, winner in bests.items():
            text = rounded(column.measured.figures.get(name))
            detail = column.measured.details.get(name, "")
            cells.append(tags.td(tags.b(text) if text == winner else text, tags.small(detail)))
        lines.append(tags.tr(tags.th(*column.named()), *cells))

    table = tags.div(tags.table(head, *lines, cls="figures"), cls="wide")
    text = "Small: the 95 % interval over images, where one was asked for, and how many images a figure is of."
    return [table, tags.p(text, cls="notes"), *_warnings(methods)]


def _warnings(methods: Sequence[Column]) -> Iterable[tags.html_tag]:
    """What must be read with the figures, and of which methods; nothing where there is nothing."""
    whose: dict[str, list[str]] = {}
    for column in methods:
        for warning in column.measured.warnings:
            whose.setdefault(warning, []).append(column.title)
    if not whose:
        return []

    count = sum(bool(column.measured.figures) for column in methods)
    lines = []
    for warning, titles in whose.items():
        names = "all" if len(titles) == count else ", ".join(titles)
        lines.append(tags.li(printable(f"{names}: {warning}")))
    return [tags.ul(*lines, cls="notes")]


def _options_table(
    methods: Sequence[Column], options: Mapping[str, Sequence[str]]
) -> Iterable[tags.html_tag]:
    """The options in which the runs differ; nothing where they do not."""
    if not options:
        return []

    head = tags.tr(tags.th(), *(tags.th(printable(column.title)) for column in methods))
    lines = []
    for name, values in options.items():
        cells = [tags.td(printable(value)) for value in values]
        lines.append(tags.tr(tags.th(name), *cells))

    title = tags.summary(f"Options that differ ({len(options)})")
    return [tags.details(title, tags.div(tags.table(head, *lines), cls="wide"))]


def _toolbar(columns: Sequence[Column]) -> tags.div:
    """What stays in view: which columns are shown, what the pointer compares with, and how large pictures are."""
    chips, choices = [], []
    for number, column in enumerate(columns):
        state = {"data_kind": column.kind, "data_colour": column.colour, "aria_pressed": "true"}
        chips.append(tags.button(*column.named(), type="button", cls="chip", **state))
        choices.append(tags.option(printable(column.title), value=str(number)))

    select = tags.select(*choices, tags.option("nothing", value=""), id="with")
    with_what = tags.label("hover compares with ", select, cls="hover")
    slider = tags.input_(id="size", type="range", min="96", max="768", step="16", value="256")
    size = tags.label("size ", slider)
    return tags.div(tags.div(*chips, id="columns"), with_what, size, id="toolbar", hidden=True)


def _row(name: str, pictures: Sequence[Picture | None], columns: Sequence[Column]) -> tags.section:
    """One input and what became of it; pictures load when they come into view and link to their files."""
    figures = []
    for number, (picture, column) in enumerate(zip(pictures, columns, strict=True)):
        if picture is None:
            continue

        link = html.url(picture.file)
        size = {"width": picture.width, "height": picture.height}
        alt = f"{printable(name)}: {printable(column.title)}"
        image = tags.img(src=link, alt=alt, loading="lazy", **size)

        caption = column.named()
        score = column.measured.scores.get(name)
        if score is not None:
            caption.append(tags.span(f"{score:.2f}", cls="score", title="score of this image"))

        parts = tags.a(image, href=link), tags.figcaption(*caption)
        figures.append(tags.figure(*parts, data_column=str(number)))

    shown = printable(name)
    side_by_side = tags.div(*figures, cls="side-by-side")
    return tags.section(tags.h3(shown), side_by_side, cls="row", data_name=shown)
