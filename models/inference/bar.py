"""What test.py shows while it works: pictures done, the part of one that is done, its figures, the time left."""

from collections.abc import Mapping
from types import TracebackType
from typing import Protocol

from tqdm import tqdm

PARTS_BAR = "{percentage:3.0f}%|{bar}| {n:.2f}/{total:.0f} [{elapsed}<{remaining}{postfix}]"


class Tell(Protocol):
    """How a method tells how far it is with a picture."""

    def __call__(self, part: float, figures: Mapping[str, float], note: str = "") -> None:
        """`part` of the picture is done (0 to 1), with these figures so far; a note is printed."""


def nobody_listens(part: float, figures: Mapping[str, float], note: str = "") -> None:
    """What `BaseModel.tell` does until test.py listens."""


class Bar:
    """A bar that counts pictures and, where the method tells (`BaseModel.tell`), parts of one.

    Attributes:
        figures: what the method has told last of the batch under way.
        told: the figures of each picture so far, by name; means: of these.
    """

    def __init__(self, total: int, in_parts: bool, shown: bool = True) -> None:
        shape = PARTS_BAR if in_parts else None
        hidden = None if shown else True  # None: where there is no terminal
        self._tqdm = tqdm(total=total, unit="img", disable=hidden, bar_format=shape)
        self.figures: dict[str, float] = {}
        self._done = 0
        self._skipped = 0
        self.told: dict[str, list[float]] = {}

    def tell(self, part: float, figures: Mapping[str, float], note: str = "") -> None:
        """How much of the picture under way is done, 0 to 1, its figures, and a line that stays."""
        if note:
            self._tqdm.write(note)
        self.figures = dict(figures)
        self._tqdm.n = self._done + part
        self._tqdm.set_postfix(self.figures, refresh=False)
        self._tqdm.refresh()

    def note(self, figures: Mapping[str, float]) -> None:
        """Figures of one picture."""
        for name, value in figures.items():
            self.told.setdefault(name, []).append(value)
        self._tqdm.set_postfix(figures, refresh=False)

    def finish(self, count: int) -> None:
        """So many pictures are done."""
        self.figures = {}
        self._done += count
        self._tqdm.update(self._done - self._tqdm.n)

    def leave_out(self, count: int, note: str) -> None:
        """So many pictures are not made; the line says why."""
        self._tqdm.write(note)
        self._done += count
        self._tqdm.update(self._done - self._tqdm.n)

    def join(self, told: Mapping[str, list[float]]) -> None:
        """Take over what another process was told."""
        for name, values in told.items():
            self.told.setdefault(name, []).extend(values)

    def skip(self, figures: Mapping[str, float]) -> None:
        """A picture was there already, with these figures; it counts for no speed."""
        self.note(figures)
        self._done += 1
        self._skipped += 1
        self._tqdm.initial = self._skipped
        self._tqdm.n = self._done
        self._tqdm.refresh()

    @property
    def means(self) -> dict[str, float]:
        return {name: sum(values) / len(values) for name, values in self.told.items()}

    def __enter__(self) -> "Bar":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tqdm.close()
