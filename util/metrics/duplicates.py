"""Pictures that occur more than once, exactly or nearly, within a set and between two.

Exact: the same pixels. Near: thumbnails of 16 x 16 luminances whose mean difference is below 2 % of the range and whose
correlation is above 0.99, which finds pictures saved again at another size or quality, and almost nothing else.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SIDE = 16
CLOSE, ALIKE = 0.02, 0.99
ROWS = 512  # of comparisons at once


@dataclass(frozen=True)
class Looks:
    """What pictures are compared by: a checksum of the pixels, and thumbnails (N, SIDE * SIDE) in [0,1]."""

    checksums: Sequence[str]
    thumbnails: np.ndarray


def groups(looks: Looks) -> dict[str, list[list[int]]]:
    """Groups of pictures of one set that are the same: "exact", and "near" (with the exact ones in them)."""
    exact = defaultdict(list)
    for index, checksum in enumerate(looks.checksums):
        exact[checksum].append(index)

    unlike, members = _unlike(looks.thumbnails)
    near = defaultdict(list)
    for label, alike in zip(_labels(unlike), members, strict=True):
        near[label] += alike

    return {
        "exact": [group for group in exact.values() if len(group) > 1],
        "near": sorted(sorted(group) for group in near.values() if len(group) > 1),
    }


def shared(looks: Looks, others: Looks) -> dict[str, list[int]]:
    """Pictures of the first set that stand in the second too, by index: "exact", and "near" (with the exact ones)."""
    known = set(others.checksums)
    exact = [index for index, checksum in enumerate(looks.checksums) if checksum in known]
    unlike, members = _unlike(looks.thumbnails)
    near = {*exact}
    for place in _found_among(unlike, _unlike(others.thumbnails)[0]):
        near.update(members[place])
    return {"exact": exact, "near": sorted(near)}


def superfluous(looks: Looks, also_in: Sequence[Looks] = ()) -> list[int]:
    """What a set must lose so that no picture is in it twice, nor in one of the others: near ones count."""
    dropped = {index for group in groups(looks)["near"] for index in group[1:]}
    for others in also_in:
        dropped |= {*shared(looks, others)["near"]}
    return sorted(dropped)


def _unlike(thumbnails: np.ndarray) -> tuple[np.ndarray, list[list[int]]]:
    """The thumbnails that differ, and where each stands in the set.

    What is the same to the last digit is compared once: a thousand black pictures are a million pairs.
    """
    places = defaultdict(list)
    for index, thumbnail in enumerate(thumbnails):
        places[thumbnail.tobytes()].append(index)

    members = list(places.values())
    firsts = [alike[0] for alike in members]
    return thumbnails[firsts], members


def _labels(thumbnails: np.ndarray) -> np.ndarray:
    """A number for each thumbnail: equal ones for those that look alike, directly or by way of others.

    Two that have one number already are not compared, so that a set of look-alikes takes one row of comparisons.
    """
    labels = np.arange(len(thumbnails))
    unit = _centred(thumbnails)
    for first in range(0, len(thumbnails), ROWS):
        correlated = unit[first : first + ROWS] @ unit[first:].T > ALIKE
        for row, candidates in enumerate(correlated, start=first):
            candidates = first + np.flatnonzero(candidates)
            candidates = candidates[(candidates > row) & (labels[candidates] != labels[row])]
            close = candidates[_are_close(thumbnails[row], thumbnails[candidates])]
            if close.size:
                labels[np.isin(labels, labels[close])] = labels[row]
    return labels


def _found_among(thumbnails: np.ndarray, others: np.ndarray) -> list[int]:
    """Places of the thumbnails that look like one of the others."""
    found = []
    other_unit = _centred(others)
    for first in range(0, len(thumbnails), ROWS):
        correlated = _centred(thumbnails[first : first + ROWS]) @ other_unit.T > ALIKE
        for row, candidates in enumerate(correlated, start=first):
            if _any_close(thumbnails[row], others, np.flatnonzero(candidates)):
                found.append(row)
    return found


def _any_close(one: np.ndarray, others: np.ndarray, candidates: np.ndarray) -> bool:
    """Whether one thumbnail differs little from one of the candidates among others; the first such one ends it."""
    for first in range(0, len(candidates), ROWS):
        if _are_close(one, others[candidates[first : first + ROWS]]).any():
            return True
    return False


def _are_close(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of the thumbnails (N,P) differ little from one (P)."""
    return np.abs(others - one).mean(1) < CLOSE


def _centred(thumbnails: np.ndarray) -> np.ndarray:
    """Each without its mean and of length 1; a flat one becomes a constant, so that flat ones are alike."""
    values = thumbnails.astype(np.float64)
    values = values - values.mean(1, keepdims=True)
    length = np.sqrt(np.square(values).sum(1, keepdims=True))
    flat = np.full_like(values, 1 / np.sqrt(values.shape[1]))
    return np.where(length > 1e-6, values / np.maximum(length, 1e-6), flat)
