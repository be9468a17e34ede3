"""What travels to a GPU for ten minutes, and what is trained there: scripts/gpu_pack.py and scripts/gpu_train.py."""

import importlib
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch
from PIL import Image

from scripts import gpu_pack, gpu_train
from scripts.on_gpu import duel as duel_module
from scripts.on_gpu.carried import unpack_data, unpack_data_once, use_wheels
from scripts.on_gpu.duel import Duel
from tests.helpers import make_dataset, run_command
from util.errors import UserError

TINY = [
    "--netG", "resnet_4blocks", "--ngf", "4", "--ndf", "4", "--load_size", "36", "--crop_size", "32",
    "--num_threads", "0", "--num_patches", "8",
]  # fmt: skip


def duel(tmp_path, data):
    command = ["--out", str(tmp_path), "--dataroot", str(data), "--device", "-1"]
    args = gpu_train.parse_arguments([*command, "--vgg_weights", "random", "--", *TINY])
    return Duel(tmp_path, tmp_path / "state", data, gpu_train.flags_of(args), args.seed)


@pytest.fixture(scope="module")
def fought(tmp_path_factory):
    """Two calls of three steps each, in turns of two, over the end of an epoch of four."""
    root = tmp_path_factory.mktemp("duel")
    data = make_dataset(root / "data")
    for steps in (3, 6):
        both = duel(root, data)
        both.train(turn=2, most=steps, until=float("inf"))
        both.publish({"command": "c", "data": {"name": "toy"}})
    return root, both


def test_taking_turns_changes_nothing_of_a_run(fought, tmp_path):
    """The weights are those that train.py comes to alone, with the same seed, to the bit."""
    root, both = fought
    assert [fighter.steps for fighter in both.fighters] == [6, 6]
    where = ["--dataroot", root / "data", "--checkpoints_dir", tmp_path, "--name", "patchgcl"]
    flags = ["--preset", "shared", "--gpu_ids", "-1", "--display_id", "0", "--no_html"]
    flags += ["--vgg_weights", "random", "--max_steps", "6"]
    result = run_command(["train.py", *where, *flags, *TINY])
    assert result.returncode == 0, result.stderr
    states = []
    for folder in (tmp_path, root / "state"):
        file = folder / "patchgcl" / "latest_state.pt"
        states.append(torch.load(file, weights_only=True)["model"])
    for one, other in zip(*(s["networks"]["G"].values() for s in states), strict=True):
        assert torch.equal(one, other)


def test_each_call_adds_to_the_record(fought):
    root, _ = fought
    calls = json.loads((root / "results.json").read_text())["calls"]
    assert [call["methods"]["cut"]["steps"] for call in calls] == [3, 6]
    logged = [json.loads(line) for line in (root / "losses.jsonl").read_text().splitlines()]
    turns = [(line["method"], line["steps"]) for line in logged]
    assert turns == [(name, steps) for steps in (2, 3, 5, 6) for name in ("patchgcl", "cut")]
    assert "| 2 | cut | 6 | " in (root / "table.md").read_text()


def test_a_second_page_of_a_call_replaces_the_first(fought):
    root, both = fought
    both.publish({"command": "c", "data": {"name": "toy"}})
    calls = json.loads((root / "results.json").read_text())["calls"]
    assert [call["methods"]["cut"]["steps"] for call in calls] == [3, 6]


def test_what_a_step_says_of_itself_is_in_the_results(tmp_path, monkeypatch, capsys):
    """Such as why it is not recorded: said in the first turn, also where that turn fails."""
    both = duel(tmp_path, make_dataset(tmp_path / "data"))
    cut = both.fighters[1]
    step = cut.step

    def say(batch) -> None:
        cut.notes.append("--cuda_graph: steps are run one by one, since the moon is full")
        step(batch)
        raise RuntimeError("the GPU is lost")

    monkeypatch.setattr(cut, "step", say)
    monkeypatch.setattr(
        both.fighters[0], "save", lambda: (_ for _ in ()).throw(OSError("no space"))
    )
    both.train(turn=1, most=1, until=float("inf"))
    both.publish({})
    [call] = json.loads((tmp_path / "results.json").read_text())["calls"]
    assert call["methods"]["cut"]["told"][-1].endswith("since the moon is full")
    assert call["amiss"] == [
        "training ended early: RuntimeError: the GPU is lost",
        "patchgcl is not saved: no space",
        "cut is as it was saved before",
    ]


