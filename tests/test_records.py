"""Records tell the truth: what a run was trained with, with what data, and whose pictures a figure is of."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from models.inference.translate import translate
from options import TestOptions, TrainOptions, parse
from scripts import evaluate
from tests.helpers import make_dataset, make_image_folder, train_flags
from tests.test_commands import assert_same_run, state
from train import train
from util.errors import UserError, exit_status
from util.run.folder import data_label, describe_history
from util.run.same_data import changed_parts, data_print
from util.run.weights import read_file

SHORT = [
    "--n_epochs",
    "1",
    "--n_epochs_decay",
    "0",
    "--max_dataset_size",
    "2",
    "--save_epoch_freq",
    "99",
]


@pytest.fixture
def trained(tmp_path, capsys):
    """A finished run of two steps; returns its folder."""
    assert run(tmp_path) == 0
    capsys.readouterr()
    return tmp_path / "checkpoints" / "run"


def run(root, *flags: str) -> int:
    """train.py in this process, with the smallest of methods; returns the exit status."""
    flags = train_flags(root, *SHORT, *flags, model="cut")
    return exit_status(lambda: train(parse(TrainOptions(), flags)))


def record(folder) -> dict:
    return json.loads((folder / "train_opt.json").read_text())


def test_options(root, *flags):
    where = ["--checkpoints_dir", str(root / "checkpoints"), "--results_dir", str(root / "results")]
    return parse(TestOptions(), ["--name", "run", *where, "--gpu_ids", "-1", *flags])


test_options.__test__ = False


# -- a finished run -----------------------------------------------------------------------------------


def test_a_finished_run_keeps_its_record(tmp_path, trained, capsys):
    before = (trained / "train_opt.json").read_bytes(), (trained / "train_opt.txt").read_bytes()
    assert run(tmp_path, "--lr", "0.1", "--lambda_NCE", "5") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "already complete, nothing was trained" in error
    assert "--lr 0.1 (then 0.0002)" in error and "--lambda_NCE 5.0 (then 1.0)" in error
    assert before == (
        (trained / "train_opt.json").read_bytes(),
        (trained / "train_opt.txt").read_bytes(),
    )


def test_the_same_command_on_a_finished_run_says_that_it_did_nothing(tmp_path, trained, capsys):
    weights = (trained / "latest_net_G.pth").read_bytes()
    assert run(tmp_path) == 0
    assert "already complete, nothing was trained" in capsys.readouterr().out
    assert run(tmp_path, "--print_freq", "7", "--num_threads", "0") == 0, (
        "no effect on what is learned"
    )
    assert run(tmp_path, "--max_steps", "1", "--max_minutes", "5") == 0, "it has come to its end"
    assert run(tmp_path, "--num_threads", "1", "--cache", "ram", "--skip_bad_images") == 0
    assert weights == (trained / "latest_net_G.pth").read_bytes()


def test_a_run_that_is_past_its_new_end_is_not_called_complete(tmp_path, capsys):
    assert run(tmp_path, "--n_epochs", "3", "--max_steps", "4") == 0
    assert run(tmp_path, "--n_epochs", "1") == 2
    error = capsys.readouterr().err
    assert "has already come to the end that --n_epochs 1 (then 3) would give it" in error
    assert "complete" not in error and error.count("\n") == 1


def test_a_finished_run_can_be_trained_on(tmp_path, trained, capsys):
    assert run(tmp_path, "--n_epochs", "2") == 0
    assert "training is complete" in capsys.readouterr().out
    assert record(trained)["options"]["n_epochs"] == 2
    [start, more] = record(trained)["history"]
    assert (start["from_image"], more["from_image"]) == (0, 2)
    assert more["changes"] == {"n_epochs": [1, 2]}


# -- another run under the same name ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--direction", "BtoA"], "--direction BtoA contradicts the run in"),
        (["--seed", "7"], "--seed 7 contradicts the run in"),
        (["--init_gain", "0.5"], "--init_gain 0.5 contradicts the run in"),
        (["--init_type", "normal"], "--init_type normal contradicts the run in"),
        (["--epoch_count", "2", "--n_epochs", "3"], "--epoch_count 2 contradicts the run in"),
        (
            ["--continue_train", "--epoch_count", "201", "--n_epochs", "300"],
            "leave --continue_train and --epoch_count out",
        ),
        (["--model", "negcut"], "--model negcut contradicts the run in"),
        (["--batch_size", "2"], "use the same images, --batch_size and --accumulate, or another"),
    ],
)
def test_what_weights_have_seen_is_kept_for_life(tmp_path, trained, capsys, flags, said):
    before = (trained / "train_opt.json").read_bytes()
    assert run(tmp_path, *flags) == 2
    assert said in capsys.readouterr().err
    assert before == (trained / "train_opt.json").read_bytes()


def test_other_data_under_the_same_name_are_refused_by_their_images(tmp_path, trained, capsys):
    other = make_dataset(tmp_path / "mine", count=4, size=(44, 40))
    before = (trained / "train_opt.json").read_bytes()
    assert run(tmp_path, "--dataroot", str(other)) == 2
    error = capsys.readouterr().err
    assert f"--dataroot {other} holds other images of domain A than" in error
    assert "give another --name" in error
    assert before == (trained / "train_opt.json").read_bytes()


def test_the_same_data_at_another_place_go_on(tmp_path, trained, capsys):
    moved = (tmp_path / "data").rename(tmp_path / "moved")
    assert run(tmp_path, "--dataroot", str(moved)) == 0, "a finished run"
    line = f"the same images, at another place: {tmp_path / 'data'} -> {moved}"
    assert line in capsys.readouterr().out
    assert run(tmp_path, "--dataroot", str(tmp_path / "moved"), "--n_epochs", "2") == 0
    assert record(trained)["options"]["dataroot"] == str(tmp_path / "moved")
    assert line in capsys.readouterr().out


def test_a_mended_file_is_no_other_data(tmp_path, capsys):
    """What a run stopped at can be replaced, and the same command goes on."""
    assert run(tmp_path, "--max_steps", "1") == 0
    [path, *_] = sorted((tmp_path / "data" / "trainA").iterdir())
    Image.open(path).save(path, compress_level=0)
    assert run(tmp_path) == 0
    assert "a few files of domain A have changed since the last start" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "same"), [([], 0), ([3], 1), (range(8), 8), (range(9), None), (range(64), None)]
)
def test_few_parts_may_change_and_no_name(changed, same):
    files = [(f"{index}.png", index) for index in range(64)]
    before = data_print(files)
    for index in changed:
        files[index] = (f"{index}.png", 1000)
    assert changed_parts(before, data_print(files)) == same
    assert changed_parts(before, data_print([*files[1:], ("x.png", 5)])) is None
    assert changed_parts(data_print([("one.png", 1)]), data_print([("one.png", 2)])) is None


def test_without_a_name_another_data_set_asks_for_one(tmp_path, capsys):
    default = ["--name", "experiment_name"]
    assert run(tmp_path, *default) == 0
    other = make_dataset(tmp_path / "mine", count=4, size=(44, 40))
    assert run(tmp_path, *default, "--dataroot", str(other)) == 2
    assert "give this run a --name" in capsys.readouterr().err


# -- a run that goes on with other options ------------------------------------------------------------


def test_a_record_is_written_when_it_is_trained(tmp_path, capsys):
    """A start that ends before its first step leaves the record of what has been trained."""
    assert run(tmp_path, "--max_steps", "1") == 0
    folder = tmp_path / "checkpoints" / "run"
    before = (folder / "train_opt.json").read_bytes()
    pictures = {path: path.read_bytes() for path in (tmp_path / "data" / "trainA").iterdir()}
    for path, content in pictures.items():
        path.write_bytes(b"x" * len(content))
    assert run(tmp_path, "--lr", "0.001") == 2
    assert "not an image" in capsys.readouterr().err
    assert before == (folder / "train_opt.json").read_bytes()

    for path, content in pictures.items():
        path.write_bytes(content)
    assert run(tmp_path, "--lr", "0.001") == 0
    assert record(folder)["options"]["lr"] == 0.001


def test_a_continued_run_lists_its_history(tmp_path):
    assert run(tmp_path, "--max_steps", "1") == 0
    assert run(tmp_path, "--lr", "0.001") == 0
    folder = tmp_path / "checkpoints" / "run"
    assert record(folder)["history"][1]["changes"] == {
        "max_steps": [1, None],
        "lr": [0.0002, 0.001],
    }
    line = "from image 1 on: lr 0.0002 -> 0.001, max_steps 1 -> None"
    assert line in (folder / "train_opt.txt").read_text()
    gallery = translate(test_options(tmp_path))
    assert line.replace(">", "&gt;") in (gallery.folder / "index.html").read_text()


def test_a_run_that_goes_on_under_another_commit_says_so_everywhere(tmp_path, monkeypatch, capsys):
    def under(commit: str) -> None:
        monkeypatch.setattr("util.hardware.provenance.git_commit", lambda: commit)

    under("first")
    assert run(tmp_path, "--max_steps", "1") == 0
    assert run(tmp_path, "--max_steps", "1") == 0
    assert "changed since" not in capsys.readouterr().out
    under("second")
    assert run(tmp_path, "--max_steps", "2") == 0
    assert "changed since the last start: commit first -> second\n" in capsys.readouterr().out

    [recipe, versions, line, *_] = (
        (tmp_path / "checkpoints" / "run" / "train_opt.txt").read_text().splitlines()
    )
    assert recipe.startswith("recipe: cut") and versions.startswith("with: commit second, python")
    assert line == "from image 1 on: max_steps 1 -> 2, commit first -> second"

    under("third")
    gallery = translate(test_options(tmp_path))
    facts = json.loads((gallery.folder / "facts.json").read_text())["facts"]
    assert facts["trained"] == line and facts["trained with"] == versions.removeprefix("with: ")
    assert facts["commit"] == "third", "what translated"
    assert "commit second, python" in (gallery.folder / "index.html").read_text()


def test_a_history_without_versions_tells_its_options():
    """As a record may have that was changed by hand."""
    chapters = [
        {"from_image": 0, "changes": {}, "versions": {"torch": "1"}},
        {"from_image": 4, "changes": {"lr": [1, 2]}},
        {"from_image": 8, "changes": {}, "versions": {"torch": "2", "new": "3"}},
    ]
    assert describe_history({"history": chapters}) == [
        "from image 4 on: lr 1 -> 2",
        "from image 8 on: torch 1 -> 2",
    ]


def test_a_limit_is_named_as_what_ended_the_run(tmp_path, capsys):
    assert run(tmp_path, "--max_steps", "1") == 0
    said = capsys.readouterr().out
    assert "--max_steps 1 is reached at epoch 1, image 1" in said and "complete" not in said
    assert run(tmp_path, "--max_steps", "2", "--max_minutes", "0.00001") == 0
    assert "--max_minutes 1e-05 are over at epoch 1, image 2" in capsys.readouterr().out


def test_weights_are_written_before_the_state_that_stands_for_them(tmp_path, monkeypatch):
    """A process that dies in a save leaves an older state, never one whose weights are missing."""
    written = []
    monkeypatch.setattr(
        "util.run.checkpoint.save_together",
        lambda files: written.extend(path.name for path in files),
    )
    monkeypatch.setattr(
        "util.run.checkpoint.write_state", lambda state, folder: written.append("state")
    )
    assert run(tmp_path) == 0
    assert written[-1] == "state"
    assert {"latest_net_G.pth", "1_net_G.pth"} <= set(written)


def die(*_, **__):
    """In place of a part of a run: the process is killed there."""
    raise RuntimeError("killed")


@pytest.mark.parametrize(
    "place",
    [
        "models.step.parts.Parts.end_epoch",
        "util.run.evaluations.Evaluations.measure",
        "util.run.checkpoint.Checkpoint.save_epoch",
    ],
)
def test_what_ends_the_last_epoch_is_done_by_the_same_command(tmp_path, monkeypatch, capsys, place):
    """The state saved in the last step has done all its steps, and yet the run is not complete."""
    flags = ["--save_latest_freq", "1", "--eval_freq", "9", "--eval_metrics", "edges"]
    flags += ["--eval_split", "test"]
    assert run(tmp_path, *flags, "--name", "whole") == 0

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(place, die)
        run(tmp_path, *flags)
    folder = tmp_path / "checkpoints" / "run"
    assert state(tmp_path)["progress"]["images"] == 2 and not (folder / "1_net_G.pth").exists()

    capsys.readouterr()
    assert run(tmp_path, *flags) == 0
    said = capsys.readouterr().out
    assert "training is complete" in said and "already complete" not in said
    assert_same_run(state(tmp_path), state(tmp_path, "whole"))
    for name in ("1_net_G.pth", "best_net_G.pth"):
        [one, two] = (read_file(tmp_path / "checkpoints" / r / name) for r in ("run", "whole"))
        assert all(torch.equal(value, two[key]) for key, value in one.items())
    assert len((folder / "evaluation.jsonl").read_text().splitlines()) == 1
    assert run(tmp_path, *flags) == 0
    assert "already complete, nothing was trained" in capsys.readouterr().out


def test_a_kill_in_the_first_save_leaves_a_run_that_begins_anew(tmp_path, monkeypatch, capsys):
    flags = ["--save_latest_freq", "1"]
    assert run(tmp_path, *flags, "--name", "whole") == 0
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr("util.run.checkpoint.write_state", die)
        run(tmp_path, *flags)
    assert (tmp_path / "checkpoints" / "run" / "latest_net_G.pth").exists()

    assert run(tmp_path, *flags) == 0
    assert "was cut off in its first save: training begins anew" in capsys.readouterr().out
    assert_same_run(state(tmp_path), state(tmp_path, "whole"))
    assert not (tmp_path / "checkpoints" / "run" / ".first_save").exists()


def test_a_run_without_a_step_left_takes_no_other_options(tmp_path, monkeypatch, capsys):
    """Also where the end of its last epoch is still to be done."""
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr("models.step.parts.Parts.end_epoch", die)
        run(tmp_path, "--save_latest_freq", "1")
    assert run(tmp_path, "--save_latest_freq", "1", "--lr", "0.1") == 2
    assert "--lr 0.1 (then 0.0002) cannot take effect" in capsys.readouterr().err


# -- pages --------------------------------------------------------------------------------------------


def test_data_and_direction_stand_on_every_page(tmp_path, trained):
    for page in (
        trained / "web" / "index.html",
        translate(test_options(tmp_path)).folder / "index.html",
    ):
        text = page.read_text()
        assert str(tmp_path / "data") in text and "AtoB" in text, page
        assert "cut, preset official, float32" in text, page


def test_test_py_keeps_to_the_direction_of_the_run(tmp_path, trained):
    with pytest.raises(
        UserError, match="--direction BtoA contradicts the training run, which translates AtoB"
    ):
        test_options(tmp_path, "--direction", "BtoA")
    assert test_options(tmp_path, "--direction", "AtoB").direction == "AtoB"


# -- results ------------------------------------------------------------------------------------------


def test_other_data_have_a_folder_of_their_own(tmp_path, trained):
    """So one photo does not move the pictures of a test set aside, nor is it measured among them."""
    own = translate(test_options(tmp_path)).folder
    before = sorted(path.name for path in (own / "images" / "fake_B").iterdir())
    [photo] = make_image_folder(tmp_path / "photos", 1)
    other = translate(test_options(tmp_path, "--dataroot", str(photo))).folder
    assert own.name == "test_latest" and other.name == f"test_latest_on_{data_label(str(photo))}"
    assert re.fullmatch(r"test_latest_on_image_000\.png-[0-9a-f]{6}", other.name)
    assert sorted(path.name for path in (own / "images" / "fake_B").iterdir()) == before
    assert not (own / "earlier").exists()
    translate(test_options(tmp_path, "--dataroot", str(tmp_path / "data")))
    assert len(list((tmp_path / "results" / "run").iterdir())) == 2, (
        "the run's own data by another word"
    )


def measure(root, *flags: str) -> int:
    where = ["--checkpoints_dir", root / "checkpoints", "--results_dir", root / "results"]
    return evaluate.main([str(part) for part in (*where, *flags)])


def give_truth(data, shift: int) -> None:
    """A truth for the test images of A: a little brighter."""
    (data / "testA_truth").mkdir()
    for path in (data / "testA").iterdir():
        image = np.asarray(Image.open(path)).astype(int) + shift
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(data / "testA_truth" / path.name)


def test_figures_belong_to_the_data_that_were_translated(tmp_path, trained, capsys):
    other = make_dataset(tmp_path / "mine", count=3)
    for data in (tmp_path / "data", other):
        give_truth(data, 30)
    assert measure(tmp_path, "--name", "run", "--dataroot", other) == 2
    assert f"python test.py --name run --dataroot {other}" in capsys.readouterr().err

    own_size = ["--size", "own"]  # that of the truth
    translate(test_options(tmp_path, *own_size))
    theirs = translate(test_options(tmp_path, *own_size, "--dataroot", str(other))).folder
    assert measure(tmp_path, "--name", "run", "--dataroot", other) == 0
    assert measure(tmp_path, "--name", "run") == 0
    own = json.loads((tmp_path / "results" / "run" / "test_latest" / "truth.json").read_text())
    found = json.loads((theirs / "truth.json").read_text())
    assert (own["counts"]["images"], found["counts"]["images"]) == (4, 3)
    assert found["folders"]["truth"] == str(other / "testA_truth")
    assert found["run"]["trained_on"] == str(tmp_path / "data")


def test_what_is_left_out_of_a_measure_is_said(tmp_path, capsys):
    for name in ("fake", "input", "truth"):
        make_image_folder(tmp_path / name, 1, seed=sum(map(ord, name)))
    (tmp_path / "fake" / "film.mov").write_bytes(b"x")
    folders = [f"--{name}={tmp_path / name}" for name in ("fake", "input", "truth")]
    assert measure(tmp_path, *folders) == 0
    assert f"{tmp_path / 'fake'}: left out 1 file: .mov 1" in capsys.readouterr().out


def test_a_folder_of_several_kinds_is_not_measured_as_one(tmp_path, trained, capsys):
    folder = translate(test_options(tmp_path)).folder
    assert (
        measure(tmp_path, "--fake", folder / "images", "--real", tmp_path / "data" / "testB") == 2
    )
    error = capsys.readouterr().err
    assert "pictures of several kinds (fake_B, real_A)" in error and "fake_B" in error


@pytest.mark.parametrize("command", ["test.py", "evaluate.py"])
def test_a_mistyped_name_is_answered_with_the_likely_one(tmp_path, trained, capsys, command):
    if command == "test.py":
        where = ["--checkpoints_dir", str(tmp_path / "checkpoints"), "--gpu_ids", "-1"]
        flags = ["--name", "runn", "--model", "cut", "--dataroot", str(tmp_path / "data"), *where]
        status = exit_status(lambda: translate(parse(TestOptions(), flags)) and 0)
    else:
        translate(test_options(tmp_path))
        status = measure(tmp_path, "--name", "runn")
    assert status == 2
    error = capsys.readouterr().err
    assert "--name runn: " in error and "did you mean 'run'?" in error
    assert error.count("\n") == 1
