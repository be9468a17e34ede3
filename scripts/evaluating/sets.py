"""Figures of whole sets: FID, KID, precision and so on, with intervals, floors, and without duplicates."""

import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.image_file import in_threads
from data.picture_set import PictureSet
from scripts.evaluating.floors import DO_NOTHING, REAL
from util.errors import UserError
from util.hardware.team import Team
from util.metrics import bootstrap, duplicates
from util.metrics.features import Inception, Store
from util.metrics.measures import Measure
from util.metrics.suite import of_kind

CHUNK = 64  # pictures decoded ahead


@dataclass
class Sets:
    """The pictures of one evaluation; `inputs` belong to `fakes` one by one."""

    fakes: PictureSet
    reals: PictureSet
    inputs: PictureSet | None = None
    train: PictureSet | None = None
    train_inputs: PictureSet | None = None

    def present(self) -> dict[str, PictureSet]:
        """Those that are there, by name."""
        return {name: found for name, found in vars(self).items() if found is not None}


class Judge:
    """Inception and a store of the features that it has found before.

    Args:
        team: the processes that share the work.
        inception: the network.
        batch_size: pictures at once.
        store: folder of the features of real pictures; None keeps none.
    """

    def __init__(
        self, team: Team, inception: Inception, batch_size: int, store: Path | None
    ) -> None:
        self.team, self.inception, self.batch_size = team, inception, batch_size
        self.store = Store(store)

    def features(self, pictures: PictureSet, keep: bool = True) -> np.ndarray:
        """(N,D) features of a set, in its order."""
        parts = [self.inception.sha256, self.inception.layer, pictures.resize, pictures.checksum]
        if pictures.levels:
            parts.append(pictures.levels)
        if keep and (found := self.team.tell(self.store.find(*parts))) is not None:
            return found

        def encode(indices: Sequence[int]) -> np.ndarray:
            bar = tqdm(
                decoded(pictures, indices),
                f"features of {pictures.folder}",
                total=len(indices),
                unit="img",
                leave=False,
                disable=not (self.team.is_main and sys.stderr.isatty()),
            )
            return self.inception.encode(bar, self.batch_size)

        features = np.stack(self.team.spread(encode, range(len(pictures))))
        if keep and self.team.is_main:
            self.store.keep(features, *parts)
        return features


def decoded(pictures: PictureSet, indices: Sequence[int]) -> Iterator[Tensor]:
    """These pictures of a set, decoded by threads, some ahead of their use."""
    for first in range(0, len(indices), CHUNK):
        yield from in_threads(pictures.__getitem__, indices[first : first + CHUNK])


def default_store() -> Path:
    """Where features of real pictures are kept: beside the weights that torch keeps."""
    return Path(torch.hub.get_dir()) / "features"


def check_sets(sets: Sets) -> None:
    """Raise UserError for a set from which no figure can be had."""
    compared = (sets.fakes, sets.reals, sets.train)
    for fault in (fault_of(pictures) for pictures in compared if pictures is not None):
        if fault:
            raise UserError(fault)


def fault_of(pictures: PictureSet) -> str | None:
    """Why no figure can be had from a set, None where one can: one picture, or unequal sizes.

    Inception would see pictures of unequal sizes at unlike scales.
    """
    if len(pictures) < 2:
        return f"{pictures.folder} holds one image; FID and KID compare sets of at least 2"

    first = pictures.sizes[0]
    for path, size in zip(pictures.paths, pictures.sizes, strict=True):
        if size != first:
            return (
                f"{path} is {size[0]}x{size[1]}, {pictures.paths[0]} {first[0]}x{first[1]}; "
                "give images of one size, or scale all of both sides with --resize 256"
            )
    return None


