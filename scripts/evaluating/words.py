"""What scripts/evaluate.py says: warnings, the table on the terminal, the Markdown row."""

from collections.abc import Mapping, Sequence
from typing import Any

from data.picture_set import PictureSet
from scripts.evaluating.floors import DO_NOTHING, REAL, UNRELATED, beside
from scripts.evaluating.sets import Sets
from util.metrics import truth as metrics
from util.metrics.fid import FID_BIAS
from util.words import counted

FEW = 50  # images: below, an interval says little
TIMES_100 = ("kid",)  # figures that tables show a hundred times as large, as papers do
HUNDREDFOLD = " x100"  # what their titles end in
OF_COLUMNS = (  # endings that warnings had
    "; a figure at equal numbers stands beside each",
    ": figures without them stand beside each",
)
COLUMNS = {
    "equal n": "the figure with so many images on either side",
    "real": "real pictures in place of the outputs; a number beside it says of how many images",
    "no duplicates": "the figure without pictures that occur twice or stand in the training set",
}


def warnings(sets: Sets, duplicates: Mapping[str, Any]) -> list[str]:
    """What a reader of the figures must know, in words that hold wherever the figures are shown."""
    fakes, reals = sets.fakes, sets.reals
    least = min(len(fakes), len(reals))
    found = []
    if least < FID_BIAS:
        found.append(
            f"FID from fewer than {FID_BIAS} images is biased upwards; compare equal numbers only"
        )
    if least < FEW:
        found.append(
            f"{counted(least, 'image')}, which is few: the intervals themselves are uncertain"
        )
    if len(fakes) != len(reals):
        found.append(f"the sets differ in number ({len(fakes)} and {len(reals)})")

    compared = {"outputs": fakes, "real pictures": reals}
    if sets.inputs:
        compared["inputs"] = sets.inputs
    if sets.train:
        compared["training pictures"] = sets.train
    found += size_warnings(compared)
    found += format_warnings(compared)
    return found + duplicate_warnings(duplicates)


def size_warnings(compared: Mapping[str, PictureSet]) -> list[str]:
    """Where the pictures of all sides, by what they are called, are not of one size."""
    fakes = compared["outputs"]
    if len({size for pictures in compared.values() for size in pictures.file_sizes}) == 1:
        return []

    words = []
    for who, pictures in compared.items():
        counted = pictures.file_sizes
        (width, height), _ = counted.most_common(1)[0]
        mixed = f"of {len(counted)} sizes, most often " if len(counted) > 1 else ""
        words.append(f"{who} are {mixed}{width}x{height}")
    end = f"; all were brought to {fakes.resize}x{fakes.resize}" if fakes.resize else ""
    return [f"the files that are compared are not of one size: {', '.join(words)}{end}"]


def format_warnings(compared: Mapping[str, PictureSet]) -> list[str]:
    """Where one side has lost detail when it was saved, and the real pictures have not; or the other way round."""
    kinds = {True: "JPEG or WebP", False: "PNG or another exact format"}
    reals = compared["real pictures"]
    counts_in = {"outputs": "the figures", "training pictures": "the floor of real pictures"}

    found = []
    for who, where in counts_in.items():
        pictures = compared.get(who)
        if pictures and pictures.lossy != reals.lossy:
            found.append(
                f"{who} are {kinds[pictures.lossy]}, real pictures {kinds[reals.lossy]}: "
                f"traces of compression count in {where}"
            )
    return found


def duplicate_warnings(duplicates: Mapping[str, Any]) -> list[str]:
    """Pictures that occur more than once."""
    found = []
    for name, entry in duplicates["within"].items():
        if entry["near_groups"]:
            found.append(
                f"{counted(entry['near_groups'], 'group')} of equal or nearly equal pictures within {name} "
                f"({entry['exact_groups']} exact), in {entry['folder']}"
            )
    for name, entry in duplicates["between"].items():
        if entry["near"]:
            found.append(f"{entry['near']} of {entry['of']} {name} too ({entry['exact']} exactly)")
    return found


def without_columns(warning: str) -> str:
    """A warning of an earlier evaluation without its words on columns, which other tables do not have."""
    for ending in OF_COLUMNS:
        warning = warning.removesuffix(ending)
    return warning


def column_notes(table: Sequence[Mapping[str, str]]) -> list[str]:
    """What the columns of a table of figures hold that a reader may take for something else."""
    return [f"{column}: {text}" for column, text in COLUMNS.items() if table and column in table[0]]


def shown(name: str, value: float | None) -> str:
    """A figure as tables show it."""
    return rounded(None if value is None else scaled(name, value))


def rounded(value: float | None) -> str:
    """A number of a table; one that rounds to zero has no sign."""
    return "-" if value is None else f"{value:z.3f}"


