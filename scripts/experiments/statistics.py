"""Several seeds in a few numbers: mean, deviation, an interval, and a paired test against a baseline."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
MOST_EXACT = 12  # seeds: up to here all signs are tried, beyond a random part of them


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation and percentile bootstrap interval of the mean over seeds; one seed has no spread."""
    numbers = np.asarray(values, dtype=np.float64)
    found = {"n": len(numbers), "mean": float(numbers.mean()), "sd": None, "interval": None}
    if len(numbers) < 2:
        return found

    rng = np.random.default_rng(0)
    means = numbers[rng.integers(len(numbers), size=(RESAMPLES, len(numbers)))].mean(1)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return found | {"sd": float(numbers.std(ddof=1)), "interval": [float(low), float(high)]}


def paired_test(
    values: Mapping[int, float], baseline: Mapping[int, float]
) -> dict[str, Any] | None:
    """Two-sided sign-flip test of the differences at equal seeds: how often flipping signs gives as large a mean.

    With N seeds it cannot fall below 2 / 2^N: 0.25 for three. None without a seed in common.
    """
    seeds = sorted(values.keys() & baseline.keys())
    if not seeds:
        return None

    differences = np.array([values[seed] - baseline[seed] for seed in seeds])
    if len(seeds) <= MOST_EXACT:
        signs = np.array(list(itertools.product((1, -1), repeat=len(seeds))))
    else:
        rng = np.random.default_rng(0)
        signs = rng.choice((1, -1), size=(2**MOST_EXACT, len(seeds)))
        signs[0] = 1

    means = np.abs((signs * differences).mean(1))
    observed = abs(differences.mean())
    p = float((means >= observed - 1e-12).mean())
    return {"n": len(seeds), "difference": float(differences.mean()), "p": p}
