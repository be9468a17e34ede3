"""Measuring in training: held-out images, last and best, every log, and a training that does not notice it."""

import errno
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data import find_dataset
from data.held_out import split_held_out
from models import create_model
from models.inference.evaluation import Evaluator, evaluation_options
from models.inference.translate import translate
from options import TestOptions, TrainOptions, parse
from options.test_sizes import as_trained
from tests.helpers import make_dataset, make_image_folder, train_flags, train_options
from train import main
from util.errors import UserError, exit_status
from util.hardware.batch_norm import share_batch_norms
from util.hardware.runtime import Runtime
from util.metrics.suite import find_measures
from util.run import evaluations
from util.run.evaluations import Evaluations
from util.run.folder import run_dir
from util.run.progress import Progress
from util.run.weights import NotSaved, read_file

EVAL = ["--eval_freq", "4", "--eval_metrics", "edges", "--n_epochs", "1", "--n_epochs_decay", "1"]


@pytest.fixture
def train(tmp_path, monkeypatch):
    """train.py in this process: flags -> exit status; the run is called "run"."""

    def call(*flags: str, model: str = "cut") -> int:
        argv = train_flags(tmp_path, *flags, model=model)
        monkeypatch.setattr(sys, "argv", ["train.py", *argv])
        return exit_status(main)

    make_dataset(tmp_path / "data", count=6)
    return call


def rows(folder) -> list[dict]:
    text = (folder / "evaluation.jsonl").read_text()
    found = [json.loads(line) for line in text.splitlines()]
    for row in found:
        row.pop("seconds")
    return found


def weights(folder, label: str) -> dict:
    return read_file(folder / f"{label}_net_G.pth")


def equal(one: dict, other: dict) -> bool:
    return all(torch.equal(value, other[key]) for key, value in one.items())


# --- which images ---------------------------------------------------------------------------------------------------


def test_held_out_images_are_spread_and_at_most_a_tenth():
    paths = [f"{number:03d}.png" for number in range(100)]
    training, kept = split_held_out(paths, 5, "x")
    assert kept == ["010.png", "030.png", "050.png", "070.png", "090.png"]
    assert sorted(training + kept) == paths and not set(training) & set(kept)
    assert (
        len(split_held_out(paths, 50, "x")[1]) == 10
        and len(split_held_out(paths[:8], 50, "x")[1]) == 2
    )
    with pytest.raises(UserError, match=r"x holds 3 images, too few .*--eval_split val"):
        split_held_out(paths[:3], 2, "x")
    with pytest.raises(UserError, match=r"--max_dataset_size 3 takes 3 images of x, too few"):
        split_held_out(paths[:3], 2, "x", limit=3)
    with pytest.raises(UserError, match=r"--eval_images 1: .*of 2 images at least"):
        split_held_out(paths, 1, "x")


def test_training_never_sees_what_it_is_measured_on(tmp_path):
    make_dataset(tmp_path / "data", count=12)
    seeds = []
    for seed in ("0", "1"):
        opt = parse(TrainOptions(), train_flags(tmp_path, *EVAL, "--seed", seed, model="cut"))
        dataset = find_dataset(opt.dataset_mode)
        training, measured = dataset(opt), dataset(evaluation_options(opt))
        for role in "AB":
            assert (
                len(training.domains[role].paths) == 10 and len(measured.domains[role].paths) == 2
            )
            assert not set(training.domains[role].paths) & set(measured.domains[role].paths)
        seeds.append(measured.domains["A"].paths)
    assert seeds[0] == seeds[1]
    assert measured.plan(1, 0)["A"].source.size == (32, 32), "as the last epochs see them, uncut"


def test_images_to_measure_on_can_be_a_set_of_their_own(tmp_path):
    make_dataset(tmp_path / "data", count=30)
    for seed, name in enumerate(("valA", "valB")):
        make_image_folder(tmp_path / "data" / name, 5, seed=seed)
    flags = [*EVAL, "--eval_split", "val", "--eval_images", "2"]
    for split, kept, measured in (("val", 30, 5), ("holdout", 28, 2)):
        flags[-3] = split
        opt = parse(TrainOptions(), train_flags(tmp_path, *flags, model="cut"))
        dataset = find_dataset(opt.dataset_mode)
        assert {len(dataset(opt).domains[role].paths) for role in "AB"} == {kept}
        found = dataset(evaluation_options(opt)).domains["A"].paths
        assert len(found) == measured
        assert {path.parent.name for path in map(Path, found)} == {
            "valA" if split == "val" else "trainA"
        }


