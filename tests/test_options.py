"""The command line: layering, presets, one-line errors, and what test.py takes from the training run."""

import json
import math
from argparse import Namespace

import pytest

from data import dataset_modes
from models import find_model, model_names
from options import TestOptions, TrainOptions, parse
from tests.helpers import train_flags, train_options
from util.errors import UserError
from util.parser import script_parser, value_range
from util.run.folder import describe_options, save_record, saved_record

README_COMMAND = [
    "--name", "h2z", "--lambda_GNN", "0.1", "--num_hop", "2", "--gnn_idt", "--nonzero_th", "0.1",
    "--pooling_num", "1", "--pooling_ratio", "1,0.5", "--down_scale", "4",
]  # fmt: skip


def parsed(*argv: str):
    return parse(TrainOptions(), ["--dataroot", "x", *argv])


def with_owners(message: str, flag: str) -> str:
    """A message whose OWNERS are every --model with the flag, in training or at test; a new method may join them."""
    if "OWNERS" not in message:
        return message

    found = []
    for name in model_names():
        choice = Namespace(model=name, dataset_mode=None)
        parsers = [options.build_parser(choice) for options in (TrainOptions(), TestOptions())]
        if any(flag in parser.flags() for parser in parsers):
            found.append(name)
    *others, last = found
    return message.replace("OWNERS", f"{', '.join(others)} or {last}")


def test_default_then_preset_then_flag():
    assert parsed().pool_hop == 1
    assert parsed("--preset", "paper").pool_hop is None
    assert parsed("--preset", "paper", "--pool_hop", "3").pool_hop == 3
    assert parsed("--preset", "paper", "--symmetric_nce", "true").symmetric_nce is True


def test_the_released_command_is_understood():
    opt = parsed(*README_COMMAND)
    chosen = (opt.model, opt.preset, opt.lambda_GNN, opt.num_hop, opt.gnn_idt)
    assert chosen == ("patchgcl", "official", 0.1, 2, True)
    assert opt.pooling_ratio == [1.0, 0.5]
    assert opt.recipe == "patchgcl, preset official, float32", "the released loss, to the last flag"
    assert parsed("--pooling_ratio", "1, 1, 1").pooling_ratio == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("typed", [[], ["true"], ["True"], ["1"], ["yes"]])
