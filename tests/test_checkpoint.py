"""Files of weights and states: written whole, read safely, told apart from anything else."""

import pickle

import pytest
import torch
from torch import nn

from tests.helpers import train_options
from util.errors import UserError
from util.hardware.runtime import Runtime
from util.run.checkpoint import Checkpoint, compare_options
from util.run.folder import move_aside
from util.run.progress import Progress
from util.run.weights import atomic_save, load_weights, read_file


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


def test_the_old_run_is_moved_never_deleted(tmp_path):
    folder = tmp_path / "run"
    assert move_aside(folder) is None
    folder.mkdir()
    (folder / "a").write_text("kept")
    assert (move_aside(folder) / "a").read_text() == "kept"
    assert not folder.exists()
