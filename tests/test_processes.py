"""Several processes: started by --gpu_ids, sharing what test.py translates, killed, resumed on another number."""

import copy
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from models.inference import translate
from tests.helpers import REPO, run_command, run_together, start_command, train_flags
from tests.test_commands import flat, state, wait_for_records
from tests.test_models import build
from util.errors import UnfitImage, UserError
from util.hardware.launch import check_numbers, set_signals
from util.hardware.watch import Watch
from util.run.progress import Progress
from util.run.stop import SIGNALS, Stop

QUICK = ["--n_epochs", "2", "--n_epochs_decay", "0", "--batch_size", "2", "--print_freq", "2"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A run of two processes, as `--gpu_ids -1,-1` starts it; afterwards its own test set, by one and by two."""
    root = tmp_path_factory.mktemp("pair")
    flags = train_flags(root, *QUICK, "--gpu_ids=-1,-1", model="cycle_gan")
    launched = run_command(["train.py", *flags])
    where = ["--checkpoints_dir", root / "checkpoints", "--name", "run", "--gpu_ids", "-1"]
    test = ["test.py", *where, "--results_dir"]
    alone = run_command([*test, root / "alone"])
    return root, launched, alone, run_together([*test, root / "together"], 2)


def test_several_devices_start_several_processes(pair):
    root, launched, *_ = pair
    assert launched.returncode == 0, launched.stderr
    assert "CPU, 2 processes, float32)" in launched.stdout
    assert launched.stdout.count("training is complete") == 1
    saved = state(root)
    per_process = (saved["rng"], saved["model"]["memories"], saved["model"]["epoch_loss"])
    assert [len(parts) for parts in per_process] == [2, 2, 2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_the_launcher_reaches_its_processes(tmp_path, number):
    """They save and say so; it ends as one process does."""
    flags = train_flags(tmp_path, *QUICK, "--n_epochs", "900", "--gpu_ids=-1,-1", model="cycle_gan")
    process = start_command(["train.py", *flags])
    wait_for_records(tmp_path, 1, process)
    process.send_signal(number)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + number, output
    assert output.count("stopped at epoch") == 1 and "Traceback" not in output
    assert len(state(tmp_path)["rng"]) == 2


def test_the_launcher_passes_on_what_a_run_answers(monkeypatch):
    for name in ("PET_SIGNALS_TO_HANDLE", "PET_SHUTDOWN_TIMEOUT"):
        monkeypatch.setenv(name, "")  # put back afterwards
    ignored = signal.getsignal(signal.SIGHUP)
    try:
        for handler in (signal.SIG_DFL, signal.SIG_IGN):
            signal.signal(signal.SIGHUP, handler)
            del os.environ["PET_SIGNALS_TO_HANDLE"]
            set_signals()
            names = os.environ["PET_SIGNALS_TO_HANDLE"].split(",")
            answered = {number.name for number in SIGNALS}
            nohup = {"SIGHUP"} if handler == signal.SIG_IGN else set()
            assert answered - set(names) == nohup
    finally:
        signal.signal(signal.SIGHUP, ignored)

    monkeypatch.setenv("PET_SHUTDOWN_TIMEOUT", "7")
    set_signals()
    assert os.environ["PET_SHUTDOWN_TIMEOUT"] == "7", "as the user has it"


def test_an_error_of_several_processes_is_one_line(pair):
    root, *_ = pair
    flags = train_flags(root, *QUICK, "--gpu_ids=-1,-1", "--ngf", "8", model="cycle_gan")
    refused = run_command(["train.py", *flags])
    assert refused.returncode == 2
    assert re.fullmatch(r"error: --ngf 8 contradicts the run .*\n", refused.stderr), refused.stderr


def test_several_processes_share_what_is_translated(pair):
    root, _, alone, together = pair
    assert alone.returncode == 0 and together.statuses == [0, 0], together.stderr
    assert together.stdout.count("images/s") == 1
    one, two = (root / name / "run" / "test_latest" for name in ("alone", "together"))
    pictures = sorted(path.relative_to(one) for path in one.glob("images/*/*.png"))
    assert len(pictures) == 6 * 4  # inputs, translations and what comes back, in both directions
    for picture in pictures:
        assert (one / picture).read_bytes() == (two / picture).read_bytes(), picture
    pages = [
        re.findall(r"images/[^\"&]+\.png", (folder / "index.html").read_text())
        for folder in (one, two)
    ]
    assert pages[0] == pages[1] and len(pages[0]) >= 24


def test_a_process_whose_images_are_all_unfit_leaves_the_rest_to_the_others():
    """All end with one error only where no process has made a picture."""

    def show(batch):
        raise UnfitImage("too small")

    loader = SimpleNamespace(
        dataset=SimpleNamespace(result_names=lambda: ["a"]), epoch=lambda _: [{"index": [0]}]
    )
    model = SimpleNamespace(sources=lambda batch, k: ("a.png",), show=show)
    bar = SimpleNamespace(tell=None, told={}, join=dict, leave_out=lambda *_: None)
    for others, fails in (([("b", [])], False), ([], True)):
        gallery = SimpleNamespace(rows=[], files=set(), flush=lambda: None)
        further = (others, set(), {}, [])
        runtime = SimpleNamespace(
            autocast=torch.no_grad, gather=lambda own, f=further: [own, f], tell=lambda text: text
        )
        left_out = translate.translate_all(loader, model, runtime, gallery, bar, None)
        left_out += translate.bring_together(runtime, gallery, bar, left_out)
        assert left_out == ["a.png: too small"]
        if fails:
            with pytest.raises(UserError, match=r"a\.png: too small"):
                translate.refuse_if_empty(runtime, gallery, left_out)
        else:
            translate.refuse_if_empty(runtime, gallery, left_out)


def test_each_process_goes_on_with_the_losses_that_it_has_added_up(tmp_path, monkeypatch):
    """For --lr_policy plateau; on another number of processes with their mean, from an old state with what is there."""
    _, runtime, _, model = build(tmp_path, "cycle_gan", None)
    one, two = torch.tensor([[3.0, 2.0], [5.0, 2.0]], dtype=torch.float64)
    others = {Tensor: two}
    monkeypatch.setattr(runtime, "gather", lambda own: [own, others.get(type(own), own)])
    model._epoch_loss.copy_(one)
    saved = copy.deepcopy(model.state_dict())
    old = {**saved, "epoch_loss": one}
    for state_of, count, rank, expected in (
        (saved, 2, 0, one),
        (saved, 2, 1, two),
        (saved, 1, 0, (one + two) / 2),
        (saved, 3, 2, (one + two) / 2),
        (old, 2, 1, one),
        (old, 1, 0, one),
    ):
        runtime.world_size, runtime.rank = count, rank
        model.load_state_dict(state_of)
        assert torch.equal(model._epoch_loss, expected)


def adam_steps(model: dict) -> set[int]:
    """The steps that the optimizers of a saved model have counted."""
    return {
        int(value) for path, value in flat(model["optimizers"]).items() if path.endswith("step")
    }


def farthest(one: dict, two: dict) -> float:
    """The largest difference between the weights of two saved models."""
    a, b = flat(one["networks"]), flat(two["networks"])
    assert a.keys() == b.keys()
    return max((value - b[key]).abs().max().item() for key, value in a.items())


def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    """2, then 1, then 2; the images are those of a run that one process trained, and so are the counters."""
    flags = train_flags(tmp_path, *QUICK, "--n_epochs", "3", model="cycle_gan")
    command = ["train.py", *flags, "--max_steps"]
    kept = None
    for steps, count, rate in ((2, 2, 1e-2), (4, 1, 1e-6), (6, 2, 1e-6)):
        ended = run_together([*command, steps, "--lr", rate], count)
        assert not any(ended.statuses), ended.stderr
        reached = state(tmp_path)["model"]
        assert adam_steps(reached) == {steps}
        if kept:  # the first steps went far from the initial weights, those since are tiny
            assert farthest(reached, kept) <= 2 * 3 * rate
        kept = reached
    result = run_command([*command, 6, "--name", "alone"])
    assert result.returncode == 0, result.stderr
    changed, alone = state(tmp_path), state(tmp_path, "alone")
    assert changed["progress"] == alone["progress"]
    assert changed["model"]["networks"].keys() == alone["model"]["networks"].keys()
    for name, net in changed["model"]["networks"].items():
        assert all(torch.isfinite(value).all() for value in net.values()), name


@pytest.mark.parametrize(
    ("numbers", "message"),
    [("0,2", "'2' is no GPU of this machine, which has 2"), ("0,x", "'x' is no GPU"), ("1,1", "twice")],
)  # fmt: skip
def test_gpus_that_are_not_there_are_named(numbers, message):
    with pytest.raises(UserError, match=message):
        check_numbers(numbers.split(","), 2)
    check_numbers(["0", "1"], 2)
    check_numbers(["-1", "-1"], 0)


def test_processes_compare_notes_by_the_clock(monkeypatch):
    """Every two seconds, whatever --print_freq is: at each step where one takes longer, at few where they are short."""
    now = [0.0]
    monkeypatch.setattr("util.run.stop.time.monotonic", lambda: now[0])

    class Two:
        world_size = 2
        conferred = 0

        def agree(self, number, confer):
            self.conferred += 0.5 * confer  # when to do so again is agreed too
            return number if confer else 0

    opt = type("Options", (), {"max_minutes": None, "print_freq": 10**9})
    for seconds, low, high in ((3.0, 100, 100), (0.1, 5, 8)):
        runtime = Two()
        stop = Stop(opt, runtime, Progress(1, 9, 1000, 1))
        for _ in range(100):
            now[0] += seconds
            assert stop.due() is None
        assert low <= runtime.conferred <= high


def test_the_scripts_short_form(tmp_path):
    """SIGKILL at random moments, one process and two: the same end, bit for bit; a lost process ends the other."""
    flags = ["--kills", 2, "--epochs", 4, "--models", "cycle_gan", "--folder", tmp_path]
    result = run_command([REPO / "scripts" / "kill_runs.py", *flags], timeout=600)
    assert result.returncode == 0, result.stderr
    alone, two, lost = result.stdout.splitlines()
    assert "1 process: 2 SIGKILLs" in alone and "equal bit for bit" in alone
    assert "2 processes: 2 SIGKILLs" in two and "equal bit for bit" in two
    assert "error: process 1 of 2" in lost


def test_the_first_process_keeps_the_store_until_the_others_have_ended(monkeypatch):
    """The second process asks the store, which lies with the first one, whether its error has been told."""
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(server.port))
    one, two = (Watch(rank, 2) for rank in range(2))

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(one.fail, "bad input")
        with pytest.raises(TimeoutError):
            ended.result(0.5)
        assert not two.fail("bad input")
        assert ended.result(2)
