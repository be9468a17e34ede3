"""The visdom sink against the real visdom server: windows and their contents, and servers that are absent or die."""

import base64
import io
import json
import re
import socket
import subprocess
import sys
import threading
import time
from argparse import Namespace
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import free_port
from util.logs import visdom_display
from util.logs.visualizer import Visualizer

# `python -m visdom.server` first fetches page scripts from the web; `main` is the same server without that.
SERVER = "from visdom.server.run_server import main; main()"
pytestmark = pytest.mark.filterwarnings(
    "ignore:The 'warn' method is deprecated:DeprecationWarning"
)  # visdom's own
TIMES = {"time": 0.1, "data": 0.01}


class Server:
    """A visdom server of its own on a free port."""

    def __init__(self, folder):
        self.port = free_port()
        where = ["-port", str(self.port), "-bind_local", "-env_path", str(folder)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, *where],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert self.process.poll() is None, "the visdom server ended at once"
                assert time.monotonic() < deadline, "the visdom server did not come up within 60 s"
                time.sleep(0.05)

    def ask(self, endpoint: str, **message) -> str:
        request = Request(f"http://127.0.0.1:{self.port}/{endpoint}", json.dumps(message).encode())
        with build_opener(ProxyHandler({})).open(request, timeout=10) as reply:
            return reply.read().decode()

    def windows(self, env: str) -> dict[str, dict]:
        """All windows of an environment, {id: content}."""
        return json.loads(self.ask("win_data", eid=env, win=None) or "{}")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(10)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("visdom"))
    yield server
    server.stop()


def started(folder, port: int, env: str, images_done: int = 0, **changes) -> Visualizer:
    fields = {
        "name": "run",
        "no_html": True,
        "display_id": 20,
        "display_server": "http://localhost",
    }
    window = {"display_port": port, "display_env": env, "display_ncols": 3, "display_winsize": 64}
    fields |= {"use_tensorboard": False, "use_wandb": False}
    log = Visualizer(Namespace(**{**fields, **window, **changes}), folder, total_images=1000)
    log.start(images_done)
    return log


def curves(window: dict) -> dict[str, tuple[list, list]]:
    return {trace["name"]: (trace["x"], trace["y"]) for trace in window["content"]["data"]}


def decoded(window: dict) -> np.ndarray:
    return np.asarray(
        Image.open(io.BytesIO(base64.b64decode(window["content"]["src"].split(",")[1])))
    )


def drained(log: Visualizer) -> None:
    """Wait until the background thread has handed everything over."""
    deadline = time.monotonic() + 20
    while log.writer.records or log.writer.frames:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def warnings_in(text: str) -> list[str]:
    return [line for line in text.splitlines() if "warning" in line.lower()]


def test_losses_become_one_plot_with_a_legend(server, tmp_path, capfd, caplog):
    log = started(tmp_path, server.port, "plot")
    for images in (100, 200, 300):
        log.print_losses(
            1, images, {"G_GAN": images / 100, "NCE": float("nan") if images == 200 else 7.0}, TIMES
        )
        drained(log)
    log.close()
    window = server.windows("plot")["20"]
    assert curves(window) == {
        "G_GAN": ([100, 200, 300], [1, 2, 3]),
        "NCE": ([100, 200, 300], [7, None, 7]),
    }
    assert window["title"] == "run: losses" and window["content"]["layout"]["showlegend"] is True
    out, err = capfd.readouterr()
    assert err == "" and warnings_in(out) == [] and out.count("\n") == 3, (
        "the three loss lines and nothing else"
    )
    assert caplog.records == [], "the client keeps its notes to itself"
    threads = {thread.name for thread in threading.enumerate() if "Visdom" in thread.name}
    assert threads <= {"Visdom-Session-Reaper"}, "and starts no thread that listens to the server"


def test_a_proxy_for_the_web_does_not_stand_between(server, tmp_path, monkeypatch):
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{free_port()}")
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    log = started(tmp_path, server.port, "proxy")
    log.print_losses(1, 100, {"G": 1.0}, TIMES)
    log.close()
    assert warnings_in((tmp_path / "loss_log.txt").read_text()) == []
    assert curves(server.windows("proxy")["20"]) == {"G": ([100], [1])}


def test_one_panel_shows_all_pictures(server, tmp_path):
    log = started(tmp_path, server.port, "panel")
    visuals = {
        label: torch.full((2, 3, 6, 8), value)
        for label, value in (("real_A", -1.0), ("fake_B", 0.2), ("idt_B", 1.0))
    }
    log.display(visuals, epoch=2, images=400, save=False)
    log.close()
    windows = server.windows("panel")
    assert set(windows) == {"21"}
    assert windows["21"]["content"]["caption"] == "epoch 2, images 400: real_A | fake_B | idt_B"
    panel = decoded(windows["21"])
    assert panel.shape == (6, 3 * 8 + 2 * 4, 3)
    assert [panel[3, x, 0] for x in (4, 16, 28)] == [0, 153, 255]
    assert windows["21"]["width"] == 3 * 64


def test_without_columns_each_picture_has_its_window_and_keeps_it(server, tmp_path):
    log = started(tmp_path, server.port, "single", display_ncols=0)
    for value in (0.0, 1.0):
        visuals = {
            label: torch.full((1, channels, 6, 8), value)
            for label, channels in (("real_A", 1), ("fake_B", 3))
        }
        log.display(visuals, epoch=2, images=400, save=False)
    log.close()
    windows = server.windows("single")
    assert {name: window["title"] for name, window in windows.items()} == {
        "21": "run: real_A",
        "22": "run: fake_B",
    }
    assert all((decoded(window) == 255).all() for window in windows.values())


