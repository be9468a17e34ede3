"""A grid from one file: what it asks for, killed and restarted, what failed, the statistics, and the page."""

import csv
import fcntl
import json
import math
import os
import re
import shutil
import signal
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from options import TrainOptions, parse
from scripts.experiment import main
from scripts.experiments.cluster import Task
from scripts.experiments.collect import (
    COSTS,
    Measured,
    RunRow,
    asked_row,
    parameters,
    run_row,
)
from scripts.experiments.file import read_grid
from scripts.experiments.job import (
    RECORD,
    asked,
    check_trained,
    finished,
    measured_file,
    missing,
    read_record,
    run_job,
    trained_as_asked,
    translate_run,
)
from scripts.experiments.latex import as_latex
from scripts.experiments.launch import Launcher, free_devices
from scripts.experiments.statistics import paired_test, summary
from scripts.experiments.table import as_csv, best_rows, floor_rows, table
from tests.browser import BROWSER, Browser
from tests.helpers import REPO, make_dataset, run_command, start_command
from util.errors import UserError
from util.run.folder import plain_options, without_infinity
from util.run.state_file import PARTS

GRID = """
name = "small"
seeds = [0, 1]
baseline = "one"
[flags]
model = "cut"
netG = "resnet_4blocks"
ngf = 4
ndf = 4
load_size = 36
crop_size = 32
num_threads = 0
nce_layers = [0, 4]
n_epochs = 1
n_epochs_decay = 0
print_freq = 4
save_latest_freq = 2
no_html = true
eval_freq = 4
eval_metrics = ["edges"]
[evaluate]
bootstrap = 10
[data.toy]
dataroot = "DATA"
[rows.one]
[rows."two, another rate"]
lr = 0.001
[paper.score.toy]
one = 0.5
"""


def write(folder, text: str = GRID, count: int = 6):
    """The experiment file, with its data where there are none yet: the truth is the next image of the folder."""
    data = folder / "data"
    if not data.is_dir():
        make_dataset(data, count=count, size=(32, 32))
        images = sorted((data / "testA").iterdir())
        (data / "testA_truth").mkdir()
        for path, other in zip(images, [*images[1:], images[0]], strict=True):
            shutil.copy(other, data / "testA_truth" / path.name)
    path = folder / "grid.toml"
    path.write_text(text.replace("DATA", str(data)))
    return path


# --- the file -------------------------------------------------------------------------------------------------------


def test_every_row_data_set_and_seed_is_a_run(tmp_path):
    text = (
        GRID.replace("seeds = [0, 1]", "seeds = [3, 4]").split("[paper")[0]
        + "[sweep]\nbeta1 = [0.5, 0.9]\n"
    )
    text = text.replace('baseline = "one"', 'baseline = "one, beta1 0.5"')
    grid = read_grid(write(tmp_path, text))
    jobs = grid.jobs()
    assert len(jobs) == 2 * 2 * 2 and [job.seed for job in jobs] == [3] * 4 + [4] * 4
    assert jobs[1].run == "toy-one_beta1_0.9-seed3" and jobs[1].row == "one, beta1 0.9"
    train = dict(zip(jobs[3].train[::2], jobs[3].train[1::2], strict=True))
    assert (train["--lr"], train["--beta1"], train["--nce_layers"]) == ("0.001", "0.9", "0,4")


