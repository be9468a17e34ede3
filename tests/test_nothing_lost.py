"""What a run must survive: changed schedules, damaged and foreign files, full disks, lost workers, signals."""

import contextlib
import errno
import json
import os
import shutil
import signal
import time
from types import SimpleNamespace

import pytest
import torch

from data import create_loader, workers
from data.workers import check_shared_memory
from options import TestOptions, parse
from tests.helpers import folder_in_use, train_options
from tests.test_checkpoint import FakeModel, checkpoint, small_net
from tests.test_models import build, step
from util.errors import UserError, exit_status
from util.hardware.runtime import Runtime
from util.lock import FolderLock
from util.logs import log_files
from util.logs.log_files import RunLog
from util.logs.visualizer import Visualizer
from util.run.checkpoint import Checkpoint, remove_older
from util.run.folder import weights_file
from util.run.profiler import StepProfiler
from util.run.progress import Progress
from util.run.reports import Record, Saves, Trace
from util.run.state_file import find_state
from util.run.stop import SIGNALS, NoBatch, Stop
from util.run.weights import NotSaved, atomic_save, read_file, write_file

# -- schedules -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("--n_epochs 2 --n_epochs_decay 1", "--n_epochs 5 --n_epochs_decay 1"),
        ("--n_epochs 2 --n_epochs_decay 2", "--n_epochs 2 --n_epochs_decay 9"),
        ("--lr_policy cosine --n_epochs 3 --n_epochs_decay 0", "--lr_policy cosine --n_epochs 6 --n_epochs_decay 0"),
        ("--lr_policy step --lr_decay_iters 1", "--lr_policy step --lr_decay_iters 50 --lr 0.001"),
    ],
)  # fmt: skip
def test_a_changed_schedule_reaches_the_epoch_that_comes(tmp_path, before, after):
    def run(flags):
        return build(tmp_path, "cycle_gan", None, *flags.split())

    opt, runtime, loader, model = run(before)
    for _ in range(3):
        model.end_epoch()
    Checkpoint(opt, runtime, model, Progress(1, 9, len(loader), 1)).save_latest()

    opt, runtime, loader, again = run(after)
    Checkpoint(opt, runtime, again, Progress(1, 9, len(loader), 1)).resume()
    _, _, _, expected = run(after)
    assert expected.learning_rate > 0
    for _ in range(3):
        expected.end_epoch()
    assert again.learning_rate == expected.learning_rate != model.learning_rate
    again.end_epoch()
    expected.end_epoch()
    assert again.learning_rate == expected.learning_rate


# -- files that are not what they should be --------------------------------------------------------


def flipped(path):
    """One bit of one weight has changed."""
    content = bytearray(path.read_bytes())
    content[content.index(b"\x00\x00\x80?" * 8) + 2] ^= 64
    path.write_bytes(content)


NOT_WEIGHTS = {
    "page": (lambda path: path.write_bytes(b"<html><body>404</body></html>"), "starts with '<html"),
    "page in full": (lambda path: path.write_bytes(b"\n<!DOCTYPE html>\n<p>"), "a web page"),
    "pointer": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "a Git LFS pointer",
    ),
    "safetensors": (
        lambda path: path.write_bytes((60).to_bytes(8, "little") + b'{"w":{"dtype":"F32"' * 3),
        "a safetensors file",
    ),
    "model": (lambda path: torch.save(small_net(), path), "holds Python objects"),
    "flipped": (flipped, "have changed since it was written"),
    "empty": (lambda path: path.write_bytes(b""), "it is empty"),
    "gzip": (lambda path: path.write_bytes(b"\x1f\x8b\x08" + bytes(40)), "a gzip archive"),
    "folder": (lambda path: (path.unlink(), path.mkdir()), "does not exist"),
}


