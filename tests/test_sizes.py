"""test.py translates at the size at which the run's last epochs saw images, unless each image's own is asked for."""

import json

import pytest

import data
from models.inference.evaluation import evaluation_options
from models.inference.translate import translate
from options import TestOptions, TrainOptions, parse
from scripts.compare import main as compare
from tests.helpers import make_dataset, make_image_folder, train_flags, train_options
from tests.test_options import parse_test, saved_run
from train import train
from util.errors import UserError
from util.run.folder import save_record


@pytest.mark.parametrize(
    ("trained", "expected", "size"),
    [
        ([], ("resize", 32), "trained"),  # load_size 36, crop_size 32
        (["--finetune_resize", "false"], ("resize", 32), "trained"),
        (["--n_epochs_decay", "0"], ("resize", 32), "trained"),
        (["--preprocess", "resize"], ("resize", 32), "trained"),  # the decay phase
        (["--preprocess", "resize", "--n_epochs_decay", "0"], ("resize", 36), "trained"),
        (["--preprocess", "scale_width_and_crop"], ("scale_width", 32), "trained"),
        (
            ["--preprocess", "scale_width_and_crop", "--finetune_resize", "false"],
            ("scale_width", 36),
            "trained",
        ),
        (["--preprocess", "scale_shortside_and_crop"], ("scale_shortside", 32), "trained"),
        (["--preprocess", "resize_shortside_and_crop"], ("resize_shortside", 32), "trained"),
        (["--preprocess", "crop"], ("none", 256), "own"),
        (["--preprocess", "trim"], ("none", 256), "own"),
        (["--preprocess", "none"], ("none", 256), "own"),
        (["--preprocess", "zoom_and_crop"], ("none", 256), "own"),
        (["--preprocess", "resize_and_zoom_and_crop"], ("resize", 32), "trained"),
    ],
)
def test_sizes_are_those_of_the_last_epochs(tmp_path, trained, expected, size):
    saved_run(tmp_path, *trained)
    opt = parse_test(tmp_path)
    assert (opt.preprocess, opt.load_size, opt.size) == (*expected, size)