def test_what_cannot_be_measured_is_told_and_the_rest_is_there(fought, tmp_path, capsys):
    root, both = fought
    both.measure(tmp_path / "results", None, until=float("inf"))
    both.publish({})
    assert len(both.amiss) == 2 and "give --inception FILE" in both.amiss[0]
    assert "- cut is not measured: " in (root / "table.md").read_text()

    # so that it can be measured elsewhere
    translated = unpack_data(root, tmp_path / "of_cut", "cut.tar")
    for path in both.folders["cut"].glob("images/fake_B/*.png"):
        packed = np.asarray(Image.open(translated / f"{path.stem}.webp"))
        assert np.array_equal(packed, np.asarray(Image.open(path)))
    width, height = Image.open(root / "pictures.jpg").size
    assert width > height > 3 * 32, "inputs and two methods, four images side by side"
    both.measure(tmp_path / "results", Path("inception.pth"), until=0)
    assert both.amiss[-1] == "cut is not measured: no time was left"


def test_the_figures_that_evaluate_writes_stand_in_the_table(fought, tmp_path, monkeypatch):
    root, both = fought
    figures = {"fid": {"value": 1.25, "n": {}}, "kid": {"value": 0.5, "n": {}}}

    def write(args):
        args.out.write_text(json.dumps({"figures": figures}))

    stands_in = create_autospec(duel_module.evaluate.evaluate, side_effect=write)  # called as it is
    monkeypatch.setattr(duel_module.evaluate, "evaluate", stands_in)
    both.measure(tmp_path / "results", Path("inception.pth"), until=float("inf"))
    both.publish({})
    row = (root / "table.md").read_text().strip().splitlines()
    assert [line for line in row if "| cut |" in line][-1].endswith("| 0.5 | 1.25 |")


def test_a_method_that_was_left_behind_catches_up(fought):
    root, both = fought
    both.fighters[0].run(1)
    both.fighters[0].save()
    again = duel(root, root / "data")
    assert [fighter.steps for fighter in again.fighters] == [7, 7]


def test_the_end_of_all_epochs_ends_the_training_not_the_call(tmp_path):
    """Eight images in two epochs, in turns of six steps; then there is nothing left to do, and that is told."""
    data = make_dataset(tmp_path / "data")
    short = ["--n_epochs", "1", "--n_epochs_decay", "1"]
    command = ["--out", str(tmp_path), "--dataroot", str(data), "--device", "-1"]
    args = gpu_train.parse_arguments([*command, "--vgg_weights", "random", "--", *TINY, *short])
    for _ in range(2):
        both = Duel(tmp_path, tmp_path / "state", data, gpu_train.flags_of(args), args.seed)
        both.train(turn=6, most=None, until=float("inf"))
        both.publish({})
        assert [fighter.steps for fighter in both.fighters] == [8, 8]
        assert both.amiss == ["all epochs are done; give more with -- --n_epochs N"]
    assert duel_state(tmp_path, "cut")["progress"]["images"] == 8


def duel_state(root: Path, name: str) -> dict:
    return torch.load(root / "state" / name / "latest_state.pt", weights_only=True)


def test_an_error_keeps_what_was_reached(tmp_path, monkeypatch):
    """CUT fails in its second turn: PatchGCL is saved as it is, CUT as it was, and both are told of."""
    both = duel(tmp_path, make_dataset(tmp_path / "data"))
    monkeypatch.setattr(duel_module, "SAVE_AFTER", 0.0)
    cut = both.fighters[1]

    def fail_later(path: Path | None) -> None:
        if cut.steps > 2:
            raise UserError("the loss is not finite")

    monkeypatch.setattr(cut.model, "check_finite", fail_later)
    both.train(turn=2, most=6, until=float("inf"))
    both.publish({})
    assert both.amiss == [
        "training ended early: UserError: the loss is not finite",
        "cut is as it was saved before",
    ]
    assert [duel_state(tmp_path, f.name)["progress"]["images"] for f in both.fighters] == [4, 2]
    assert "the loss is not finite" in (tmp_path / "table.md").read_text()


def test_bad_input_is_one_line(tmp_path):
    args = gpu_train.parse_arguments(["--out", str(tmp_path), "--carried", str(tmp_path)])
    with pytest.raises(
        UserError, match=r"give --dataroot DIR, or gather one with scripts/gpu_pack"
    ):
        gpu_train.data_of(args)
    with pytest.raises(SystemExit):
        gpu_train.parse_arguments(["--out", "x", "--limit", "50"])


