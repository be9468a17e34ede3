"""scripts/gpu_check.py without a GPU: its clock, and that no stage's failure costs the results of another."""

import importlib
import json
import re
import sys
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from scripts import gpu_check
from scripts.benchmarking.contest import Settings
from scripts.benchmarking.device import Device
from scripts.checking.pictures import draw_pictures
from scripts.on_gpu import ladder, layers, recipes, recorded
from scripts.on_gpu.conduct import Conductor
from scripts.on_gpu.notes import Notes, read_notes
from scripts.on_gpu.plan import STAGES, limit_of, still_fitting
from scripts.on_gpu.setup import TINY
from tests.helpers import run_command

# a stage that writes what it finds, and then does what it is told
PROGRAM = """
import json, os, sys, time
path, name, end = sys.argv[1:]
found = {"figures": {"of": name}, "findings": [[True, "found " + name]], "tables": {"t": [["a|b"], ["x|y"]]}}
json.dump(found, open(path, "w"))
print("output of", name, flush=True)
if end == "raise":
    raise IndexError("list index out of range")
if end == "crash":
    os.kill(os.getpid(), 11)
if end == "hang":
    time.sleep(600)
if end == "torn":
    open(path, "w").write('{"figures": {"of"')
"""
QUICK = [stage._replace(seconds=0.6) for stage in STAGES]


def conduct(tmp_path, failing="", way="", stages=QUICK, limit=60.0, warm=False):
    """Run stages of which one fails; returns the result as it lies on the disk."""
    out, work = tmp_path / "out", tmp_path / "work"
    work.mkdir()

    def command(stage, path):
        end = way if stage == failing else "well"
        return [sys.executable, "-S", "-c", PROGRAM, str(path), stage, end]

    Conductor(out, work, command, limit, "python scripts/gpu_check.py").run(stages, warm)
    return json.loads((out / "results.json").read_text())


@pytest.mark.parametrize(
    ("failing", "way"),
    [(stage.name, "raise") for stage in STAGES]
    + [("facts", "crash"), ("ladder", "hang"), ("small", "torn")],
)
def test_a_stage_that_fails_costs_no_other_its_results(tmp_path, failing, way):
    found = conduct(tmp_path, failing, way)["stages"]
    assert list(found) == [stage.name for stage in STAGES]
    for name, stage in found.items():
        if name != failing:
            assert stage["state"] == "done" and stage["figures"] == {"of": name}
    text = (tmp_path / "out" / "findings.txt").read_text()
    assert text.count("ok ") == len(STAGES) - (way == "torn")

    told = {
        "raise": r"failed with status 1: IndexError: list index out of range",
        "crash": r"failed with status -11",
        "hang": r"ended after \d+ s of the run",
        "torn": r"done",
    }
    assert re.match(told[way], found[failing]["state"])
    if way != "torn":
        assert found[failing]["figures"] == {"of": failing}, "what it had is lost"
        assert text.startswith(f"AMISS {failing}: ")


def test_what_comes_back_is_four_small_files(tmp_path):
    """As a machine wants it that is lent for minutes: few files, plain names, nothing deep."""
    conduct(tmp_path, "ladder", "raise", warm=True)
    files = sorted(path.name for path in (tmp_path / "out").rglob("*"))
    assert files == ["findings.txt", "log.txt", "results.json", "table.md"]
    page = (tmp_path / "out" / "table.md").read_text()
    assert "| ladder | " in page and "failed with status 1" in page and "| x/y |" in page
    log = (tmp_path / "out" / "log.txt").read_text()
    assert log.index("==== facts\noutput of facts") < log.index("==== small")
    assert "==== warm" in log and "Traceback" in log


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("facts recipes ladder kernels", "facts +warm recipes -warm ladder kernels"),
        ("layers compiled small", "+warm layers -warm compiled small"),
        ("compiled layers", "compiled +warm layers -warm"),
    ],
)
def test_nothing_runs_beside_a_stage_that_takes_times(tmp_path, monkeypatch, names, expected):
    events = []
    conductor = Conductor(tmp_path / "out", tmp_path, lambda *_: [], 60, "")

    def start(stage):
        events.append(f"+{stage.name}")
        return object()

    def end():
        events.extend(["-warm"] if conductor.warm else [])
        conductor.warm = None

    monkeypatch.setattr(conductor, "_start", start)
    monkeypatch.setattr(conductor, "_end_warm", end)
    monkeypatch.setattr(conductor, "_run_one", lambda stage, _: events.append(stage.name))
    chosen = {stage.name: stage for stage in STAGES}
    conductor.run([chosen[name] for name in names.split()], warm=True)
    assert events == expected.split()


def test_results_are_there_while_a_stage_runs(tmp_path):
    """A run that is ended from outside leaves what it had."""
    seen = []
    real = Conductor.publish

    def publish(self):
        real(self)
        seen.append(json.loads((self.out / "results.json").read_text())["stages"]["recipes"])

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(Conductor, "publish", publish)
        stages = [QUICK[0]._replace(seconds=1.5), QUICK[1]._replace(seconds=1.5)]
        conduct(tmp_path, "recipes", "hang", stages)
    running = [stage for stage in seen if stage["state"] == "runs" and "figures" in stage]
    assert running and running[0]["figures"] == {"of": "recipes"}


