"""Numbers and lists as messages and pages put them into words."""

from collections.abc import Sequence


def counted(count: int, noun: str) -> str:
    """A number with its noun: "1 image", "1,234 images"."""
    return f"{count:,} {noun if count == 1 else f'{noun}s'}"


def first_of(names: Sequence[str], count: int = 3) -> str:
    """The first few of many names, for a line."""
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
