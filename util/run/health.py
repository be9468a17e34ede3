"""Notices in the lines of losses that a game between networks is over, and says so once, in words."""

from collections import deque
from collections.abc import Collection, Mapping

LINES = 50  # that must agree before anything is said: 5,000 images with the default --print_freq
PINNED = 1e-6  # relative: a loss that moves by less stands still
SURE = 0.999  # share of right scores from which on D errs nowhere
CONSTANT = 0.01  # standard deviation of pictures in [-1,1] below which they show one colour


class Health:
    """Looks at the last lines of a run.

    Args:
        players: whose losses are watched, such as G and D; terms of a loss may well be constant.
    """

    def __init__(self, players: Collection[str]) -> None:
        self.players = set(players)
        self.lines: deque[dict[str, float]] = deque(maxlen=LINES)
        self.said: set[str] = set()

    def notice(self, losses: Mapping[str, float], spread: float | None) -> list[str]:
        """Take a line of losses, and what pictures vary by; returns what has not been said yet."""
        line = dict(losses)
        if spread is not None:
            line["pictures"] = spread
        self.lines.append(line)
        if len(self.lines) < LINES:
            return []

        found = {}
        for name in line:
            text = self._judge(name, [earlier.get(name) for earlier in self.lines])
            if text and name not in self.said:
                found[name] = text
        self.said.update(found)
        return [f"warning: {text}, over the last {LINES} lines" for text in found.values()]

    def _judge(self, name: str, values: list[float | None]) -> str | None:
        if None in values:
            return None
        low, high = min(values), max(values)

        if name == "pictures" and high < CONSTANT:
            return (
                "every translated picture is of one colour, so G has collapsed: lower --lr, raise the weight of "
                "what keeps the content, or begin anew with another --seed"
            )
        if name.endswith("_accuracy") and low >= SURE:
            return f"{name} is 1: D tells all images apart and G can learn little from it"
        if name.endswith("_accuracy") and abs(low - 0.5) < 1e-9 and low == high:
            return f"{name} is one half throughout: D gives all images the same verdict"
        if name in self.players and high - low <= PINNED * abs(high):
            return f"loss {name} stands still at {high:.4g}: this player no longer learns"
        return None
