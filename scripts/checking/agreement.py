"""How far two computations of the same loss are from each other, and what still counts as agreement."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from util.errors import UserError

LOSS, GRADIENT = 1e-5, 1e-4  # tolerances
SMALLEST_SCALE = 1e-12  # what a reference of zeros is measured against


class Compared(NamedTuple):
    """One tensor here and in the reference.

    Attributes:
        name: "loss", "gradient" and so on; several may share one.
        found, wanted: of one shape.
        tolerance: largest difference that is agreement, as a share of the largest entry of `wanted`.
        floor: where `wanted` is less than this share of the largest entry of all of this name, it is measured against
            that instead.
    """

    name: str
    found: Tensor
    wanted: Tensor
    tolerance: float = GRADIENT
    floor: float = 0.0

    @property
    def absolute(self) -> float:
        """Largest difference of two entries; raises UserError where the shapes differ."""
        here, there = tuple(self.found.shape), tuple(self.wanted.shape)
        if here != there:
            raise UserError(f"the reference's {self.name} has the shape {there}, not {here}")
        return (self.found.detach() - self.wanted).abs().max().item()

    @property
    def scale(self) -> float:
        """Largest entry of the reference."""
        return self.wanted.abs().max().item()


def loss_and_gradients(
    loss: Tensor, wanted: Tensor, gradients: Sequence[tuple[Tensor, Tensor]]
) -> list[Compared]:
    """The loss (0-d) and pairs of its gradients, here and in the reference, with the usual tolerances."""
    compared = [Compared("loss", loss, wanted.reshape(()), LOSS)]
    return compared + [Compared("gradient", found, expected) for found, expected in gradients]


def report(compared: Sequence[Compared], tolerance: float | None = None) -> dict[str, Any]:
    """What is printed: the loss here and there, by name the largest differences, and whether all agree.

    Args:
        tolerance: for everything, in place of what each comparison asks for.
    """
    shown: dict[str, Any] = {}
    limits: dict[str, float] = {}

    for name in dict.fromkeys(entry.name for entry in compared):
        entries = [entry for entry in compared if entry.name == name]
        if name == "loss":
            shown |= {"loss": entries[0].found.item(), "loss_reference": entries[0].wanted.item()}
        shown[f"{name}_absolute"] = max(entry.absolute for entry in entries)
        shown[f"{name}_relative"] = largest_relative(entries)
        limits[name] = tolerance or entries[0].tolerance

    agrees = all(shown[f"{name}_relative"] <= limit for name, limit in limits.items())
    return {**shown, "tolerance": tolerance or limits, "agrees": agrees}


def largest_relative(entries: Sequence[Compared]) -> float:
    """The largest difference of tensors of one name, each as a share of its reference's largest entry."""
    largest = max(entry.scale for entry in entries)
    shares = []
    for entry in entries:
        scale = max(entry.scale, entry.floor * largest, SMALLEST_SCALE)
        shares.append(entry.absolute / scale)
    return max(shares)
