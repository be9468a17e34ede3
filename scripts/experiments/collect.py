"""What is known of a run, from its folder alone: figures by checkpoint, costs and curves."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scripts.evaluating import floors
from scripts.evaluating.words import scaled, title_of, without_columns
from scripts.experiments.grid import Job
from scripts.experiments.job import (
    EPOCHS,
    RECORD,
    measured_as_asked,
    measured_file,
    trained_as_asked,
)
from util.logs.log_files import METRICS
from util.logs.sink import EVALUATION
from util.run.folder import describe_history, saved_record

COSTS = ("images/s", "hours", "memory GB", "M parameters")
# what files of weights hold beside parameters: statistics of batches, and fixed filters
NO_PARAMETERS = (".running_mean", ".running_var", ".num_batches_tracked", ".filt", ".kernel")


@dataclass(frozen=True)
class Measured:
    """What one checkpoint of a run measured on the test images, by title, in the unit of tables.

    Attributes:
        intervals: of figures, over images.
        floors: what figures must be read against: floor in words -> title -> value.
        warnings: what scripts/evaluate.py warned of.
    """

    figures: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    floors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    warnings: Sequence[str] = ()


NOTHING = Measured()


@dataclass(frozen=True)
class RunRow:
    """One run: what was measured, what it cost, and its curves.

    Attributes:
        measured: by checkpoint, "last" and "best", those that there are.
        better: title of a figure -> "low" or "high".
        changes: which flags changed while it was trained.
    """

    name: str
    row: str
    data: str
    seed: int
    recipe: str
    commit: str
    measured: Mapping[str, Measured]
    better: Mapping[str, str]
    costs: Mapping[str, float | None]
    curves: Mapping[str, list[tuple[int, float]]] = field(default_factory=dict)
    changes: Sequence[str] = ()

    def at(self, checkpoint: str) -> Measured:
        """What a checkpoint measured; nothing where it was not."""
        return self.measured.get(checkpoint, NOTHING)

    @property
    def first(self) -> Measured:
        """What the first of its checkpoints measured."""
        return next(iter(self.measured.values()), NOTHING)


def run_row(folder: Path) -> RunRow | None:
    """The row of a run, from its folder; None where nothing was measured."""
    results = {}
    for column in EPOCHS:
        path = measured_file(folder, column)
        if path.is_file():
            results[column] = json.loads(path.read_text(encoding="utf-8"))
    if not results:
        return None

    record, job = saved_record(folder), _json(folder / RECORD)
    options = record.get("options", {})
    first = next(iter(results.values()))
    records = _records(folder / METRICS)
    return RunRow(
        name=folder.name,
        row=job.get("row", folder.name),
        data=job.get("data", Path(options.get("dataroot", "?")).name),
        seed=options.get("seed", 0),
        recipe=record.get("recipe", "?"),
        commit=record.get("versions", {}).get("commit", "?"),
        measured={column: measured(result) for column, result in results.items()},
        better={title_of(n, e): e["better"] for n, e in first["figures"].items()}
        | {"score": "high"},
        costs=costs(folder, records, job),
        curves=curves(records),
        changes=describe_history(record),
    )


def asked_row(job: Job) -> tuple[RunRow | None, list[str]]:
    """The row of a job, with what was measured of its present weights under its present flags, and the columns that
    were not.

    The job says where in the table they stand; the folder may be of a time when labels were others.
    """
    found = run_row(job.folder)
    if found is None:
        return None, []
    current = {
        column: one
        for column, one in found.measured.items()
        if trained_as_asked(job) and measured_as_asked(job, column)
    }
    old = [column for column in found.measured if column not in current]
    if not current:
        return None, old
    return replace(found, measured=current, row=job.row, data=job.data, seed=job.seed), old


def measured(result: Mapping[str, Any]) -> Measured:
    """One evaluation, as scripts/evaluate.py wrote it."""
    return Measured(
        figures=values_of(result),
        intervals=intervals_of(result),
        floors=floors_of(result),
        warnings=[without_columns(text) for text in result.get("warnings", [])],
    )


def values_of(result: Mapping[str, Any]) -> dict[str, float]:
    """The figures of one evaluation by title, in the unit of tables."""
    values = {"score": result["score"]} if "score" in result else {}
    for name, entry in result["figures"].items():
        values[title_of(name, entry)] = scaled(name, entry["value"])
    return values


def intervals_of(result: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """The bootstrap intervals over images of one evaluation by title, in the unit of tables."""
    found = {}
    for name, entry in result["figures"].items():
        if entry.get("interval"):
            low, high = entry["interval"]
            found[title_of(name, entry)] = (scaled(name, low), scaled(name, high))
    return found


def floors_of(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What figures must be read against: floor in words -> title -> value.

    A floor of other numbers of images than its figure says of how many it is.
    """
    found: dict[str, dict[str, float]] = {}
    for name, entry in result["figures"].items():
        for floor in entry.get("floors", {}):
            value, of = floors.beside(entry, floor)
            label = floors.WORDS[floor] + (f" ({of} images each)" if of else "")
            if value is not None:
                found.setdefault(label, {})[title_of(name, entry)] = scaled(name, value)
    return found


def costs(
    folder: Path, records: Sequence[Mapping], job: Mapping[str, Any]
) -> dict[str, float | None]:
    """Speed, training hours, memory (of the GPU; without one, of the process) and parameters of the generator."""
    steps = [record for record in records if "time" in record and record["time"] is not None]
    hours, before = 0.0, 0
    for record in steps:
        hours += record["time"] * (record["images"] - before) / 3600
        before = record["images"]

    speeds = [record["images/s"] for record in steps]
    memory = [record["memory"] for record in steps if "memory" in record]
    host = job.get("host_memory_gb")
    values = (
        float(np.median(speeds)) if speeds else None,
        hours if steps else None,
        max(memory) if memory else host,
        parameters(folder, job),
    )
    return dict(zip(COSTS, values, strict=True))


def parameters(folder: Path, job: Mapping[str, Any]) -> float | None:
    """Millions of parameters that translate A to B, as test.py has counted them.

    Records of earlier versions do not say. There the files of weights count that test.py took, but for networks of
    B -> A whose like for A -> B is there too.
    """
    if "parameters" in job:
        return job["parameters"] / 1e6 if job["parameters"] else None

    names = job.get("translated_with", [])
    files = [folder / name for name in names if not is_way_back(name, names)]
    if not files or not all(path.is_file() for path in files):
        return None

    counted = 0
    for path in files:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        counted += sum(v.numel() for key, v in state.items() if not key.endswith(NO_PARAMETERS))
    return counted / 1e6


def is_way_back(name: str, names: Sequence[str]) -> bool:
    """Whether a file holds a network of B -> A whose like for A -> B is there too: net_G_B beside net_G_A."""
    twin = name.replace("_B.pth", "_A.pth").replace("_B_ema.pth", "_A_ema.pth")
    return twin != name and twin in names


def curves(records: Iterable[Mapping]) -> dict[str, list[tuple[int, float]]]:
    """Every loss and every figure of held-out images over images seen; those figures come first."""
    found: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        for name, value in record["losses"].items():
            if value is not None:
                found.setdefault(name, []).append((record["images"], value))
    ordered = sorted(found, key=lambda name: not name.startswith(EVALUATION))
    return {name: found[name] for name in ordered}


def _records(path: Path) -> list[dict]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