def test_when_time_is_short_what_is_needed_least_is_given_up(tmp_path):
    whole = sum(stage.seconds for stage in STAGES)
    assert whole <= 570 and still_fitting(STAGES, 570) == list(STAGES)
    names = [stage.name for stage in still_fitting(STAGES, whole - 1)]
    assert set(names) == {stage.name for stage in STAGES} - {"small"}
    given_up = []
    for left in range(570, 0, -5):
        kept = {stage.name for stage in still_fitting(STAGES, left)}
        given_up += [s.name for s in STAGES if s.name not in kept and s.name not in given_up]
    assert given_up == ["small", "levers", "batches", "translating", "compiled", "kernels"]
    must = {stage.name for stage in STAGES if not stage.given_up}
    assert must == {stage.name for stage in still_fitting(STAGES, 1)}

    levers, small = STAGES[-2:]
    stages = [levers._replace(seconds=3), small._replace(seconds=30)]
    found = conduct(tmp_path, stages=stages, limit=20)["stages"]
    assert [stage["state"] for stage in found.values()] == ["done", "given up: no time was left"]


def test_a_stage_may_take_longer_while_no_later_one_needs_the_time():
    ladder, later = STAGES[3], STAGES[4:]
    assert limit_of(ladder, later, left=500) == 2 * ladder.seconds
    assert limit_of(STAGES[0], STAGES[1:], left=215) == STAGES[0].seconds  # 200 s must follow
    assert limit_of(ladder, later, left=50) == 50
    assert limit_of(ladder, [], left=500) == 500, "nobody else needs it"
    assert limit_of(ladder, later, left=5000, scale=8) == 16 * ladder.seconds


def test_without_a_gpu_it_says_so_and_returns_at_once(tmp_path):
    flags = ["--out", tmp_path / "out", "--stages", "facts", "--tiny", "--no_warm"]
    began = time.monotonic()
    result = run_command(["scripts/gpu_check.py", *flags], env={"CUDA_VISIBLE_DEVICES": ""})
    assert result.returncode == 1 and time.monotonic() - began < 120
    lines = (tmp_path / "out" / "findings.txt").read_text().splitlines()
    assert any("torch finds no GPU on this machine" in line for line in lines), lines
    assert "AMISS" in result.stdout


def test_every_stage_is_a_module_that_runs():
    for stage in STAGES:
        module = importlib.import_module(f"scripts.on_gpu.{stage.name}")
        assert callable(module.run) and module.__doc__.startswith("Stage: ")
    with pytest.raises(SystemExit):
        gpu_check.main(["--out", "x", "--stages", "laddr"])


def test_notes_are_on_the_disk_at_once_and_outlive_errors(tmp_path, capsys):
    notes = Notes(tmp_path / "notes.json")
    notes.row("t", a=1, b=2)
    notes.row("t", b=3)
    with notes.around("the layer"):
        raise ValueError("no\nmore")
    assert read_notes(tmp_path / "notes.json") == {
        "figures": {},
        "findings": [[False, "the layer: ValueError: no"]],
        "tables": {"t": [["a", "b"], [1, 2], [None, 3]]},
    }
    assert "AMISS the layer: ValueError: no" in capsys.readouterr().out
    assert read_notes(tmp_path / "none.json") == {}


def test_recorded_and_plain_steps_are_told_apart(tmp_path, monkeypatch):
    """On a CPU nothing is recorded; two plain runs agree to the last bit, and one that moves less does not."""
    data = draw_pictures(tmp_path / "data", count=4)
    flags = [*recorded.tiny_flags(data, "cut", None), "--gpu_ids", "-1"]
    monkeypatch.setattr(recorded, "STEPS", 3)
    found = recorded.compare(partial(recorded.build, *flags, "--cuda_graph", "on"))
    assert found.same_bits and found.worst == 0 and not found.recorded and not found.good
    assert found.said == ["--cuda_graph: steps are run one by one, since it needs a GPU"]

    rates = iter(["0.0002", "0.002"])
    found = recorded.compare(lambda: recorded.build(*flags, "--lr", next(rates)))
    assert not found.same_bits and found.worst > 1e-4


def test_all_recipes_are_compared_in_both_precisions():
    titles = [title for title, *_ in recipes.cases()]
    assert len(set(titles)) == len(titles) == 2 * len(recorded.recipes()) + len(recipes.ODD)


def test_errors_of_layers_are_relative_and_never_overlooked():
    assert layers.relative(torch.tensor([1.0, 4.0]), torch.tensor([1.0, 5.0])) == pytest.approx(0.2)
    nan = float("nan")
    assert layers.worst([0.1, nan, 0.3]) != layers.worst([0.1, nan, 0.3])
    assert layers.worst([0.1, 0.3, 0.2]) == 0.3
    assert layers.typical([0.1, 9.0, 0.2]) == 0.2 and layers.typical([nan, 0.1, 0.2]) == 0.2


def test_every_step_of_the_ladder_begins_with_the_same_weights(tmp_path, monkeypatch):
    """Memory is measured over steps that learn, which must not move what later steps are compared with."""

    def learn(contestant, before):
        contestant.step()
        return {}

    monkeypatch.setattr(ladder, "held", dict)
    monkeypatch.setattr(ladder, "memory", learn)
    device = Device("cpu")
    settings = Settings(device, 64, vgg_weights="random", flags=TINY.split())
    setup = SimpleNamespace(device=device, settings=lambda: settings)
    notes = Notes(tmp_path / "notes.json")
    race = ladder.Race(setup, notes)
    for name in ("fp32", "tf32"):
        race.enter(name)
    assert [good for good, _ in notes.findings] == [True, True], notes.findings
    assert "cosine of G's gradient 1.00000, losses 0.0e+00 off" in notes.findings[1][1]