def test_flags_take_true_and_false(typed):
    assert parsed("--gnn_idt", *typed).gnn_idt is True
    assert parsed("--gnn_idt", "False").gnn_idt is False


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--lamda_GNN", "1"], "did you mean --lambda_GNN"),
        (["--lambda_GN", "1"], "unknown argument --lambda_GN"),
        (["--model", "patchgc"], "did you mean 'patchgcl'"),
        (["--dataset_mode", "unalined"], "did you mean 'unaligned'"),
        (["--preset", "offical"], "did you mean 'official'? there are: official, paper"),
        (["--lr_policy", "warm"], "invalid choice: 'warm'"),
        (["--ngf", "0"], "at least 1"),
        (["--pooling_ratio", "a,b"], "separated by commas"),
        (["--gnn_idt", "maybe"], "expected true or false"),
        (["--load_size", "128"], "--load_size 128 is smaller than --crop_size 256"),
        (["--epoch_count", "500"], "nothing would be trained"),
        (["--ema", "1.5"], "--ema: expected a number from 0 to below 1"),
        (["--lr", "0"], "--lr: expected a number above 0"),
        (["--lr", "-1e-3"], "--lr: expected a number above 0, got '-1e-3'"),
        (["--value_range", "-1,-2"], "--value_range: expected two numbers, the lower one first"),
        (["--lr", "nan"], "--lr: expected a number above 0, got 'nan'"),
        (["--beta1", "1.5"], "--beta1: expected a number from 0 to below 1"),
        (["--init_gain", "0"], "--init_gain: expected a number above 0"),
        (["--seed", "9" * 20], "--seed: expected a whole number up to 9223372036854775807"),
        (["--lambda_GNN", "-1"], "--lambda_GNN: expected a weight of at least 0"),
        (["--lambda_GNN", "nan"], "--lambda_GNN: expected a weight of at least 0"),
        (["--nonzero_th", "inf"], "--nonzero_th: expected a finite number"),
        (["--nonzero_th", "2"], "--nonzero_th 2.0: a cosine lies between -1 and 1"),
        (["--pooling_ratio", "1,nan"], "expected a finite number"),
        (["--max_minutes", "0"], "expected a number above 0"),
        (["--name", ""], "it is empty (an unset variable?)"),
        (["--name", "  "], "it is empty"),
        (["--name", "."], "lead out of the folder that it is for"),
        (["--name", "../x"], "lead out of the folder that it is for"),
        (["--name", "/tmp/x"], "lead out of the folder that it is for"),
        (["--name", "a\nb"], "control character"),
        (["--name", "x" * 201], "longer than 200 bytes"),
        (["--suffix", "/../../x"], "lead out of the folder that it is for"),
        (["--suffix", "_{modl}"], "is no option in braces"),
        (["--suffix", "_{"], "is no option in braces"),
        (["--from_scratch", "--continue_train"], "contradict each other"),
        (["--input_nc", "1"], "--gnn_idt false"),
        (["--nce_T", "0"], "--nce_T: expected a number above 0"),
    ],
)
def test_bad_input_is_one_line(argv, message):
    with pytest.raises(UserError) as caught:
        parsed(*argv)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--model", "cut", "--lambda_GNN", "0.1"],
            "--lambda_GNN belongs to --model patchgcl or sinpatchgcl, not to cut; leave it out, or choose another "
            "--model",
        ),
        (["--CUT_mode=CUT", "--lambda_GNN=0.1"], "not to cut (chosen by --CUT_mode); leave it out"),
        (["--model=cut", "--CUT_mode", "CUT", "--lambda_GNN", "0.1"], "not to cut; leave it out"),
        (
            ["--lambda_NCE", "-1"],
            "--lambda_NCE belongs to --model OWNERS, not to patchgcl (the default)",
        ),
        (
            ["--lambda_identity", "1"],
            "belongs to --model OWNERS, not to patchgcl",
        ),
        (
            [
                "--model",
                "cut",
                "--num_hop",
                "2",
                "--lambda_L1",
                "1",
                "--gnn_idt",
                "--lr",
                "1",
                "--num_hop",
                "3",
            ],
            "--num_hop (like --gnn_idt) belongs to --model patchgcl",
        ),
        (
            ["--model", "cut", "--crops_per_epoch", "9"],
            "--crops_per_epoch belongs to --dataset_mode singleimage, not to unaligned (the default of --model cut); "
            "leave it out, or choose another --dataset_mode",
        ),
        (
            ["--model", "sincut", "--dataset_mode", "single", "--crops_per_epoch", "9"],
            "not to single; leave it out",
        ),
        (["--num_test", "9"], "--num_test is a flag of test.py, not of train.py; leave it out"),
        (["--model", "sincut", "--tile", "9"], "--tile is a flag of test.py, not of train.py"),
        (
            ["--tile", "9"],
            "--tile is a flag of test.py with --model OWNERS, not of train.py",
        ),
        (
            ["--model_suffix", "_A"],
            "--model_suffix is a flag of test.py with --model test, not of train.py",
        ),
        (
            ["--model", "test", "--lambda_L1", "1"],
            "--lambda_L1 belongs to --model pix2pix, not to test",
        ),
    ],
)
def test_a_flag_of_another_method_data_set_or_command_names_its_owner(argv, message):
    with pytest.raises(UserError) as caught:
        parsed(*argv)
    assert with_owners(message, argv[0]) in str(caught.value)
    assert str(caught.value).startswith("--") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [
        (
            "--lamda_GNN",
            "--lambda_GNN? It belongs to --model patchgcl or sinpatchgcl, not to cut; leave it out",
        ),
        ("--nonzero", "--nonzero_th? It belongs to --model patchgcl or sinpatchgcl"),
        ("--num_tests", "--num_test? It is a flag of test.py"),
        ("--lambda_GN", "--lambda_GAN?"),  # as near as --lambda_GNN, which cut has not
        ("--n_epoch", "--n_epochs?"),
    ],
)
def test_the_nearest_spelling_of_a_mistyped_flag_says_whose_it_is(typed, nearest):
    with pytest.raises(UserError) as caught:
        parsed("--model", "cut", typed, "1")
    assert str(caught.value).startswith(f"unknown argument {typed} 1; did you mean {nearest}")
    assert "It" in nearest or str(caught.value).endswith(nearest)


def test_what_resembles_no_flag_points_to_the_help():
    with pytest.raises(UserError, match=r"^unknown argument --qqq; --help lists all flags$"):
        parsed("--qqq")


def test_a_missing_dataroot_is_named():
    with pytest.raises(UserError, match="--dataroot is missing"):
        parse(TrainOptions(), [])


