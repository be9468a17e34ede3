"""What is written around a page: its pictures by name and size, its file and those beside it, and whether it can be."""

from dataclasses import dataclass
from pathlib import Path

from util.files import atomic_path


@dataclass(frozen=True)
class Picture:
    """One image of a page: its caption, its file relative to the page, its size in pixels; a figure needs all of it."""

    label: str
    file: str
    width: int
    height: int
    is_figure: bool = False


def why_no_pages() -> str | None:
    """Why no page can be written here, in words; None where one can.

    Pages are made with dominate, and with nothing else of this project. Whoever writes one imports util/pages/html.py
    there and then, so that training and translating work without it.
    """
    try:
        import dominate  # noqa: F401
    except ImportError:
        return "dominate is not installed; pip install dominate"
    return None


def write_page(path: Path, text: str) -> None:
    """Put `text` at `path` so that a browser that reloads meanwhile gets the old page or the new one."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def numbered_page(number: int) -> str:
    """Return the file name of page `number` of those beside index.html."""
    return f"page_{number:03d}.html"


def remove_pages_after(folder: Path, number: int) -> None:
    """Remove the numbered pages of an earlier run that lie beyond page `number`."""
    for path in folder.glob("page_*.html"):
        digits = path.stem.removeprefix("page_")
        if digits.isdigit() and int(digits) > number:
            path.unlink()


def remove_pages(folder: Path) -> None:
    """Remove index.html and all numbered pages."""
    (folder / "index.html").unlink(missing_ok=True)
    remove_pages_after(folder, 0)
