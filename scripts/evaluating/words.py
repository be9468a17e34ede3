"""What scripts/evaluate.py says: warnings, the table on the terminal, the Markdown row."""

from collections.abc import Mapping
from typing import Any

from data.picture_set import PictureSet
from scripts.evaluating.floors import DO_NOTHING, REAL, UNRELATED
from scripts.evaluating.sets import Sets
from util.metrics import truth as metrics
from util.metrics.fid import FID_BIAS

FEW = 50  # images: below, an interval says little
TIMES_100 = ("kid",)  # figures that tables show a hundred times as large, as papers do


def warnings(sets: Sets, duplicates: Mapping[str, Any]) -> list[str]:
    """What a reader of the figures must know, in words."""
    fakes, reals = sets.fakes, sets.reals
    least = min(len(fakes), len(reals))
    found = []
    if least < FID_BIAS:
        found.append(
            f"FID from fewer than {FID_BIAS} images is biased upwards; compare equal numbers only"
        )
    if least < FEW:
        found.append(f"{least} images are few: the intervals themselves are uncertain")
    if len(fakes) != len(reals):
        found.append(
            f"the sets differ in number ({len(fakes)} and {len(reals)}); "
            "a figure at equal numbers stands beside each"
        )

    found += size_warnings(fakes, reals)
    if fakes.lossy != reals.lossy:
        kinds = {True: "JPEG or WebP", False: "PNG or another exact format"}
        found.append(
            f"outputs are {kinds[fakes.lossy]}, real pictures {kinds[reals.lossy]}: "
            "traces of compression count in the figures"
        )
    return found + duplicate_warnings(duplicates)


def size_warnings(fakes: PictureSet, reals: PictureSet) -> list[str]:
    """Where the pictures of the two sides are not of one size."""
    sizes = {"outputs": fakes.file_sizes, "real pictures": reals.file_sizes}
    if fakes.file_sizes.keys() == reals.file_sizes.keys() and len(fakes.file_sizes) == 1:
        return []

    words = []
    for who, counted in sizes.items():
        (width, height), _ = counted.most_common(1)[0]
        mixed = f"of {len(counted)} sizes, most often " if len(counted) > 1 else ""
        words.append(f"{who} are {mixed}{width}x{height}")
    end = f"; all were brought to {fakes.resize}x{fakes.resize}" if fakes.resize else ""
    return [f"the files of the two sides are not of one size: {', '.join(words)}{end}"]


def duplicate_warnings(duplicates: Mapping[str, Any]) -> list[str]:
    """Pictures that occur more than once."""
    found = []
    for name, entry in duplicates["within"].items():
        if entry["near_groups"]:
            found.append(
                f"{entry['near_groups']} groups of equal or nearly equal pictures within {name} "
                f"({entry['exact_groups']} exact), in {entry['folder']}"
            )
    for name, entry in duplicates["between"].items():
        if entry["near"]:
            found.append(
                f"{entry['near']} of {entry['of']} {name} too ({entry['exact']} exactly): "
                "figures without them stand beside each"
            )
    return found


def shown(name: str, value: float | None) -> str:
    """A figure as tables show it."""
    return "-" if value is None else f"{scaled(name, value):.3f}"


def scaled(name: str, value: float) -> float:
    """A figure in the unit of tables."""
    return 100 * value if name in TIMES_100 else value


def title_of(name: str, entry: Mapping[str, Any]) -> str:
    """The heading of a figure."""
    return f"{entry['title']} x100" if name in TIMES_100 else entry["title"]


def figure_row(name: str, entry: Mapping[str, Any]) -> dict[str, str]:
    """A figure and what it must be read against, as the cells of a table."""
    floors = entry.get("floors", {})
    interval = entry.get("interval")
    equal = entry.get("equal_numbers")
    without = entry.get("without_duplicates")
    unrelated = floors.get(UNRELATED)
    numbers = entry["n"]

    real = shown(name, floors[REAL]["value"]) if REAL in floors else ""
    if floors.get(REAL, {}).get("halves"):
        real += " (halves)"
    return {
        "": title_of(name, entry),
        "value": shown(name, entry["value"]),
        "95 %": " to ".join(shown(name, end) for end in interval) if interval else "",
        "images": " / ".join(str(count) for count in numbers.values()),
        "equal n": f"{shown(name, equal['value'])} ({equal['n']})" if equal else "",
        "doing nothing": shown(name, floors[DO_NOTHING]["value"]) if DO_NOTHING in floors else "",
        "real": real,
        "unrelated": shown(name, unrelated["value"]) if unrelated else "",
        "no duplicates": shown(name, without["value"]) if without else "",
        "better": entry["better"],
    }


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
    count, missing = result["counts"].values()
    title = f"{count} images against {where}"
    if missing:
        title += f" ({missing} more were not translated)"
    lines = [title, f"{'':20}{'error':>9}{'object':>9}{'backgr.':>9}{'L1':>9}{'PSNR':>9}"]

    means = result["means"]
    rows = {
        "copy of the input": means["copy"],
        "model": means["model"],
        "perfect": dict.fromkeys(means["copy"], 0.0),
    }
    for label, row in rows.items():
        cells = "".join(f"{row[key]:9.4f}" for key in ("error", "object", "background", "l1"))
        lines.append(f"{label:20}{cells}{metrics.psnr(row['mse']):9.2f}")

    lines.append(f"score {result['score']:.3f}: 0 is a copy of the input, 1 a perfect translation")
    return lines