def test_a_row_may_have_seeds_of_its_own(tmp_path):
    text = GRID.replace("lr = 0.001", "lr = 0.001\nseeds = [1, 5]")
    grid = read_grid(write(tmp_path, text))
    places = [(job.seed, job.row) for job in grid.jobs()]
    other = "two, another rate"
    assert places == [(0, "one"), (1, "one"), (1, other), (5, other)]
    assert all("--seeds" not in job.train for job in grid.jobs())
    assert grid.all_seeds() == [0, 1, 5]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("[rows.one]", "[row.one]", r"row is unknown; did you mean 'rows'"),
        ('baseline = "one"', 'baseline = "ones"', r"baseline 'ones' is no row; did you mean 'one'"),
        (
            "lr = 0.001",
            "lrr = 0.001",
            r"row 'two, another rate', data 'toy': unknown argument --lrr",
        ),
        ("lr = 0.001", "seed = 1", r"\[rows.two, another rate\] seed: leave it out, seeds = "),
        ("lr = 0.001", "from_scratch = true", r"from_scratch: leave it out, it would undo"),
        (
            "two, another rate",
            "one!",
            r"two runs would be called toy-one-seed0",
        ),
        (
            "bootstrap = 10",
            "bootstrap = -1",
            r"\[evaluate\]: argument --bootstrap: expected a whole",
        ),
        (
            "[evaluate]",
            "[test]\nnum_tests = 1\n[evaluate]",
            r"\[test\] num_tests is no flag .*num_test",
        ),
        ("[rows.one]", "rows = [", r"cannot be read as an experiment file"),
        (
            "[paper.score.toy]\none",
            "[paper.score.toy]\nones",
            r"\[paper.score.toy\] 'ones' is no label .*did you mean 'one'",
        ),
        ("[paper.score.toy]", "[paper.score.toys]", r"'toys' is no label .*did you mean 'toy'"),
        ("DATA", "nowhere", r"dataroot nowhere is not a folder"),
        (
            "lr = 0.001",
            'lr_policy = "cosine"\nlr_decay_iters = 9\n[rows.three]\nlr_policy = "cosine"',
            r"rows 'two, another rate' and 'three' train the same: --lr_decay_iters has no effect",
        ),
        ("lr = 0.001", "seeds = []", r"\[rows.two, another rate\] seeds is a list of whole"),
        ("lr = 0.001", "seeds = 3", r"\[rows.two, another rate\] seeds is a list of whole"),
        ("[rows.one]", "[rows]\none = 3", r"\[rows.one\] is a table of flags"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_before_anything_runs(
    tmp_path, capsys, old, new, complaint
):
    assert old in GRID
    path = write(tmp_path, GRID.replace(old, new))
    assert main([str(path), "--out", str(tmp_path / "out"), "--dry_run"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(complaint, line)


def test_a_report_needs_no_data(tmp_path, capsys):
    path = write(tmp_path, GRID.replace("DATA", "nowhere"))
    assert main([str(path), "--out", str(tmp_path / "out"), "--report"]) == 0
    assert "| one (baseline) | 0 |" in (tmp_path / "out" / "table.md").read_text()


def test_the_first_swept_row_is_the_baseline_if_none_is_named(tmp_path):
    text = (
        GRID.replace('baseline = "one"\n', "").split("[paper")[0] + "[sweep]\nbeta1 = [0.5, 0.9]\n"
    )
    assert read_grid(write(tmp_path, text)).baseline == "one, beta1 0.5"


@pytest.mark.parametrize(
    "path", sorted((REPO / "scripts" / "reproduce").glob("*.toml")), ids=lambda p: p.stem
)
def test_the_files_of_the_project_are_understood(path, tmp_path, monkeypatch):
    for data in ("horse2zebra", "cityscapes", "maps", "summer2winter_yosemite", "apple2orange"):
        make_dataset(tmp_path / "datasets" / data, count=1)
    monkeypatch.chdir(tmp_path)
    grid = read_grid(path)
    seeds = sum(len(grid.row_seeds.get(row, grid.seeds)) for row in grid.rows)
    assert len(grid.jobs()) == len(grid.data) * seeds
    for figures in grid.paper.values():
        for data, rows in figures.items():
            assert data in grid.data and rows.keys() <= grid.rows.keys()


BASED = """
base = "grid.toml"
seeds = [7]
[flags]
ngf = 8
[rows.three]
beta1 = 0.9
"""


def test_flags_of_another_file_hold_where_a_file_says_nothing_else(tmp_path):
    below = read_grid(write(tmp_path))
    path = tmp_path / "based.toml"
    path.write_text(BASED)
    [job] = read_grid(path).jobs()
    assert (job.row, job.seed, job.data) == ("three", 7, "toy")
    train = dict(zip(job.train[::2], job.train[1::2], strict=True))
    assert (train["--ngf"], train["--ndf"], train["--beta1"]) == ("8", "4", "0.9")
    assert train["--dataroot"] == below.data["toy"]["dataroot"]
    assert job.evaluate[-2:] == ["--bootstrap", "10"]

    path.write_text(BASED.replace("grid.toml", "based.toml"))
    with pytest.raises(UserError, match=r"based.toml has a base itself"):
        read_grid(path)
    path.write_text(BASED.replace("grid.toml", "gird.toml"))
    with pytest.raises(UserError, match=r"gird.toml cannot be read as an experiment file"):
        read_grid(path)


def test_a_file_without_rows_is_its_base_with_other_seeds_or_flags(tmp_path):
    below = read_grid(write(tmp_path))
    path = tmp_path / "again.toml"
    path.write_text('base = "grid.toml"\nname = "again"\nseeds = [7]\n[flags]\nngf = 8\n')
    grid = read_grid(path)
    assert (grid.rows, grid.baseline, grid.paper) == (below.rows, below.baseline, below.paper)
    assert [(job.row, job.seed) for job in grid.jobs()] == [("one", 7), ("two, another rate", 7)]
    assert (grid.flags["ngf"], grid.flags["ndf"], grid.folder.name) == (8, 4, "again")

    path.write_text('base = "grid.toml"\n')
    assert read_grid(path).seeds == below.seeds


# folders that are not there, a flag of [evaluate], what is said
UNMEASURABLE = [
    (["testA_truth", "testB"], "", r"\[data.toy\]: .*no real images of the target domain .*testB"),
    (["testA"], "", r"\[data.toy\]: --dataroot .* has no folder testA or valA"),
    (["testA_truth"], 'inception = "nowhere.pth"', r"\[evaluate\]: nowhere.pth does not exist"),
    ([], 'vgg_weights = "nowhere.pth"', r"\[evaluate\]: .*nowhere.pth"),
]


@pytest.mark.parametrize(("removed", "flag", "complaint"), UNMEASURABLE)
def test_what_could_not_be_measured_is_said_before_anything_is_trained(
    tmp_path, capsys, removed, flag, complaint
):
    path = write(tmp_path, GRID.replace("bootstrap = 10", flag))
    for name in removed:
        shutil.rmtree(tmp_path / "data" / name)
    assert main([str(path), "--out", str(tmp_path / "out")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(complaint, line)
    assert not (tmp_path / "out" / "checkpoints").exists()


# --- statistics -----------------------------------------------------------------------------------------------------


def test_seeds_in_a_few_numbers():
    found = summary([1.0, 2.0, 6.0])
    assert found["mean"] == 3 and found["sd"] == pytest.approx(math.sqrt(7))
    assert 1 <= found["interval"][0] < 3 < found["interval"][1] <= 6
    assert summary([2.0]) == {"n": 1, "mean": 2.0, "sd": None, "interval": None}


def test_the_paired_test_by_hand_and_by_its_level():
    assert paired_test({0: 1.0, 1: 2.0, 2: 3.0}, {0: 0.0, 1: 1.0, 2: 1.0})["p"] == 2 / 8
    assert paired_test({0: 1.0, 1: 0.0}, {0: 0.0, 1: 3.0})["p"] == 1
    assert paired_test({0: 1.0, 5: 9.0}, {0: 0.0, 7: 9.0}) == {"n": 1, "difference": 1.0, "p": 1.0}
    assert paired_test({0: 1.0}, {1: 1.0}) is None

    rng = np.random.default_rng(0)
    values = [
        paired_test(dict(enumerate(rng.normal(size=6))), dict(enumerate(rng.normal(size=6))))["p"]
        for _ in range(400)
    ]
    assert 0.01 < np.mean(np.array(values) <= 0.05) < 0.06


def test_no_gpu_is_a_cpu(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert free_devices() == ["cpu"]
    fake = tmp_path / "nvidia-smi"
    lines = ["0, GPU-aa, 70000, 80000", "1, GPU-bb, 10, 80000", "2, GPU-cc, 10, 80000"]
    fake.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
    fake.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert free_devices() == ["1", "2"]
    for allowed, found in {"0,2": ["2"], "GPU-b": ["1"], "": ["cpu"]}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
        assert free_devices() == found, allowed

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(UserError, match=r"all GPUs \(1\) are in use"):
        free_devices()


COSTLESS = dict.fromkeys(COSTS)


def row_of(row: str, seed: int, value: float, floor: float = 1.0, interval=None) -> RunRow:
    """A run with one figure, FID, at its last checkpoint."""
    intervals, floors = {"FID": interval} if interval else {}, {"doing nothing": {"FID": floor}}
    measured = {"last": Measured({"FID": value}, intervals, floors)}
    return RunRow(f"{row}-{seed}", row, "toy", seed, "", "", measured, {"FID": "low"}, COSTLESS)


def write_measured(job, **values: float) -> None:
    """A run's folder with measured files, FID by checkpoint, and a record that they are as the job asks."""
    job.folder.mkdir(parents=True)
    for column, value in values.items():
        figure = {"title": "FID", "value": value, "interval": [value - 1, value + 1]}
        figure |= {"n": {"fakes": 6, "reals": 6}, "better": "low"}
        result = {"figures": {"fid": figure}, "warnings": [f"few at {column}"]}
        measured_file(job.folder, column).write_text(json.dumps(result))

    done = {"flags": [asked(job.test), asked(job.evaluate)], "weights": ""}
    record = {"train": asked(job.train), "measured": dict.fromkeys(values, done)}
    (job.folder / RECORD).write_text(json.dumps(record))


def test_a_number_from_fewer_seeds_than_its_row_has_says_so(tmp_path):
    grid = read_grid(write(tmp_path))
    other = "two, another rate"
    runs = [row_of("one", 0, 50), *(row_of(other, seed, 29 + seed) for seed in range(3))]
    found = table(grid, "toy", runs)
    [cell, *_] = found.rows[other]
    assert cell.text().startswith("30.000 ± 1.000") and " p " not in cell.text(), (
        "one pair of seeds"
    )
    assert best_rows(found, 0) == [], "means over unlike seeds"

    runs.append(row_of("one", 1, 40))
    [cell, *_] = table(grid, "toy", runs).rows[other]
    assert cell.text().endswith("p 0.5 (n 2)")

    del runs[0].measured["last"].figures["FID"]
    [cell, *_] = table(grid, "toy", runs).rows["one"]
    assert cell.text() == "40.000 (n 1)"


def test_a_figure_of_one_seed_stands_with_its_interval_over_images(tmp_path):
    grid = read_grid(write(tmp_path))
    first, second = row_of("one", 0, 50, interval=(48.0, 53.5)), row_of("one", 1, 51)
    [cell, *_] = table(grid, "toy", [first]).rows["one"]
    assert cell.text() == "50.000 (48.000 to 53.500)"
    near_zero = row_of("one", 0, 0, interval=(-1e-9, 53.5))
    [cell, *_] = table(grid, "toy", [near_zero]).rows["one"]
    assert "(0.000 to" in cell.text(), "no -0.000"
    [cell, *_] = table(grid, "toy", [first, second]).rows["one"]
    assert cell.text().startswith("50.500 ± 0.707 [50.000, 51.000]"), (
        "over seeds where there are two"
    )

    lines = list(csv.DictReader(as_csv([table(grid, "toy", [first, second])]).splitlines()))
    assert [line["FID low"] for line in lines] == ["48.0", ""]
    assert [line["FID high"] for line in lines] == ["53.5", ""]


def test_the_interval_is_that_of_the_run_whose_figure_is_shown(tmp_path):
    grid = read_grid(write(tmp_path))
    first, second = (row_of("one", seed, 50 + seed, interval=(seed, 99)) for seed in range(2))
    del first.measured["last"].figures["FID"]
    [cell, *_] = table(grid, "toy", [first, second]).rows["one"]
    assert cell.text() == "51.000 (1.000 to 99.000) (n 1)"


def test_what_is_no_longer_current_leaves_nothing_behind(tmp_path):
    """Figures, intervals, floors and warnings of a checkpoint go together."""
    grid = read_grid(write(tmp_path), tmp_path / "out")
    job = grid.jobs()[0]
    write_measured(job, last=50.0, best=40.0)
    row, old = asked_row(job)
    assert not old and row.first.warnings == ["few at last"]
    assert row.at("best").intervals == {"FID": (39.0, 41.0)}

    record = read_record(job)
    record["measured"]["last"]["flags"] = []
    (job.folder / RECORD).write_text(json.dumps(record))
    row, old = asked_row(job)
    assert old == ["last"] and row.measured.keys() == {"best"}
    assert row.first.warnings == ["few at best"]
    [line] = csv.DictReader(as_csv([table(grid, "toy", [row])]).splitlines())
    assert (line["checkpoint"], line["FID low"]) == ("best", "39.0")


def test_rows_that_print_the_same_best_number_are_both_the_best(tmp_path):
    grid = read_grid(write(tmp_path, f"{GRID}[rows.three]\nlr = 0.002\n"))
    other, third = list(grid.rows)[1:]
    runs = [row_of("one", 0, 30.0001), row_of(other, 0, 30.0003), row_of(third, 0, 31)]
    assert best_rows(table(grid, "toy", runs), 0) == ["one", other]
    assert best_rows(table(grid, "toy", runs[:2]), 0) == [], "nothing tells them apart"
    assert best_rows(table(grid, "toy", runs[:1]), 0) == []


def test_a_table_for_a_paper(tmp_path):
    """Every line has all columns, no character is taken for a command, and what the caption must say is there."""
    text = GRID.replace("score.toy", "FID.toy").replace("two, another rate", "50% & more_of {it}")
    grid = read_grid(write(tmp_path, text))
    other = list(grid.rows)[1]
    runs = [row_of("one", 0, 50), row_of("one", 1, 52), row_of(other, 0, 30), row_of(other, 1, 30)]
    written = as_latex(grid, [table(grid, "toy", runs)])

    lines = [line for line in written.splitlines() if not line.startswith("%")]
    rows = [line for line in lines if line.endswith(r" \\")]
    assert r"\begin{tabular}{lrr}" in lines and len(rows) == 4
    assert all(len(re.findall(r"(?<!\\)&", row)) == 2 for row in rows)
    assert rows[0] == r" & FID $\downarrow$ & FID (paper) \\"
    assert rows[1] == r"one & 51.000 $\pm$ 1.414 & 0.5 \\"
    assert rows[2] == r"50\% \& more\_of \{it\} & \textbf{30.000} $\pm$ 0.000 & -- \\"
    assert rows[3] == r"\emph{doing nothing} & 1.000 &  \\"
    assert "% seeds of every row: 2" in written and "% *last* is the end of training" in written

    del runs[1]
    written = as_latex(grid, [table(grid, "toy", runs)])
    assert "% numbers of seeds: 1 of one; 2 of 50% & more_of {it}" in written
    assert r"one & 50.000 & 0.5" in written


def test_a_table_for_a_paper_is_one_for_each_checkpoint(tmp_path):
    """Neither is wider than its figures, the floors stand below both, and arrows and x100 are those of LaTeX."""
    grid = read_grid(write(tmp_path))
    floors = {"doing nothing": {"KID x100": 7.0}}
    measured = {
        checkpoint: Measured({"KID x100": value}, floors=floors)
        for checkpoint, value in {"last": 5.0, "best": 4.0}.items()
    }
    run = replace(row_of("one", 0, 50), measured=measured, better={"KID x100": "low"})
    written = as_latex(grid, [table(grid, "toy", [run])])

    last, best = written.split("% toy, of the best checkpoint")
    assert "% toy, at the end of training" in last
    for part, value in {last: "5.000", best: "4.000"}.items():
        lines = part.splitlines()
        assert r" & KID $\times$100 $\downarrow$ \\" in lines and rf"one & {value} \\" in lines
        assert lines.count(r"\emph{doing nothing} & 7.000 \\") == 1


def test_floors_that_differ_between_runs_are_a_range(tmp_path):
    grid = read_grid(write(tmp_path))
    found = table(grid, "toy", [row_of("one", 0, 50, 1.0), row_of("one", 1, 50, 1.5)])
    assert floor_rows(found)["doing nothing"] == {"FID": "1.000 to 1.500"}
    found = table(grid, "toy", [row_of("one", 0, 50, 1.0), row_of("one", 1, 50, 1.0)])
    assert floor_rows(found)["doing nothing"] == {"FID": "1.000"}


def test_parameters_are_those_of_what_translates_one_way(tmp_path):
    sizes = {"E_c": 5, "G_A": 10, "G_B": 10, "norm_B": 1}
    for name, size in sizes.items():
        state = {"weight": torch.zeros(size), "norm.running_mean": torch.zeros(100)}
        state["blur.filt"] = torch.zeros(9)
        torch.save(state, tmp_path / f"latest_net_{name}.pth")
    names = [f"latest_net_{name}.pth" for name in sizes]
    assert parameters(tmp_path, {"translated_with": names}) == pytest.approx(16e-6)
    assert parameters(tmp_path, {}) is None
    gone = {"translated_with": ["latest_net_G_A.pth", "gone.pth"]}
    assert parameters(tmp_path, gone) is None
    assert parameters(tmp_path, gone | {"parameters": 12_260_000}) == 12.26
    assert parameters(tmp_path, gone | {"parameters": None}) is None


@pytest.mark.parametrize(
    ("fact", "count"), [({"parameters": "12,260,000"}, 12_260_000), ({}, None)]
)
def test_a_job_notes_how_many_parameters_translate(tmp_path, monkeypatch, fact, count):
    job = read_grid(write(tmp_path), tmp_path / "out").jobs()[0]
    job.folder.mkdir(parents=True)
    page = SimpleNamespace(description={"weights": "latest_net_G.pth", **fact})
    monkeypatch.setattr("scripts.experiments.job.parse", lambda *_: None)
    monkeypatch.setattr("scripts.experiments.job.translate", lambda _: page)
    assert translate_run(job, job.test) == 0
    assert read_record(job) == {"translated_with": ["latest_net_G.pth"], "parameters": count}


def write_trained(job, steps: int, **changes) -> None:
    """A run's folder as training left it after so many steps of an image each, four an epoch, all of them ended."""
    progress = {"epoch": 1 + steps // 4, "step": steps % 4, "images": steps, "first_epoch": 1}
    state = dict.fromkeys(PARTS) | {"progress": progress, "steps_per_epoch": 4}
    job.folder.mkdir(parents=True)
    torch.save(state | {"images_per_step": 1}, job.folder / "latest_state.pt")
    options = plain_options(parse(TrainOptions(), job.train)) | changes
    record = {"options": options, "recipe": "", "versions": {}}
    (job.folder / "train_opt.json").write_text(json.dumps(without_infinity(record)))


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("n_epochs = 9\nmax_steps = 4", "has done 7 steps, more than --max_steps 4: take the flag"),
        ("n_epochs = 9\nmax_steps = 7\namp = 'bf16'", "trained with --amp off, not bf16, and has"),
    ],
)
def test_a_run_is_not_shown_under_flags_it_was_not_trained_with(
    tmp_path, monkeypatch, capsys, flags, complaint
):
    """train.py has nothing to do there, and ends well."""
    [job, *_] = read_grid(
        write(tmp_path, GRID.replace("n_epochs = 1\n", f"{flags}\n")), tmp_path / "out"
    ).jobs()
    write_trained(job, steps=7, amp="off")
    monkeypatch.setattr("scripts.experiments.job.train_run", lambda argv: 0)
    assert run_job(job) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert complaint in line and str(job.folder) in line
    assert read_record(job) == {}, "nothing is noted"


@pytest.mark.parametrize("flags", ["max_steps = 7", "max_steps = 7\nnum_threads = 3\ntf32 = false"])
def test_a_run_whose_flags_change_nothing_of_what_was_trained_is_noted(
    tmp_path, monkeypatch, flags
):
    text = GRID.replace("n_epochs = 1\n", f"n_epochs = 9\n{flags}\n")
    [job, *_] = read_grid(
        write(tmp_path, text.replace("num_threads = 0\n", "")), tmp_path / "out"
    ).jobs()
    write_trained(job, steps=7, tf32=True, num_threads=0)
    monkeypatch.setattr("scripts.experiments.job.train_run", lambda argv: 0)
    monkeypatch.setattr("scripts.experiments.job.measure", lambda job, column: 0)
    assert run_job(job) == 0 and trained_as_asked(job)


def test_a_record_from_before_a_flag_of_precision_is_read(tmp_path):
    text = GRID.replace("n_epochs = 1\n", "n_epochs = 9\nmax_steps = 7\n")
    [job, *_] = read_grid(write(tmp_path, text), tmp_path / "out").jobs()
    write_trained(job, steps=7)
    path = job.folder / "train_opt.json"
    record = json.loads(path.read_text())
    del record["options"]["amp"], record["options"]["tf32"]
    path.write_text(json.dumps(record))
    check_trained(job)


def test_an_error_of_the_launcher_is_a_failure_of_that_run_alone(tmp_path, monkeypatch):
    grid = read_grid(write(tmp_path), tmp_path / "out")
    launcher = Launcher(grid, ["cpu"])

    def process(job, *_):
        if job.row == "one":
            raise OSError("no space left")
        return 0

    monkeypatch.setattr(launcher, "_process", process)
    outcome = launcher.run(grid.jobs()[:2])
    assert outcome.failed == {"toy-one-seed0": "OSError: no space left"}
    assert outcome.done == ["toy-two_another_rate-seed0"]


@pytest.mark.parametrize(
    ("flags", "devices"),
    [
        (["--devices", "0,2"], ["0", "2"]),
        (["--devices", "cpu", "--workers", "2"], ["cpu", "cpu"]),
        (["--devices", "0,1", "--workers", "2"], ["0", "1", "0", "1"]),
    ],
)
def test_each_device_gets_as_many_workers_as_asked_for(tmp_path, monkeypatch, flags, devices):
    path, used = write(tmp_path, GRID.replace("seeds = [0, 1]", "seeds = [0, 1, 2, 3]")), []
    together = threading.Barrier(len(devices), timeout=60)

    def process(launcher, job, device, *_):
        used.append(device)
        together.wait()  # passes only where all workers have a job at one time
        return 0

    monkeypatch.setattr(Launcher, "_process", process)
    assert main([str(path), "--out", str(tmp_path / "out"), *flags]) == 0
    assert sorted(used[: len(devices)]) == sorted(devices) and len(used) == 8


def test_nohup_is_left_alone(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Launcher(read_grid(write(tmp_path), tmp_path / "out"), ["cpu"])._stopping_politely():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# --- a grid, killed in the middle and restarted ---------------------------------------------------------------------


def wait_for(condition, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def one_thread():
    """Commands and what runs in process take one thread each: the bits of a step depend on their number."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def grid(tmp_path_factory, one_thread):
    """A grid of 2 x 2 runs: killed while the second one trains, then run to its end. Gives its folder and the jobs."""
    folder = tmp_path_factory.mktemp("grid")
    path = write(folder)
    jobs = read_grid(path, folder / "out").jobs()
    command = ["scripts/experiment.py", path, "--out", folder / "out"]

    process = start_command(command)
    wait_for((jobs[1].folder / "latest_state.pt").exists)
    process.send_signal(signal.SIGKILL)
    process.wait()
    log = folder / "out" / "logs" / f"{jobs[1].run}.txt"
    [child] = [int(p) for p in os.listdir("/proc") if p.isdigit() and runs_job(p, jobs[1].run)][:1]
    os.kill(child, signal.SIGKILL)
    wait_for(
        lambda: is_free(folder / "out" / "jobs" / f"{jobs[1].run}.lock")
    )  # it takes a moment to end
    state = {"first": stamp(jobs[0]), "left": finished(jobs[1])}

    assert main([str(part) for part in command[1:]]) == 0, log.read_text()
    return folder, jobs, state


def is_free(lock) -> bool:
    """Whether no process holds a job's lock."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def runs_job(number: str, run: str) -> bool:
    try:
        with open(f"/proc/{number}/cmdline") as file:
            return f"jobs/{run}.json" in file.read()
    except OSError:
        return False


def figures_of(run: RunRow) -> dict[str, dict[str, float]]:
    return {column: dict(one.figures) for column, one in run.measured.items()}


def stamp(job) -> int:
    return (job.folder / "latest_state.pt").stat().st_mtime_ns


@pytest.mark.slow
def test_a_killed_grid_goes_on_and_ends_with_the_table_of_an_uninterrupted_one(grid, capsys):
    folder, jobs, state = grid
    assert stamp(jobs[0]) == state["first"], "what was done is not done again"
    assert not state["left"] and all(finished(job) for job in jobs)

    # the run that was cut off, alone and uninterrupted
    one = GRID.replace("seeds = [0, 1]", "seeds = [0]").replace("[rows.one]", "")
    one = one.replace('baseline = "one"', 'baseline = "two, another rate"').replace("one = 0.5", "")
    [job] = read_grid(write(folder, one), folder / "alone").jobs()
    assert job.run == jobs[1].run
    (folder / "alone.json").write_text(json.dumps(job.as_dict()))
    result = run_command(["scripts/experiments/job.py", folder / "alone.json"])
    assert result.returncode == 0, result.stderr
    alone = run_row(job.folder)
    assert figures_of(alone) == figures_of(run_row(jobs[1].folder))
    assert {"last", "best"} == alone.measured.keys() and alone.at("last").figures["score"] != 0


@pytest.mark.slow
def test_the_report_comes_from_records_alone(grid, tmp_path, capsys):
    folder, _, _ = grid
    written = (folder / "out" / "table.md").read_text()
    assert (
        "| one (baseline) | 2 |" in written
        and "score paper" in written
        and "*doing nothing*" in written
    )
    assert "± " in written and " p 0.5" in written
    figures = {path.name for path in (folder / "out" / "figures").iterdir()}
    assert figures == {"toy_curves.png", "toy_curves.pdf", "toy_pictures.png"}

    rows = list(csv.DictReader((folder / "out" / "table.csv").open()))
    assert len(rows) == 8 and {row["checkpoint"] for row in rows} == {"last", "best"}
    assert float(rows[0]["images/s"]) > 0 and float(rows[0]["M parameters"]) > 0.01
    low, value, high = (float(rows[0][f"edges{end}"]) for end in (" low", "", " high"))
    assert 0 < low <= value <= high <= 1, "the interval over images"
    assert float(rows[0]["memory GB"]) > 0.1 and "cut, preset official" in rows[0]["recipe"]

    assert r"\begin{tabular}" in (folder / "out" / "table.tex").read_text()

    command, records = [str(write(folder)), "--report", "--out"], tmp_path / "records"
    assert main([*command, str(folder / "out"), "--records", str(records)]) == 0
    assert f"records of 4 finished runs: {records}" in capsys.readouterr().out
    kept = {path.suffix for path in records.rglob("*") if path.is_file()}
    assert kept == {".json", ".jsonl"}, "no weights and no pictures"

    assert main([*command, str(records)]) == 0
    for name in ("table.md", "table.csv", "table.tex"):
        assert (records / name).read_text() == (folder / "out" / name).read_text(), name


@pytest.mark.slow
def test_a_run_of_which_only_the_records_are_left_is_done(grid, tmp_path, capsys):
    folder, jobs, _ = grid
    assert (
        main(
            [
                str(write(folder)),
                "--out",
                str(folder / "out"),
                "--report",
                "--records",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    command = [str(write(folder)), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert "4 done before" in capsys.readouterr().out

    # it is no other run for that
    job = read_grid(write(folder), tmp_path / "out").jobs()[0]
    assert missing(job) == []
    (job.folder / "measured_best.json").unlink()
    assert missing(job) == ["best"]
    other = read_grid(write(folder, GRID.replace("ngf = 4", "ngf = 5")), tmp_path / "out").jobs()
    assert missing(other[0]) == ["train"]

    # a run that was not yet measured is to be trained
    record = read_record(jobs[1]) | {"measured": {}}
    again = read_grid(write(folder), tmp_path / "out").jobs()[1]
    (again.folder / RECORD).write_text(json.dumps(record))
    assert missing(again) == ["train"]


@pytest.mark.slow
def test_what_is_done_under_other_flags_is_not_shown_as_done(grid, tmp_path, capsys):
    folder, _, _ = grid
    for name in ("checkpoints", "jobs"):
        shutil.copytree(folder / "out" / name, tmp_path / "out" / name)

    def report(old: str, new: str) -> tuple[str, str]:
        command = [str(write(folder, GRID.replace(old, new))), "--out", str(tmp_path / "out")]
        assert main([*command, "--dry_run"]) == 0
        left = capsys.readouterr().out
        assert main([*command, "--report"]) == 0
        capsys.readouterr()
        return left, (tmp_path / "out" / "table.md").read_text()

    left, written = report("lr = 0.001", "lr = 0.002")
    assert "toy-one-seed0: done" in left and "toy-two_another_rate-seed0: train" in left
    assert "| two, another rate | 0 | - |" in written and "| one (baseline) | 2 |" in written
    assert "toy-two_another_rate-seed0: last and best left out, measured under other" in written

    left, written = report("bootstrap = 10", "bootstrap = 11")
    assert "toy-one-seed0: last, best" in left and "| one (baseline) | 0 | - |" in written

    left, written = report("two, another rate", "two (another rate)")
    assert "two_another_rate-seed0: done" in left and "| two (another rate) | 2 |" in written


@pytest.mark.slow
def test_what_was_measured_of_other_weights_is_measured_again(grid, tmp_path):
    folder, jobs, _ = grid
    shutil.copytree(jobs[0].folder, tmp_path / "out" / "checkpoints" / jobs[0].run)
    [job, *_] = read_grid(write(folder), tmp_path / "out").jobs()
    assert missing(job) == [], "a grid may be moved"

    weights = job.folder / "latest_net_G.pth"
    kept = weights.read_bytes()
    weights.write_bytes((job.folder / "latest_net_D.pth").read_bytes())
    assert missing(job) == ["last"]
    row, old = asked_row(job)
    assert old == ["last"] and row.measured.keys() == {"best"}

    weights.write_bytes(kept)
    for name in ("latest_state.pt", "previous_state.pt"):
        (job.folder / name).write_bytes(b"damaged")
    assert missing(job) == ["train"], "train.py says what is damaged"

    # as it was written before weights were noted
    record = read_record(job)
    record["measured"] = {"last": [job.test, job.evaluate]}
    (job.folder / RECORD).write_text(json.dumps(record))
    assert asked_row(job)[0] is None


@pytest.mark.slow
def test_more_epochs_are_measured_anew(grid, tmp_path, capsys):
    folder, jobs, _ = grid
    shutil.copytree(jobs[0].folder, tmp_path / "out" / "checkpoints" / jobs[0].run)
    text = GRID.replace("n_epochs = 1", "n_epochs = 2").replace("seeds = [0, 1]", "seeds = [0]")
    before = asked_row(read_grid(write(folder), tmp_path / "out").jobs()[0])[0].at("last").figures
    path = write(folder, text.split('[rows."two')[0])

    assert main([str(path), "--out", str(tmp_path / "out")]) == 0
    grid_now = read_grid(path, tmp_path / "out")
    [job] = grid_now.jobs()
    row, old = asked_row(job)
    assert not old and row.at("last").figures != before
    written = (tmp_path / "out" / "table.md").read_text()
    assert re.search(r"- toy-one-seed0: from image \d+ on: .*n_epochs 1 -> 2", written)


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_stops_no_other(tmp_path, capsys):
    """An image of the second data set is damaged: found in training, long after the file was checked."""
    text = GRID.replace("seeds = [0, 1]", "seeds = [0]").split("[rows.")[0]
    text = text.replace("[data.toy]", '[data.bad]\ndataroot = "BAD"\n[data.toy]') + "[rows.one]\n"
    path = write(tmp_path, text, count=4)
    bad = make_dataset(tmp_path / "bad")
    shutil.copytree(tmp_path / "data" / "testA_truth", bad / "testA_truth")
    for image in (bad / "trainA").iterdir():
        image.write_bytes(b"damaged")
    path.write_text(
        path.read_text().replace("BAD", str(bad)).replace("eval_freq = 4", "eval_freq = 0")
    )
    assert main([str(path), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().out
    assert "1 done now, 1 failed" in said and "failed: bad-one-seed0" in said
    assert "not an image, whatever its name says" in said
    assert "## bad" in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.slow
def test_the_page_sorts_and_needs_no_network(grid, tmp_path):
    if BROWSER is None:
        pytest.skip("no browser")
    folder, _, _ = grid
    assert main([str(write(folder)), "--out", str(folder / "out"), "--report"]) == 0
    for name in ("index.html", "page_pictures"):
        source = folder / "out" / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    assert "http://" not in (tmp_path / "index.html").read_text().replace("http://www.w3.org", "")

    values = (
        "[...document.querySelectorAll('.results tbody tr')].map(r => r.cells[{}].dataset.value)"
    )
    with Browser() as browser:
        browser.open(tmp_path / "index.html")
        assert all(picture["width"] for picture in browser.images())
        assert browser.evaluate("document.querySelectorAll('.chart path').length") >= 4
        column = 2
        click = f"document.querySelectorAll('.results th')[{column}].click()"
        browser.evaluate(click)
        up = [float(v) for v in browser.evaluate(values.format(column))[:2]]
        browser.evaluate(click)
        down = [float(v) for v in browser.evaluate(values.format(column))[:2]]
        assert up == sorted(up) and down == sorted(up, reverse=True)
        assert browser.evaluate(values.format(0))[2] == "doing nothing", "floors stay below"


def test_a_cluster_without_submitit_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "submitit", None)
    assert main([str(write(tmp_path)), "--out", str(tmp_path / "out"), "--cluster"]) == 2
    assert "pip install submitit" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_the_announced_end_of_a_node_reaches_the_cluster(monkeypatch, number):
    """Training takes the signal to save; submitit must have it too, since that alone queues the job again."""
    heard = []
    before = signal.signal(number, lambda got, frame: heard.append(got))
    try:
        monkeypatch.setattr("scripts.experiments.cluster.run_job", lambda job: 128 + number)
        assert Task()(None) == 128 + number and heard == [number]
        monkeypatch.setattr("scripts.experiments.cluster.run_job", lambda job: 0)
        assert Task()(None) == 0 and heard == [number]
    finally:
        signal.signal(number, before)


@pytest.mark.slow
def test_a_cluster_runs_the_same_jobs(tmp_path, capsys):
    """submitit's own executor for one machine stands in for SLURM."""
    text = GRID.replace("seeds = [0, 1]", "seeds = [0]")
    text = text.split('[rows."two')[0] + '[cluster]\nexecutor = "local"\ntimeout_min = 5\n'
    path = write(tmp_path, text)
    assert main([str(path), "--out", str(tmp_path / "out"), "--cluster"]) == 0
    assert "1 done now" in capsys.readouterr().out
    assert (
        json.loads((tmp_path / "out/checkpoints/toy-one-seed0/job.json").read_text())["row"]
        == "one"
    )