def test_the_printout_stars_what_differs_and_names_the_recipe():
    data = ("--batch_size", "2", "--direction", "BtoA", "--num_threads", "1")
    opt = parsed("--preset", "paper", "--lambda_GNN", "0.2", *data)
    lines = describe_options(opt).splitlines()
    assert any(line.split() == ["*", "lambda_GNN:", "0.2"] for line in lines)
    assert any(line.split() == ["*", "average_levels:", "false"] for line in lines)
    assert any(line.split() == ["lr:", "0.0002"] for line in lines)
    expected = "patchgcl, preset paper, float32, with lambda_GNN=0.2, batch_size=2"
    assert opt.recipe == expected, "whatever changes what is learned, and nothing else"


def test_when_a_start_ends_is_no_part_of_the_recipe():
    flags = "--dataroot d --gpu_ids -1 --max_steps 30 --continue_train --dry_run --max_minutes 5"
    assert parse(TrainOptions(), flags.split()).recipe.endswith("float32, with max_steps=30")


def test_what_a_run_learns_from_and_starts_from_is_part_of_the_recipe():
    flags = ["--dataroot", "d", "--gpu_ids", "-1"]
    watched = [*flags, "--eval_freq", "10", "--eval_images", "30"]
    assert parse(TrainOptions(), flags).recipe.endswith("float32"), "nothing is measured"
    assert parse(TrainOptions(), [*watched, "--eval_split", "val"]).recipe.endswith("float32")
    kept_out = "float32, up to 30 images of each domain kept out of training"
    assert parse(TrainOptions(), watched).recipe.endswith(kept_out)
    assert parse(TrainOptions(), [*watched, "--ngf", "8"]).recipe.endswith(
        kept_out.replace(",", ", with ngf=8,", 1)
    )
    start = ["--pretrained_name", "old", "--epoch", "7"]
    assert parse(TrainOptions(), [*flags, *start]).recipe.endswith(", from weights 7 of run old")


@pytest.mark.parametrize("form", [["--value_range", "-1000,3000"], ["--value_range=-1000,3000"]])
def test_values_may_be_negative(form):
    assert parsed(*form).value_range == [-1000, 3000]
    parser = script_parser("")
    parser.add_argument("--value_range", type=value_range)
    assert parser.parse_args(form).value_range == [-1000, 3000]


def test_name_suffix_is_filled_in():
    assert parsed("--name", "a", "--suffix", "_{model}_{ngf}").name == "a_patchgcl_64"


def saved_run(tmp_path, *extra):
    opt = train_options(tmp_path, *extra)
    save_record(opt, {"commit": "abc"})
    return opt


def parse_test(tmp_path, *argv):
    return parse(
        TestOptions(), ["--name", "run", "--checkpoints_dir", str(tmp_path / "checkpoints"), *argv]
    )


def test_testing_needs_only_the_name(tmp_path):
    trained = saved_run(tmp_path, "--direction", "BtoA", "--preset", "official")
    opt = parse_test(tmp_path)
    assert (opt.ngf, opt.netG, opt.direction) == (4, "resnet_4blocks", "BtoA")
    assert opt.dataroot == trained.dataroot
    assert (opt.batch_size, opt.phase, opt.preset) == (1, "test", "official")
    assert (
        opt.recipe == trained.recipe
        and "preset official, float32, with netG=resnet_4blocks, ngf=4" in opt.recipe
    )


@pytest.mark.parametrize(("name", "suffix"), [("ru", "n"), ("r", "u{input_nc}n")])
def test_a_suffix_belongs_to_the_name_under_which_the_record_lies(tmp_path, name, suffix):
    run = f"{name}{suffix.format(input_nc=3)}"
    trained = saved_run(tmp_path, "--name", run)
    opt = parse_test(tmp_path, "--name", name, "--suffix", suffix)
    assert (opt.name, opt.suffix, opt.ngf) == (run, "", 4)
    assert opt.recipe == trained.recipe


@pytest.mark.parametrize(
    ("flags", "suffix", "name"),
    [
        ([], "_{load_size}_{preprocess}_{lr}", "run_286_resize_and_crop_0.0002"),
        (["--model", "sincut"], "_b{batch_size}", "run_b16"),
        (["--model", "cut", "--load_size", "300"], "_{model}{load_size}", "run_cut300"),
    ],
)
def test_a_suffix_is_filled_in_at_test_as_in_training(tmp_path, flags, suffix, name):
    """With what training took: test.py has other defaults, reads no preset's sizes, and lacks some flags."""
    typed = [*flags, "--suffix", suffix]
    trained = parsed("--checkpoints_dir", str(tmp_path / "checkpoints"), "--name", "run", *typed)
    save_record(trained, {"commit": "abc"})
    opt = parse_test(tmp_path, "--num_test", "5", *typed)
    assert trained.name == opt.name == name and opt.recipe == trained.recipe


