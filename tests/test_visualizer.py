"""The logs of a run: what is written, what a resumed run drops, and that nothing a sink does reaches the training."""

import json
import os
import pty
import select
import sys
import termios
import threading
import time
from argparse import Namespace

import pytest
import torch
from PIL import Image

from tests.browser import Browser, needs_browser
from util.logs import background, training_page, visualizer
from util.logs.sink import Frame
from util.logs.training_page import TrainingPage
from util.logs.visualizer import Visualizer

TIMES = {"time": 0.123, "data": 0.001}


def options(**changes) -> Namespace:
    defaults = {
        "name": "run <1>",
        "easy_label": "",
        "no_html": False,
        "display_id": 0,
        "display_server": "http://localhost",
    }
    window = {
        "display_port": 8097,
        "display_env": "main",
        "display_ncols": 4,
        "display_winsize": 256,
    }
    libraries = {"use_tensorboard": False, "use_wandb": False}
    made = {"recipe": "cut, preset shared", "dataroot": "photos", "direction": "BtoA", "seed": 3}
    window |= made
    return Namespace(**{**defaults, **window, **libraries, **changes})


def started(
    folder, images_done: int = 0, sinks: list | None = None, monkeypatch=None, **changes
) -> Visualizer:
    if sinks is not None:
        monkeypatch.setattr(visualizer, "make_sinks", lambda *_: sinks)
    result = Visualizer(options(**changes), folder, total_images=1000)
    result.start(images_done)
    return result


def visuals(labels=("real_A", "fake_B"), batch: int = 2) -> dict[str, torch.Tensor]:
    return {label: torch.rand(batch, 3, 6, 8) * 2 - 1 for label in labels}


def metrics(folder) -> list[dict]:
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


class RecordingSink:
    """A sink that notes its calls, and can raise or wait in one of them."""

    live = True

    def __init__(self, name="recorder", fails_in=None, waits_for=None):
        self.name, self.fails_in, self.waits_for = name, fails_in, waits_for
        self.calls, self.records, self.frames = [], [], []

    def _note(self, call):
        self.calls.append(call)
        if self.waits_for is not None:
            self.waits_for.wait(20)
        if call == self.fails_in:
            raise ValueError(f"{call}\nis broken")

    def start(self, records, images_done):
        self.resumed = (list(records), images_done)
        self._note("start")

    def losses(self, records):
        self._note("losses")
        self.records += records

    def pictures(self, frame: Frame):
        self._note("pictures")
        self.frames.append(frame)

    def close(self):
        self._note("close")


def test_one_line_of_text_and_one_json_object_per_print(tmp_path, capsys):
    log = started(tmp_path)
    log.print_losses(3, 400, {"G_GAN": 0.3124, "GNN": 4.2}, TIMES)
    log.close()
    line = "(epoch: 3, iters: 400, time: 0.123, data: 0.001) G_GAN: 0.312 GNN: 4.200"
    text = (tmp_path / "loss_log.txt").read_text().splitlines()
    assert "training started" in text[0] and text[1:] == [line]
    assert metrics(tmp_path) == [
        {"epoch": 3, "images": 400, **TIMES, "losses": {"G_GAN": 0.3124, "GNN": 4.2}}
    ]
    assert line in capsys.readouterr().out


def test_nan_and_infinity_stay_valid_json(tmp_path):
    log = started(tmp_path)
    log.print_losses(
        1, 100, {"G": float("nan"), "D": float("-inf"), "NCE": 1.5}, {"time": float("inf")}
    )
    log.close()
    (record,) = metrics(tmp_path)
    assert record["losses"] == {"G": None, "D": None, "NCE": 1.5} and record["time"] is None
    assert sorted(record["nonfinite"]) == ["D", "G", "time"]
    assert "G: nan D: -inf" in (tmp_path / "loss_log.txt").read_text()
    assert (tmp_path / "web/index.html").read_text().count("no finite value yet") == 2


def test_messages_go_to_console_and_file(tmp_path, capsys):
    log = started(tmp_path)
    log.message("end of epoch 1 雪")
    assert capsys.readouterr().out == "end of epoch 1 雪\n"
    assert (tmp_path / "loss_log.txt").read_text(encoding="utf-8").splitlines()[
        -1
    ] == "end of epoch 1 雪"
    log.close()