@pytest.fixture
def shelf(tmp_path):
    """Things to pack."""
    data = make_dataset(tmp_path / "my_data", count=6)
    (tmp_path / "vgg16.pth").write_bytes(b"weights")
    release = tmp_path / "their"
    for name in ("models/PatchGCL.py", ".git/x.py", "imgs/a.png", "LICENSE"):
        (release / name).parent.mkdir(parents=True, exist_ok=True)
        (release / name).write_text(name)
    return tmp_path, ["--out", str(tmp_path / "out"), "--dataroot", str(data), "--wheels"]


def test_a_packed_folder_holds_what_was_asked_for_and_says_its_size(shelf, capsys):
    root, flags = shelf
    more = ["--weights", str(root / "vgg16.pth"), "--official", str(root / "their")]
    for _ in range(2):  # the second call replaces the folder of the first
        assert gpu_pack.main([*flags, *more, "--images", "2", "--quality", "60"]) == 0
    out = root / "out"
    packed = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    released = ["released/LICENSE", "released/models/PatchGCL.py"]
    assert packed == ["data.tar", "manifest.json", *released, "vgg16.pth"]
    assert "MiB  in all, of at most 60: " in capsys.readouterr().out

    data = unpack_data(out, root / "unpacked")
    names = {p.name: sorted(f.name for f in p.iterdir()) for p in data.iterdir()}
    assert names["trainA"] == ["image_000.webp", "image_003.webp"] and len(names["testB"]) == 6
    facts = json.loads((out / "manifest.json").read_text())
    assert facts["data"]["of"]["trainA"] == [2, 6] and facts["data"]["name"] == "my_data"
    assert "quality 60" in facts["data"]["images as"] and len(facts["vgg16.pth"]) == 64
    args = gpu_train.parse_arguments(["--out", "x", "--carried", str(out)])
    assert gpu_train.facts_of(args, data)["images as"] == "WebP of quality 60"
    assert gpu_train.flags_of(args)["patchgcl"][-1] == str(out / "vgg16.pth")


def test_only_a_packed_folder_is_replaced(shelf):
    root, flags = shelf
    mine = root / "out" / "deep" / "weights.pth"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"weeks of work")
    with pytest.raises(UserError, match="was not made by this script"):
        gpu_pack.main(flags)
    assert mine.read_bytes() == b"weeks of work"


def test_two_carried_data_sets_are_not_mixed(shelf):
    root, flags = shelf
    folders = []
    for more in ([], ["--images", "2"], []):
        gpu_pack.main([*flags, *more])
        folders.append(unpack_data_once(root / "out", root / "unpacked"))
    counts = [len(list((folder / "trainA").iterdir())) for folder in folders]
    assert counts == [6, 2, 6] and folders[0] == folders[2]
    assert len(list((root / "unpacked").iterdir())) == 2


def test_files_travel_as_they_are_without_a_quality(shelf):
    root, flags = shelf
    gpu_pack.main(flags)
    with tarfile.open(root / "out" / "data.tar") as archive:
        file = archive.extractfile("trainA/image_000.png").read()
    assert file == (root / "my_data" / "trainA" / "image_000.png").read_bytes()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--weights", "nowhere.pth"], "--weights nowhere.pth does not exist"),
        (["--official", "nowhere"], "no models/PatchGCL.py there"),
        (["--dataroot", "nowhere"], "no folder trainA"),
    ],
)
def test_what_is_not_there_is_one_line_and_leaves_nothing(tmp_path, flags, words):
    with pytest.raises(UserError, match=words):
        gpu_pack.main(["--out", str(tmp_path / "out"), "--wheels", *flags])
    assert not list(tmp_path.iterdir())


def test_too_much_is_refused_with_the_sizes(shelf, monkeypatch):
    root, flags = shelf
    monkeypatch.setattr(gpu_pack, "MOST", 0.01)
    with pytest.raises(UserError, match=r"too much, at most 0\.01 may travel \(data\.tar"):
        gpu_pack.main(flags)
    assert not (root / "out").exists()


def test_carried_libraries_are_found_and_do_not_hide_installed_ones(tmp_path, monkeypatch):
    """Here and in processes started from here."""
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / "far_away-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("far_away/__init__.py", "VALUE = 7")
    with zipfile.ZipFile(tmp_path / "wheels" / "numpy-0.1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("numpy/__init__.py", "raise RuntimeError")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert use_wheels(tmp_path, tmp_path / "unpacked") == ["far_away"]
    assert importlib.import_module("far_away").VALUE == 7
    code = "import far_away, numpy; print(far_away.VALUE)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "7"
    assert os.environ["PYTHONPATH"] == str(tmp_path / "unpacked")
    assert use_wheels(None, tmp_path) == []
