"""A curve over the images of a run, kept in as much memory after a million points as after a thousand."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

MOST_BUCKETS = 600  # twice what a chart draws


@dataclass
class _Bucket:
    """The sums of neighbouring points; values that are not finite count as points without one."""

    points: int = 0
    images: float = 0.0
    finite: int = 0
    values: float = 0.0

    def add(self, images: float, value: float) -> None:
        self.points += 1
        self.images += images
        if math.isfinite(value):
            self.finite += 1
            self.values += value

    def join(self, other: "_Bucket") -> None:
        self.points += other.points
        self.images += other.images
        self.finite += other.finite
        self.values += other.values

    def middle(self) -> tuple[float, float]:
        """Means of images and values."""
        mean = self.values / self.finite if self.finite else math.nan
        return self.images / self.points, mean


class Curve:
    """Points in the order of their images; neighbours are averaged once there are more than MOST_BUCKETS.

    Then each bucket takes twice as many points as before, and so on. So a point costs the same however long the run is,
    and so does drawing.

    Attributes:
        latest: the value that was added last, NaN where that was none.
    """

    def __init__(self, points: Iterable[tuple[float, float | None]] = ()) -> None:
        """`points`: images and values to begin with."""
        self.latest = math.nan
        self._buckets: list[_Bucket] = []
        self._points_each = 1
        for images, value in points:
            self.add(images, value)

    def __len__(self) -> int:
        """Points, as far as they are kept apart."""
        return len(self._buckets)

    def add(self, images: float, value: float | None) -> None:
        """Add a point; None, as NaN, is a gap."""
        self.latest = math.nan if value is None else float(value)

        last_is_full = not self._buckets or self._buckets[-1].points == self._points_each
        if last_is_full:
            if len(self._buckets) == MOST_BUCKETS:
                self._halve()
            self._buckets.append(_Bucket())
        self._buckets[-1].add(images, self.latest)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Images and values; NaN where a stretch has no finite value."""
        middles = np.array([bucket.middle() for bucket in self._buckets]).reshape(-1, 2)
        return middles[:, 0], middles[:, 1]

    def _halve(self) -> None:
        """Join each bucket with its neighbour."""
        firsts, seconds = self._buckets[::2], self._buckets[1::2]
        for first, second in zip(firsts, seconds, strict=True):
            first.join(second)
        self._buckets = firsts
        self._points_each *= 2