@pytest.mark.parametrize("kind", NOT_WEIGHTS)
def test_what_is_no_file_of_weights_is_named(tmp_path, kind):
    path = tmp_path / "latest_net_G.pth"
    atomic_save({"w": torch.ones(64)}, path)
    assert torch.equal(read_file(path)["w"], torch.ones(64))
    spoil, message = NOT_WEIGHTS[kind]
    spoil(path)
    with pytest.raises(UserError, match=message) as caught:
        read_file(path)
    assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: [1, 2],
        lambda state: {},
        lambda state: {**state, "model": {}},
        lambda state: {**state, "model": 3},
        lambda state: {**state, "progress": None},
        lambda state: {**state, "rng": [{}]},
        lambda state: {**state, "rng": [{"cpu": torch.zeros(3)}]},
        lambda state: {**state, "options": [], "data": []},
        lambda state: {**state, "model": {name: {"0.weight": torch.ones(2)} for name in "GD"}},
    ],
)
def test_a_state_of_another_shape_is_one_line_with_the_ways_out(tmp_path, change):
    first = checkpoint(tmp_path)
    first.save_latest()
    path = first.folder / "latest_state.pt"
    torch.save(change(read_file(path)), path)
    with pytest.raises(
        UserError, match=r"latest_state.pt .*--continue_train.*--from_scratch"
    ) as caught:
        checkpoint(tmp_path).resume()
    assert "\n" not in str(caught.value)


def test_too_little_memory_to_go_on_with_a_state_is_no_fault_of_the_state(tmp_path, monkeypatch):
    checkpoint(tmp_path).save_latest()
    again = checkpoint(tmp_path)

    def no_room(state):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(again.model, "load_state_dict", no_room)
    with pytest.raises(torch.OutOfMemoryError, match=r"2\.00 GiB"):
        again.resume()


@pytest.mark.parametrize("spoil", [lambda p: p.write_bytes(p.read_bytes()[:500]), os.remove])
def test_a_damaged_state_gives_way_to_the_one_before(tmp_path, spoil):
    first = checkpoint(tmp_path)
    first.save_latest()
    with torch.no_grad():
        before = first.model.networks["G"][0].weight.clone()
        first.model.networks["G"][0].weight.add_(1)
    first.progress.advance()
    first.save_latest()
    spoil(first.folder / "latest_state.pt")

    again = checkpoint(tmp_path)
    notes = again.resume()
    assert torch.equal(again.model.networks["G"][0].weight, before)
    assert again.progress.images == 0
    warned = "going on from the state before it" in notes[0]
    assert warned == (first.folder / "latest_state.pt").exists()
    again.save_latest()
    assert find_state(again.folder).path.name == "latest_state.pt"


def test_a_state_takes_the_name_only_when_it_can_be_read_back(tmp_path, monkeypatch):
    first = checkpoint(tmp_path)
    first.save_latest()
    first.progress.advance()

    def torn(value, path):
        write_file(value, path)
        path.write_bytes(path.read_bytes()[:-200])

    monkeypatch.setattr("util.run.state_file.write_file", torn)
    with pytest.raises(NotSaved, match=r"cannot be read back.*The state saved before is intact"):
        first.save_latest()
    again = checkpoint(tmp_path)
    again.resume()
    assert again.progress.images == 0


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    opt, runtime, loader, model = build(tmp_path, "cycle_gan", None)
    run = Checkpoint(opt, runtime, model, Progress(1, 9, len(loader), 1))
    run.save_latest()
    good = (run.folder / "latest_state.pt").read_bytes()
    with torch.no_grad():
        next(model.networks["D_A"].parameters()).view(-1)[3] = torch.inf
    with pytest.raises(UserError, match=r"weights of netD_A are not finite.*latest_state.*--lr"):
        run.save_latest()
    assert (run.folder / "latest_state.pt").read_bytes() == good


# -- disks and folders -----------------------------------------------------------------------------


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_named_with_what_is_free(tmp_path, monkeypatch):
    with pytest.raises(OSError) as caught:
        write_file({"w": torch.ones(100_000)}, "/dev/full")
    assert caught.value.errno == errno.ENOSPC

    monkeypatch.setattr("util.run.weights.write_file", lambda *_: full())
    with pytest.raises(NotSaved, match=r"No space left on device \(\d+ MB are free\)"):
        atomic_save({}, tmp_path / "w.pth")


