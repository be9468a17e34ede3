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

    near = _joined(len(looks.checksums), _near_pairs(looks.thumbnails, looks.thumbnails))
    return {"exact": [group for group in exact.values() if len(group) > 1], "near": near}


def shared(looks: Looks, others: Looks) -> dict[str, list[int]]:
    """Pictures of the first set that stand in the second too, by index: "exact", and "near" (with the exact ones)."""
    known = set(others.checksums)
    exact = [index for index, checksum in enumerate(looks.checksums) if checksum in known]
    near = sorted({one for one, _ in _near_pairs(looks.thumbnails, others.thumbnails)} | {*exact})
    return {"exact": exact, "near": near}


def superfluous(looks: Looks, also_in: Sequence[Looks] = ()) -> list[int]:
    """What a set must lose so that no picture is in it twice, nor in one of the others: near ones count."""
    dropped = {index for group in groups(looks)["near"] for index in group[1:]}
    for others in also_in:
        dropped |= {*shared(looks, others)["near"]}
    return sorted(dropped)


def _near_pairs(one: np.ndarray, other: np.ndarray) -> list[tuple[int, int]]:
    """Places in the first and the second set that look alike."""
    found = []
    other_unit = _centred(other)
    for first in range(0, len(one), ROWS):
        some = one[first : first + ROWS]
        correlation = _centred(some) @ other_unit.T
        for row, column in np.argwhere(correlation > ALIKE):
            if np.abs(some[row] - other[column]).mean() < CLOSE:
                found.append((first + int(row), int(column)))
    return found


def _centred(thumbnails: np.ndarray) -> np.ndarray:
    """Each without its mean and of length 1; a flat one becomes a constant, so that flat ones are alike."""
    values = thumbnails.astype(np.float64)
    values = values - values.mean(1, keepdims=True)
    length = np.sqrt(np.square(values).sum(1, keepdims=True))
    flat = np.full_like(values, 1 / np.sqrt(values.shape[1]))
    return np.where(length > 1e-6, values / np.maximum(length, 1e-6), flat)


def _joined(count: int, pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Groups that pairs connect, each sorted."""
    leader = list(range(count))

    def first_of(index: int) -> int:
        while leader[index] != index:
            index = leader[index]
        return index

    for one, other in pairs:
        low, high = sorted((first_of(one), first_of(other)))
        leader[high] = low

    members = defaultdict(list)
    for index in range(count):
        members[first_of(index)].append(index)
    return [group for group in members.values() if len(group) > 1]
