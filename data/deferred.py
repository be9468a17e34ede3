"""Batch entries that become images within the step, so that a recorded step does that work too."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor


class Source(Protocol):
    """Where images are cut from, on the device."""

    def cut(self, plan: Tensor, size: tuple[int, int, int]) -> Tensor:
        """The uint8 images (B,C,H,W) of `size` (C,H,W) that a plan, one line an image, describes."""


class Deferred:
    """Images that are cut when a step needs them, from a plan of a few numbers that comes with each batch.

    Args:
        plan: (B, n), on the device.
        size: (C,H,W) of the images.
        source: what they are cut from; its memory stays where it is while it lives.
        finish: uint8 images -> what a model reads.
    """

    def __init__(
        self,
        plan: Tensor,
        size: tuple[int, int, int],
        source: Source,
        finish: Callable[[Tensor], Tensor],
    ) -> None:
        self.plan, self.size, self.source, self._finish = plan, size, source, finish

    def images(self) -> Tensor:
        """The images, (B,C,H,W) in [-1,1]."""
        pixels = self.source.cut(self.plan, self.size)
        return self._finish(pixels)

    def clone(self) -> "Deferred":
        """The same with a plan in memory of its own."""
        return Deferred(self.plan.clone(), self.size, self.source, self._finish)


def images_of(entry: Any) -> Any:
    """A batch entry as a model reads it."""
    if isinstance(entry, Deferred):
        return entry.images()
    return entry


def held_by(entry: Any) -> Tensor | None:
    """The tensor that tells this batch from the next; None for an entry without one, such as paths."""
    if isinstance(entry, Deferred):
        return entry.plan
    return entry if isinstance(entry, torch.Tensor) else None


def kind_of(entry: Any) -> tuple:
    """What the entries of two batches must share to be served by one recording."""
    if isinstance(entry, Deferred):
        return (len(entry.plan), *entry.size, id(entry.source))
    return tuple(entry.shape) if isinstance(entry, torch.Tensor) else ()
