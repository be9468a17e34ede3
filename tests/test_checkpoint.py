"""Files of weights and states: written whole, read safely, told apart from anything else."""

import errno
import pickle

import pytest
import torch
from torch import nn

from models.patchgcl_model import PatchGCLModel
from tests.helpers import train_options
from util.errors import UserError
from util.hardware.runtime import Runtime
from util.run.changes import compare_options
from util.run.checkpoint import Checkpoint, load_for_inference
from util.run.folder import move_aside
from util.run.progress import Progress
from util.run.restarts import JOBS, RESTARTS
from util.run.weights import (
    NotSaved,
    atomic_save,
    load_weights,
    read_file,
    save_together,
    write_file,
)


def small_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4), nn.Conv2d(4, 3, 1))


def test_weights_survive_a_round_trip(tmp_path):
    one, two = small_net(), small_net()
    atomic_save(one.state_dict(), tmp_path / "1_net_G.pth")
    load_weights(two, tmp_path / "1_net_G.pth")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert [p.name for p in tmp_path.iterdir()] == ["1_net_G.pth"]


def test_released_layouts_load(tmp_path):
    net = small_net()
    state = {f"module.{key}": value for key, value in net.state_dict().items()}
    state |= {"module.1.running_mean": torch.zeros(4), "module.1.running_var": torch.ones(4)}
    torch.save(state, tmp_path / "w.pth")
    other = small_net()
    load_weights(other, tmp_path / "w.pth")
    assert torch.equal(other[0].weight, net[0].weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: {**s, "0.weight": torch.zeros(8, 3, 3, 3)},
            r"0\.weight is \(8, 3, 3, 3\) in the file and \(4,",
        ),
        (lambda s: {k: v for k, v in s.items() if k != "2.bias"}, r"2\.bias is missing"),
        (
            lambda s: {**s, "2.weights": torch.zeros(1)},
            r"holds 2\.weights, unknown here \(here: 2\.weight\)",
        ),
        (lambda s: [1, 2], "does not hold the weights of one network"),
    ],
)
def test_weights_that_do_not_fit_say_why(tmp_path, change, message):
    torch.save(change(dict(small_net().state_dict())), tmp_path / "w.pth")
    with pytest.raises(UserError, match=message) as caught:
        load_weights(small_net(), tmp_path / "w.pth")
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_files(tmp_path):
    atomic_save(small_net().state_dict(), tmp_path / "5_net_G.pth")
    with pytest.raises(UserError, match=r"latest_net_G\.pth does not exist; .* holds 5_net_G\.pth"):
        read_file(tmp_path / "latest_net_G.pth")
    whole = (tmp_path / "5_net_G.pth").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"hello"):
        (tmp_path / "5_net_G.pth").write_bytes(content)
        with pytest.raises(UserError, match="damaged or not a file of weights"):
            read_file(tmp_path / "5_net_G.pth")


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_file_never_runs_code(tmp_path, capsys):
    (tmp_path / "w.pth").write_bytes(pickle.dumps(Evil(), protocol=2))
    torch.save({"a": Evil()}, tmp_path / "v.pth")
    for name in ("w.pth", "v.pth"):
        with pytest.raises(UserError, match="damaged or not"):
            read_file(tmp_path / name)
    assert "code ran" not in capsys.readouterr().out


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "w.pth"
    atomic_save({"a": 1}, path)
    with pytest.raises(UserError, match="could not write"):
        atomic_save({"a": 2}, tmp_path / "w.pth" / "inside_a_file.pth")
    assert read_file(path) == {"a": 1}