def set_figures(
    sets: Sets, judge: Judge, resamples: int, seed: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Every measure of sets, by its name, with all that it must be read against; and the features.

    Raises:
        UserError: features are no numbers.
    """
    features = {
        name: judge.features(pictures, keep=name != "fakes")
        for name, pictures in sets.present().items()
        if name != "train_inputs"
    }

    lost = without_duplicates(sets)
    found = {}
    for measure in of_kind("sets", "members"):
        entry = one_figure(measure, features["fakes"], features["reals"], resamples, seed)
        entry["floors"] = floors(measure, features, entry["equal_numbers"]["n"], seed)
        if any(lost.values()):
            kept = [np.delete(features[name], lost[name], axis=0) for name in ("fakes", "reals")]
            entry["without_duplicates"] = plain_figure(measure, *kept)
        entry["title"] = measure.title + judge.inception.suffix
        found[measure.name] = entry
    return found, features


def one_figure(
    measure: Measure, fakes: np.ndarray, reals: np.ndarray, resamples: int, seed: int
) -> dict[str, Any]:
    """A figure, its number of images, its interval, and the figure at equal numbers."""
    entry = {"better": measure.better, **plain_figure(measure, fakes, reals)}
    if resamples:
        if measure.kind == "sets":
            entry |= bootstrap.of_sets(measure.function, fakes, reals, resamples, seed)
        else:
            entry |= bootstrap.of_mean(measure.function(fakes, reals), resamples, seed)

    number = min(len(fakes), len(reals))
    value = bootstrap.at_equal_numbers(measure.function, fakes, reals, number, seed)
    entry["equal_numbers"] = {"n": number, "value": value}
    return entry


def plain_figure(measure: Measure, fakes: np.ndarray, reals: np.ndarray) -> dict[str, Any]:
    """The figure over all images, and their numbers; None where duplicates leave too few."""
    counts = {"fake": len(fakes), "real": len(reals)}
    if min(counts.values()) < 2:
        return {"value": None, "n": counts}
    return {"value": float(np.mean(measure.function(fakes, reals))), "n": counts}


def floors(
    measure: Measure, features: dict[str, np.ndarray], number: int, seed: int
) -> dict[str, Any]:
    """The figure for doing nothing, and for real pictures: those of training, else half against half.

    Of more training pictures than there are outputs as many are drawn, so that floor and figure are of equal numbers.
    """
    reals, found = features["reals"], {}
    others = {DO_NOTHING: features.get("inputs"), REAL: features.get("train")}
    for name, fakes in others.items():
        if fakes is None:
            continue
        count, equal = min(len(features["fakes"]), len(fakes)), min(number, len(fakes))
        found[name] = {
            "value": bootstrap.at_numbers(
                measure.function, fakes, reals, (count, len(reals)), seed
            ),
            "n": {"fake": count, "real": len(reals)},
            "equal_numbers": {
                "n": equal,
                "value": bootstrap.at_equal_numbers(measure.function, fakes, reals, equal, seed),
            },
        }

    if REAL not in found and len(reals) >= 4:
        order = np.random.default_rng(seed).permutation(len(reals))
        half = len(reals) // 2
        one, other = reals[order[:half]], reals[order[half : 2 * half]]
        found[REAL] = plain_figure(measure, one, other) | {"halves": True}
    return found


def without_duplicates(sets: Sets) -> dict[str, list[int]]:
    """Which fakes and reals to leave out so that no picture counts twice or stands in the training set too."""
    seen = [found.looks for found in (sets.train, sets.train_inputs) if found is not None]
    lost = {"fakes": [], "reals": duplicates.superfluous(sets.reals.looks, seen)}
    if sets.inputs:
        lost["fakes"] = duplicates.superfluous(sets.inputs.looks, seen)
    return lost


def duplicate_report(sets: Sets) -> dict[str, Any]:
    """How many pictures occur more than once within a set, and in training and test both, with some names."""
    report: dict[str, Any] = {"within": {}, "between": {}}
    for name, pictures in sets.present().items():
        found = duplicates.groups(pictures.looks)
        report["within"][name] = {
            "folder": str(pictures.folder),
            "images": len(pictures),
            "exact_groups": len(found["exact"]),
            "near_groups": len(found["near"]),
            "near": [[pictures.paths[i] for i in group] for group in found["near"]],
        }

    for test, train in itertools.product(("reals", "inputs"), ("train", "train_inputs")):
        one, other = getattr(sets, test), getattr(sets, train)
        if one is not None and other is not None:
            found = duplicates.shared(one.looks, other.looks)
            report["between"][f"{test} in {train}"] = {
                "exact": len(found["exact"]),
                "near": len(found["near"]),
                "of": len(one),
                "images": [one.paths[index] for index in found["near"]],
            }
    return report