def test_a_suffix_of_a_method_without_training_is_that_of_test_py(tmp_path):
    opt = parse_test(tmp_path, "--model", "strotss", "--dataroot", "x", "--suffix", "_{num_test}")
    assert opt.name == "run_inf"


def test_a_suffix_at_test_that_leads_to_no_run_names_the_whole_name(tmp_path):
    saved_run(tmp_path)
    with pytest.raises(UserError, match=r"--name run_2: no run of this name .*there are: run"):
        parse_test(tmp_path, "--suffix", "_2")


def test_a_contradicting_architecture_names_both_values(tmp_path):
    saved_run(tmp_path)
    with pytest.raises(UserError, match="--ngf 8 contradicts the training run, which used 4"):
        parse_test(tmp_path, "--ngf", "8")
    assert parse_test(tmp_path, "--ngf", "4").ngf == 4


def test_other_data_may_be_translated(tmp_path):
    saved_run(tmp_path)
    assert parse_test(tmp_path, "--dataroot", "elsewhere").dataroot == "elsewhere"
    assert parse_test(tmp_path, "--num_test", "5").max_dataset_size == 5


def test_how_a_preset_cuts_images_is_for_training(tmp_path, monkeypatch):
    cropped = {"preprocess": "scale_shortside_and_crop", "load_size": 300, "batch_size": 2}
    monkeypatch.setitem(find_model("patchgcl").PRESETS, "paper", {**cropped, "ngf": 8})
    trained = parse(TrainOptions(), ["--dataroot", "x", "--preset", "paper"])
    opt = parse_test(tmp_path, "--dataroot", "x", "--preset", "paper")
    assert cropped.items() <= vars(trained).items() and trained.ngf == opt.ngf == 8
    assert (opt.preprocess, opt.load_size, opt.batch_size) == ("none", 256, 1)


def test_published_weights_alone_take_flags_and_defaults(tmp_path):
    opt = parse_test(tmp_path, "--dataroot", "x", "--ngf", "8", "--CUT_mode", "CUT")
    assert (opt.ngf, opt.netG, opt.model) == (8, "resnet_9blocks", "patchgcl")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--lr", "1"], "--lr is a flag of train.py, not of test.py; leave it out"),
        (
            ["--crops_per_epoch", "9"],
            "a flag of train.py with --dataset_mode singleimage, not of test.py; leave it out",
        ),
        (
            ["--tile", "9"],
            "--tile belongs to --model OWNERS, not to patchgcl (with which the run was trained); leave it out",
        ),
    ],
)
def test_a_flag_that_the_run_has_no_use_for_names_its_owner(tmp_path, argv, message):
    saved_run(tmp_path)
    with pytest.raises(UserError) as caught:
        parse_test(tmp_path, *argv)
    assert str(caught.value).endswith(with_owners(message, argv[0]))


def test_without_a_training_run_the_model_of_the_command_counts(tmp_path):
    with pytest.raises(
        UserError,
        match=r"not to patchgcl \(the default\); leave it out, or choose another --model$",
    ):
        parse_test(tmp_path, "--CUT_mode", "CUT", "--tile", "9")  # --CUT_mode chooses no model here
    with pytest.raises(
        UserError, match=r"^--lr is a flag of train\.py, not of test\.py; leave it out$"
    ):
        parse_test(tmp_path, "--model", "test", "--lr", "1")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting"),
        ("[]", "it lacks options, recipe or versions"),
        ('{"options": {}, "recipe": ""}', "it lacks options, recipe or versions"),
        ('{"options": {}, "recipe": "", "versions": {}, "infinite": [[]]}', "no name of an option"),
        ("\udcff", "can't decode"),  # the byte ff, which is no UTF-8
    ],
)
def test_a_damaged_record_is_named(tmp_path, text, reason):
    saved_run(tmp_path)
    path = tmp_path / "checkpoints" / "run" / "train_opt.json"
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(UserError) as caught:
        parse_test(tmp_path)
    line = str(caught.value)
    assert line.startswith(f"{path} is not a record of training options (") and reason in line
    assert line.endswith("restore or delete it") and "\n" not in line


