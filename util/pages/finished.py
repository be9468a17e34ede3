"""Which pictures of a result folder are done, so that an interrupted test.py goes on with the next one."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from util.errors import UserError
from util.files import atomic_path
from util.pages.files import Picture
from util.pages.gallery import Gallery

RECORD = "finished.json"


class Finished:
    """The record of finished rows beside a gallery's pictures, written after each row.

    A row is identified by its key, the checksum of all that its pictures depend on: options, the files that it is made
    of, weights, versions. It counts as done only if the key agrees and every file still has the checksum that it had
    when it was written. So nothing made with other options, from other inputs, or by another command is taken for it.

    Args:
        gallery: where rows are shown.
        depends: what all pictures depend on, as JSON can hold it.
        rank: of several processes each has a record of its own, and reads those of all.
    """

    def __init__(self, gallery: Gallery, depends: Mapping[str, Any], rank: int = 0) -> None:
        self.gallery = gallery
        self.depends = json.dumps(depends, sort_keys=True, default=str)
        self.path = gallery.folder / (RECORD if not rank else f"finished_{rank}.json")
        self.entries: dict[str, Any] = {}
        for path in sorted(gallery.folder.glob("finished*.json")):
            self.entries |= read_record(path)

    def take_up(self, name: str, sources: Sequence[str]) -> dict[str, float] | None:
        """Show the row `name`, made of the files `sources`, if it is done: its figures, else None."""
        entry = self.entries.get(name)
        if entry is None or entry["key"] != self._key(sources):
            return None
        if any(checksum(self.gallery.folder / file) != sum for file, sum in entry["sums"].items()):
            return None

        row = [Picture(**picture) for picture in entry["row"]]
        self.gallery.keep(name, row, [*entry["sums"]])
        return entry["figures"]

    def note(self, name: str, sources: Sequence[str], figures: Mapping[str, float]) -> None:
        """Record the row that was added last, `name`, once its files are on the disk."""
        gallery = self.gallery
        gallery.flush()
        _, row = gallery.rows[-1]
        files = [picture.file for picture in row]
        numbers = f"arrays/{name}.npz"
        files += [numbers] if numbers in gallery.files else []

        self.entries[name] = {
            "key": self._key(sources),
            "row": [vars(picture) for picture in row],
            "sums": {file: checksum(gallery.folder / file) for file in files},
            "figures": dict(figures),
        }
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps(self.entries, indent=1) + "\n", encoding="utf-8")

    def _key(self, sources: Sequence[str]) -> str:
        parts = [self.depends, *(str(checksum(Path(source))) for source in sources)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def read_record(path: Path) -> dict[str, Any]:
    """The entries of a record; raises UserError where it is none."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(entries, dict):
            raise ValueError("it holds no rows")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is not a record of finished pictures ({error}); "
            "delete it, and all are made again"
        ) from None
    return entries


def checksum(path: Path) -> str | None:
    """SHA-256 of a file's bytes; None if there is no such file."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