def test_one_of_several_processes_measures_all_images(tmp_path):
    """The others wait meanwhile: they have no part of the images, nor do batch statistics ask them."""
    make_dataset(tmp_path / "data", count=6)
    flags = ["--normG", "batch", *EVAL, "--eval_split", "test"]
    opt = parse(TrainOptions(), train_flags(tmp_path, *flags, model="cut"))
    runtime = Runtime("-1")
    model = create_model(opt, runtime)
    alone = Evaluator(opt, runtime)(model)
    assert alone.counts == {"fake": 6, "real": 6}

    runtime.world_size = 2
    share_batch_norms(model.networks["G"])
    together = Evaluator(opt, runtime)(model)
    assert (together.figures, together.counts) == (alone.figures, alone.counts)


def test_the_judge_computes_where_the_run_does(tmp_path, monkeypatch):
    make_dataset(tmp_path / "data", count=2)
    devices = []
    monkeypatch.setattr(
        "models.inference.evaluation.Inception", lambda *_, device: devices.append(device)
    )
    flags = ["--eval_freq", "4", "--eval_split", "test"]
    opt = parse(TrainOptions(), train_flags(tmp_path, *flags, model="cut"))
    Evaluator(opt, Runtime("-1"))
    assert devices == [torch.device("cpu")]


# --- the run --------------------------------------------------------------------------------------------------------


def test_training_is_the_same_with_measuring(tmp_path, train):
    """Measured on images that are not trained on anyway; dropout and batch norm are where it could show."""
    net = ["--no_dropout", "false", "--normG", "batch", "--ema", "0.5"]
    flags = ["--max_steps", "6", *EVAL[-4:], "--dataset_mode", "unaligned", *net]
    assert train(*flags, "--eval_freq", "2", "--eval_metrics", "edges", "--eval_split", "test") == 0
    folder = tmp_path / "checkpoints" / "run"
    measured = weights(folder, "latest")
    folder.rename(tmp_path / "measured")
    assert train(*flags) == 0
    assert equal(weights(folder, "latest"), measured)
    assert not (folder / "evaluation.jsonl").exists() and not (folder / "best_net_G.pth").exists()
    last = rows(tmp_path / "measured")[-1]
    assert (last["weights"], last["images"], last["split"]) == ("moving average", 6, "test")


def test_last_and_best_are_told_apart(tmp_path, train, monkeypatch, capsys):
    """Values are set from outside, so that the second of three is the best."""
    values = iter([0.3, 0.8, 0.5])
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("util.metrics.structure.edges", lambda *_: 0.0)
    monkeypatch.setattr(
        "models.inference.evaluation.Evaluator._measure", lambda *_: {"edges": next(values)}
    )
    assert train(*EVAL, "--max_steps", "8", "--eval_freq", "3", "--use_tensorboard") == 0
    folder = tmp_path / "checkpoints" / "run"
    found = rows(folder)
    assert [(row["images"], row["best"]) for row in found] == [(3, True), (6, True), (8, False)]
    assert not equal(weights(folder, "best"), weights(folder, "latest"))

    output = capsys.readouterr().out
    assert "(best 0.8 at image 6;" in output and "measuring took" in output
    assert "% of the training time; best edges 0.8 at image 6" in output
    curves = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [c["losses"] for c in curves if "eval/edges" in c["losses"]] == [
        {"eval/edges": 0.3}, {"eval/edges": 0.8}, {"eval/edges": 0.5}
    ]  # fmt: skip
    page = (folder / "web" / "index.html").read_text()
    chart = page[page.index("eval/edges") :]
    assert chart.count("<path") >= 1 and "L" in chart.split('d="')[1].split('"')[0], "a line"

    log = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [s.step for s in log.Scalars("eval/edges")] == [3, 6, 8]

    where = ["--checkpoints_dir", tmp_path / "checkpoints", "--results_dir", tmp_path / "results"]
    argv = ["--name", "run", "--epoch", "best", "--num_test", "1", "--gpu_ids", "-1", *where]
    gallery = translate(parse(TestOptions(), [str(part) for part in argv]))
    assert gallery.folder.name == "test_best" and "best_net_G.pth" in gallery.description["weights"]