def test_a_window_closed_by_the_user_comes_back_whole(server, tmp_path):
    log = started(tmp_path, server.port, "closed")
    log.print_losses(1, 100, {"G": 1.0}, TIMES)
    drained(log)
    deadline = time.monotonic() + 20
    while "20" not in server.windows("closed"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    server.ask("close", eid="closed", win="20")
    log.print_losses(1, 200, {"G": 2.0}, TIMES)
    log.close()
    assert curves(server.windows("closed")["20"]) == {"G": ([100, 200], [1, 2])}


def test_a_loss_that_appears_later_joins_the_plot(server, tmp_path):
    log = started(tmp_path, server.port, "joins")
    log.print_losses(1, 100, {"G": 1.0}, TIMES)
    drained(log)
    log.print_losses(1, 200, {"G": 2.0, "D": 5.0}, TIMES)
    log.close()
    assert curves(server.windows("joins")["20"]) == {
        "G": ([100, 200], [1, 2]),
        "D": ([100, 200], [None, 5]),
    }


def test_a_resumed_run_goes_on_in_the_same_window(server, tmp_path):
    for first, resume_at in ((100, 0), (200, 200)):
        log = started(tmp_path, server.port, "resumed", images_done=resume_at, display_id=None)
        for images in range(first + (100 if resume_at else 0), first + 300, 100):
            log.print_losses(1, images, {"G": images / 100}, TIMES)
        log.close()
    windows = server.windows("resumed")
    assert len(windows) == 1
    assert [curves(window) for window in windows.values()] == [
        {"G": ([100, 200, 300, 400], [1, 2, 3, 4])}
    ]


def test_a_server_that_is_absent_is_one_warning_with_the_remedy(tmp_path, capfd):
    port = free_port()
    before = time.monotonic()
    log = started(tmp_path, port, "main", display_id=None)
    for images in (100, 200):
        log.print_losses(1, images, {"G": 1.0}, TIMES)
        log.display({"fake_B": torch.zeros(1, 3, 4, 4)}, 1, images, save=False)
    log.close()
    assert time.monotonic() - before < 3
    out, err = capfd.readouterr()
    (warning,) = warnings_in(out)
    assert (
        f"python -m visdom.server -bind_local -port {port}" in warning
        and "--display_id 0" in warning
    )
    assert err == "" and "Traceback" not in out


def test_a_host_that_never_answers_holds_up_only_the_background(tmp_path, monkeypatch):
    """A full backlog: the connection attempt runs into its time limit."""
    monkeypatch.setattr(visdom_display, "CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(
        socket, "create_connection", lambda address, timeout: time.sleep(timeout) or never()
    )

    def never():
        raise TimeoutError("timed out")

    before = time.monotonic()
    log = started(tmp_path, 1, "main")
    log.print_losses(1, 100, {"G": 1.0}, TIMES)
    assert time.monotonic() - before < 0.25
    log.close()
    assert len(warnings_in((tmp_path / "loss_log.txt").read_text())) == 1


@pytest.mark.parametrize("display_id", [0, -1])
def test_display_id_0_does_not_even_try(tmp_path, capfd, display_id):
    started(tmp_path, free_port(), "main", display_id=display_id).close()
    assert capfd.readouterr() == ("", "")


def test_a_server_that_dies_is_one_warning_and_the_logs_go_on(tmp_path, capfd):
    server = Server(tmp_path / "visdom")
    try:
        log = started(tmp_path, server.port, "main")
        log.print_losses(1, 100, {"G": 1.0}, TIMES)
        deadline = time.monotonic() + 20
        while "20" not in server.windows("main"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        server.stop()
    for images in (200, 300, 400):
        log.print_losses(1, images, {"G": 1.0}, TIMES)
        log.display({"fake_B": torch.zeros(1, 3, 4, 4)}, 1, images, save=False)
        time.sleep(0.05)
    log.close()
    out, err = capfd.readouterr()
    assert len(warnings_in(out)) == 1 and re.search(
        "visdom is off for the rest of this run: .*visdom server", out, re.I
    )
    assert err == "" and "Traceback" not in out and "Exception" not in out
    assert out.count("iters:") == 4 and out.count("\n") == 5, "four lines of losses and the warning"
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4


class MuteServer:
    """Accepts connections and either says nothing or answers every request with one status."""

    def __init__(self, answer: bytes | None):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.answer, self.open = answer, []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.open.append(connection)
            if self.answer is not None:
                connection.recv(65536)
                connection.sendall(self.answer)
                connection.close()

    def stop(self):
        for connection in (self.socket, *self.open):
            connection.close()


@pytest.mark.parametrize(
    "answer", [None, b"HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n"], ids=["mute", "503"]
)
def test_a_server_that_hangs_or_is_no_visdom_is_one_warning(tmp_path, capfd, monkeypatch, answer):
    monkeypatch.setattr(visdom_display, "REPLY_SECONDS", 0.3)
    server = MuteServer(answer)
    log = started(tmp_path, server.port, "main")
    log.print_losses(1, 100, {"G": 1.0}, TIMES)
    log.close()
    server.stop()
    out, err = capfd.readouterr()
    assert len(warnings_in(out)) == 1 and "visdom is off" in out and err == ""