def best_number(values: Sequence[float], low: bool) -> str | None:
    """How the best of several numbers is shown, the least or the largest; those that look the same are equally good.

    None where all look the same.
    """
    if len({rounded(value) for value in values}) < 2:
        return None
    return rounded(min(values) if low else max(values))


def scaled(name: str, value: float) -> float:
    """A figure in the unit of tables."""
    return 100 * value if name in TIMES_100 else value


def title_of(name: str, entry: Mapping[str, Any]) -> str:
    """The heading of a figure."""
    return f"{entry['title']}{HUNDREDFOLD}" if name in TIMES_100 else entry["title"]


def figure_row(name: str, entry: Mapping[str, Any]) -> dict[str, str]:
    """A figure and what it must be read against, as the cells of a table."""
    interval = entry.get("interval")
    equal = entry.get("equal_numbers")
    without = entry.get("without_duplicates")
    numbers = entry["n"]
    return {
        "": title_of(name, entry),
        "value": shown(name, entry["value"]),
        "95 %": " to ".join(shown(name, end) for end in interval) if interval else "",
        "images": " / ".join(str(count) for count in numbers.values()),
        "equal n": f"{shown(name, equal['value'])} ({equal['n']})" if equal else "",
        "doing nothing": floor_cell(name, entry, DO_NOTHING),
        "real": floor_cell(name, entry, REAL),
        "unrelated": floor_cell(name, entry, UNRELATED),
        "no duplicates": shown(name, without["value"]) if without else "",
        "better": entry["better"],
    }


def floor_cell(name: str, entry: Mapping[str, Any], floor: str) -> str:
    """A floor of a figure, with its number of images where that is not the figure's; empty where there is none."""
    found = beside(entry, floor)
    if found is None:
        return ""
    of = f" ({found.of})" if found.of else ""
    return shown(name, found.value) + of


def figure_table(figures: Mapping[str, Any]) -> list[dict[str, str]]:
    """All figures as rows, without columns that no figure fills."""
    rows = [figure_row(name, entry) for name, entry in figures.items()]
    filled = [column for column in rows[0] if any(row[column] for row in rows)] if rows else []
    return [{column: row[column] for column in filled} for row in rows]


def text_table(figures: Mapping[str, Any]) -> list[str]:
    """The same for a terminal."""
    rows = figure_table(figures)
    if not rows:
        return []
    head = {column: column for column in rows[0]}
    widths = {column: max(len(row[column]) for row in [head, *rows]) for column in head}

    lines = []
    for row in [head, *rows]:
        cells = [f"{text:{widths[column]}}" for column, text in row.items()]
        lines.append("  ".join(cells).rstrip())
    return lines


def markdown_row(title: str, figures: Mapping[str, Any]) -> str:
    """A head and a row that can be put into a table of results."""
    cells, heads = [title], [""]
    for name, entry in figures.items():
        interval = entry.get("interval")
        ends = f" [{shown(name, interval[0])}, {shown(name, interval[1])}]" if interval else ""
        heads.append(title_of(name, entry))
        cells.append(f"{shown(name, entry['value'])}{ends}")

    numbers = next(iter(figures.values()))["n"] if figures else {}
    heads.append("images")
    cells.append(" / ".join(str(count) for count in numbers.values()))
    lines = [heads, ["---"] * len(heads), cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def truth_table(where: str, result: Mapping[str, Any]) -> list[str]:
    """The scores against a truth, for people."""
    counts, means = result["counts"], result["means"]
    title = f"{counted(counts['images'], 'image')} against {where}"
    if counts["not_translated"]:
        title += f" ({counts['not_translated']} more were not translated)"
    lines = [title, f"{'':20}{'error':>9}{'object':>9}{'backgr.':>9}{'L1':>9}{'PSNR':>9}"]

    # PSNR is the figure of that name: a mean over images, in which a perfect one counts as the ceiling
    snr = result["figures"]["peak_snr"]
    perfect = {key: None if value is None else 0.0 for key, value in means["copy"].items()}
    rows = {
        "copy of the input": (means["copy"], snr["floors"][DO_NOTHING]["value"]),
        "model": (means["model"], snr["value"]),
        "perfect": (perfect, metrics.CEILING),
    }
    for label, (row, decibels) in rows.items():
        errors = [row[key] for key in ("error", "object", "background", "l1")]
        cells = "".join(f"{'-':>9}" if value is None else f"{value:9.4f}" for value in errors)
        lines.append(f"{label:20}{cells}{decibels:9.2f}")

    lines.append(f"score {result['score']:.3f}: 0 is a copy of the input, 1 a perfect translation")
    return lines