def full():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("place", ["/dev/null", "/proc/runs", "/dev/null/x"])
def test_a_folder_that_takes_no_files_is_found_before_training(tmp_path, place):
    opt = train_options(tmp_path)
    opt.checkpoints_dir = place
    run = Checkpoint(opt, Runtime("-1"), FakeModel(), Progress(1, 4, 10, 1))
    with pytest.raises(UserError, match=f"cannot be saved in {place}.*--checkpoints_dir"):
        run.begin()


def test_errors_of_the_system_are_one_line(capsys):
    def command():
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/mnt/x")

    assert exit_status(command) == 2
    assert (
        capsys.readouterr().err
        == "error: /mnt/x: Read-only file system; see to that disk or folder\n"
    )
    with pytest.raises(FileNotFoundError):  # a file that should be there is an error of ours
        exit_status(lambda: os.stat("/nowhere/at/all"))


def test_a_name_with_a_line_feed_leaves_a_message_in_one_line():
    """Found by the fuzz of folder trees."""
    assert str(UserError("train/a\nb\udc80.png is empty")) == "train/a\\nb\\udc80.png is empty"
    assert str(UserError("雪 “a” is fine")) == "雪 “a” is fine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: {**record, "options": None}, "its options are no dict"),
        (lambda record: {**record, "history": [3]}, "its history has an entry"),
        (lambda record: {**record, "options": record["options"] | {"ngf": None}}, "ngf is 'None'"),
        (lambda record: {**record, "options": record["options"] | {"netG": [1]}}, "netG is '1'"),
    ],
)
def test_a_record_that_was_changed_by_hand_is_named(tmp_path, change, message):
    """Found by the fuzz of records."""
    run = checkpoint(tmp_path)
    run.begin()
    run.close()
    path = run.folder / "train_opt.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=f"train_opt.json.*{message}.*restore or delete it"):
        parse(TestOptions(), ["--name", "run", "--checkpoints_dir", str(run.folder.parent)])


def test_training_goes_on_when_a_save_fails_and_tries_again():
    said, fail = [], [True, True, False]

    def save():
        if fail.pop(0):
            raise NotSaved("could not write x: No space left on device (0 MB are free)")

    run = SimpleNamespace(
        checkpoint=SimpleNamespace(save_latest=save, last_saved="x at image 8"),
        visualizer=SimpleNamespace(message=said.append),
        progress=SimpleNamespace(due=lambda frequency: True),
        opt=SimpleNamespace(save_latest_freq=1),
        not_saved=[],
    )
    saves = Saves(run)
    for _ in range(3):
        saves.after_step(last=False)
    assert len(said) == 2 and "tries again; last saved: x at image 8" in said[0]
    assert said[1] == "saving works again"
    fail.append(True)
    with pytest.raises(NotSaved):
        saves.after_step(last=True)


def test_where_a_run_ends_it_is_saved_although_another_file_cannot_be_written():
    saved = []

    def record():
        raise NotSaved("could not write train_opt.json")

    run = SimpleNamespace(
        checkpoint=SimpleNamespace(record=record, save_latest=lambda: saved.append("state")),
        not_saved=[],
    )
    with pytest.raises(NotSaved, match=r"train_opt\.json"):
        for report in (Record(run), Saves(run)):
            report.after_step(last=True)
    assert saved == ["state"]


def test_a_run_whose_folder_was_deleted_writes_its_options_again(tmp_path):
    run = checkpoint(tmp_path)
    run.begin()
    shutil.rmtree(run.folder)
    run.save_latest()
    record = json.loads((run.folder / "train_opt.json").read_text())
    assert record["options"]["netG"] == "resnet_4blocks"
    assert (run.folder / ".lock").exists()
    run.close()


