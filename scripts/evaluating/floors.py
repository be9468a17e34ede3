"""What figures must be read against: the names of the floors in an evaluation's JSON, and what tables call them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

DO_NOTHING = "inputs"  # the inputs in place of the outputs
REAL = "real"  # real pictures in place of the outputs
UNRELATED = "unrelated"  # each output beside the input of another one

WORDS = {DO_NOTHING: "doing nothing", REAL: "real pictures", UNRELATED: "unrelated pictures"}


class Floor(NamedTuple):
    """A floor as it stands beside its figure.

    `of`: how many images it is of, in words; nothing where they are as many as the figure's.
    """

    value: float | None
    of: str


def beside(figure: Mapping[str, Any], name: str) -> Floor | None:
    """The floor of this name of a figure, as an evaluation's JSON has both; None where there is none.

    A figure moves with the number of images. A floor of other numbers is therefore shown at equal ones, where it is
    known there, and says how many they are.
    """
    floor = figure.get("floors", {}).get(name)
    if floor is None:
        return None
    if floor["n"] == figure["n"]:
        return Floor(floor["value"], "")

    equal = floor.get("equal_numbers")
    if equal:
        return Floor(equal["value"], str(equal["n"]))
    kind = "halves of " if floor.get("halves") else ""
    return Floor(floor["value"], kind + str(min(floor["n"].values())))
