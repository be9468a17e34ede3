"""Hneg-SRC: terms of a step against loops, gamma over a run, printed commands."""

import math

import pytest
import torch

from models import create_model
from models.hneg_src_model import GammaSchedule
from models.networks.patch_sampler import PatchSampler
from options import TrainOptions, parse
from tests.helpers import TINY, make_dataset, run_command, train_options
from tests.test_models import build, step
from tests.test_relations import assert_step, assert_terms, places
from util.errors import UserError
from util.hardware.runtime import Runtime
from util.run.checkpoint import Checkpoint
from util.run.progress import Progress

PRINTED = {  # of the release's README, without data and name
    "horse2zebra": "--CUT_mode CUT --dce_idt --lambda_HDCE 0.1 --lambda_SRC 0.05 --use_curriculum --HDCE_gamma 50 "
    "--HDCE_gamma_min 10 --gpu_ids -1",
    "cityscapes": "--CUT_mode CUT --dce_idt --lambda_HDCE 0.1 --lambda_SRC 0.1 --direction BtoA --use_curriculum "
    "--HDCE_gamma 50 --HDCE_gamma_min 10 --step_gamma --step_gamma_epoch 200 --gpu_ids -1",
}


def parsed(*argv: str):
    return parse(TrainOptions(), ["--dataroot", "x", *argv])


# -- the step ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "weights", "gamma"),
    [
        ("--lambda_HDCE 0.8 --lambda_SRC 0.3 --n_epochs 1 --n_epochs_decay 3", (0.4, 0.3), 40),
        ("--use_curriculum false --HDCE_gamma 0.1 --lambda_SRC 0.1", (0.05, 0.1), 0.1),
        ("--no_Hneg", (0.05, 0.05), 1e9),
    ],
)  # fmt: skip
def test_the_terms_are_their_formula(tmp_path, monkeypatch, flags, weights, gamma):
    assert_terms(tmp_path, monkeypatch, "hneg_src", flags, weights, gamma)


TERMS = {
    "hneg_src --lambda_HDCE 0": {"SRC"},
    "hneg_src --lambda_SRC 0 --dce_idt false": {"HDCE"},
    "hneg_src --nce_weights none --netF sample": {"NCE", "NCE_Y", "SRC"},
    "hneg_src --lambda_GAN 0 --normG batch": {"HDCE", "HDCE_Y", "SRC"},
}


@pytest.mark.parametrize("command", TERMS)
def test_terms_can_be_left_out(tmp_path, command):
    assert_step(tmp_path, command, TERMS[command])


def test_the_patches_of_b_are_taken_where_those_of_a_were(tmp_path, monkeypatch):
    drawn, draw = [], PatchSampler.draw

    def note(feat, count):
        drawn.append(draw(feat, count))
        return drawn[-1]

    monkeypatch.setattr(PatchSampler, "draw", staticmethod(note))
    for name, sets in (("hneg_src", 1), ("cut", 2)):
        _, _, loader, model = build(tmp_path, name, None, "--num_patches", "8")
        drawn.clear()
        step(model, next(iter(loader.epoch(1))))
        assert len(drawn) == sets * len(model.opt.nce_layers)


# -- gamma -------------------------------------------------------------------------------------------------------------


def gammas(opt, epochs: int) -> list[float]:
    model = create_model(opt, Runtime.from_options(opt))
    found = []
    for _ in range(epochs):
        found.append(model.gamma.item())
        model.schedule.next_epoch()
    return found


def test_gamma_falls_over_the_run_as_released(tmp_path):
    """gamma(e) = 50 - 40 e / 400, epochs counted from 1; that of cityscapes drops to 1 after epoch 200."""
    line = [50 - 40 * epoch / 400 for epoch in range(1, 401)]
    assert gammas(train_options(tmp_path, model="hneg_src"), 400) == pytest.approx(line)
    cityscapes = train_options(tmp_path, "--preset", "cityscapes", model="hneg_src")
    assert gammas(cityscapes, 400) == pytest.approx(line[:200] + [1.0] * 200)
    assert line[-1] == 10


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--use_curriculum false", [50, 50]),
        ("--no_Hneg", [math.inf, math.inf]),
        ("--use_curriculum false --HDCE_gamma inf", [math.inf, math.inf]),
        ("--HDCE_gamma 8 --HDCE_gamma_min 4 --n_epochs 1 --n_epochs_decay 1", [6, 4]),
        ("--HDCE_gamma 8 --HDCE_gamma_min 4 --n_epochs 2 --n_epochs_decay 2 --epoch_count 3", [5, 4]),
        ("--step_gamma --step_gamma_epoch 0", [1, 1]),
    ],
)  # fmt: skip
def test_gamma_by_flags(tmp_path, flags, expected):
    opt = train_options(tmp_path, *flags.split(), model="hneg_src")
    assert gammas(opt, 2) == pytest.approx(expected)


