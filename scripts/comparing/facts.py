"""What the page of scripts/compare.py says about runs: how they were trained, where they differ, how they measure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from options import TrainOptions
from scripts.evaluating.words import best_number, scaled, shown, title_of
from util.pages.html import short_number
from util.parser import show_value
from util.words import counted

# groups of options that do not decide what is learned, and those of their options that do
OF_NO_EFFECT = ("run", "logs", "checkpoints", "speed")
OF_EFFECT = {"seed", "pretrained_name", "epoch", "epoch_count", "amp", "tf32"}
BETTER_WHEN_LOW = ("error", "L1", "FID", "KID", "self-similarity", "LPIPS")


def training_facts(record: Mapping[str, Any]) -> dict[str, str]:
    """The main facts of a training run, from its record (`saved_record`); nothing for weights without one."""
    if not record:
        return {}

    options, versions = record["options"], record["versions"]
    first, then = options["n_epochs"], options["n_epochs_decay"]
    size = f"{options['load_size']} to {options['crop_size']}"
    known = [key for key in ("commit", "torch", "device") if key in versions]

    facts = {
        "trained on": f"{options['dataroot']}, {options['direction']}",
        "schedule": f"{first} + {then} epochs, lr {options['lr']:g}, seed {options['seed']}",
        "images": f"{options['preprocess']}, {size}, batches of {options['batch_size']}",
        "with": ", ".join(f"{key} {versions[key]}" for key in known),
    }
    if options.get("max_steps"):
        facts["schedule"] += f", at most {short_number(options['max_steps'])} steps"
    return facts


def differing_options(records: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Options that all runs have and that are not the same in all: option -> value per run, as one would type it.

    Options that do not decide what is learned are left out.
    """
    train = TrainOptions()
    parser = train.build_parser(train.peek([]))
    skipped = set()
    for group in OF_NO_EFFECT:
        skipped.update(parser.members(group))
    skipped -= OF_EFFECT

    every = [record.get("options", {}) for record in records.values()]
    differing = {}
    for name in every[0]:
        if name in skipped or not all(name in options for options in every):
            continue
        values = [show_value(options[name]) for options in every]
        if len(set(values)) > 1:
            differing[name] = values
    return differing


@dataclass(frozen=True)
class Measured:
    """What scripts/evaluate.py has found of the pictures of a run.

    Attributes:
        figures: by name: "score", "error", "PSNR", "FID", ...
        details: what stands beside a figure, in words: its 95 % interval over images, and how many images it is of.
        scores: of each image, where there is a truth.
        warnings: what a reader of the figures must know.
    """

    figures: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    warnings: Sequence[str] = ()


def measured(folder: Path) -> Measured:
    """What scripts/evaluate.py wrote of the pictures in a result folder, where it is not older than they are."""
    pictures = folder / "pictures.json"
    found = []
    for path in sorted(folder.glob("fid_*.json")) + sorted(folder.glob("truth.json")):
        if path.stat().st_mtime_ns >= pictures.stat().st_mtime_ns:
            found.append(json.loads(path.read_text(encoding="utf-8")))

    figures: dict[str, float] = {}
    details: dict[str, str] = {}
    scores: dict[str, float] = {}
    warnings: list[str] = []
    for result in found:
        if "score" in result:
            means = result["means"]["model"]
            own = {"score": result["score"], "error": means["error"]}
            figures |= own
            details |= dict.fromkeys(own, counted(len(result["images"]), "image"))
            scored = [row for row in result["images"] if row["score"] is not None]
            scores = {row["name"]: row["score"] for row in scored}

        for name, entry in result["figures"].items():
            title = title_of(name, entry)
            if title not in figures:
                figures[title] = scaled(name, entry["value"])
                details[title] = detail_of(name, entry)
        warnings += result.get("warnings", [])
    return Measured(figures, details, scores, list(dict.fromkeys(warnings)))


def detail_of(name: str, entry: Mapping[str, Any]) -> str:
    """The interval over images of a figure, where it has one, and its number of images."""
    ends = entry.get("interval")
    words = [" to ".join(shown(name, end) for end in ends)] if ends else []
    counts = entry.get("n", {}).values()
    if counts:
        words.append(f"{' / '.join(map(str, counts))} images")
    return ", ".join(words)


def best(name: str, values: Sequence[float | None]) -> str | None:
    """How the page prints the best of several runs' figures of that name.

    Figures that print alike are equally good. None where fewer than two are known, or all print alike.
    """
    known = [value for value in values if value is not None]
    return best_number(known, low=name.startswith(BETTER_WHEN_LOW))
