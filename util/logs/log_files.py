"""The text files of a run: loss_log.txt for people, metrics.jsonl for programs."""

import json
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from util.files import append, atomic_path

WAITING_LINES = 100_000  # that could not be written; further ones push out the oldest


def keep_until(path: Path, images_done: int) -> list[dict]:
    """Return the records of a JSON-lines file up to `images_done` images; later and half-written lines are removed."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""

    records = []
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # the process was killed while it wrote this line
        if record["images"] <= images_done:
            records.append(record)

    kept = "".join(json.dumps(record) + "\n" for record in records)
    if kept != text:
        with atomic_path(path) as temporary:
            temporary.write_text(kept, encoding="utf-8")
    return records


def numbers_of(record: Mapping) -> dict[str, float | None]:
    """The numbers of a record by name: losses under their own, the rest (epoch, seconds, ...) under run/."""
    numbers = dict(record["losses"])
    for key, value in record.items():
        if key not in ("images", "losses", "nonfinite"):
            numbers[f"run/{key}"] = value
    return numbers


class RunLog:
    """The text files: written in the training loop itself, because they are cheap and must not be lost.

    Lines that cannot be written now, on a full disk say, wait for the next one. The thread that serves the other logs
    may leave a message here while the loop writes.
    """

    name = "log files"
    tries_again = True

    def __init__(self, folder: Path) -> None:
        self.text_path = folder / "loss_log.txt"
        self.metrics_path = folder / "metrics.jsonl"
        self.waiting: deque[tuple[Path, str]] = deque(maxlen=WAITING_LINES)
        self._one_at_a_time = threading.Lock()

    def start(self, images_done: int) -> list[dict]:
        """Make the folder, open the chapter in loss_log.txt, and return the records that a resumed run goes on from."""
        self.text_path.parent.mkdir(parents=True, exist_ok=True)

        what = f"resumed at {images_done} images" if images_done else "training started"
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        self.message(f"================ {what} ({now}) ================")
        return keep_until(self.metrics_path, images_done)

    def losses(self, line: str, record: Mapping) -> None:
        """Add one line of text and one JSON object; raises OSError where they have to wait."""
        self._write(
            (self.text_path, line), (self.metrics_path, json.dumps(record, allow_nan=False))
        )

    def message(self, text: str) -> None:
        """Add a line of text; raises OSError where it has to wait."""
        self._write((self.text_path, text))

    def _write(self, *lines: tuple[Path, str]) -> None:
        with self._one_at_a_time:
            self.waiting.extend(lines)
            while self.waiting:
                path, line = self.waiting[0]
                append(path, line)
                self.waiting.popleft()