def test_the_first_image_of_each_batch_is_kept_and_shown(tmp_path):
    log = started(tmp_path)
    shown = visuals()
    log.display(shown, epoch=7, images=1200, save=True)
    log.display(visuals(), epoch=7, images=1300, save=False)
    for batch in shown.values():
        batch.zero_()  # the next step reuses its buffers
    log.close()
    folder = tmp_path / "web/images"
    assert sorted(path.name for path in folder.iterdir()) == [
        "epoch007_1200_fake_B.png",
        "epoch007_1200_real_A.png",
    ]
    page = (tmp_path / "web/index.html").read_text()
    assert "epoch 7, images 1200" in page and "1300" not in page
    assert page.index("epoch007_1200_real_A.png") < page.index("epoch007_1200_fake_B.png")


def test_the_picture_is_the_first_one_at_the_moment_of_the_call(tmp_path):
    log = started(tmp_path)
    batch = torch.stack([torch.ones(3, 4, 4), -torch.ones(3, 4, 4)])
    log.display({"real_A": batch}, 1, 1, save=True)
    batch.fill_(-1)
    log.close()
    with Image.open(tmp_path / "web/images/epoch001_1_real_A.png") as image:
        assert image.getextrema() == ((255, 255),) * 3


def test_no_html_leaves_no_page(tmp_path):
    log = started(tmp_path, no_html=True)
    log.display(visuals(), 1, 1, save=True)
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loss_log.txt"]


def test_disabled_does_nothing_at_all(tmp_path, capsys):
    log = Visualizer(options(), tmp_path / "run", 1000, enabled=False)
    log.start(0)
    log.print_losses(1, 1, {"G": 1.0}, TIMES)
    log.display(visuals(), 1, 1, save=True)
    log.advance(1)
    log.message("x")
    log.close()
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr() == ("", "")


def test_close_works_twice_and_without_a_start(tmp_path):
    Visualizer(options(), tmp_path, 1000).close()
    log = started(tmp_path)
    log.close()
    before = (tmp_path / "loss_log.txt").read_text()
    log.close()
    log.print_losses(1, 100, {"G": 1.0}, TIMES)
    assert (tmp_path / "loss_log.txt").read_text() == before


# --- resuming ---------------------------------------------------------------------------------------------------------


