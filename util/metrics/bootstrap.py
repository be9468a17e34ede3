"""How far a figure would move with other images of the same kind: bootstrap intervals, and figures at equal numbers.

The interval is centred: estimate + quantiles of (resampled - mean of resampled). A resample holds copies, which raise
FID and KID by themselves; the centre takes that away. It covers the figure that is to be expected at this number of
images, not the one that infinitely many would give, and it says nothing about other seeds of training.
"""

from collections.abc import Callable, Sequence

import numpy as np

LEVEL = 0.95
DRAWS = 10  # of the larger set, where a figure is taken at equal numbers


def interval(estimate: float, resampled: Sequence[float]) -> dict[str, object]:
    """The centred interval at LEVEL, and the standard deviation."""
    values = np.asarray(resampled, dtype=np.float64)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values - values.mean(), (tail, 1 - tail)) + estimate
    return {"interval": [float(low), float(high)], "sd": float(values.std(ddof=1))}


def of_sets(
    function: Callable, fakes: np.ndarray, reals: np.ndarray, count: int, seed: int = 0
) -> dict[str, object]:
    """The interval of a measure of two sets; both are resampled, independently."""
    rng = np.random.default_rng(seed)
    resampled = []
    for _ in range(count):
        some = fakes[rng.integers(len(fakes), size=len(fakes))]
        others = reals[rng.integers(len(reals), size=len(reals))]
        resampled.append(function(some, others))
    return interval(function(fakes, reals), resampled)


def of_mean(values: np.ndarray, count: int, seed: int = 0) -> dict[str, object]:
    """The interval of a mean over images."""
    rng = np.random.default_rng(seed)
    values = np.asarray(values, dtype=np.float64)
    resampled = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(count)]
    return interval(float(values.mean()), resampled)


def at_equal_numbers(
    function: Callable, fakes: np.ndarray, reals: np.ndarray, number: int, seed: int = 0
) -> float:
    """The figure at `number` images each: the mean over DRAWS random choices from the sets that hold more."""
    return at_numbers(function, fakes, reals, (number, number), seed)


def at_numbers(
    function: Callable,
    fakes: np.ndarray,
    reals: np.ndarray,
    numbers: tuple[int, int],
    seed: int = 0,
) -> float:
    """The same with a number of images for each of the two sets."""
    rng = np.random.default_rng(seed)
    draws = DRAWS if len(fakes) > numbers[0] or len(reals) > numbers[1] else 1
    values = []
    for _ in range(draws):
        some, others = _some(fakes, numbers[0], rng), _some(reals, numbers[1], rng)
        values.append(np.mean(function(some, others)))
    return float(np.mean(values))


def _some(members: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    if len(members) <= number:
        return members
    return members[np.sort(rng.permutation(len(members))[:number])]