def test_a_continued_run_has_the_values_of_an_uninterrupted_one(tmp_path, train):
    flags = [*EVAL, "--save_latest_freq", "4"]
    assert train(*flags) == 0
    folder = tmp_path / "checkpoints" / "run"
    whole = rows(folder)
    assert [row["images"] for row in whole] == [4, 8], "two epochs of four images"
    shutil.move(folder, tmp_path / "whole")

    assert train(*flags, "--max_steps", "5") == 0
    later = [*rows(folder), {**whole[-1], "images": 7, "best": True}]
    text = "".join(json.dumps({**row, "seconds": 1}) + "\n" for row in later)
    (folder / "evaluation.jsonl").write_text(text)  # as after a kill beyond the saved state
    assert train(*flags) == 0
    assert [row for row in rows(folder) if row["images"] != 5] == whole


def test_pairs_are_measured_against_their_truth(tmp_path, train):
    make_image_folder(tmp_path / "data" / "train", 5, size=(72, 36))
    flags = [*EVAL[:2], "--eval_metrics", "l1,ssim", "--max_steps", "2"]
    assert train(*flags, model="pix2pix") == 0
    [row] = rows(tmp_path / "checkpoints" / "run")
    assert row["n"] == {"fake": 2, "real": 2} and 0 < row["figures"]["l1"] < 1


# --- which is the best ----------------------------------------------------------------------------------------------


class Measured:
    """An evaluation report on its own: values come from outside, saves can be made to fail, what is said is kept."""

    def __init__(self, root, metric="ssim", **yardstick):
        self.said, self.saved, self.disk_is_full = [], [], False
        self.progress = Progress(1, 1, 100, 1)
        self.opt = SimpleNamespace(
            checkpoints_dir=root, name="run", eval_freq=1, eval_feature="2048"
        )
        self.found = SimpleNamespace(figures={}, counts={"fake": 6, "real": 6}, seconds=1.0)
        self.metric, facts = metric, {"decides": metric, "split": "val", **yardstick}
        evaluator = lambda model: self.found  # noqa: E731  (it has attributes as well)
        evaluator.measures = find_measures([metric], "--eval_metrics")
        evaluator.title, evaluator.yardstick = (lambda measure: measure.title), (lambda: facts)
        evaluator.scaled = Evaluator.scaled
        self.run = SimpleNamespace(
            opt=self.opt,
            progress=self.progress,
            evaluator=evaluator,
            runtime=SimpleNamespace(
                is_main=True, tell=int, agree=lambda n, confer: n, barrier=bool
            ),
            model=SimpleNamespace(check_finite=lambda last: None, averages={}),
            checkpoint=SimpleNamespace(
                last_saved="none yet",
                save_weights=self.save,
                save_latest=lambda: self.save("state"),
            ),
            visualizer=SimpleNamespace(
                message=self.said.append, evaluation=lambda *args: self.said.append(args[-1])
            ),
            not_saved=[],
        )

    def save(self, label):
        if self.disk_is_full:
            raise NotSaved("could not write x: No space left on device")
        lines = [row["images"] for row in rows(run_dir(self.opt))] if label == "state" else None
        self.saved.append((label, self.progress.images, lines))

    def at(self, images, *values):
        """A start at image `images`, and a step for each value."""
        self.progress.images = images
        report = Evaluations(self.run)
        for value in values:
            self.found.figures = {self.metric: value}
            self.progress.advance()
            report.after_step(last=False)
        return report


def best_of(root) -> list[tuple[int, bool]]:
    return [(row["images"], row["best"]) for row in rows(root / "run")]


def test_weights_are_saved_before_the_line_and_the_line_before_the_state(tmp_path):
    """A process that dies in between goes on from before the measurement, and drops the line."""
    measured = Measured(tmp_path)
    measured.at(0, 0.3, 0.2)
    assert measured.saved == [("best", 1, None), ("state", 1, [1])]


