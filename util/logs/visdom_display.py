"""The visdom sink: loss curves and current pictures in a browser while training runs."""

import logging
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit
from zlib import crc32

import numpy as np

from util.images import grid
from util.logs.sink import EVALUATION, Frame

CONNECT_SECONDS = 1.5
REPLY_SECONDS = 10.0  # a server that takes longer counts as dead


class VisdomDisplay:
    """One plot of all losses and the current pictures, in windows numbered from `display_id` as in CUT.

    Window n holds the losses, n+1 all pictures in one panel of `columns`; with `columns` 0 each picture has a window.
    Without a number the windows belong to the run's name, so that a resumed run goes on in the same ones.
    """

    name = "visdom"
    live = True

    def __init__(
        self,
        run: str,
        server: str,
        port: int,
        env: str,
        display_id: int | None,
        columns: int,
        size: int,
    ) -> None:
        """`run`: title of the windows; `size`: width of one picture in pixels. Nothing connects before `start`."""
        self.run, self.server, self.port, self.env = run, server, port, env
        if display_id is None:
            display_id = crc32(run.encode("utf-8", "replace")) % 100_000 * 10
        self.window = display_id
        self.columns, self.size = columns, size

        self.loss_plot = Plot(str(display_id), f"{run}: losses", "loss")
        self.figure_plot = Plot(f"{display_id}_figures", f"{run}: figures", "figure")

    def start(self, records: Sequence[dict], images_done: int) -> None:
        """Connect, or raise ConnectionError with the remedy; a resumed run shows its earlier losses at once."""
        parts = urlsplit(self.server if "//" in self.server else f"//{self.server}")
        try:
            socket.create_connection((parts.hostname, self.port), timeout=CONNECT_SECONDS).close()
        except OSError as error:
            raise ConnectionError(
                f"no server at {self.server}:{self.port}; "
                f"start one with `python -m visdom.server -bind_local -port {self.port}`, "
                "or silence this with `--display_id 0`"
            ) from error

        self.client = make_client(self.server, self.port, self.env)
        if records:
            self.losses(records)

    def losses(self, records: Sequence[dict]) -> None:
        """Append to the plot of losses, and to that of figures of held-out images, which stands in a window beside."""
        figures = [record for record in records if _is_evaluation(record)]
        losses = [record for record in records if not _is_evaluation(record)]
        if losses:
            self.loss_plot.add(self.client, losses)
        if figures:
            self.figure_plot.add(self.client, figures)

    def pictures(self, frame: Frame) -> None:
        """Show the pictures of one moment in place of the last ones."""
        moment = f"epoch {frame.epoch}, images {frame.images}"
        if self.columns > 0:
            panel = grid(list(frame.pictures.values()), self.columns)
            columns = min(self.columns, len(frame.pictures))
            caption = f"{moment}: {' | '.join(frame.pictures)}"
            self._show(1, panel, columns * self.size, f"{self.run}: pictures", caption)
            return

        for offset, (label, picture) in enumerate(frame.pictures.items(), start=1):
            self._show(offset, grid([picture], 1), self.size, f"{self.run}: {label}", moment)

    def close(self) -> None:
        """Nothing to do: the server keeps what it was sent."""

    def _show(self, offset: int, picture: np.ndarray, width: int, title: str, caption: str) -> None:
        """Put one (H,W,3) picture, scaled to `width`, into the window `offset` places after the plot."""
        height = round(width * picture.shape[0] / picture.shape[1])
        options = {"title": title, "caption": caption, "width": width, "height": height}
        self.client.image(picture.transpose(2, 0, 1), win=str(self.window + offset), opts=options)


class Plot:
    """One window of curves over images."""

    def __init__(self, window: str, title: str, label: str) -> None:
        self.window, self.title, self.label = window, title, label
        self.records: list[dict] = []
        self.legend: list[str] = []

    def add(self, client, records: Sequence[dict]) -> None:
        """Append points; a window that is new, was closed by the user or lacks a curve gets all points again."""
        legend = list(self.legend)
        for record in records:
            legend += [name for name in record["losses"] if name not in legend]
        self.records.extend(records)

        append = legend == self.legend and client.win_exists(self.window)
        self.legend = legend

        shown = records if append else self.records
        images = [record["images"] for record in shown]
        rows = [[record["losses"].get(name) for name in legend] for record in shown]
        client.line(
            X=np.array(images, dtype=float),
            Y=np.array(rows, dtype=float),  # None becomes NaN, which visdom draws as a gap
            win=self.window,
            opts={"title": self.title, "legend": legend, "xlabel": "images", "ylabel": self.label},
            update="append" if append else None,
        )


def _is_evaluation(record: dict) -> bool:
    return any(name.startswith(EVALUATION) for name in record["losses"])


def make_client(server: str, port: int, env: str):
    """Return a visdom client that raises ConnectionError instead of printing tracebacks, and never waits for long.

    The import happens here because it takes a second that runs without visdom need not spend.
    """
    import visdom

    # its notes on sessions and sockets are of no use in a run
    logging.getLogger("visdom").setLevel(logging.ERROR)

    class Client(visdom.Visdom):
        """The two calls that would hang on a stuck server or print to the console, made quiet."""

        def _handle_post(self, url, data=None):
            # straight to the server that was probed, past any proxy for the web
            self.session.trust_env = False
            reply = self.session.post(url, data=data or {}, timeout=REPLY_SECONDS)
            reply.raise_for_status()
            return reply.text

        def win_exists(self, win, env=None):
            return self._win_exists_wrap(win, env) == "true"

    return Client(
        server=server, port=port, env=env, raise_exceptions=True, use_incoming_socket=False
    )
