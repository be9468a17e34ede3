"""The text files of a run: loss_log.txt for people, metrics.jsonl for programs."""

import json
import re
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from util.files import append, atomic_path
from util.words import counted

WAITING_LINES = 100_000  # that could not be written; further ones push out the oldest
RULE = "================"
BEGINNING = f"{RULE} training started"  # of a run, in loss_log.txt
COUNTERS = re.compile(rb"\(epoch: \d+, iters: (\d+)[,)]")  # at the head of a line of losses
METRICS = "metrics.jsonl"
FIELDS = {"losses": dict}  # of a line of it


def keep_until(path: Path, images_done: int, fields: Mapping[str, type]) -> list[dict]:
    """Return the records of a JSON-lines file up to `images_done` images; later and damaged lines are removed.

    `fields`: what a record has beside its number of images, with the types of the values.
    """
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    records = []
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue  # the process was killed while it wrote this line
        if is_record(record, {"images": int, **fields}) and record["images"] <= images_done:
            records.append(record)

    kept = "".join(json.dumps(record) + "\n" for record in records)
    if kept != text:
        with atomic_path(path) as temporary:
            temporary.write_text(kept, encoding="utf-8")
    return records


def is_record(record: Any, fields: Mapping[str, type]) -> bool:
    """Whether a value of JSON is an object that has these fields, with values of these types."""
    return isinstance(record, dict) and all(
        isinstance(record.get(name), kind) for name, kind in fields.items()
    )


def keep_lines_until(path: Path, images_done: int) -> None:
    """Remove lines of losses beyond `images_done` images from a loss_log.txt; they will come again.

    Only those since the run began: another run's may stand before. Messages stay, they tell what happened.
    """
    content = path.read_bytes() if path.exists() else b""
    before, beginning, rest = content.rpartition(BEGINNING.encode())
    if not beginning:
        return

    lines = rest.splitlines(keepends=True)
    kept = [line for line in lines if images_of(line) <= images_done]
    if len(kept) < len(lines):
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"".join([before, beginning, *kept]))


def images_of(line: bytes) -> int:
    """The images that a line of losses stands at; 0 for any other line."""
    found = COUNTERS.match(line)
    return int(found[1]) if found else 0


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
        self.metrics_path = folder / METRICS
        self.waiting: deque[tuple[Path, str]] = deque(maxlen=WAITING_LINES)
        self._one_at_a_time = threading.Lock()

    def start(self, images_done: int) -> list[dict]:
        """Make the folder, open the chapter in loss_log.txt, and return the records that a resumed run goes on from."""
        self.text_path.parent.mkdir(parents=True, exist_ok=True)
        records = keep_until(self.metrics_path, images_done, FIELDS)
        if images_done:
            keep_lines_until(self.text_path, images_done)

        head = f"{RULE} resumed at {counted(images_done, 'image')}" if images_done else BEGINNING
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        self.message(f"{head} ({now}) {RULE}")
        return records

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