def test_a_crash_while_writing_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "w.pth"
    atomic_save({"a": 1}, path)

    def half(value, file):
        file.write(b"half")
        raise RuntimeError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(UserError, match="disk full"):
        atomic_save({"a": 2}, path)
    assert read_file(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["w.pth"]


class FakeModel:
    """Just enough of a model for a checkpoint."""

    FIRST_WEIGHTS = ()

    def __init__(self) -> None:
        self.networks = {"G": small_net(), "D": small_net()}
        self.averages = {}

    def state_dict(self):
        return {name: net.state_dict() for name, net in self.networks.items()}

    def load_state_dict(self, state):
        for name, net in self.networks.items():
            net.load_state_dict(state[name])

    def check_finite(self, last):
        pass

    def check_weights(self, last):
        pass


def checkpoint(tmp_path, *flags, progress=None):
    opt = train_options(tmp_path, *flags)
    return Checkpoint(opt, Runtime("-1"), FakeModel(), progress or Progress(1, 4, 10, 1))


def test_random_numbers_continue(tmp_path):
    first = checkpoint(tmp_path)
    torch.rand(3)
    first.save_latest()
    expected = torch.rand(3)
    second = checkpoint(tmp_path)
    second.resume()
    assert torch.equal(torch.rand(3), expected)


def test_nothing_to_continue(tmp_path):
    assert checkpoint(tmp_path).resume() == []
    with pytest.raises(UserError, match="does not exist"):
        checkpoint(tmp_path, "--continue_train").resume()


def test_a_folder_with_weights_only_is_never_overwritten(tmp_path):
    first = checkpoint(tmp_path)
    first.save_latest()
    (first.folder / "latest_state.pt").unlink()
    with pytest.raises(UserError, match="holds weights but no training state: --continue_train"):
        checkpoint(tmp_path).resume()
    second = checkpoint(tmp_path, "--continue_train", "--epoch_count", "3")
    notes = second.resume()
    assert "epoch 3" in notes[-1]
    assert torch.equal(second.model.networks["D"][0].weight, first.model.networks["D"][0].weight)


def test_weights_of_another_run(tmp_path):
    first = checkpoint(tmp_path, "--name", "other")
    first.save_epoch(7)
    second = checkpoint(tmp_path, "--pretrained_name", "other", "--epoch", "7")
    assert "7_net_G.pth, 7_net_D.pth" in second.resume()[0]
    assert torch.equal(second.model.networks["G"][0].weight, first.model.networks["G"][0].weight)


def test_a_different_architecture_is_refused_and_other_changes_are_told(tmp_path):
    checkpoint(tmp_path).save_latest()
    with pytest.raises(UserError, match=r"--ngf 8 contradicts the run .* which has 4"):
        checkpoint(tmp_path, "--ngf", "8").resume()
    assert (
        "changed since the last start: lr 0.0002 -> 0.001"
        in checkpoint(tmp_path, "--lr", "0.001").resume()
    )
    with pytest.raises(UserError, match=r"--lr_policy cosine contradicts .* which has linear"):
        checkpoint(tmp_path, "--lr_policy", "cosine").resume()
    with pytest.raises(UserError, match="steps per epoch 10, this command gives 11"):
        checkpoint(tmp_path, progress=Progress(1, 4, 11, 1)).resume()
    saved = {"gone": 1, **vars(train_options(tmp_path))}
    assert compare_options(saved, train_options(tmp_path)) == []


# -- weights that only the first start reads -------------------------------------------------------------------------


def test_a_run_that_goes_on_reads_no_first_weights(tmp_path):
    """The command that began it may be repeated, or the flags left out; asked for others it says what to do."""
    checkpoint(tmp_path, "--name", "other").save_epoch(7)
    began = ["--pretrained_name", "other", "--epoch", "7"]
    first = checkpoint(tmp_path, *began)
    first.resume()
    first.save_latest()
    for flags in (began, [], began):
        again = checkpoint(tmp_path, *flags)
        assert again.resume() == ["continuing at epoch 1, image 0"]
        assert (again.opt.pretrained_name, again.opt.epoch) == ("other", "7"), "the record's"
        again.save_latest()

    with pytest.raises(
        UserError,
        match=r"--epoch 3 would have no effect, .* continues from latest_state.pt: leave the flag out, "
        "or .* another --name and --pretrained_name run --epoch 3",
    ):
        checkpoint(tmp_path, "--epoch", "3").resume()
    with pytest.raises(UserError, match="--pretrained_name other would have no effect"):
        checkpoint(tmp_path, "--name", "other", "--pretrained_name", "other").resume()


def test_a_method_may_have_first_weights_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(FakeModel, "FIRST_WEIGHTS", PatchGCLModel.FIRST_WEIGHTS)
    checkpoint(tmp_path, "--init_F", "1_net_F.pth").save_latest()
    assert checkpoint(tmp_path).resume() == ["continuing at epoch 1, image 0"]
    with pytest.raises(UserError, match=r"--init_F 2_net_F.pth would have no effect"):
        checkpoint(tmp_path, "--init_F", "2_net_F.pth").resume()


# -- the first save ----------------------------------------------------------------------------------------------------


def cut_off_in_a_save(run, monkeypatch, error):
    """The weights are written, the state is not."""

    def fail(*_):
        raise error

    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr("util.run.checkpoint.write_state", fail)
        run.save_latest()


@pytest.mark.parametrize("error", [RuntimeError("killed"), NotSaved("the disk is full")])
def test_the_same_command_begins_anew_after_a_first_save_that_was_cut_off(
    tmp_path, monkeypatch, error
):
    cut_off_in_a_save(checkpoint(tmp_path), monkeypatch, error)
    again = checkpoint(tmp_path)
    assert again.resume() == [
        "an earlier start was cut off in its first save: training begins anew"
    ]
    again.save_latest()
    assert checkpoint(tmp_path).resume() == ["continuing at epoch 1, image 0"]

    (again.folder / "latest_state.pt").unlink()  # by hand: then the weights are all there is
    with pytest.raises(UserError, match="holds weights but no training state"):
        checkpoint(tmp_path).resume()
    with pytest.raises(UserError, match="holds weights but no training state"):
        checkpoint(tmp_path, "--pretrained_name", "run").resume()


def test_weights_that_were_there_before_the_first_save_are_never_overwritten(tmp_path, monkeypatch):
    """--continue_train names them; without it nothing begins anew on top of them."""
    flags = ["--continue_train"]
    folder = checkpoint(tmp_path).folder
    for name in "GD":
        atomic_save(small_net().state_dict(), folder / f"latest_net_{name}.pth")
    begun = checkpoint(tmp_path, *flags)
    begun.resume()
    cut_off_in_a_save(begun, monkeypatch, RuntimeError("killed"))
    with pytest.raises(UserError, match="holds weights but no training state"):
        checkpoint(tmp_path).resume()
    assert "these may be weights that it trained" in checkpoint(tmp_path, *flags).resume()[-1]


# -- starts that a scheduler makes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "restarts"),
    [
        ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"),
        ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"),
    ],
)
def test_a_job_that_is_started_again_goes_on_with_what_it_began(
    tmp_path, monkeypatch, job, restarts
):
    def start():
        run = checkpoint(tmp_path, "--from_scratch")
        notes = run.begin()
        found = run.progress.images
        run.progress.advance()
        run.save_latest()
        run.close()
        earlier = len(list((tmp_path / "checkpoints").glob("run.before-*")))
        return found, earlier, any("which goes on" in note for note in notes)

    for name in (*JOBS, *RESTARTS):
        monkeypatch.delenv(name, raising=False)
    assert start() == (0, 0, False)

    monkeypatch.setenv(job, "7")
    assert start() == (0, 1, False)
    monkeypatch.setenv(restarts, "1")
    assert start() == (1, 1, True)
    assert start() == (2, 1, True)

    monkeypatch.setenv(job, "8")  # whose first start ended before it had begun anything
    assert start() == (0, 2, False)
    monkeypatch.setenv(restarts, "0")  # typed again, in the same job
    assert start() == (0, 3, False)


