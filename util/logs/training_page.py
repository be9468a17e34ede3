"""The training page, web/index.html: loss charts and pictures, made from memory."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from util.images import save_png
from util.logs.log_files import append, keep_until
from util.logs.sink import EVALUATION, Frame
from util.pages.curve import Curve
from util.pages.files import (
    Picture,
    numbered_page,
    remove_pages_after,
    why_no_pages,
    write_page,
)
from util.words import counted

ROWS_PER_PAGE = 200
FIELDS = {"epoch": int, "pictures": list}  # of a row
NO_FILE_NAME = str.maketrans("/\\\0", "___")  # what a file name cannot hold


class TrainingPage:
    """web/index.html: a chart per loss and the newest pictures; every ROWS_PER_PAGE rows are also a page of their own.

    The pages are made from memory. web/pictures.jsonl holds the same rows for the next start; no folder is ever listed
    and no page parsed, full pages are written once, and a curve keeps a bounded number of averages, so that an update
    stays cheap however long the run is.
    """

    name = "web page"
    live = False
    tries_again = True

    def __init__(
        self, folder: Path, title: str, size: int, facts: Mapping[str, str] | None = None
    ) -> None:
        """`folder`: where index.html goes; `size`: width of a picture on the page in pixels; `facts`: of the run."""
        self.folder, self.title, self.size = folder, title, size
        self.facts = facts or {}

        self.rows_path = folder / "pictures.jsonl"
        self.curves: dict[str, Curve] = {}
        self.images_seen = 0
        self.rows: list[dict] = []

    def start(self, records: Sequence[dict], images_done: int) -> None:
        """Take over the losses and the rows of a resumed run and forget rows beyond `images_done`.

        Raises RuntimeError where no page can be written.
        """
        reason = why_no_pages()
        if reason:
            raise RuntimeError(f"{reason}, or silence this with `--no_html`")

        self.folder.mkdir(parents=True, exist_ok=True)
        self.curves, self.images_seen = {}, 0
        self.losses(records)
        self.rows = keep_until(self.rows_path, images_done, FIELDS)
        remove_pages_after(self.folder, len(self.rows) // ROWS_PER_PAGE)
        self._write_index()

    def losses(self, records: Sequence[dict]) -> None:
        """Remember the points; the chart is drawn with the next pictures, or at the end."""
        for record in records:
            self.images_seen = record["images"]
            for name, value in record["losses"].items():
                self.curves.setdefault(name, Curve()).add(record["images"], value)

    def pictures(self, frame: Frame) -> None:
        """Write the PNG files and the page, if the frame is one to keep."""
        if not frame.save:
            return

        pictures = []
        for label, array in frame.pictures.items():
            safe_label = label.translate(NO_FILE_NAME)
            file = f"images/epoch{frame.epoch:03d}_{frame.images}_{safe_label}.png"
            save_png(array, self.folder / file)
            height, width = array.shape[:2]
            pictures.append(Picture(label, file, width, height))

        row = {
            "epoch": frame.epoch,
            "images": frame.images,
            "pictures": [asdict(picture) for picture in pictures],
        }
        append(self.rows_path, json.dumps(row))
        self.rows.append(row)

        self._write_index()
        number, rest = divmod(len(self.rows), ROWS_PER_PAGE)
        if rest == 0:
            full_page = self._page(self.rows[-ROWS_PER_PAGE:], number)
            write_page(self.folder / numbered_page(number), full_page)

    def close(self) -> None:
        """Draw the last losses."""
        self._write_index()

    def _write_index(self) -> None:
        write_page(self.folder / "index.html", self._page(self.rows[-ROWS_PER_PAGE:], None))

    def _page(self, rows: Sequence[Mapping], number: int | None) -> str:
        """Return index.html (`number` None: charts and newest rows) or the numbered page of older rows."""
        from util.pages import html

        logs = {"loss_log.txt": "../loss_log.txt", "metrics.jsonl": "../metrics.jsonl"}
        there = {name: file for name, file in logs.items() if (self.folder / file).exists()}
        body = [html.links(there)] if there else []
        if self.facts:
            body.append(html.fact_table(self.facts))
        if number is None and self.curves:
            body += [html.heading("Curves over images"), html.curve_charts(self._ordered_curves())]

        body.append(html.heading("Pictures"))
        places = {"newest": "index.html"}
        for index in range(len(self.rows) // ROWS_PER_PAGE, 0, -1):
            places[f"older pictures {index}"] = numbered_page(index)
        if len(places) > 1:
            current = "newest" if number is None else f"older pictures {number}"
            body.append(html.links(places, current))

        cards = []
        for row in reversed(rows):
            pictures = [Picture(**picture) for picture in row["pictures"]]
            cards.append((f"epoch {row['epoch']}, images {row['images']}", pictures))
        body.append(html.picture_rows(cards, self.size))

        return html.page(self.title, self._summary(), body)

    def _ordered_curves(self) -> dict[str, Curve]:
        """Figures of held-out images, then losses."""
        names = sorted(self.curves, key=lambda name: not name.startswith(EVALUATION))
        return {name: self.curves[name] for name in names}

    def _summary(self) -> str:
        seen = max(self.images_seen, self.rows[-1]["images"] if self.rows else 0)
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        return (
            f"{counted(seen, 'image')} seen · {counted(len(self.rows), 'display')} · updated {now}"
        )