def test_only_the_last_weights_are_kept(tmp_path):
    for label in ("latest", "2", "4", "10", "iter_9", "iter_100", "iter_20"):
        for average in (False, True):
            weights_file(tmp_path, label, "G", average).touch()
    remove_older(tmp_path, None)
    assert len(list(tmp_path.iterdir())) == 14
    remove_older(tmp_path, 2)
    left = {path.name.split("_net_")[0] for path in tmp_path.iterdir()}
    assert left == {"latest", "4", "10", "iter_100", "iter_20"}
    assert len(list(tmp_path.iterdir())) == 10


def test_lines_of_the_log_wait_for_a_disk_with_room(tmp_path, monkeypatch):
    log = RunLog(tmp_path / "run")
    log.start(0)
    working, short = log_files.append, [True]

    def append(path, line):
        if short[0]:
            full()
        working(path, line)

    monkeypatch.setattr(log_files, "append", append)
    for images in (1, 2):
        with pytest.raises(OSError):
            log.losses(f"line {images}", {"images": images})
    short[0] = False
    shutil.rmtree(tmp_path / "run")  # nor does a deleted folder matter
    log.losses("line 3", {"images": 3})
    records = log.metrics_path.read_text().splitlines()
    assert [json.loads(line)["images"] for line in records] == [1, 2, 3]


def test_a_page_that_cannot_be_written_is_tried_again(tmp_path):
    visualizer = Visualizer(train_options(tmp_path), tmp_path / "run", 10)
    said = []
    visualizer.message = said.append
    page = SimpleNamespace(name="web page", tries_again=True)
    other = SimpleNamespace(name="visdom")
    for sink in (page, page, other, other):
        visualizer._guard(sink, full)
    assert len(said) == 2 and "tried again" in said[0]
    assert "off for the rest" in said[1] and visualizer.off == {"visdom"}


# -- one process at a time -------------------------------------------------------------------------


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path):
    lock = FolderLock(tmp_path / "run", "is training this run", "give another --name")
    with folder_in_use(tmp_path / "run") as holder:
        expected = rf"process {holder.pid} on .* is training this run.*or give another --name"
        with pytest.raises(UserError, match=expected):
            lock.take()
    lock.take()  # that of a dead process is taken over
    lock.take()
    lock.drop()


# -- data ------------------------------------------------------------------------------------------


def test_a_lost_worker_is_one_line(tmp_path):
    opt = train_options(tmp_path, "--num_threads", "1", "--max_dataset_size", "4")
    loader = create_loader(opt, Runtime("-1"))
    batches = loader.epoch(1)
    next(batches)
    os.kill(loader._host._iterator._workers[0].pid, signal.SIGKILL)
    with pytest.raises(UserError, match=r"worker process \d+.* is gone \(SIGKILL") as caught:
        for _ in range(40):  # those that were ready still come
            next(batches, None)
            for _ in loader.epoch(2):
                pass
    assert "--num_threads" in str(caught.value)


def test_short_shared_memory_is_named(tmp_path, monkeypatch):
    opt = train_options(tmp_path, "--num_threads", "1")
    loader = create_loader(opt, Runtime("-1"))
    needed = 2 * 3 * 32 * 32 * (4 + 1)
    for free, fits in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(
            workers.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free)
        )
        with (
            contextlib.nullcontext()
            if fits
            else pytest.raises(UserError, match=r"/dev/shm.*--num_threads 0")
        ):
            check_shared_memory(loader.dataset, [(1, 0)], loader._host)


# -- signals ---------------------------------------------------------------------------------------


def stop(world_size=1):
    opt = SimpleNamespace(print_freq=1, max_minutes=None, max_steps=None, from_scratch=False)
    runtime = SimpleNamespace(world_size=world_size, agree=lambda number, confer: number)
    return Stop(opt, runtime, Progress(1, 2, 4, 1))


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_answered_after_the_step(number):
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("ignored by whatever started these tests, as nohup does")
    with stop() as asked:
        os.kill(os.getpid(), number)
        ending = asked.due()
    assert ending.status == 128 + number and "the same command continues" in ending.text