def test_a_best_whose_weights_could_not_be_saved_is_none(tmp_path):
    """A later one that is better than what lies on the disk is kept, though the disk was full at a better one."""
    measured = Measured(tmp_path)
    report = measured.at(0, 0.3)
    measured.disk_is_full = True
    measured.found.figures = {"ssim": 0.9}
    measured.progress.advance()
    report.after_step(last=False)
    assert "could not write x" in measured.said[-2] and "training goes on" in measured.said[-2]
    assert "(the best so far, but its weights could not be saved;" in measured.said[-1]

    measured.disk_is_full = False
    assert measured.at(2, 0.5).best["images"] == 3
    assert best_of(tmp_path) == [(1, True), (2, False), (3, True)]
    assert [images for label, images, _ in measured.saved if label == "best"] == [1, 3]

    measured.disk_is_full = True
    measured.found.figures = {"ssim": 0.9}
    measured.at(3).measure(last=True)
    assert "could not write x" in str(measured.run.not_saved[0]), "raised once the run is saved"


@pytest.mark.parametrize(
    "line", [b"17", b"{}", b"\xff", b'{"images": 1}', b'{"images": 1, "best": true}']
)
def test_a_damaged_line_is_no_measurement(tmp_path, line):
    Measured(tmp_path).at(0, 0.3)
    with (tmp_path / "run" / "evaluation.jsonl").open("ab") as file:
        file.write(line + b"\n")
    assert Measured(tmp_path).at(1, 0.2).best["images"] == 1
    assert best_of(tmp_path) == [(1, True), (2, False)]


def test_a_line_that_does_not_fit_on_the_disk_waits(tmp_path, monkeypatch):
    measured = Measured(tmp_path)
    report = measured.at(0)
    working = evaluations.append

    def full(path, line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(evaluations, "append", full)
    measured.save = measured.saved.append
    measured.run.checkpoint.save_latest = lambda: None
    measured.found.figures = {"ssim": 0.9}
    measured.progress.advance()
    report.after_step(last=False)
    assert "evaluation.jsonl: No space left on device (" in measured.said[0]

    monkeypatch.setattr(evaluations, "append", working)
    measured.opt.eval_freq = 10  # none is due
    measured.progress.advance()
    report.after_step(last=False)
    assert best_of(tmp_path) == [(1, True)] and measured.said[-1] == "saving works again"


@pytest.mark.parametrize(
    "changed",
    [
        {"metric": "l1"},
        {"split": "test"},
        {"feature": "768"},
        {"inception": "another"},
        {"scaled": "resize to 256"},
        {"files": "others"},
        {"n": 5},
    ],
)
def test_a_best_that_was_measured_otherwise_is_none(tmp_path, changed):
    asked = {"metric": "ssim", "feature": "2048", "inception": "one"}
    asked |= {"scaled": "resize to 128", "files": "some"}
    Measured(tmp_path, **asked).at(0, 0.9)
    count = changed.pop("n", 6)
    measured = Measured(tmp_path, **(asked | changed))
    measured.found.counts = {"fake": count, "real": 6}
    assert measured.at(1, 0.5, 0.4).best["images"] == (3 if "metric" in changed else 2)
    said = [text for text in measured.said if "cannot be compared" in text]
    assert len(said) == 1 and said[0].startswith(
        "best ssim 0.9 at image 1 was measured otherwise ("
    )


def test_lines_of_earlier_versions_count_as_measured_with_the_recorded_layer(tmp_path):
    Measured(tmp_path, feature="2048").at(0, 0.9)
    path = tmp_path / "run" / "evaluation.jsonl"
    row = json.loads(path.read_text())
    del row["decides"], row["feature"]
    path.write_text(json.dumps(row) + "\n")
    record = {"options": {"eval_feature": "2048"}, "recipe": "", "versions": {}}
    (tmp_path / "run" / "train_opt.json").write_text(json.dumps(record))
    assert Measured(tmp_path, feature="2048").at(1, 0.5).best["images"] == 1
    other = Measured(tmp_path, feature="768")
    assert other.at(1, 0.5).best["images"] == 2
    assert "feature 2048 -> 768" in other.said[0]


def test_lines_of_earlier_versions_count_as_measured_on_images_of_the_recorded_size(tmp_path):
    """And on the same images, of which nothing is known."""
    sizes = {"preprocess": "resize_and_crop", "load_size": 143, "crop_size": 128}
    Measured(tmp_path).at(0, 0.9)
    record = {"options": sizes, "recipe": "", "versions": {}}
    (tmp_path / "run" / "train_opt.json").write_text(json.dumps(record))
    now = {"scaled": Evaluator.scaled(sizes), "files": "some"}
    assert Measured(tmp_path, **now).at(1, 0.5).best["images"] == 1

    larger = Measured(tmp_path, scaled=Evaluator.scaled(sizes | {"crop_size": 256}))
    assert larger.at(1, 0.5).best["images"] == 2
    assert "scaled resize to 128 -> resize to 256" in larger.said[0]


def test_the_yardstick_knows_size_and_images(tmp_path):
    make_dataset(tmp_path / "data", count=4)

    def yardstick(*flags: str) -> dict:
        opt = parse(TrainOptions(), train_flags(tmp_path, *EVAL, *flags, model="cut"))
        return Evaluator(opt, Runtime("-1")).yardstick()

    test = ["--eval_split", "test"]
    before = yardstick(*test)
    assert before == yardstick(*test, "--lr", "0.1")
    larger = yardstick(*test, "--load_size", "72", "--crop_size", "64")
    assert {name for name in before if before[name] != larger[name]} == {"scaled"}

    for path in (tmp_path / "data" / "testA").iterdir():
        path.write_bytes(path.read_bytes() + b"\0")
    other = yardstick(*test)
    assert {name for name in before if before[name] != other[name]} == {"files"}


def test_a_run_may_go_on_with_another_measure(tmp_path, train, capsys):
    make_image_folder(tmp_path / "data" / "train", 5, size=(72, 36))
    flags = ["--eval_freq", "2", "--n_epochs", "2", "--n_epochs_decay", "0"]
    assert train(*flags, "--eval_metrics", "l1", "--max_steps", "2", model="pix2pix") == 0
    assert train(*flags, "--eval_metrics", "ssim", "--max_steps", "4", model="pix2pix") == 0
    found = rows(tmp_path / "checkpoints" / "run")
    assert [(row["decides"], row["split"], row["best"]) for row in found] == [
        ("l1", "holdout", True), ("ssim", "holdout", True)
    ]  # fmt: skip
    assert "(decides l1 -> ssim) and cannot be compared" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--eval_metrics", "fed"], "--eval_metrics fed: no such name; did you mean 'fid'"),
        (["--eval_metrics", "ssim"], "--eval_metrics ssim compares with a truth"),
        (["--eval_split", "val"], "has no folder valA"),
        (["--eval_metrics", "fid", "--inception", "none.pth"], "none.pth does not exist"),
    ],
)
def test_what_cannot_be_measured_is_said_before_training(tmp_path, train, capsys, flags, complaint):
    assert train(*EVAL, *flags) == 2
    errors = capsys.readouterr().err
    assert complaint in errors and errors.count("\n") == 1
    assert not (tmp_path / "checkpoints" / "run" / "latest_state.pt").exists()


