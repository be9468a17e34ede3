"""What a run leaves in its folder: loss_log.txt and metrics.jsonl (RunLog), and web/index.html (TrainingPage)."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from dominate.tags import h2

from util import html
from util.errors import UserError
from util.files import atomic_path
from util.images import save_png

if TYPE_CHECKING:
    from util.visualizer import Frame

ROWS_PER_PAGE = 200


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


def append(path: Path, line: str) -> None:
    """Add one line to a text file; it is on its way to the disk when this returns."""
    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(line + "\n")


def saved_record(run_dir: Path, remedy: str = "") -> dict:
    """The options, recipe and versions that a training run has saved; nothing for weights that came without them.

    Args:
        run_dir: the run's folder.
        remedy: what a user can do about a missing record; without it the caller goes on with an empty one.

    Raises:
        UserError: the record is damaged, or missing where there is a remedy.
    """
    path = run_dir / "train_opt.json"
    if not path.exists():
        if remedy:
            raise UserError(f"{path} does not exist; {remedy}")
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict) or not {"options", "recipe", "versions"} <= record.keys():
            raise ValueError("it lacks options, recipe or versions")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a record of training options ({error}); restore or delete it") from None
    return record


def numbers_of(record: Mapping) -> dict[str, float | None]:
    """The numbers of a record by name: losses under their own, the rest (epoch, seconds, ...) under run/."""
    rest = {key: value for key, value in record.items() if key not in ("images", "losses", "nonfinite")}
    return dict(record["losses"]) | {f"run/{key}": value for key, value in rest.items()}


class RunLog:
    """The text files: written in the training loop itself, because they are cheap and must not be lost."""

    name = "log files"

    def __init__(self, folder: Path) -> None:
        self.text_path = folder / "loss_log.txt"
        self.metrics_path = folder / "metrics.jsonl"

    def start(self, images_done: int) -> list[dict]:
        """Make the folder, open the chapter in loss_log.txt, and return the records that a resumed run goes on from."""
        self.text_path.parent.mkdir(parents=True, exist_ok=True)
        what = f"resumed at {images_done} images" if images_done else "training started"
        self.message(f"================ {what} ({time.strftime('%Y-%m-%d %H:%M:%S')}) ================")
        return keep_until(self.metrics_path, images_done)

    def losses(self, line: str, record: Mapping) -> None:
        """Add one line of text and one JSON object."""
        append(self.text_path, line)
        append(self.metrics_path, json.dumps(record, allow_nan=False))

    def message(self, text: str) -> None:
        """Add a line of text."""
        append(self.text_path, text)


class TrainingPage:
    """web/index.html: a chart per loss and the newest pictures; every ROWS_PER_PAGE rows are also a page of their own.

    The pages are made from memory. web/pictures.jsonl holds the same rows for the next start; no folder is ever listed
    and no page parsed, and full pages are written once, so that an update stays cheap however long the run is.
    """

    name = "web page"
    live = False

    def __init__(self, folder: Path, title: str, size: int) -> None:
        """`folder`: where index.html goes; `size`: width of a picture on the page in pixels."""
        self.folder, self.title, self.size = folder, title, size
        self.rows_path = folder / "pictures.jsonl"
        self.records: list[dict] = []
        self.rows: list[dict] = []

    def start(self, records: Sequence[dict], images_done: int) -> None:
        """Take over the losses and the rows of a resumed run and forget rows beyond `images_done`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.records = list(records)
        self.rows = keep_until(self.rows_path, images_done)
        html.remove_pages_after(self.folder, len(self.rows) // ROWS_PER_PAGE)
        self._write_index()

    def losses(self, records: Sequence[dict]) -> None:
        """Remember the points; the chart is drawn with the next pictures, or at the end."""
        self.records.extend(records)

    def pictures(self, frame: "Frame") -> None:
        """Write the PNG files and the page, if the frame is one to keep."""
        if not frame.save:
            return
        pictures = []
        for label, array in frame.pictures.items():
            safe_label = "".join("_" if character in "/\\\0" else character for character in label)
            file = f"images/epoch{frame.epoch:03d}_{frame.images}_{safe_label}.png"
            save_png(array, self.folder / file)
            pictures.append(html.Picture(label, file, width=array.shape[1], height=array.shape[0]))
        row = {"epoch": frame.epoch, "images": frame.images, "pictures": [asdict(picture) for picture in pictures]}
        append(self.rows_path, json.dumps(row))
        self.rows.append(row)
        self._write_index()
        number, rest = divmod(len(self.rows), ROWS_PER_PAGE)
        if rest == 0:
            html.write_page(self.folder / html.numbered_page(number), self._page(self.rows[-ROWS_PER_PAGE:], number))

    def close(self) -> None:
        """Draw the last losses."""
        self._write_index()

    def _write_index(self) -> None:
        html.write_page(self.folder / "index.html", self._page(self.rows[-ROWS_PER_PAGE:], None))

    def _page(self, rows: Sequence[Mapping], number: int | None) -> str:
        """Return index.html (`number` None: charts and newest rows) or the numbered page of older rows."""
        places = {"newest": "index.html"}
        full_pages = len(self.rows) // ROWS_PER_PAGE
        places |= {f"older pictures {index}": html.numbered_page(index) for index in range(full_pages, 0, -1)}
        current = "newest" if number is None else f"older pictures {number}"
        body = [html.links({"loss_log.txt": "../loss_log.txt", "metrics.jsonl": "../metrics.jsonl"})]
        if number is None and self.records:
            names = dict.fromkeys(name for record in self.records for name in record["losses"])
            images = [record["images"] for record in self.records]
            losses = {name: [record["losses"].get(name) for record in self.records] for name in names}
            body += [h2("Losses over images"), html.loss_charts(images, losses)]
        body.append(h2("Pictures"))
        if full_pages:
            body.append(html.links(places, current))
        cards = []
        for row in reversed(rows):
            pictures = [html.Picture(**picture) for picture in row["pictures"]]
            cards.append((f"epoch {row['epoch']}, images {row['images']}", pictures))
        body.append(html.picture_rows(cards, self.size))
        last = max((records[-1]["images"] for records in (self.records, self.rows) if records), default=0)
        summary = f"{last:,} images seen · {len(self.rows)} displays · updated {time.strftime('%Y-%m-%d %H:%M:%S')}"
        return html.page(self.title, summary, body)