def test_gamma_is_resumed_and_flags_that_changed_take_effect(tmp_path):
    schedule = ["--n_epochs", "1", "--n_epochs_decay", "3"]
    opt, runtime, loader, model = build(tmp_path, "hneg_src", None, *schedule)
    step(model, next(iter(loader.epoch(1))))
    assert model.gamma.item() == 40
    model.end_epoch()
    assert model.gamma.item() == 30
    Checkpoint(opt, runtime, model, Progress(1, 4, len(loader), 1)).save_latest()

    for flags, gamma in (([], 30), (["--HDCE_gamma_min", "30"], 40), (["--no_Hneg"], math.inf)):
        opt, runtime, loader, again = build(tmp_path, "hneg_src", None, *schedule, *flags)
        Checkpoint(opt, runtime, again, Progress(1, 4, len(loader), 1)).resume()
        assert again.gamma.item() == gamma
        again.end_epoch()
        assert again.gamma.item() == {30: 20, 40: 35, math.inf: math.inf}[gamma]


def test_the_loss_reads_the_gamma_of_the_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(PatchSampler, "draw", staticmethod(places))
    flags = ["--HDCE_gamma", "0.4", "--HDCE_gamma_min", "0.01", "--num_patches", "30"]
    _, _, loader, model = build(tmp_path, "hneg_src", None, *flags)
    for parameter in model.netF.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.set_input(next(iter(loader.epoch(1))))
    model.load(model._micro_batches[0])
    model.forward()
    seen = []
    for _ in range(2):
        seen.append(model.compute_G_loss()["HDCE"].item())
        assert model.losses["gamma"] == model.gamma
        for _ in range(350):
            model.schedule.next_epoch()
    assert seen[1] < seen[0] - 1e-4, "with smaller weights negatives repel less"


def test_a_schedule_keeps_its_tensor():
    """A recorded step reads from where it was."""
    schedule = GammaSchedule(3.0, 1.0, epochs=2)
    place = schedule.gamma.data_ptr()
    schedule.next_epoch()
    assert schedule.gamma == 1 and schedule.gamma.data_ptr() == place
    assert set(schedule.state_dict()) == {"epoch"}


# -- the command line --------------------------------------------------------------------------------------------------

SETTINGS = ("lambda_NCE", "lambda_SRC", "HDCE_gamma", "HDCE_gamma_min", "step_gamma", "no_Hneg")


@pytest.mark.parametrize(
    ("preset", "settings"),
    [
        ("horse2zebra", (0.1, 0.05, 50, 10, False, False)),
        ("cityscapes", (0.1, 0.1, 50, 10, True, False)),
    ],
)
def test_printed_commands_are_presets(preset, settings):
    opt = parsed(*PRINTED[preset].split())
    assert (opt.model, opt.preset) == ("hneg_src", preset)
    assert tuple(getattr(opt, name) for name in SETTINGS) == settings
    assert (opt.nce_weights, opt.src, opt.nce_idt, opt.use_curriculum) == ("hdce", True, True, True)
    assert opt.recipe == f"hneg_src, preset {preset}, float32"
    assert parsed("--model", "hneg_src", "--preset", preset).recipe == opt.recipe


def test_a_name_of_the_release_means_its_method_only_with_its_flags():
    assert parsed("--CUT_mode", "CUT").model == "cut"
    assert parsed("--model=cut", "--lambda_HDCE=1").model == "hneg_src"
    assert parsed("--lambda_HDCE", "1").model == "hneg_src"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--model hneg_src --HDCE_gamma_min -1", "--HDCE_gamma_min: expected a number above 0"),
        ("--model hneg_src --use_curriculum false --step_gamma", "add --use_curriculum"),
        ("--model hneg_src --HDCE_gamma inf", "--HDCE_gamma inf cannot fall over the run"),
        ("--model hneg_src --CUT_mode FastCUT", "--model hneg_src has no such form; leave it out"),
        ("--model hneg_src --nce_weights none --src false", "--nce_weights none --src false leave out all"),
        ("--model hneg_src --num_patches 1", "leaves a patch nothing to differ from"),
        ("--model sincut --use_curriculum", "--use_curriculum belongs to --model hneg_src"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(argv, message):
    with pytest.raises(UserError) as caught:
        parsed(*argv.split())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_printed_commands_run(tmp_path):
    """Training with small networks, then the released test command."""
    make_dataset(tmp_path / "data")
    where = ["--dataroot", tmp_path / "data", "--checkpoints_dir", tmp_path / "checkpoints"]
    released = ["train.py", "--name", "exp_h2z", *PRINTED["horse2zebra"].split()]
    result = run_command([*released, *TINY, *where, "--max_steps", "2"])
    assert result.returncode == 0, result.stderr
    assert "recipe: hneg_src, preset horse2zebra" in result.stdout
    released = [
        "test.py",
        "--name",
        "exp_h2z",
        "--CUT_mode",
        "CUT",
        "--phase",
        "test",
        "--epoch",
        "latest",
    ]
    result = run_command(
        [*released, *where, "--results_dir", tmp_path / "results", "--gpu_ids", "-1"]
    )
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "results").rglob("fake_B/*.png"))) == 4
