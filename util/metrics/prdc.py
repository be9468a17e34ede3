"""Precision, recall, density and coverage: whether pictures lie among the real ones, and whether they cover them.

Around each member of a set lies a ball that reaches to its k-th nearest neighbour in that set.

    precision = share of fakes in at least one ball of the reals       (Kynkäänniemi et al., arXiv 1904.06991)
    recall    = share of reals in at least one ball of the fakes
    density   = mean over fakes of (balls of the reals it lies in) / k         (Naeem et al., arXiv 2002.09797)
    coverage  = share of reals whose ball holds at least one fake

All take k = 5, and a ball with its border. Each returns a value per member; the figure is their mean.
"""

from collections.abc import Iterator

import numpy as np
import torch

from util.metrics.measures import measure

NEIGHBOURS = 5
ROWS = 1024  # of distances at once, so that memory stays bounded


@measure("members", "precision", "high", over="fakes")
def precision(fakes: np.ndarray, reals: np.ndarray) -> np.ndarray:
    """(N,) 1 where a fake lies among the reals, else 0."""
    return (_balls_around(fakes, reals) > 0).astype(float)


@measure("members", "recall", "high", over="reals")
def recall(fakes: np.ndarray, reals: np.ndarray) -> np.ndarray:
    """(M,) 1 where a real picture lies among the fakes, else 0."""
    return (_balls_around(reals, fakes) > 0).astype(float)


@measure("members", "density", "high", over="fakes")
def density(fakes: np.ndarray, reals: np.ndarray) -> np.ndarray:
    """(N,) how many balls of the reals a fake lies in, divided by k; it may exceed 1."""
    return _balls_around(fakes, reals) / _reach(reals)


@measure("members", "coverage", "high", over="reals")
def coverage(fakes: np.ndarray, reals: np.ndarray) -> np.ndarray:
    """(M,) 1 where the ball of a real picture holds a fake, else 0."""
    nearest = np.concatenate([part.min(1) for part in _distances(reals, fakes)])
    return (nearest <= radii(reals)).astype(float)


def nearest(points: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each point (N,D) the index of the nearest of the others (M,D), and the distance."""
    index, distance = [], []
    for part in _distances(points, others):
        index.append(part.argmin(1))
        distance.append(part.min(1))
    return np.concatenate(index), np.concatenate(distance)


def radii(points: np.ndarray) -> np.ndarray:
    """(N,) the distance of each point to its k-th nearest neighbour among the others, fewer where there are fewer."""
    k = _reach(points)
    parts = []
    for first, part in zip(range(0, len(points), ROWS), _distances(points, points), strict=True):
        rows = np.arange(len(part))
        part[rows, first + rows] = -1.0  # a point itself comes first, also before its copies
        parts.append(np.maximum(np.partition(part, k, axis=1)[:, k], 0.0))
    return np.concatenate(parts)


def _balls_around(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(N,) in how many balls of the centres each point lies."""
    reach = radii(centres)
    return np.concatenate([(part <= reach).sum(1) for part in _distances(points, centres)])


def _reach(points: np.ndarray) -> int:
    return min(NEIGHBOURS, len(points) - 1)


def _distances(points: np.ndarray, others: np.ndarray) -> Iterator[np.ndarray]:
    """Euclidean distances (ROWS,M), some points at a time.

    From differences, not from products: a pair has one distance, whichever set it is asked from, copies have 0.
    """
    targets = torch.from_numpy(others.astype(np.float64))
    for first in range(0, len(points), ROWS):
        some = torch.from_numpy(points[first : first + ROWS].astype(np.float64))
        exact = "donot_use_mm_for_euclid_dist"
        yield torch.cdist(some, targets, compute_mode=exact).numpy()