def test_only_a_later_ctrl_c_interrupts(monkeypatch):
    """What reaches a launcher and its processes comes twice within a moment; a scheduler may ask again and again."""
    handler = signal.getsignal(signal.SIGINT)
    asked = stop()
    asked._note(signal.SIGINT, None)
    asked._note(signal.SIGINT, None)
    monkeypatch.setattr("util.run.stop.INSIST", 0)
    asked._note(signal.SIGTERM, None)
    assert asked.asked().status == 128 + signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
        asked._note(signal.SIGINT, None)
    assert signal.getsignal(signal.SIGINT) == handler


def test_with_from_scratch_another_command_continues():
    with stop() as asked:
        assert asked.asked().text.endswith("; the same command continues")
        asked.opt.from_scratch = True
        assert asked.asked().text.endswith("; the same command without --from_scratch continues")


def test_a_signal_in_the_step_that_completes_a_run_changes_nothing():
    with stop() as asked:
        asked.opt.name, asked.opt.max_steps, asked.progress.max_steps = "run", 1, 1
        asked.progress.advance()
        os.kill(os.getpid(), signal.SIGTERM)
        ending = asked.due()
    assert ending.status == 0 and "--max_steps 1 is reached" in ending.text


def test_a_trace_that_cannot_be_written_does_not_end_training(tmp_path):
    said = []
    traced = SimpleNamespace(
        export_chrome_trace=lambda path: full(),
        key_averages=lambda: SimpleNamespace(table=lambda **_: "a table"),
    )
    StepProfiler(0, tmp_path, said.append)._write(traced)
    assert said[0] == "a table" and "trace.json.gz: No space left on device (" in said[1]


def test_one_of_several_processes_writes_the_trace(tmp_path):
    opt = SimpleNamespace(profile=1, checkpoints_dir=tmp_path, name="run")
    for is_main in (True, False):
        runtime, visualizer = SimpleNamespace(is_main=is_main), SimpleNamespace(message=print)
        report = Trace(SimpleNamespace(opt=opt, runtime=runtime, visualizer=visualizer))
        assert (report.profiler.profile is not None) == is_main
        report.close()


def test_a_signal_is_answered_while_data_are_waited_for():
    def stuck():
        yield "batch"
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)

    began = time.monotonic()
    with stop() as asked, pytest.raises(NoBatch) as caught:
        for batch in asked.fetch(stuck()):
            assert batch == "batch"
    assert time.monotonic() - began < 10
    assert caught.value.error is None and asked.asked().status == 128 + signal.SIGTERM


def test_one_of_several_processes_waits_a_while(monkeypatch):
    """The others may need it for the step under way; it gives up only when no data come."""
    monkeypatch.setattr("util.run.stop.PATIENCE", 1)

    def stuck(seconds):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(seconds)
        yield "batch"

    with stop(world_size=2) as asked:
        assert list(asked.fetch(stuck(0.1))) == ["batch"]
    with stop(world_size=2) as asked, pytest.raises(UserError, match="a signal came, and no image"):
        list(asked.fetch(stuck(30)))


def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# -- batch normalisation ---------------------------------------------------------------------------


def test_batch_normalisation_of_parts_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--accumulate 2: net.* has batch normalisation"):
        build(tmp_path, "pix2pix", None, "--batch_size", "2", "--accumulate", "2")


def test_the_image_pool_of_every_process_is_saved(tmp_path):
    _, runtime, loader, model = build(tmp_path, "cycle_gan", None)
    step(model, next(iter(loader.epoch(1))))
    own = model.state_dict()["memories"]
    assert len(own) == 1
    pools = []
    for rank in range(2):
        kept = {"images": torch.full((50, 3, 32, 32), float(rank)), "filled": torch.tensor([7])}
        pools.append({**own[0], "pool_A": {"_extra_state": kept}})
    state = {**model.state_dict(), "memories": pools}
    runtime.world_size = 3
    for rank, expected in ((0, 0.0), (1, 1.0), (2, 0.0)):
        runtime.rank = rank
        model.load_state_dict(state)
        assert model.pool_A.images[0].mean() == expected
