"""What a log is to the visualizer: a sink of losses and of frames."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

EVALUATION = "eval/"  # how the names of figures begin that are no losses

RecordFrom = Callable[[int], dict[str, Any]]  # what trains from an image on, see `record_of`


@dataclass(frozen=True)
class Frame:
    """The pictures of one moment: {label: (H,W,C) uint8}; `save` says whether they are to be kept."""

    epoch: int
    images: int
    pictures: Mapping[str, np.ndarray]
    save: bool


class Sink(Protocol):
    """A place that losses and pictures go to. Called from one background thread; an exception switches it off.

    A record is a line of metrics.jsonl: {"epoch", "images", "time", ..., "losses": {name: float or None}}.
    Figures of held-out images come in records of their own, as losses whose names begin with EVALUATION.
    """

    name: str
    live: bool  # whether it also shows frames that are not saved

    def start(self, records: Sequence[dict], images_done: int) -> str | None:
        """Connect or open; `records` are those of the run that is being resumed. Returns where to look, for the log."""

    def losses(self, records: Sequence[dict]) -> None:
        """Take over the records that came since the last call."""

    def pictures(self, frame: Frame) -> None:
        """Show or keep one frame."""

    def close(self) -> None:
        """Flush."""