def test_own_size_and_other_sizes_are_asked_for(tmp_path):
    saved_run(tmp_path)
    own = parse_test(tmp_path, "--size", "own")
    assert (own.preprocess, own.size, own.sizes) == ("none", "own", "their own")
    larger = parse_test(tmp_path, "--load_size", "64")
    assert (larger.preprocess, larger.load_size, larger.size) == ("resize", 64, None)
    assert larger.sizes == "resized to 64 x 64"
    shown = parse_test(tmp_path, "--preprocess", "resize_and_crop", "--load_size", "40")
    assert (shown.load_size, shown.crop_size) == (40, 32), "the run's own crop"
    assert "--preprocess resize_and_crop --load_size 40 --crop_size 32" in shown.sizes


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--size own --load_size 64", "--size own and --load_size 64 both say"),
        ("--size trained --preprocess none", "--size trained and --preprocess none both say"),
        ("--preprocess none --load_size 64", "--load_size 64 has no effect"),
        ("--crop_size 64", "--crop_size 64 has no effect with --preprocess resize"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(tmp_path, flags, said):
    saved_run(tmp_path)
    with pytest.raises(UserError, match=said):
        parse_test(tmp_path, *flags.split())


def test_a_mode_that_does_not_exist_is_the_culprit(tmp_path):
    """And no size that would have no effect, or would be too small, in some other mode."""
    saved_run(tmp_path)
    with pytest.raises(UserError, match="--preprocess resize_crop: no such mode"):
        parse_test(tmp_path, "--preprocess", "resize_crop", "--load_size", "286")
    with pytest.raises(UserError, match="--preprocess resizecrop: no such mode"):
        train_options(tmp_path, "--preprocess", "resizecrop", "--crop_size", "512")
    with pytest.raises(UserError, match="--preprocess crop: --dataset_mode singleimage zooms"):
        train_options(tmp_path, "--preprocess", "crop", model="sincut")


def test_weights_without_a_record_keep_the_size_of_files(tmp_path):
    opt = parse_test(tmp_path, "--dataroot", "x")
    assert (opt.preprocess, opt.size) == ("none", "own")
    with pytest.raises(UserError, match="--size trained needs the record"):
        parse_test(tmp_path, "--dataroot", "x", "--size", "trained")


UNET = ["--netG", "unet_128", "--load_size", "150", "--crop_size", "128"]


@pytest.mark.parametrize(
    ("mode", "size", "said"),
    [
        ("resize", (128, 128), "resized to 128 x 128, as in training"),
        ("scale_width", (128, 128), "width of 150, to the nearest multiples of 128, as in"),
        ("scale_width_and_crop", (150, 135), "scaled to a width of 150, as in training"),
    ],
)
def test_a_network_of_coarse_multiples_sees_the_scale_it_was_trained_at(tmp_path, mode, size, said):
    """A cut keeps the scale of the whole, and the whole is filled up; images without a cut are resized."""
    flags = [*UNET, "--preprocess", mode, "--finetune_resize", "false"]
    trained, opt = saved_run(tmp_path, *flags), parse_test(tmp_path)
    for found in (opt, evaluation_options(trained)):
        found.phase = "test"
        view = data.find_dataset("unaligned")(found).view("A", 0, 1, None)
        assert view.source.size == size
    assert said in opt.sizes

    other = parse_test(tmp_path, "--load_size", "160")
    assert data.find_dataset("unaligned")(other).view("A", 0, 1, None).source.size[0] == 160


@pytest.mark.parametrize("model", ["sincut", "wct2"])
def test_what_learns_from_parts_of_images_translates_whole_ones(tmp_path, model):
    """One image per domain, and WCT2's photographs of any scale."""
    save_record(train_options(tmp_path, model=model), {})
    assert parse_test(tmp_path).size == "own"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of one step, at 32 and at 48 pixels, of images of 80 x 64."""
    root = tmp_path_factory.mktemp("sizes")
    make_dataset(root / "data", count=1, size=(80, 64))
    make_image_folder(root / "data" / "testA_truth", 1, size=(80, 64), seed=5)
    for name, side in (("small", 32), ("large", 48)):
        flags = ["--name", name, "--load_size", str(side), "--crop_size", str(side)]
        once = ["--n_epochs", "1", "--n_epochs_decay", "0", "--no_html"]
        flags = train_flags(root, *flags, *once, model="cut")
        assert train(parse(TrainOptions(), flags)) == 0
    return root


def where(root):
    return ["--checkpoints_dir", str(root / "checkpoints"), "--results_dir", str(root / "results")]


@pytest.mark.parametrize(
    ("flags", "size", "said"),
    [
        ([], (32, 32), "resized to 32 x 32, as in training"),
        (["--size", "own"], (80, 64), "their own"),
    ],
)
def test_the_line_and_the_page_say_at_which_size(runs, flags, size, said, capsys):
    opt = parse(TestOptions(), ["--name", "small", *where(runs), "--gpu_ids", "-1", *flags])
    gallery = translate(opt)
    [(_, row)] = gallery.rows
    assert {(picture.width, picture.height) for picture in row} == {size}
    assert f"sizes of images: {said}" in capsys.readouterr().out
    assert f"{said}</td>" in (gallery.folder / "index.html").read_text()
    assert json.loads((gallery.folder / "facts.json").read_text())["facts"]["sizes"] == said


def test_runs_of_several_sizes_are_compared_at_one(runs, capsys):
    flags = ["--names", "small", "large", *where(runs), "--gpu_ids", "-1"]
    assert compare(flags) == 2
    error = capsys.readouterr().err
    assert "at 32 x 32, large at 48 x 48" in error and "--size own" in error
    assert compare([*flags, "--preprocess", "resize", "--load_size", "40"]) == 0
    [page] = (runs / "results").glob("*/index.html")
    text = page.read_text()
    assert text.count('width="40"') == text.count('height="40"') == 4, "the truth is scaled too"


def test_a_pair_keeps_its_scale_at_test(tmp_path):
    """Both halves are scaled alike."""
    make_image_folder(tmp_path / "data" / "test", 1, size=(80, 64))
    make_image_folder(tmp_path / "data" / "train", 1, size=(80, 64))
    saved_run(tmp_path, "--dataset_mode", "aligned")
    plan = data.find_dataset("aligned")(parse_test(tmp_path)).plan(1, 0)
    assert {role: view.source.size for role, view in plan.items()} == {"A": (32, 32), "B": (32, 32)}