def test_one_image_per_domain_cannot_be_measured(train, capsys):
    assert train("--eval_freq", "4", model="sincut") == 2
    assert "--dataset_mode singleimage has no two sets of images" in capsys.readouterr().err


def test_holding_images_out_in_the_middle_of_a_run_is_explained(train, capsys):
    assert train("--max_steps", "2", *EVAL[-4:]) == 0
    assert train(*EVAL) == 2
    assert (
        "--eval_freq keeps images out of training: give it from the start"
        in capsys.readouterr().err
    )


def test_time_spent_on_measuring_is_no_time_of_steps():
    from util.run.progress import Progress

    progress = Progress(1, 1, 4, 1)
    progress._since -= 10
    progress.advance()
    progress.leave_out(9)
    assert progress.times()["time"] == pytest.approx(1, abs=0.2) and np.isfinite(progress._since)


@pytest.mark.parametrize(
    ("mode", "scaled"),
    [
        ("resize_and_crop", ("resize", 32)),
        ("resize", ("resize", 32)),
        ("scale_width_and_crop", ("scale_width", 32)),
        ("crop", ("none", 36)),
    ],
)
def test_images_are_scaled_as_test_py_scales_them(tmp_path, mode, scaled):
    """Of a run that reduces images in its last epochs."""
    opt = train_options(tmp_path, "--preprocess", mode)
    found = evaluation_options(opt)
    assert (found.preprocess, found.load_size) == scaled
    assert as_trained(vars(opt)).items() <= vars(found).items()
