"""Single-image Hneg-SRC: its terms against loops, the released weights and the working ones, printed commands."""

import pytest

from options import TestOptions, TrainOptions, parse
from tests.helpers import train_options
from tests.test_hneg_src import SETTINGS
from tests.test_relations import assert_terms
from util.errors import UserError
from util.run.folder import save_record

PRINTED = (
    "--CUT_mode CUT --dce_idt --model sincut --lambda_HDCE 4.0 --lambda_SRC 10.0 --use_curriculum --HDCE_gamma 200 "
    "--HDCE_gamma_min 40 --gpu_ids -1"
)


def parsed(*argv: str):
    return parse(TrainOptions(), ["--dataroot", "x", *argv])


@pytest.mark.parametrize(
    ("preset", "gamma"), [("official", 1e9), ("weighted", 190), ("shared", 190)]
)
def test_the_terms_are_their_formula(tmp_path, monkeypatch, preset, gamma):
    """The crops of the batch are one group; as released all negatives weigh the same."""
    assert_terms(tmp_path, monkeypatch, "sinhneg", f"--preset {preset}", (2.0, 10.0), gamma)


def test_the_printed_command_is_the_official_preset():
    opt = parsed(*PRINTED.split())
    assert opt.recipe == "sinhneg, preset official, float32"
    assert parsed("--model", "sinhneg").recipe == opt.recipe
    assert tuple(getattr(opt, name) for name in SETTINGS) == (4.0, 10.0, 200, 40, False, True)
    assert (opt.netG, opt.ngf, opt.crop_size, opt.batch_size) == ("stylegan2", 10, 64, 16)
    assert (opt.num_patches, opt.nce_layers, opt.lr, opt.n_epochs) == (1, [0, 2, 4], 0.002, 8)
    assert parsed("--model", "sincut").model == "sincut"


def test_presets_differ_in_weights_and_networks():
    official, weighted, shared = (
        vars(parsed("--model", "sinhneg", "--preset", preset))
        for preset in ("official", "weighted", "shared")
    )
    differ = {key for key, value in official.items() if weighted[key] != value}
    assert differ - {"preset", "recipe", "changed"} == {"no_Hneg"}
    assert (official["netG"], shared["netG"]) == ("stylegan2", "resnet_9blocks")
    assert not shared["no_Hneg"] and shared["lambda_SRC"] == 10


def test_a_run_can_be_named_as_in_the_release_at_test(tmp_path):
    opt = train_options(tmp_path, "--lambda_HDCE", "4", model="sinhneg")
    (tmp_path / "checkpoints" / "run").mkdir(parents=True)
    save_record(opt, {})
    where = ["--name", "run", "--checkpoints_dir", str(tmp_path / "checkpoints"), "--dataroot", "x"]
    for typed in ([], ["--model", "sincut"], ["--model", "sinhneg", "--CUT_mode", "CUT"]):
        assert parse(TestOptions(), [*where, *typed]).model == "sinhneg"
    with pytest.raises(UserError, match="--model cut contradicts the training run"):
        parse(TestOptions(), [*where, "--model", "cut"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--dce_idt false", "--lambda_identity needs G(B)"),
        ("--batch_size 1", "leaves a patch nothing to differ from"),
        ("--lambda_R1 -1", "--lambda_R1: expected a weight of at least 0"),
        ("--HDCE_gamma_min 0", "--HDCE_gamma_min: expected a number above 0"),
    ],
)
def test_bad_input_is_one_line(argv, message):
    with pytest.raises(UserError) as caught:
        parsed("--model", "sinhneg", *argv.split())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
