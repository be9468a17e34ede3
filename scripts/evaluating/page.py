"""The page of scripts/evaluate.py: figures, warnings, pictures drawn at random, the worst ones, nearest neighbours."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from dominate import tags

from data.picture_set import PictureSet
from scripts.evaluating.words import column_notes, figure_table
from util.images import save_png
from util.pages import html
from util.pages.files import Picture, write_page
from util.pages.html import printable
from util.words import counted

SIDE = 192  # pixels of a picture on the page
NEAREST_SHOWN = 200


@dataclass
class Shown:
    """What the page shows of an evaluation.

    Attributes:
        names: of the outputs.
        fakes, inputs, truths: the pictures, in that order.
        train: pictures of the target domain that training saw.
        nearest: for each output the place of its nearest picture in `train`, and the distance of their features.
        ranks: rule in words -> a value per output, the worst first when sorted.
    """

    names: Sequence[str]
    fakes: PictureSet
    inputs: PictureSet | None = None
    truths: PictureSet | None = None
    train: PictureSet | None = None
    nearest: tuple[np.ndarray, np.ndarray] | None = None
    ranks: Mapping[str, np.ndarray] = field(default_factory=dict)


class Thumbnails:
    """Small copies of pictures beside the page, each written once."""

    def __init__(self, page: Path) -> None:
        self.root = page.parent
        self.folder = page.with_name(f"{page.stem}_pictures")
        self.written: dict[str, Picture] = {}
        shutil.rmtree(self.folder, ignore_errors=True)

    def picture(self, label: str, pictures: PictureSet, index: int) -> Picture:
        """One picture of a set, with its caption."""
        path = pictures.paths[index]
        if path not in self.written:
            image = pictures.image(index)
            image.thumbnail((SIDE, SIDE))
            file = self.folder / f"{len(self.written):05d}.png"
            save_png(np.asarray(image), file)
            inside = file.relative_to(self.root).as_posix()
            self.written[path] = Picture("", inside, *image.size)

        small = self.written[path]
        return Picture(label, small.file, small.width, small.height)


def write_report(path: Path, title: str, result: Mapping[str, Any], shown: Shown) -> Path:
    """Write the page and the small pictures beside it; it needs no network."""
    thumbnails = Thumbnails(path)
    figures, count = result.get("figures", {}), len(shown.names)

    table = figure_table(figures)
    body = [html.table(table)] if table else []
    body += [tags.p(text) for text in column_notes(table)]
    if "score" in result:
        text = f"score {result['score']:.3f}: 0 is a copy of the input, 1 the truth"
        body.insert(0, tags.p(text))
    if result["warnings"]:
        body.append(tags.h2("To be read with it"))
        body.append(tags.ul(*(tags.li(printable(text)) for text in result["warnings"])))

    rng = np.random.default_rng(result["settings"]["seed"])
    drawn = sorted(rng.permutation(count)[: result["settings"]["grid"]].tolist())
    heading = f"{len(drawn)} of {count} outputs, drawn at random"
    body += [tags.h2(heading), _rows(thumbnails, shown, drawn)]

    for rule, values in shown.ranks.items():
        worst = np.argsort(values)[: result["settings"]["worst"]].tolist()
        notes = {index: f"{abs(values[index]):.3g}" for index in worst}
        body += [tags.h2(f"The worst by rule: {rule}"), _rows(thumbnails, shown, worst, notes)]

    if shown.nearest is not None:
        body += _nearest(thumbnails, shown)
    body += [tags.h2("How it was measured"), html.fact_table(_facts(result))]
    write_page(path, html.page(title, counted(count, "output"), body))
    return path


def _rows(
    thumbnails: Thumbnails,
    shown: Shown,
    indices: Sequence[int],
    notes: Mapping[int, str] | None = None,
) -> tags.div:
    """A card per output: what it was made from, itself, and its truth where there is one."""
    cards = []
    for index in indices:
        sets = {"input": shown.inputs, "output": shown.fakes, "truth": shown.truths}
        pictures = [
            thumbnails.picture(label, found, index) for label, found in sets.items() if found
        ]
        note = f" · {notes[index]}" if notes else ""
        cards.append((f"{shown.names[index]}{note}", pictures))
    return html.picture_rows(cards, SIDE)


def _nearest(thumbnails: Thumbnails, shown: Shown) -> list[tags.html_tag]:
    """Each output beside the training picture whose features are nearest, the nearest pair first."""
    places, distances = shown.nearest
    cards = []
    for index in np.argsort(distances)[:NEAREST_SHOWN].tolist():
        pictures = [
            thumbnails.picture("output", shown.fakes, index),
            thumbnails.picture("nearest in training", shown.train, int(places[index])),
        ]
        cards.append((f"{shown.names[index]} · {distances[index]:.3g}", pictures))

    heading = "The nearest training picture of each output"
    if len(distances) > NEAREST_SHOWN:
        heading += f", the {NEAREST_SHOWN} nearest pairs of {len(distances)}"
    return [tags.h2(heading), html.picture_rows(cards, SIDE)]


def _facts(result: Mapping[str, Any]) -> dict[str, str]:
    """What the figures depend on, in short; the JSON holds all of it."""
    facts = {"command": result["command"], **result["folders"]}
    run = result["run"]
    facts |= {key: str(run[key]) for key in ("name", "recipe", "seed") if key in run}
    facts |= {key: str(value) for key, value in result["settings"].items()}
    for kind in ("inception", "encoder"):
        for key, value in result.get(kind, {}).items():
            facts[f"{kind} {key}"] = value
    return {**facts, **result["versions"]}
