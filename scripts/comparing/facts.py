"""What the page of scripts/compare.py says about runs: how they were trained, where they differ, how they measure."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from options import TrainOptions
from scripts.evaluating.words import scaled, title_of
from util.metrics import truth as metrics
from util.pages.html import short_number
from util.parser import show_value

# groups of options that do not decide what is learned, and those of their options that do
OF_NO_EFFECT = ("run", "logs", "checkpoints", "speed")
OF_EFFECT = {"seed", "pretrained_name"}
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
    """Options that all runs have and that are not the same in all: option -> value per run, as one would type it."""
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


def measured(folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """What scripts/evaluate.py wrote about the pictures that lie in a result folder, if it is not older than they are.

    Returns figures by name ("score", "error", "PSNR", "FID", ...), and the score of each image where there is a truth.
    """
    pictures = folder / "pictures.json"
    found = {}
    for path in sorted(folder.glob("fid_*.json")) + sorted(folder.glob("truth.json")):
        if path.stat().st_mtime_ns >= pictures.stat().st_mtime_ns:
            found[path.stem] = json.loads(path.read_text(encoding="utf-8"))

    figures: dict[str, float] = {}
    scores: dict[str, float] = {}
    for result in found.values():
        if "score" in result:
            means = result["means"]["model"]
            figures |= {"score": result["score"], "error": means["error"], "L1": means["l1"]}
            figures["PSNR"] = metrics.psnr(means["mse"])
            scored = [row for row in result["images"] if row["score"] is not None]
            scores = {row["name"]: row["score"] for row in scored}
        for name, entry in result["figures"].items():
            figures.setdefault(title_of(name, entry), scaled(name, entry["value"]))
    return figures, scores


def best(name: str, values: list[float | None]) -> float | None:
    """The best of several runs' figures of that name; None where fewer than two are known, or all are equal."""
    known = [value for value in values if value is not None]
    if len(set(known)) < 2:
        return None
    return min(known) if name.startswith(BETTER_WHEN_LOW) else max(known)