# -- averages ----------------------------------------------------------------------------------------------------------


def test_weights_without_an_average_leave_none_of_an_earlier_start(tmp_path):
    """test.py would take it for that of these weights."""
    first = checkpoint(tmp_path, "--ema", "0.9")
    first.model.averages = {"G": small_net()}
    first.save_epoch(1)
    first.save_weights("best")

    again = checkpoint(tmp_path)
    again.save_latest()
    again.save_weights("best")
    left = sorted(path.name for path in again.folder.glob("*_ema.pth"))
    assert left == ["1_net_G_ema.pth"]
    model = FakeModel()
    del model.networks["D"]
    assert load_for_inference(model, again.folder, "latest") == ["latest_net_G.pth"]
    assert torch.equal(model.networks["G"][0].weight, again.model.networks["G"][0].weight)


def test_weights_of_one_label_are_written_together(tmp_path, monkeypatch):
    """So that a disk that fills up leaves no mixture."""
    paths = [tmp_path / f"latest_net_{name}.pth" for name in "GD"]
    save_together(dict.fromkeys(paths, 1))

    count = iter((False, True))

    def second_fails(value, path):
        if next(count):
            raise OSError(errno.ENOSPC, "No space left on device")
        write_file(value, path)

    monkeypatch.setattr("util.run.weights.write_file", second_fails)
    with pytest.raises(NotSaved, match=r"latest_net_D.pth: No space left"):
        save_together(dict.fromkeys(paths, 2))
    assert [read_file(path) for path in paths] == [1, 1]
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_the_old_run_is_moved_never_deleted(tmp_path):
    folder = tmp_path / "run"
    assert move_aside(folder) is None
    folder.mkdir()
    (folder / "a").write_text("kept")
    assert (move_aside(folder) / "a").read_text() == "kept"
    assert not folder.exists()
    folder.mkdir()
    move_aside(folder)  # within the same second
    assert len(list(tmp_path.glob("run.before-*"))) == 2
