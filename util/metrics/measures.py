"""The registry of measures: each is one function with a decorator, found by its name.

    sets     two sets of features (N,D) and (M,D)        -> a number
    members  two sets of features                        -> a number per member of one set; their mean is the figure
    pairs    a picture and its input, (H,W,3) in [0,1]   -> a number
    truths   a picture and its truth, (H,W,3) in [0,1]   -> a number

A new measure is a function below its kind, in a file of this room that `util/metrics/suite.py` imports.
"""

from collections.abc import Callable
from dataclasses import dataclass

from util.errors import UserError
from util.registry import find_by_name

KINDS = ("sets", "members", "pairs", "truths")


@dataclass(frozen=True)
class Measure:
    """A measure by its name: what it is called in tables, which way is better, and the function."""

    name: str
    title: str
    kind: str
    better: str  # "low" or "high"
    function: Callable
    over: str = "fakes"  # of "members": the set whose members are counted

    def is_better(self, one: float, other: float) -> bool:
        """Whether the first value is better than the second."""
        return one < other if self.better == "low" else one > other


MEASURES: dict[str, Measure] = {}


def measure(kind: str, title: str, better: str, over: str = "fakes") -> Callable:
    """Register the function below under its own name."""
    if kind not in KINDS or better not in ("low", "high") or over not in ("fakes", "reals"):
        raise ValueError(f"measure of kind {kind!r}, better when {better!r}, over {over!r}")

    def register(function: Callable) -> Callable:
        name = function.__name__
        if name in MEASURES:
            raise ValueError(f"two measures are called {name}")
        MEASURES[name] = Measure(name, title, kind, better, function, over)
        return function

    return register


def of_kind(*kinds: str) -> list[Measure]:
    """All measures of these kinds, in the order in which they were registered."""
    return [found for found in MEASURES.values() if found.kind in kinds]


def find_measures(names: list[str], flag: str, kinds: tuple[str, ...] = KINDS) -> list[Measure]:
    """Measures by name; raises UserError (naming `flag`) with a did-you-mean for one that does not exist."""
    table = {found.name: found for found in of_kind(*kinds)}
    if not names:
        raise UserError(f"{flag} is empty; there are: {', '.join(table)}")
    return [find_by_name(table, name, flag) for name in names]
