"""What a stage finds: figures and lines, on the disk as soon as they are known."""

import contextlib
import json
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from util.files import atomic_path


class Notes:
    """The results of one stage, written after each change, so that a stage that is ended leaves what it had.

    Attributes:
        figures: name -> anything that JSON can hold.
        findings: (good, line): whether all is well, and a sentence with the figure in it.
        tables: title -> rows, the first of them the head.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.began = path, time.monotonic()
        self.figures: dict[str, Any] = {}
        self.findings: list[tuple[bool, str]] = []
        self.tables: dict[str, list[list[Any]]] = {}

    def figure(self, name: str, value: Any) -> None:
        """Note a figure."""
        self.figures[name] = value
        self.write()

    def find(self, good: bool, line: str) -> None:
        """Note a line, and print it."""
        self.findings.append((good, line))
        passed = time.monotonic() - self.began
        print(f"{passed:6.1f} s {'ok   ' if good else 'AMISS'} {line}", flush=True)
        self.write()

    def row(self, table: str, **cells: Any) -> None:
        """Add a row to a table; its columns are those of its first row."""
        rows = self.tables.setdefault(table, [list(cells)])
        rows.append([cells.get(column) for column in rows[0]])
        self.write()

    @contextlib.contextmanager
    def around(self, what: str) -> Iterator[None]:
        """Note an error in the block, and go on after it: what else the stage finds is still wanted."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            first = str(error).strip().splitlines()
            self.find(False, f"{what}: {type(error).__name__}: {first[0][:300] if first else ''}")

    def write(self) -> None:
        """Put all on the disk."""
        found = {"figures": self.figures, "findings": self.findings, "tables": self.tables}
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps(found, default=str))


def read_notes(path: Path) -> dict[str, Any]:
    """What a stage has written so far, nothing where it has not come to that."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
