"""The result folder of test.py: pictures written while the next batch computes, and the pages that show them."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, count
from os.path import abspath
from pathlib import Path, PurePosixPath
from threading import BoundedSemaphore

import numpy as np
from torch import Tensor

from util import html
from util.errors import UserError
from util.files import atomic_path
from util.images import save_png, to_uint8

WRITERS = 4
WAITING_PICTURES = 64  # so many may wait for the disk; then `add` waits, and memory stays bounded
ROWS_PER_PAGE = 500


def unique_names(paths: Sequence[str | Path], root: str | Path) -> list[str]:
    """Return one distinct relative name without suffix per path: its place below `root`, or its stem outside of it.

    `a.jpg` is "a"; an `a.png` after it, which would overwrite it, is "a_png"; the same file once more is "a_png_2".
    Upper and lower case count as equal, as they do on some disks. Names never hold ".." or an absolute path.
    """
    top = Path(abspath(root))
    taken: set[str] = set()
    names = []
    for path in (Path(abspath(path)) for path in paths):
        inside = path.relative_to(top) if top in path.parents else Path(path.name)
        stem = inside.as_posix().removesuffix(inside.suffix)
        suffixed = f"{stem}_{inside.suffix[1:]}"
        candidates = chain([stem, suffixed], (f"{suffixed}_{number}" for number in count(2)))
        name = next(c for c in candidates if c.casefold() not in taken and not c.endswith(".."))
        taken.add(name.casefold())
        names.append(name)
    return names


class Gallery:
    """Writes `folder/images/<label>/<name>.png` on threads of its own and `folder/index.html` at the end.

    A folder with results of an earlier run is fine: files are replaced one by one, others move to `folder/earlier`.
    As a context manager it closes itself; after an exception in the block it only waits for the files under way.
    """

    def __init__(
        self, folder: Path, title: str, columns: Sequence[str], description: Mapping[str, str], size: int = 256
    ) -> None:
        """`columns`: the labels in the order shown; `description`: a table of facts; `size`: width on the page."""
        self.folder = Path(folder)
        self.title = title
        self.columns = list(columns)
        self.description = dict(description)
        self.size = size
        self.rows: dict[str, list[html.Picture]] = {}
        self.error: tuple[Path, Exception] | None = None
        self.pool = ThreadPoolExecutor(WRITERS, thread_name_prefix="gallery")
        self.free = BoundedSemaphore(WAITING_PICTURES)

    def add(self, name: str, images: Mapping[str, Tensor]) -> None:
        """Queue the pictures of one input: {label: (C,H,W) in [-1, 1] or uint8}; `name` as from `unique_names`.

        Raises ValueError for a label without a column, a name used before, or a name that leaves the folder, and
        UserError as soon as a picture could not be written.
        """
        self._raise_write_error()
        parts = PurePosixPath(f"{name}.png").parts
        if name.startswith("/") or ".." in parts or name in self.rows:
            raise ValueError(f"result name {name!r} is absolute, leaves the folder or was used before")
        if unknown := set(images) - set(self.columns):
            raise ValueError(f"no column for {sorted(unknown)}; the columns are {self.columns}")
        row = []
        for label in (column for column in self.columns if column in images):
            array = to_uint8(images[label])
            file = f"images/{label}/{name}.png"
            row.append(html.Picture(label, file, width=array.shape[1], height=array.shape[0]))
            self.free.acquire()
            self.pool.submit(self._write, array, self.folder / file)
        self.rows[name] = row

    def close(self) -> None:
        """Wait for the files, then write the pages. UserError names the first file that could not be written."""
        self.pool.shutdown()
        self._raise_write_error()
        try:
            self._set_aside_earlier()
            self._write_pages()
        except OSError as error:
            raise self._user_error(self.folder, error) from error

    def __enter__(self) -> "Gallery":
        return self

    def __exit__(self, error_type: type | None, error: BaseException | None, trace: object) -> None:
        if error_type is None:
            self.close()
        else:
            self.pool.shutdown(cancel_futures=True)

    def _write(self, array: np.ndarray, path: Path) -> None:
        """Encode and write one picture (worker thread); once a write failed the rest is skipped."""
        try:
            if self.error is None:
                save_png(array, path)
        except Exception as error:  # whatever it is, it is raised in the main thread, by `add` or `close`
            self.error = self.error or (path, error)
        finally:
            self.free.release()

    def _raise_write_error(self) -> None:
        if self.error is not None:
            path, error = self.error
            raise self._user_error(path, error) from error

    @staticmethod
    def _user_error(path: Path, error: Exception) -> UserError:
        reason = getattr(error, "strerror", None) or error
        return UserError(f"cannot write {path}: {reason}; free space, or choose another --results_dir")

    def _set_aside_earlier(self) -> None:
        """Move pictures of an earlier run that this one did not write from images/ to earlier/.

        So nothing is lost, and whoever measures a folder of images measures one run. Only files that a gallery itself
        recorded in pictures.json are moved.
        """
        record = self.folder / "pictures.json"
        now = {picture.file for row in self.rows.values() for picture in row}
        before = set(json.loads(record.read_text(encoding="utf-8"))) if record.exists() else set()
        for file in sorted(before - now):
            target = self.folder / "earlier" / Path(file).relative_to("images")
            if ".." not in target.parts and (self.folder / file).exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                (self.folder / file).replace(target)
        with atomic_path(record) as temporary:
            temporary.write_text(json.dumps(sorted(now), indent=0), encoding="utf-8")

    def _write_pages(self) -> None:
        """Write index.html and, beyond ROWS_PER_PAGE rows, further pages that link to each other."""
        names = sorted(self.rows)
        chunks = [names[start : start + ROWS_PER_PAGE] for start in range(0, len(names), ROWS_PER_PAGE)] or [[]]
        files = ["index.html", *(html.numbered_page(number) for number in range(2, len(chunks) + 1))]
        starts = range(1, len(names) + 2, ROWS_PER_PAGE)
        spans = [f"{start}-{start + len(chunk) - 1}" for start, chunk in zip(starts, chunks, strict=False)]
        targets = dict(zip(spans, files, strict=True))
        summary = f"{len(names)} inputs · {sum(map(len, self.rows.values()))} pictures"
        for span, file, chunk in zip(spans, files, chunks, strict=True):
            navigation = [html.links(targets, current=span)] if len(chunks) > 1 else []
            rows = html.picture_rows([(name, self.rows[name]) for name in chunk], self.size)
            body = [html.fact_table(self.description), *navigation, rows, *navigation]
            html.write_page(self.folder / file, html.page(self.title, summary, body))
        html.remove_pages_after(self.folder, len(chunks))