def test_a_record_without_a_model_is_named(tmp_path):
    saved_run(tmp_path)
    path = tmp_path / "checkpoints" / "run" / "train_opt.json"
    path.write_text('{"options": {"dataset_mode": "unaligned"}, "recipe": "", "versions": {}}')
    with pytest.raises(
        UserError, match=r"train_opt\.json names no model or dataset_mode; restore or delete it$"
    ):
        parse_test(tmp_path)


def test_a_record_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "train_opt.json").mkdir()
    with pytest.raises(UserError, match=r"train_opt\.json is not a record .*directory"):
        saved_record(tmp_path)


def test_a_missing_record_is_an_error_only_for_who_needs_it(tmp_path):
    assert saved_record(tmp_path / "nowhere") == {}
    with pytest.raises(UserError, match=r"nowhere/train_opt\.json does not exist; say more$"):
        saved_record(tmp_path / "nowhere", "say more")


def test_the_record_beside_the_weights_holds_everything(tmp_path):
    opt = saved_run(tmp_path)
    record = json.loads((tmp_path / "checkpoints" / "run" / "train_opt.json").read_text())
    assert record["options"]["ngf"] == 4
    assert record["recipe"] == opt.recipe
    assert record["versions"] == {"commit": "abc"}
    assert "preset official" in (tmp_path / "checkpoints" / "run" / "train_opt.txt").read_text()


def refuse(constant: str):
    """What a strict reader of JSON does with Infinity and NaN."""
    raise ValueError(constant)


def test_a_record_is_json_for_every_reader_and_keeps_infinite_numbers(tmp_path):
    save_record(train_options(tmp_path, "--name", "inf", "--max_dataset_size", "inf"), {})
    folder = tmp_path / "checkpoints" / "inf"
    json.loads((folder / "train_opt.json").read_text(), parse_constant=refuse)
    options = saved_record(folder)["options"]
    assert (options["name"], options["max_dataset_size"]) == ("inf", math.inf)

    # a start that goes on, with fewer images
    save_record(train_options(tmp_path, "--name", "inf", "--max_dataset_size", "4"), {}, images=8)
    json.loads((folder / "train_opt.json").read_text(), parse_constant=refuse)
    record = saved_record(folder)
    assert record["options"]["max_dataset_size"] == 4
    assert record["history"][-1]["changes"] == {"max_dataset_size": ["inf", 4]}


def test_a_record_with_infinity_as_it_was_written_before_still_counts(tmp_path):
    saved_run(tmp_path)
    path = tmp_path / "checkpoints" / "run" / "train_opt.json"
    record = json.loads(path.read_text())
    del record["infinite"]
    record["options"]["max_dataset_size"] = math.inf
    record["history"][0]["changes"] = {"max_dataset_size": [3, math.inf]}
    path.write_text(json.dumps(record))
    assert saved_record(path.parent)["options"]["max_dataset_size"] == math.inf
    save_record(train_options(tmp_path, "--ema", "0.9"), {"commit": "abc"}, images=8)
    history = json.loads(path.read_text(), parse_constant=refuse)["history"]
    assert history[0]["changes"] == {"max_dataset_size": [3, "inf"]} and len(history) == 2


def test_every_flag_has_help(tmp_path):
    for options in (TrainOptions(), TestOptions()):
        parser = options.build_parser(options.peek([]))
        for name, action in parser.declared().items():
            assert action.help and len(action.help) > 10, name
        assert "--lambda_GNN" in parser.format_help()


def test_the_help_of_epoch_names_all_kinds_of_weights():
    parser = TestOptions().build_parser(TestOptions().peek([]))
    text = parser.declared()["epoch"].help
    assert all(kind in text for kind in ("latest", "best", "number", "iter_N")), text


def test_train_flags_helper_is_valid(tmp_path):
    assert parse(TrainOptions(), train_flags(tmp_path)).dataset_mode == "unaligned"


@pytest.mark.parametrize("options", [TrainOptions(), TestOptions()])
def test_every_method_goes_with_every_data_set_on_a_command_line(options):
    """Whatever they are, their flags do not collide: whose a flag is, is looked up in all of these parsers."""
    for model in model_names():
        for mode in dataset_modes():
            flags = options.build_parser(Namespace(model=model, dataset_mode=mode)).flags()
            assert len(flags) > 50, (model, mode)
