"""The result folder of test.py: pictures written while the next batch computes, and the pages that show them."""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path, PurePosixPath
from threading import BoundedSemaphore, Lock
from typing import Any

import numpy as np
from torch import Tensor

from util.errors import UserError
from util.files import append, atomic_path
from util.hardware.cores import cpu_count
from util.images import save_png, to_uint8
from util.lock import FolderLock
from util.pages.files import (
    Picture,
    numbered_page,
    remove_pages,
    remove_pages_after,
    why_no_pages,
    write_page,
)
from util.words import counted

WRITERS = cpu_count()  # a core encodes about a hundred pictures of 256 x 256 a second
WAITING_PICTURES = 64  # so many may wait for the disk; then `add` waits, and memory stays bounded
ROWS_PER_PAGE = 500
FACTS = "facts.json"
UNFINISHED = "unfinished"  # the beginning of a name, see `Gallery`


def unfinished_in(folder: Path) -> list[Path]:
    """The marks of a gallery that was interrupted in this folder, or is being written; none in a finished one."""
    return sorted(folder.glob(f"{UNFINISHED}*.jsonl"))


def save_npz(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Write named arrays as one compressed .npz file, atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def read_mark(mark: Path) -> list[str]:
    """The files that a mark lists; a line that was cut short when its writer was killed stands for no file."""
    files = []
    for line in mark.read_text(encoding="utf-8").splitlines():
        try:
            files.append(str(json.loads(line)))
        except ValueError:
            continue
    return files


class Gallery:
    """Writes `folder/images/<label>/<name>.png` on threads of its own and `folder/index.html` at the end.

    Figures go to `folder/figures/<label>/<name>.png`, arrays to `folder/arrays/<name>.npz`.
    A folder with results of an earlier run is fine: files are replaced one by one, others move to `folder/earlier`.
    As a context manager it closes itself; after an exception in the block it only waits for the files under way.

    Before its first file is written, page and facts of an earlier run are removed, since they no longer say what lies
    there, and `folder/unfinished.jsonl` is begun. It lists the files as they are written, one a line, and is removed
    when all is done. So nobody takes a mixture for a result, and the next run knows what an interrupted one has left.

    Attributes:
        no_page: why pictures get no page here, None where they do.
    """

    def __init__(
        self,
        folder: Path,
        title: str,
        description: Mapping[str, str],
        rank: int = 0,
        size: int = 256,
    ) -> None:
        """`description`: a table of facts; `rank`: of several processes, 0 writes the pages; `size`: width on them."""
        self.pages = rank == 0
        self.folder = Path(folder)
        self.mark = self.folder / (f"{UNFINISHED}_{rank}.jsonl" if rank else f"{UNFINISHED}.jsonl")
        self.title = title
        self.description = dict(description)
        self.size = size
        self.no_page = why_no_pages()

        self.rows: list[tuple[str, list[Picture]]] = []
        self.files: set[str] = set()

        instead = "give another --results_dir"
        self.lock = FolderLock(self.folder, "is writing these pictures", instead)
        self._marked = False
        self._marking = Lock()
        self.error: tuple[Path, Exception] | None = None
        self.pool = ThreadPoolExecutor(WRITERS, thread_name_prefix="gallery")
        self.free = BoundedSemaphore(WAITING_PICTURES)
        self._under_way: set[Future] = set()

    def open(self) -> None:
        """Keep others from writing the folder until it is closed.

        Raises:
            UserError: another process writes it, or it cannot be written.
        """
        try:
            self.lock.take()
        except OSError as error:
            raise self._user_error(self.folder, error) from error

    def add(
        self,
        name: str,
        images: Mapping[str, Tensor],
        figures: Mapping[str, Tensor] | None = None,
        arrays: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Queue a row of pictures: {label: (C,H,W) in [-1, 1] or uint8}, in order, named as in data/result_names.py.

        `figures` are shown below at full width, `arrays` only written. Raises ValueError for a name
        used before with one of the labels or that leaves the folder, and UserError as soon as a
        file could not be written.
        """
        self._raise_write_error()
        figures = figures or {}
        files = {label: f"images/{label}/{name}.png" for label in images}
        files |= {label: f"figures/{label}/{name}.png" for label in figures}
        numbers = f"arrays/{name}.npz"

        wanted = {*files.values(), numbers} if arrays else set(files.values())
        leaves = name.startswith("/") or ".." in PurePosixPath(f"{name}.png").parts
        if leaves or self.files & wanted:
            raise ValueError(
                f"result name {name!r} is absolute, leaves the folder or was used before"
            )

        row = []
        for label, file in files.items():
            is_figure = label in figures
            array = to_uint8(figures[label] if is_figure else images[label])
            height, width = array.shape[:2]
            row.append(Picture(label, file, width, height, is_figure))
            self._queue(save_png, array, file)

        if arrays:
            self._queue(save_npz, arrays, numbers)
        self.rows.append((name, row))

    def keep(self, name: str, row: Sequence[Picture], others: Sequence[str] = ()) -> None:
        """Show a row whose files lie there already; `others` are files of it that no page shows."""
        self.files |= {*(picture.file for picture in row), *others}
        self.rows.append((name, list(row)))

    def flush(self) -> None:
        """Wait until all that was added is on the disk; raises UserError where a file could not be written."""
        wait(set(self._under_way))
        self._raise_write_error()

    def close(self) -> None:
        """Wait for the files, then write the pages. UserError names the first file that could not be written."""
        self.pool.shutdown()
        self._raise_write_error()
        if not self.pages:
            return
        try:
            self._set_aside_earlier()
            if self.no_page is None:
                self._write_pages()
            self._write_facts()
            for mark in unfinished_in(self.folder):
                mark.unlink()
        except OSError as error:
            raise self._user_error(self.folder, error) from error

    def __enter__(self) -> "Gallery":
        return self

    def __exit__(self, error_type: type | None, error: BaseException | None, trace: object) -> None:
        try:
            if error_type is None:
                self.close()
            else:
                self.pool.shutdown(cancel_futures=True)
        finally:
            self.lock.drop()

    def _queue(self, save: Callable[[Any, Path], None], value: Any, file: str) -> None:
        self.files.add(file)
        self.free.acquire()
        writing = self.pool.submit(self._write, save, value, file)
        self._under_way.add(writing)
        writing.add_done_callback(self._under_way.discard)

    def _write(self, save: Callable[[Any, Path], None], value: Any, file: str) -> None:
        """Encode and write one file (worker thread); once a write failed the rest is skipped."""
        path = self.folder / file
        try:
            if self.error is None:
                self._list_as_unfinished(file)
                save(value, path)
        except Exception as error:
            # whatever it is, it is raised in the main thread, by `add` or `close`
            self.error = self.error or (path, error)
        finally:
            self.free.release()

    def _list_as_unfinished(self, file: str) -> None:
        """Say that a file is about to be written; the first time, what an earlier run says of the folder goes."""
        with self._marking:
            if not self._marked:
                append(self.mark, "")  # ends a line that was cut short
                remove_pages(self.folder)
                (self.folder / FACTS).unlink(missing_ok=True)
                self._marked = True
            append(self.mark, json.dumps(file))

    def _raise_write_error(self) -> None:
        if self.error is not None:
            path, error = self.error
            raise self._user_error(path, error) from error

    @staticmethod
    def _user_error(path: Path, error: Exception) -> UserError:
        reason = getattr(error, "strerror", None) or error
        return UserError(
            f"cannot write {path}: {reason}; free space, or choose another --results_dir"
        )

    def _set_aside_earlier(self) -> None:
        """Move files of an earlier run that this one did not write to earlier/, those of images/ right into it.

        So nothing is lost, and whoever measures a folder of images measures one run. Only files that a gallery itself
        recorded are moved: in pictures.json, or as unfinished.
        """
        record = self.folder / "pictures.json"
        now, before = self.files, set()
        if record.exists():
            before = set(json.loads(record.read_text(encoding="utf-8")))
        for mark in unfinished_in(self.folder):
            before.update(read_mark(mark))

        for file in sorted(before - now):
            target = self.folder / "earlier" / file.removeprefix("images/")
            if ".." not in target.parts and (self.folder / file).exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                (self.folder / file).replace(target)

        with atomic_path(record) as temporary:
            temporary.write_text(json.dumps(sorted(now), indent=0), encoding="utf-8")

    def _write_facts(self) -> None:
        """Title and table of facts, for whoever shows these pictures elsewhere (facts.json)."""
        text = json.dumps({"title": self.title, "facts": self.description}, indent=2)
        with atomic_path(self.folder / FACTS) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    def _write_pages(self) -> None:
        """Write index.html and, beyond ROWS_PER_PAGE rows, further pages that link to each other."""
        from util.pages import html

        rows = sorted(self.rows, key=lambda row: row[0])
        pages, targets = [], {}
        for start in range(0, max(len(rows), 1), ROWS_PER_PAGE):
            chunk = rows[start : start + ROWS_PER_PAGE]
            number = len(pages) + 1
            span = f"{start + 1}-{start + len(chunk)}"
            targets[span] = "index.html" if number == 1 else numbered_page(number)
            pages.append((span, chunk))

        pictures = sum(len(row) for _, row in rows)
        summary = f"{counted(len(rows), 'input')} · {counted(pictures, 'picture')}"
        for span, chunk in pages:
            facts = html.fact_table(self.description)
            navigation = [html.links(targets, current=span)] if len(pages) > 1 else []
            body = [facts, *navigation, html.picture_rows(chunk, self.size), *navigation]
            write_page(self.folder / targets[span], html.page(self.title, summary, body))

        remove_pages_after(self.folder, len(pages))