def run_part(folder, first: int, last: int, resume_at: int) -> None:
    """Log every 100 images and show pictures every 200, as a training loop does; seeded by the image count."""
    log = started(folder, images_done=resume_at)
    for images in range(first, last + 1, 100):
        log.print_losses(images // 500 + 1, images, {"G": images / 7}, TIMES)
        if images % 200 == 0:
            torch.manual_seed(images)
            log.display(visuals(), images // 500 + 1, images, save=True)
    log.close()


def without_clock(page: str) -> str:
    return page.split("updated")[0] + page.split("updated")[1][len(" 2026-01-01 00:00:00") :]


def test_a_killed_and_resumed_run_leaves_the_same_logs_as_a_straight_one(tmp_path):
    run_part(tmp_path / "straight", 100, 1000, resume_at=0)
    run_part(tmp_path / "resumed", 100, 800, resume_at=0)
    with (tmp_path / "resumed/metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "images": 850, "lo')  # killed in the middle of a line
    run_part(tmp_path / "resumed", 500, 1000, resume_at=400)
    for name in ("metrics.jsonl", "web/pictures.jsonl"):
        assert (tmp_path / "resumed" / name).read_text() == (
            tmp_path / "straight" / name
        ).read_text()
    pages = [(tmp_path / run / "web/index.html").read_text() for run in ("straight", "resumed")]
    assert without_clock(pages[0]) == without_clock(pages[1]) and "epoch 2, images 600" in pages[0]
    text = (tmp_path / "resumed/loss_log.txt").read_text()
    assert text.count("resumed at 400 images") == 1 and text.count("iters: 800,") == 1


def test_records_beyond_the_checkpoint_are_gone_at_once(tmp_path):
    run_part(tmp_path, 100, 1000, resume_at=0)
    started(tmp_path, images_done=400).close()
    assert [record["images"] for record in metrics(tmp_path)] == [100, 200, 300, 400]
    page = (tmp_path / "web/index.html").read_text()
    assert "images 400" in page and "images 600" not in page
    assert (tmp_path / "web/images/epoch002_600_real_A.png").exists()


def test_lines_of_text_beyond_the_checkpoint_go_and_messages_and_other_runs_stay(tmp_path):
    """CUT's log counts images anew in each epoch, and may stand before that of a run that goes on from its weights."""
    before = (
        b"======= Training Loss =======\n(epoch: 9, iters: 900, time: 0.1, data: 0.1) G: 1.0 \xff\n"
    )
    path = tmp_path / "loss_log.txt"
    path.write_bytes(before)
    log = started(tmp_path, no_html=True)
    for images in (100, 200, 300):
        log.print_losses(1, images, {"G": 1.0}, TIMES)
        log.evaluation(1, images, {"FID": 2.0}, f"(epoch: 1, iters: {images}) test: FID 2 (best)")
        log.message(f"told at {images}")
    log.close()
    started(tmp_path, images_done=200, no_html=True).close()

    content = path.read_bytes()
    assert content.startswith(before)
    text = content.removeprefix(before).decode()
    assert [text.count(f"iters: {images}") for images in (100, 200, 300)] == [2, 2, 0]
    assert "told at 300" in text and text.index("told at 300") < text.index("resumed at 200 images")


@pytest.mark.parametrize(
    "line", [b"17", b"{}", b"\xff\xfe", b'{"images": "1"}', b'{"images": 1}', b"[" * 9999]
)
def test_a_damaged_line_is_dropped_and_switches_nothing_off(tmp_path, line):
    run_part(tmp_path, 100, 300, resume_at=0)
    for path in (tmp_path / "metrics.jsonl", tmp_path / "web/pictures.jsonl"):
        with path.open("ab") as file:
            file.write(line + b"\n")
    run_part(tmp_path, 400, 500, resume_at=300)
    assert "warning" not in (tmp_path / "loss_log.txt").read_text()
    assert [record["images"] for record in metrics(tmp_path)] == [100, 200, 300, 400, 500]
    rows = (tmp_path / "web/pictures.jsonl").read_text().splitlines()
    assert [json.loads(row)["images"] for row in rows] == [200, 400]


def test_a_resumed_run_hands_its_history_to_every_sink(tmp_path, monkeypatch):
    run_part(tmp_path, 100, 500, resume_at=0)
    sink = RecordingSink()
    started(tmp_path, images_done=300, sinks=[sink], monkeypatch=monkeypatch).close()
    records, images_done = sink.resumed
    assert [record["images"] for record in records] == [100, 200, 300] and images_done == 300


# --- pages of a long run ----------------------------------------------------------------------------------------------


def headings(folder, page: str) -> list[int]:
    return [
        int(part.split("<")[0])
        for part in (folder / "web" / page).read_text().split(", images ")[1:]
    ]


@pytest.mark.parametrize(
    ("label", "title"), [("", "run &lt;1&gt;"), ("my ablation", "my ablation")]
)
def test_the_page_is_titled_as_asked(tmp_path, label, title):
    started(tmp_path, easy_label=label).close()
    assert f"<title>{title}</title>" in (tmp_path / "web" / "index.html").read_text()


def test_older_rows_move_to_pages_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(training_page, "ROWS_PER_PAGE", 3)
    monkeypatch.setattr(background, "WAITING_FRAMES", 100)
    log = started(tmp_path)
    for images in range(1, 9):
        log.display(visuals(["fake_B"]), 1, images, save=True)
    log.close()
    assert headings(tmp_path, "index.html") == [8, 7, 6]
    assert headings(tmp_path, "page_001.html") == [3, 2, 1] and headings(
        tmp_path, "page_002.html"
    ) == [6, 5, 4]
    assert not (tmp_path / "web/page_003.html").exists()
    index = (tmp_path / "web/index.html").read_text()
    assert 'href="page_001.html"' in index and 'href="page_002.html"' in index

    started(tmp_path, images_done=5).close()
    assert headings(tmp_path, "index.html") == [5, 4, 3]
    assert not (tmp_path / "web/page_002.html").exists() and headings(
        tmp_path, "page_001.html"
    ) == [3, 2, 1]


def test_beside_a_live_sink_the_page_still_takes_saved_frames_only(tmp_path, monkeypatch):
    recorder = RecordingSink()
    page = TrainingPage(tmp_path / "web", "run", 256)
    log = started(tmp_path, sinks=[page, recorder], monkeypatch=monkeypatch)
    log.display(visuals(), 1, 1, save=False)
    log.display(visuals(), 1, 2, save=True)
    log.close()
    assert headings(tmp_path, "index.html") == [2] and [
        frame.images for frame in recorder.frames
    ] == [1, 2]


def test_an_update_of_the_page_reads_no_earlier_record(tmp_path):
    """So it costs the same after a hundred thousand images as after a thousand."""
    reads = []

    class Record(dict):
        def __getitem__(self, key):
            reads.append(key)
            return super().__getitem__(key)

    page = TrainingPage(tmp_path / "web", "run", 256)
    page.start([Record(images=n, losses={"G": 1.0, "D": n / 7}) for n in range(1, 2001)], 2000)
    reads.clear()
    page.losses([{"images": 2001, "losses": {"G": 1.0, "eval_KID": None}}])
    page.close()
    assert reads == []
    index = (tmp_path / "web" / "index.html").read_text()
    assert "2,001 images seen" in index and index.count('class="chart"') == 3


def test_odd_labels_cannot_leave_the_folder(tmp_path):
    log = started(tmp_path)
    log.display(visuals(["../../x", "a/b", "c #?%"]), 1, 5, save=True)
    log.close()
    names = sorted(path.name for path in (tmp_path / "web/images").iterdir())
    assert names == ["epoch001_5_.._.._x.png", "epoch001_5_a_b.png", "epoch001_5_c #?%.png"]


@needs_browser
def test_a_browser_shows_pictures_and_curves_of_a_run(tmp_path):
    folder = tmp_path / "run #1 50% é?"
    log = started(folder, name="run #1 <b>50%</b>")
    for images in (100, 200, 300):
        log.print_losses(1, images, {"G_GAN": 1 / images, "D&Q": float(images)}, TIMES)
        log.display(visuals(["real_A", "fake <B> #1%?"]), 1, images, save=True)
    log.close()
    with Browser() as browser:
        browser.open(folder / "web/index.html")
        images = browser.images()
        assert len(images) == 6 and all(image["width"] == 8 for image in images), images
        assert browser.evaluate(
            "[...document.querySelectorAll('.row h3')].map(h => h.textContent)"
        ) == [f"epoch 1, images {images}" for images in (300, 200, 100)]
        charts = browser.evaluate(
            "[...document.querySelectorAll('.chart')].map(c => c.innerText.split('\\n')[0])"
        )
        assert charts == ["G_GAN", "D&Q"]
        assert browser.evaluate("document.querySelector('h1').innerText") == "run #1 <b>50%</b>"
        browser.open(folder / "loss_log.txt")
        assert "iters: 300" in browser.evaluate("document.body.innerText")


# --- nothing reaches the training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails_in", ["start", "losses", "pictures", "close"])
def test_a_sink_that_raises_is_switched_off_with_one_warning(
    tmp_path, monkeypatch, capsys, fails_in
):
    broken, sound = RecordingSink("broken", fails_in), RecordingSink("sound")
    log = started(tmp_path, sinks=[broken, sound], monkeypatch=monkeypatch)
    for images in (1, 2, 3):
        log.print_losses(1, images, {"G": 1.0}, TIMES)
        log.display(visuals(), 1, images, save=False)
        time.sleep(0.02)
    log.close()
    warning = f"warning: broken is off for the rest of this run: {fails_in} is broken"
    assert [line for line in capsys.readouterr().out.splitlines() if "warning" in line] == [warning]
    assert (tmp_path / "loss_log.txt").read_text().count(warning) == 1
    assert broken.calls[-1] == fails_in and broken.calls.count(fails_in) == 1
    assert (
        [record["images"] for record in sound.records]
        == [frame.images for frame in sound.frames]
        == [1, 2, 3]
    )
    assert sound.calls[-1] == "close" and len(metrics(tmp_path)) == 3


def test_a_page_that_cannot_be_written_is_one_warning(tmp_path, capsys):
    (tmp_path / "web").write_text("a file where the folder should be")
    run_part(tmp_path, 100, 400, resume_at=0)
    assert (
        capsys.readouterr().out.count("warning: web page cannot be written now") == 1
        and len(metrics(tmp_path)) == 4
    )


def test_log_files_that_cannot_be_written_are_one_warning(tmp_path, capsys):
    (tmp_path / "run").write_text("a file where the folder should be")
    run_part(tmp_path / "run", 100, 400, resume_at=0)
    output = capsys.readouterr().out
    assert (
        output.count("warning: log files cannot be written now") == 1
        and output.count("iters:") == 4
    )


def test_a_console_that_is_gone_is_one_warning_in_the_file(tmp_path, monkeypatch):
    class Gone:
        def write(self, text):
            raise BrokenPipeError("Broken pipe")

        def flush(self):
            pass

        def isatty(self):
            return False

    monkeypatch.setattr(sys, "stdout", Gone())
    run_part(tmp_path, 100, 400, resume_at=0)
    assert (tmp_path / "loss_log.txt").read_text().count("warning: console is off") == 1
    assert len(metrics(tmp_path)) == 4


def test_pictures_that_make_no_sense_are_one_warning(tmp_path, capsys):
    log = started(tmp_path)
    for images in (1, 2):
        log.display({"fake_B": torch.zeros(3)}, 1, images, save=True)
    log.close()
    assert capsys.readouterr().out.count("warning: pictures is off") == 1


def test_a_slow_sink_costs_the_training_nothing_and_loses_the_oldest_frames_only(
    tmp_path, monkeypatch, capsys
):
    go = threading.Event()
    sink = RecordingSink(waits_for=go)
    log = started(tmp_path, sinks=[sink], monkeypatch=monkeypatch)
    before = time.monotonic()
    for images in range(1, 13):
        log.print_losses(1, images, {"G": 1.0}, TIMES)
        log.display(visuals(), 1, images, save=False)
    assert time.monotonic() - before < 2 and sink.records == []
    go.set()
    log.close()
    assert [frame.images for frame in sink.frames] == list(range(5, 13)), "the eight newest"
    assert [record["images"] for record in sink.records] == list(range(1, 13)), "every loss"
    output = capsys.readouterr().out
    assert (
        output.count("pictures come faster") == 1
        and output.count("4 displays were dropped in all") == 1
    )


def test_a_sink_that_hangs_does_not_hang_the_end(tmp_path, monkeypatch, capsys):
    go = threading.Event()
    monkeypatch.setattr(background, "CLOSE_SECONDS", 0.1)
    log = started(tmp_path, sinks=[RecordingSink(waits_for=go)], monkeypatch=monkeypatch)
    log.close()
    assert "did not finish" in capsys.readouterr().out
    go.set()


def test_frames_nobody_wants_are_not_even_converted(tmp_path, monkeypatch):
    monkeypatch.setattr(visualizer, "to_uint8", lambda tensor: pytest.fail("converted"))
    log = started(tmp_path)  # a page, which takes saved frames only
    log.display(visuals(), 1, 1, save=False)
    log.close()
    log = started(tmp_path, no_html=True)
    log.display(visuals(), 1, 1, save=True)
    log.close()
    assert "warning" not in (tmp_path / "loss_log.txt").read_text()


# --- terminal ---------------------------------------------------------------------------------------------------------


def test_without_a_terminal_lines_tell_the_time_left(tmp_path, capsys):
    log = started(tmp_path, images_done=100)
    log.print_losses(1, 100, {"G": 1.0}, TIMES)
    log.console.started -= 40  # seconds ago
    log.advance(200)
    log.print_losses(1, 300, {"G": 1.0}, TIMES)
    log.close()
    out, err = capsys.readouterr()
    first, second = (line for line in out.splitlines() if "iters" in line)
    assert first.endswith("[ETA ?]")
    assert second.endswith("[30.0%, ETA 02:20]"), "200 images took 40 s, 700 are left"
    assert err == "", "no bar"


class Terminal:
    """A pseudo-terminal in the place of standard error while the block runs; `shown()` is what it got so far."""

    def __enter__(self):
        self.reader, writer = pty.openpty()
        termios.tcsetwinsize(writer, (24, 120))
        self.stream, self.previous = os.fdopen(writer, "w"), sys.stderr
        sys.stderr = self.stream
        return self

    def __exit__(self, *_):
        sys.stderr = self.previous
        self.stream.close()
        os.close(self.reader)

    def shown(self) -> str:
        self.stream.flush()
        shown = b""
        while select.select([self.reader], [], [], 0.2)[0]:
            shown += os.read(self.reader, 4096)
        return shown.decode()


class TerminalOutput:
    """A standard output that is a terminal."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return True


def test_on_a_terminal_there_is_a_bar_and_no_line(tmp_path, monkeypatch):
    output = TerminalOutput()
    with Terminal() as terminal:
        monkeypatch.setattr(sys, "stdout", output)
        log = started(tmp_path, images_done=100)
        log.advance(50)
        log.print_losses(4, 150, {"G_GAN": 0.25}, TIMES)
        log.message("a note")
        log.close()
        shown = terminal.shown()
    assert "150/1000" in shown and "epoch 4, G_GAN 0.250" in shown and "img" in shown
    assert "iters" not in output.text and "a note" in output.text
    assert "iters: 150" in (tmp_path / "loss_log.txt").read_text()


def test_with_output_to_a_file_both_the_bar_and_the_lines_are_there(tmp_path, capsys):
    with Terminal() as terminal:
        log = started(tmp_path)
        log.advance(50)
        log.print_losses(4, 150, {"G_GAN": 0.25}, TIMES)
        log.close()
        assert "50/1000" in terminal.shown()
    assert "iters: 150" in capsys.readouterr().out
