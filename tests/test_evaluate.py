"""The score against a known truth orders good and bad translations rightly; evaluate.py writes honest records."""

import dataclasses
import html
import json
import math
import shutil
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter

from data.picture_set import PictureSet
from scripts import make_toy_dataset as toy
from scripts.evaluate import main
from scripts.evaluating.sets import Judge
from scripts.evaluating.words import figure_row
from scripts.experiments.collect import floors_of, run_row
from tests.browser import BROWSER, Browser
from tests.helpers import REPO, make_image_folder, run_command
from tests.test_dino import backbone
from util.errors import UserError
from util.hardware.runtime import Runtime
from util.metrics import truth as metrics
from util.metrics.features import Inception
from util.metrics.lpips import WIDTHS

INCEPTION = REPO.parent / "shared" / "weights" / "inception_768.pth"
YOSEMITE = REPO.parent / "shared" / "datasets" / "summer2winter_yosemite"


def scene(index: int, folder: int = 2) -> list[np.ndarray]:
    return [
        picture / 255 for picture in toy.draw_scene(np.random.default_rng([0, folder, index]), 64)
    ]


def striped_half_a_period_off(index: int, monkeypatch) -> np.ndarray:
    pose = toy.pose

    def shifted(rng):
        limbs = pose(rng).items()
        return {
            part: [dataclasses.replace(limb, phase=limb.phase + 0.5) for limb in group]
            for part, group in limbs
        }

    with monkeypatch.context() as patch:
        patch.setattr(toy, "pose", shifted)
        return scene(index)[1]


def blurred(picture: np.ndarray, radius: float) -> np.ndarray:
    image = Image.fromarray((picture * 255).round().astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius))) / 255


@pytest.fixture(scope="module")
def scores():
    """Score over six scenes of candidates that stand for what a model may do."""
    errors: dict[str, list[float]] = {}
    with pytest.MonkeyPatch.context() as monkeypatch:
        for index in range(6):
            source, truth = scene(index)
            coat = (source != truth).any(-1, keepdims=True)
            mean_coat = truth[coat[..., 0]].mean(0)
            shifted = striped_half_a_period_off(index, monkeypatch)
            candidates = {
                "perfect": truth,
                "copy": source,
                "shifted": shifted,
                "faint": np.where(coat, mean_coat + 0.5 * (truth - mean_coat), truth),
                "half done": np.where(np.arange(64)[None, :, None] < 32, truth, source),
                "flat": np.where(coat, mean_coat, truth),
                "grey": np.where(coat, 0.5, truth),
                "white": np.where(coat, toy.WHITE, truth),
                "background blurred": np.where(coat, shifted, blurred(truth, 3)),
                "background dark": np.where(coat, truth, 0.6 * truth),
                "another image of B": scene(index, folder=3)[1],
                "inverted": 1 - source,
            }
            for name, candidate in candidates.items():
                errors.setdefault(name, []).append(
                    metrics.errors_by_region(candidate, truth, source)["error"]
                )
    return {name: metrics.score(values, errors["copy"]) for name, values in errors.items()}


def test_the_ends_of_the_scale(scores):
    assert scores["perfect"] == 1 and scores["copy"] == 0


def test_stripes_at_another_place_are_as_good_as_right(scores):
    assert scores["shifted"] > 0.8


def test_missing_contrast_is_not(scores):
    assert scores["shifted"] > scores["faint"] + 0.2 > scores["flat"] + 0.2
    assert 0.4 < scores["half done"] < 0.7
    assert scores["flat"] < 0.35 and scores["grey"] < 0.35 and scores["white"] < 0


def test_a_wrecked_background_costs_more_than_the_coat_gains(scores):
    assert scores["background blurred"] < scores["shifted"] - 0.25
    assert (
        scores["background dark"] < 0
        and scores["another image of B"] < 0
        and scores["inverted"] < 0
    )


def test_plain_pixels_would_punish_shifted_stripes(monkeypatch):
    source, truth = scene(0)
    shifted = striped_half_a_period_off(0, monkeypatch)
    found = metrics.errors_by_region(shifted, truth, source)
    flat = metrics.errors_by_region(
        np.where((source != truth).any(-1, keepdims=True), 0.5, truth), truth, source
    )
    assert found["l1"] > flat["l1"] and found["error"] < flat["error"]


def test_local_statistics_by_the_definition():
    rng = np.random.default_rng(0)
    picture, sigma = rng.random((5, 7, 2)), 1.3
    mean, std = metrics.local_statistics(picture, sigma)
    for y, x in ((0, 0), (2, 3), (4, 6)):
        weights = np.array(
            [
                [math.exp(-((y - i) ** 2 + (x - j) ** 2) / (2 * sigma**2)) for j in range(7)]
                for i in range(5)
            ]
        )
        weights /= weights.sum()
        for c in range(2):
            values = picture[..., c]
            expected = (weights * values).sum()
            assert mean[y, x, c] == pytest.approx(expected)
            assert std[y, x, c] == pytest.approx(
                math.sqrt((weights * (values - expected) ** 2).sum())
            )


def test_regions_and_pixels():
    source, truth = np.zeros((8, 8, 3)), np.zeros((8, 8, 3))
    truth[:, :4] = 1.0
    found = metrics.errors_by_region(truth, truth, source)
    assert set(found.values()) == {0.0}
    found = metrics.errors_by_region(source, truth, source)
    assert found["l1"] == found["mse"] == 0.5 and found["object"] > found["background"] > 0
    assert found["error"] == pytest.approx((found["object"] + found["background"]) / 2)
    assert metrics.psnr(0.01) == pytest.approx(20) and metrics.psnr(0) == math.inf
    with pytest.raises(ValueError, match="do not differ"):
        metrics.score([0.1], [0.0])


@pytest.fixture
def run(tmp_path):
    """Folders as train.py and test.py leave them, with known images for results; returns (root, flags)."""
    data, images = tmp_path / "data", tmp_path / "results" / "horses" / "test_latest" / "images"
    for index in range(3):
        source, truth = ((picture * 255).astype(np.uint8) for picture in scene(index))
        fake = truth if index else source
        named = {
            data / "testA_truth": truth,
            images / "real_A": source,
            images / "fake_B": fake,
            data / "testB": truth,
        }
        for folder, picture in named.items():
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / f"{index}.png")
    record = tmp_path / "checkpoints" / "horses" / "train_opt.json"
    record.parent.mkdir(parents=True)
    options = {"dataroot": str(data), "dataset_mode": "unaligned", "direction": "AtoB", "seed": 7}
    record.write_text(
        json.dumps(
            {"options": options, "recipe": "patchgcl, preset paper", "versions": {"torch": "x"}}
        )
    )
    where = ["--checkpoints_dir", tmp_path / "checkpoints", "--results_dir", tmp_path / "results"]
    return tmp_path, ["--name", "horses", *where]


@pytest.fixture
def evaluate(capsys):
    """evaluate.py in this process, which spares the import of torch: flags -> exit status, output, errors."""

    def call(*flags) -> tuple[int, str, str]:
        status = main([str(flag) for flag in flags])
        return status, *capsys.readouterr()

    return call


def test_a_run_is_found_by_name_and_recorded(run, evaluate):
    """Also by two processes that share the work, which find what one finds and write and print it once."""
    root, flags = run
    flags += ["--vgg_weights", "random"]
    result = run_command(["scripts/evaluate.py", *flags, "--gpu_ids=-1,-1"])
    assert result.returncode == 0, result.stderr
    record = json.loads((root / "results/horses/test_latest/truth.json").read_text())
    assert (
        0.5 < record["score"] < 0.9
        and f"score {record['score']:.3f}" in result.stdout.splitlines()[-1]
    )
    assert record["counts"] == {"images": 3, "not_translated": 0}
    assert record["run"]["seed"] == 7 and record["run"]["recipe"] == "patchgcl, preset paper"
    assert (
        "--name horses" in record["command"]
        and {"commit", "numpy", "torch"} <= record["versions"].keys()
    )
    assert [row["name"] for row in record["images"]] == ["0", "1", "2"]
    assert result.stdout.count("written to ") == 1

    assert evaluate(*flags)[0] == 0
    alone = json.loads((root / "results/horses/test_latest/truth.json").read_text())
    assert {**alone, "command": record["command"]} == record
    assert "self_similarity" in alone["figures"]
    assert record["images"][0]["score"] == 0 and record["images"][1]["score"] == 1


def test_the_table_prints_the_psnr_of_the_figures(run, evaluate):
    """The mean over images, where perfect ones count as 100 dB; not the PSNR of the mean error."""
    root, flags = run
    status, output, _ = evaluate(*flags, "--bootstrap", "0")
    snr = json.loads((root / "results/horses/test_latest/truth.json").read_text())["figures"]
    cells = {line[:20].strip(): line.split()[-1] for line in output.splitlines()[-4:]}
    assert status == 0 and snr["peak_snr"]["value"] > 2 * 100 / 3
    assert cells["model"] == f"{snr['peak_snr']['value']:.2f}" and cells["perfect"] == "100.00"
    assert cells["copy of the input"] == f"{snr['peak_snr']['floors']['inputs']['value']:.2f}"


def test_a_background_that_no_image_has_has_no_error(tmp_path, evaluate):
    """As with real pairs, where every pixel of the truth differs from the input; images that have one count alone."""
    for name, level in (("fake", 40), ("input", 100), ("truth", 10)):
        (tmp_path / name).mkdir()
        Image.new("RGB", (16, 16), (level, level, level)).save(tmp_path / name / "0.png")
    flags = [part for n in ("fake", "input", "truth") for part in (f"--{n}", tmp_path / n)]
    flags += ["--bootstrap", "0"]
    status, output, _ = evaluate(*flags)
    means = json.loads((tmp_path / "fake_truth.json").read_text())["means"]
    assert status == 0 and means["model"]["background"] is None
    for line in output.splitlines()[-4:-1]:
        assert line[20:].split()[2] == "-", line

    picture = np.full((16, 16, 3), 100, np.uint8)
    Image.fromarray(picture).save(tmp_path / "input" / "1.png")
    picture[:8] = 10
    Image.fromarray(picture).save(tmp_path / "truth" / "1.png")
    picture[8:] = 130
    Image.fromarray(picture).save(tmp_path / "fake" / "1.png")
    assert evaluate(*flags)[0] == 0
    record = json.loads((tmp_path / "fake_truth.json").read_text())
    alone = record["images"][1]["model"]["background"]
    assert record["means"]["model"]["background"] == alone > 0.05


def test_one_resample_is_refused_before_anything_is_measured(run, capsys):
    with pytest.raises(SystemExit):
        main([*map(str, run[1]), "--bootstrap", "1"])
    assert "argument --bootstrap: one resample has no spread" in capsys.readouterr().err


def test_what_an_interrupted_test_py_left_is_not_measured(run, evaluate):
    """Half of it may be of other weights; by name and by folder."""
    root, flags = run
    results = root / "results" / "horses" / "test_latest"
    (results / "unfinished_1.jsonl").write_text('"images/fake_B/0.png"\n')
    status, _, errors = evaluate(*flags)
    assert status == 2 and "unfinished_1.jsonl says so): test.py was interrupted" in errors
    fake = results / "images" / "fake_B"
    status, _, errors = evaluate("--fake", fake, "--real", root / "data" / "testB")
    assert status == 2 and f"--fake {fake} is not finished" in errors and errors.count("\n") == 1


def test_aligned_pairs_are_their_own_truth(run, evaluate):
    root, flags = run
    record = root / "checkpoints" / "horses" / "train_opt.json"
    record.write_text(record.read_text().replace('"unaligned"', '"aligned"'))
    (root / "data" / "testA_truth").rename(root / "results/horses/test_latest/images/real_B")
    status, output, _ = evaluate(*flags)
    assert status == 0 and "real_B" in output
    assert (
        0.5
        < json.loads((root / "results/horses/test_latest/truth.json").read_text())["score"]
        < 0.9
    )


def test_the_data_folder_may_have_moved(run, evaluate):
    root, flags = run
    (root / "data").rename(root / "elsewhere")
    assert evaluate(*flags)[0] == 2
    assert evaluate(*flags, "--dataroot", root / "elsewhere")[0] == 0


def test_what_was_not_translated_is_counted(run, evaluate):
    root, flags = run
    (root / "results/horses/test_latest/images/fake_B/2.png").unlink()
    _, output, _ = evaluate(*flags)
    assert "2 images" in output and "1 more" in output


def test_bad_folders_are_named(run, evaluate, tmp_path):
    root, flags = run
    images = root / "results/horses/test_latest/images"
    fake, source = ("--fake", images / "fake_B"), ("--input", images / "real_A")
    (root / "data/testA_truth/1.png").rename(root / "data/testA_truth/other.png")
    for given, complaint in (
        (flags, "has no image 1"),
        ((*fake, *source, "--truth", images / "real_A"), "do not differ"),
        ((*fake, "--real", tmp_path / "none"), f"--real {tmp_path / 'none'} is not a folder"),
        (("--name", "nobody"), "python test.py --name nobody"),
    ):
        status, _, errors = evaluate(*given)
        assert status == 2 and complaint in errors and errors.count("\n") == 1
    with pytest.raises(SystemExit):
        evaluate(*fake)


def test_what_was_not_translated_is_said_with_the_command_that_does_it(run, evaluate):
    """All that test.py must be told, and no other name for a run that is there."""
    root, flags = run
    status, _, errors = evaluate(*flags, "--phase", "val", "--epoch", "best")
    places = f"--checkpoints_dir {root / 'checkpoints'} --results_dir {root / 'results'}"
    command = f"python test.py --name horses --phase val --epoch best {places}"
    assert status == 2 and errors.endswith(f"; first run: {command}\n")

    shutil.rmtree(root / "checkpoints")
    assert "did you mean" not in evaluate(*flags, "--epoch", "best", "--real", root)[2]
    assert "did you mean 'horses'" in evaluate(*flags[2:], "--name", "horse")[2]


def test_sizes_must_agree(run, evaluate):
    root, flags = run
    path = root / "results/horses/test_latest/images/fake_B/1.png"
    Image.open(path).resize((32, 32)).save(path)
    status, _, errors = evaluate(*flags)
    assert status == 2 and str(path) in errors and "size" in errors


@pytest.mark.parametrize(("direction", "reference"), [("AtoB", "testB"), ("BtoA", "testA")])
def test_without_truth_the_target_domain_is_the_reference(run, evaluate, direction, reference):
    root, flags = run
    shutil.rmtree(root / "data" / "testA_truth")
    shutil.rmtree(root / "data" / "testB")
    record = root / "checkpoints" / "horses" / "train_opt.json"
    record.write_text(record.read_text().replace("AtoB", direction))
    (root / "data" / reference).mkdir()
    assert f"{root / 'data' / reference} holds no images" in evaluate(*flags)[2]
    (root / "data" / reference).rmdir()
    complaint = f"{root / 'data'} has no real images of the target domain (no folder {reference} or"
    status, _, errors = evaluate(*flags)
    assert status == 2 and complaint in errors and "with --real" in errors


def test_val_stands_in_for_missing_test_images_as_in_test_py(run, evaluate):
    root, flags = run
    shutil.rmtree(root / "data" / "testA_truth")
    shutil.rmtree(root / "data" / "testB")
    (root / "data" / "valB").mkdir()
    assert f"{root / 'data' / 'valB'} holds no images" in evaluate(*flags)[2]


def test_weights_without_a_record_need_a_reference(run, evaluate):
    """As with released weights, which come without train_opt.json."""
    root, flags = run
    record = root / "checkpoints" / "horses" / "train_opt.json"
    record.unlink()
    assert f"{record} does not exist; say with --real or --truth" in evaluate(*flags)[2]
    assert evaluate(*flags, "--truth", root / "data" / "testA_truth")[0] == 0


@pytest.mark.parametrize("needed", [True, False])
def test_a_damaged_record_is_one_line(run, evaluate, needed):
    root, flags = run
    record = root / "checkpoints" / "horses" / "train_opt.json"
    record.write_text("{")
    status, _, errors = evaluate(
        *flags, *([] if needed else ["--truth", root / "data" / "testA_truth"])
    )
    assert status == 2 and errors.startswith(f"error: {record} is not a record of training options")
    assert errors.count("\n") == 1


def test_fid_needs_images_of_one_size(tmp_path, evaluate):
    make_image_folder(tmp_path / "fake", 2)
    make_image_folder(tmp_path / "real", 1)
    flags = ("--fake", tmp_path / "fake", "--real", tmp_path / "real")
    assert "holds one image" in evaluate(*flags)[2]
    make_image_folder(tmp_path / "real" / "more", 1, size=(20, 20))
    assert "one size" in evaluate(*flags)[2]


def test_missing_weights_are_said_in_one_line(run, evaluate, monkeypatch):
    root, flags = run
    flags = (*flags, "--real", root / "data" / "testB")
    assert "none.pth does not exist" in evaluate(*flags, "--inception", root / "none.pth")[2]

    def no_network(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", no_network)
    status, _, errors = evaluate(*flags)
    assert (
        status == 2
        and "no network" in errors
        and "--inception PATH" in errors
        and errors.count("\n") == 1
    )


def test_missing_torch_fidelity_is_said_in_one_line(run, evaluate, monkeypatch):
    root, flags = run
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    status, _, errors = evaluate(*flags, "--real", root / "data" / "testB")
    assert status == 2 and "scripts/setup.sh --dev" in errors and errors.count("\n") == 1


@pytest.fixture(scope="module")
def seasons(tmp_path_factory):
    root = tmp_path_factory.mktemp("seasons")
    for letter in "AB":
        (root / letter).mkdir()
        for path in sorted((YOSEMITE / f"test{letter}").iterdir())[:6]:
            shutil.copy(path, root / letter)
    return root


needs_weights = pytest.mark.skipif(
    not (INCEPTION.is_file() and YOSEMITE.is_dir()),
    reason="needs ../shared with Inception weights and summer2winter",
)


@needs_weights
def test_fid_is_zero_for_the_same_images_and_positive_for_others(seasons, evaluate):
    found = {}
    for real in "AB":
        out = seasons / f"{real}.json"
        folders = ["--fake", seasons / "A", "--real", seasons / real, "--out", out]
        status, output, errors = evaluate(
            *folders, "--inception", INCEPTION, "--feature", "768", "--no_store"
        )
        assert status == 0, errors
        assert "FID-768" in output and "warning: FID from fewer than 2048" in output
        found[real] = json.loads(out.read_text())
    value = {real: found[real]["figures"]["fid"]["value"] for real in "AB"}
    assert abs(value["A"]) < 1e-6 < 0.3 < value["B"]
    assert found["B"]["figures"]["kid"]["title"] == "KID-768"
    assert (
        found["B"]["counts"] == {"fake": 6, "real": 6}
        and len(found["B"]["inception"]["sha256"]) == 64
    )


@needs_weights
def test_nan_is_an_error_and_never_a_number(seasons, evaluate):
    out = seasons / "nan.json"
    folders = ["--fake", seasons / "A", "--real", seasons / "B", "--out", out]
    status, output, errors = evaluate(*folders, "--inception", INCEPTION)
    assert status == 2 and "NaN" in errors and errors.count("\n") == 1
    assert not out.exists() and "FID" not in output


@needs_weights
def test_a_feature_that_is_no_number_is_an_error_whatever_the_weights_say():
    """Weights are checked before; this catches damage that only shows in use."""
    inception = Inception(INCEPTION, "64")
    with torch.no_grad():
        inception.net.Conv2d_1a_3x3.conv.weight.fill_(math.nan)
    with pytest.raises(UserError, match="features that are no numbers at layer 64"):
        inception.encode([torch.zeros(3, 32, 32, dtype=torch.uint8)], 4)


# --- sets, with a judge that needs no weights ----------------------------------------------------------------------


class Pixels(Inception):
    """Features are the picture at 3 x 3 pixels; all else is as with Inception."""

    def __init__(self, path, layer, device):
        self.layer, self.sha256, self.path = layer, "0" * 64, INCEPTION

    def encode(self, pictures, batch_size):
        small = [
            F.interpolate(p[None].double(), (3, 3), mode="area").flatten().numpy() for p in pictures
        ]
        return np.stack(small) / 255


@pytest.fixture
def sets(tmp_path, evaluate, monkeypatch):
    """Measure folders of `tmp_path` by `Pixels`: flags -> the record, and the output."""
    monkeypatch.setattr("scripts.evaluate.Inception", Pixels)

    def call(*flags) -> tuple[dict, str]:
        out = ("--out", tmp_path / "out" / "record.json")
        where = ("--fake", tmp_path / "fake", "--real", tmp_path / "real")
        status, output, errors = evaluate(
            *where, *out, "--no_store", "--bootstrap", "5", "--feature", "768", *flags
        )
        assert status == 0, errors
        return json.loads((tmp_path / "out" / "record.json").read_text()), output

    return call


def values(record: dict) -> dict[str, float]:
    return {name: entry["value"] for name, entry in record["figures"].items()}


def test_order_and_format_do_not_matter(tmp_path, sets):
    make_image_folder(tmp_path / "fake", 8, seed=1)
    make_image_folder(tmp_path / "real", 9, seed=2)
    before, _ = sets()
    assert before["counts"] == {"fake": 8, "real": 9}

    for number, path in enumerate(sorted((tmp_path / "fake").iterdir(), reverse=True)):
        other = tmp_path / "fake" / f"{number}{('.bmp', '.tif')[number % 2]}"
        Image.open(path).save(other)
        path.unlink()
    after, _ = sets()
    assert values(after) == pytest.approx(values(before), abs=1e-9)

    shutil.rmtree(tmp_path / "real")
    shutil.copytree(tmp_path / "fake", tmp_path / "real")
    same, _ = sets()
    assert abs(same["figures"]["fid"]["value"]) < 1e-9 and same["figures"]["coverage"]["value"] == 1


def test_every_figure_has_numbers_intervals_and_floors(tmp_path, sets):
    for seed, name in enumerate(("fake", "input", "real", "train")):
        make_image_folder(tmp_path / name, 6 if name in ("fake", "input") else 9, seed=seed)
    train = ("--input", tmp_path / "input", "--train", tmp_path / "train")
    record, output = sets(*train)
    for name in ("fid", "kid", "precision", "recall", "density", "coverage"):
        entry = record["figures"][name]
        assert entry["interval"][0] <= entry["value"] <= entry["interval"][1]
        assert entry["n"] == {"fake": 6, "real": 9} and entry["equal_numbers"]["n"] == 6
        assert entry["floors"]["inputs"]["n"] == {"fake": 6, "real": 9}
        assert entry["floors"]["real"]["n"] == {"fake": 6, "real": 9}, "six of nine, as outputs are"
    real = record["figures"]["fid"]["floors"]["real"]
    assert real["value"] != real["equal_numbers"]["value"], "against nine images, and six of them"
    assert figure_row("fid", record["figures"]["fid"])["real"] == f"{real['value']:.3f}"
    edges = record["figures"]["edges"]["floors"]
    assert 0 < edges["unrelated"]["value"] < 1
    assert edges["inputs"]["value"] == pytest.approx(1), "an input keeps its own edges"
    assert "| FID-768 |" in output and "warning: FID from fewer than 2048" in output
    assert "the sets differ in number (6 and 9)\n" in output
    assert "equal n: the figure with so many images on either side" in output

    halves, output = sets()
    real = halves["figures"]["fid"]["floors"]["real"]
    assert real["halves"] and f"{real['value']:.3f} (halves of 4)" in output


def test_a_floor_stands_at_the_numbers_of_its_figure_or_says_what_its_are():
    """Records from before floors were drawn hold one of all training pictures."""
    figure = {"title": "FID", "better": "low", "value": 153.5, "n": {"fake": 120, "real": 140}}
    old = {"value": 98.7, "n": {"fake": 1334, "real": 140}}
    old["equal_numbers"] = {"value": 161.2, "n": 120}
    halves = {"value": 228.7, "n": {"fake": 70, "real": 70}, "halves": True}
    same = {"value": 160.9, "n": figure["n"], "equal_numbers": {"value": 161.2, "n": 120}}
    for floor, cell, label in (
        (old, "161.200 (120)", "real pictures (120 images each)"),
        (halves, "228.700 (halves of 70)", "real pictures (halves of 70 images each)"),
        (same, "160.900", "real pictures"),
    ):
        entry = {**figure, "floors": {"real": floor}}
        assert figure_row("fid", entry)["real"] == cell
        [(words, values)] = floors_of({"figures": {"fid": entry}}).items()
        assert words == label and f"{values['FID']:.3f}" == cell.split()[0]


def test_a_grid_says_nothing_of_columns_that_it_does_not_have(tmp_path):
    """Warnings of earlier evaluations spoke of what stood beside a figure in their own table."""
    warnings = [
        "the sets differ in number (6 and 9); a figure at equal numbers stands beside each",
        "1 of 8 reals in train too (1 exactly): figures without them stand beside each",
        "9 images, which is few",
    ]
    record = {"figures": {}, "warnings": warnings}
    (tmp_path / "measured_last.json").write_text(json.dumps(record))
    assert run_row(tmp_path).first.warnings == [
        "the sets differ in number (6 and 9)",
        "1 of 8 reals in train too (1 exactly)",
        "9 images, which is few",
    ]


@pytest.fixture
def trained(run, monkeypatch):
    """The run of `run` with eight training images of either domain: options of its record -> flags and its root."""
    monkeypatch.setattr("scripts.evaluate.Inception", Pixels)
    root, flags = run
    for letter in "AB":
        make_image_folder(root / "data" / f"train{letter}", 8, size=(64, 64), seed=ord(letter))
    real = ("--real", root / "data" / "testB", "--no_store", "--bootstrap", "0")

    def call(**options) -> tuple[Path, list]:
        file = root / "checkpoints" / "horses" / "train_opt.json"
        record = json.loads(file.read_text())
        record["options"] |= options
        file.write_text(json.dumps(record))
        return root, [*flags, *real]

    return call


def of_sets(root: Path) -> dict:
    return json.loads((root / "results/horses/test_latest/fid_2048.json").read_text())


def test_only_what_training_saw_counts_as_seen(trained, evaluate):
    """Neither images held out to measure on nor those beyond --max_dataset_size, which may be test images too."""
    root, flags = trained(eval_freq=4, eval_split="holdout", eval_images=3, max_dataset_size=6)
    for name in ("image_001", "image_007", "image_000"):  # held out, left out, seen
        shutil.copy(root / "data" / "trainB" / f"{name}.png", root / "data" / "testB")
    assert evaluate(*flags)[0] == 0
    found = of_sets(root)
    assert found["files"]["train"]["images"] == found["files"]["train_inputs"]["images"] == 4
    names = [Path(path).stem for path in found["duplicates"]["between"]["reals in train"]["images"]]
    assert names == ["image_000"]

    root, flags = trained(eval_split="val", max_dataset_size=math.inf)
    assert evaluate(*flags)[0] == 0 and of_sets(root)["files"]["train"]["images"] == 8
    root, flags = trained(skip_bad_images=True)
    (root / "data" / "trainB" / "image_002.png").write_bytes(b"no image")
    assert evaluate(*flags)[0] == 0 and of_sets(root)["files"]["train"]["images"] == 7


@pytest.mark.parametrize("fault", ["one", "sizes", "none"])
def test_training_images_that_nobody_named_never_end_a_measurement(trained, evaluate, fault):
    root, flags = trained()
    folder = root / "data" / "trainB"
    for path in sorted(folder.iterdir())[0 if fault == "none" else 1 :]:
        path.unlink()
    if fault == "sizes":
        make_image_folder(folder / "more", 1, size=(20, 20))
    status, output, errors = evaluate(*flags)
    assert status == 0, errors
    assert "train" not in of_sets(root)["files"]
    warned = {"one": "holds one image", "sizes": "is 20x20", "none": ""}[fault]
    assert ("training pictures were left out" in output) == bool(warned) and warned in output

    if fault == "one":
        shutil.rmtree(root / "data" / "trainA")
        make_image_folder(root / "data" / "trainA", 1)
        assert evaluate(*flags)[0] == 0, "duplicates are looked for among one too"
        status, _, errors = evaluate(*flags, "--train", folder)
        assert status == 2 and f"{folder} holds one image" in errors


def test_sizes_and_formats_of_the_two_sides_are_told(tmp_path, sets, evaluate):
    make_image_folder(tmp_path / "fake", 3, size=(32, 32))
    make_image_folder(tmp_path / "real", 3, size=(40, 32), seed=1, suffix=".jpg")
    record, output = sets()
    assert "outputs are 32x32, real pictures are 40x32" in output
    assert "outputs are PNG or another exact format, real pictures JPEG" in output
    assert record["files"]["reals"]["sizes"] == {"40x32": 3}

    make_image_folder(tmp_path / "train", 3, size=(24, 24), seed=3)
    _, output = sets("--train", tmp_path / "train")
    assert "outputs are 32x32, real pictures are 40x32, training pictures are 24x24" in output
    assert "training pictures are PNG or another exact format, real pictures JPEG" in output
    make_image_folder(tmp_path / "train" / "more", 1, size=(40, 32))
    folders = ("--fake", tmp_path / "fake", "--real", tmp_path / "real")
    status, _, errors = evaluate(*folders, "--train", tmp_path / "train")
    assert status == 2 and f"{tmp_path / 'train' / 'more'}" in errors and "is 40x32" in errors

    make_image_folder(tmp_path / "real" / "more", 1, size=(64, 48), seed=2)
    folders = ("--fake", tmp_path / "fake", "--real", tmp_path / "real")
    assert "scale all of both sides with --resize 256" in evaluate(*folders)[2]
    record, output = sets("--resize", "24")
    assert record["settings"]["resize"] == 24 and "all were brought to 24x24" in output
    assert "real pictures are of 2 sizes, most often 40x32" in output


def test_resizing_does_the_same_to_both_sides(tmp_path, sets):
    make_image_folder(tmp_path / "fake", 6, size=(40, 40), seed=1)
    shutil.copytree(tmp_path / "fake", tmp_path / "real")
    record, _ = sets("--resize", "20")
    assert abs(record["figures"]["fid"]["value"]) < 1e-9


def in_12_bits(folder, other):
    """The grey pictures of a folder once more, 0..4095 in files of 16 bits."""
    other.mkdir(parents=True)
    for path in folder.iterdir():
        values = np.asarray(Image.open(path).convert("L")).astype(np.uint16)
        Image.fromarray((values * 4095.0 / 255).round().astype(np.uint16)).save(other / path.name)


def test_grey_files_are_read_in_the_range_of_values(tmp_path, sets):
    """Real pictures and inputs in 12 bits are as bright as outputs in 8; test.py's own pictures are not stretched."""
    for path in make_image_folder(tmp_path / "fake", 4):
        Image.open(path).convert("L").save(path)
    for name in ("real", "input", "train", "train_input"):
        in_12_bits(tmp_path / "fake", tmp_path / name)

    others = [
        f for name in ("input", "train", "train_input") for f in (f"--{name}", tmp_path / name)
    ]
    dark, _ = sets(*others)
    record, _ = sets(*others, "--value_range", "0,4095")
    assert record["settings"]["value_range"] == [0, 4095]
    assert dark["figures"]["fid"]["value"] > 0.1
    assert abs(record["figures"]["fid"]["value"]) < 1e-9
    for floor in record["figures"]["fid"]["floors"].values():
        assert abs(floor["value"]) < 1e-9
    assert record["duplicates"]["between"]["reals in train_inputs"]["exact"] == 4

    results = tmp_path / "results"
    shutil.copytree(tmp_path / "fake", results / "images" / "real_A")
    (results / "pictures.json").write_text("[]")
    written, _ = sets("--input", results / "images" / "real_A", "--value_range", "0,4095")
    assert abs(written["figures"]["fid"]["floors"]["inputs"]["value"]) < 1e-9


def test_a_run_implies_its_range_of_values(run, evaluate):
    root, flags = run
    images = root / "results" / "horses" / "test_latest" / "images"
    (images.parent / "pictures.json").write_text("[]")
    for path in images.rglob("*.png"):
        Image.open(path).convert("L").save(path)
    shutil.rmtree(root / "data" / "testA_truth")
    in_12_bits(images / "fake_B", root / "data" / "testA_truth")
    record = root / "checkpoints" / "horses" / "train_opt.json"
    record.write_text(
        record.read_text().replace('"seed": 7', '"seed": 7, "value_range": [0.0, 4095.0]')
    )

    assert evaluate(*flags)[0] == 0
    found = json.loads((images.parent / "truth.json").read_text())
    assert found["score"] == pytest.approx(1) and found["settings"]["value_range"] == [0, 4095]


def test_features_are_kept_by_range_of_values(tmp_path):
    make_image_folder(tmp_path / "real", 2)
    judge = Judge(Runtime("-1"), Pixels(None, "768", "cpu"), 2, tmp_path / "store")
    for number, levels in enumerate((None, (0.0, 100.0), (0.0, 200.0), None, (0.0, 100.0))):
        judge.features(PictureSet(tmp_path / "real", levels=levels))
        assert len(list((tmp_path / "store").iterdir())) == min(number, 2) + 1


def test_duplicates_are_counted_and_left_out(tmp_path, sets):
    for seed, name in enumerate(("fake", "input", "real", "train", "train_input")):
        make_image_folder(tmp_path / name, 6, seed=seed)
    shutil.copy(tmp_path / "train" / "image_000.png", tmp_path / "real" / "again.png")
    shutil.copy(tmp_path / "train_input" / "image_001.png", tmp_path / "input" / "image_002.png")
    shutil.copy(tmp_path / "train_input" / "image_003.png", tmp_path / "real" / "stray.png")
    folders = [("--" + name, tmp_path / name) for name in ("input", "train", "train_input")]
    record, output = sets(*(part for pair in folders for part in pair))
    between = record["duplicates"]["between"]
    assert (between["reals in train"]["exact"], between["inputs in train_inputs"]["near"]) == (1, 1)
    assert between["reals in train_inputs"]["exact"] == 1, "the other domain is looked through too"
    assert between["reals in train"]["images"] == [str(tmp_path / "real" / "again.png")]
    assert "1 of 8 reals in train too (1 exactly)\n" in output
    assert "no duplicates: the figure without pictures that occur twice" in output
    entry = record["figures"]["fid"]
    assert entry["without_duplicates"]["n"] == {"fake": 5, "real": 6}
    assert entry["without_duplicates"]["value"] != entry["value"]


@pytest.mark.parametrize("both", [True, False])
def test_results_of_equal_stems_are_paired_with_their_files(tmp_path, evaluate, both):
    """test.py calls the results of x.jpg and x.png x and x_png; the truth may hold one of them, or other formats."""
    for name in ("fake", "input", "truth"):
        (tmp_path / name).mkdir()
    for name, level, truth in (("x", 10, "x.jpg"), ("x_png", 200, "x.png")):
        for folder, value, file in (
            ("fake", level, f"{name}.png"), ("input", 100, f"{name}.png"), ("truth", level, truth)
        ):  # fmt: skip
            if both or name == "x_png":
                Image.new("RGB", (16, 16), (value, value, value)).save(tmp_path / folder / file)
    flags = [part for n in ("fake", "input", "truth") for part in (f"--{n}", tmp_path / n)]
    status, output, errors = evaluate(*flags, "--bootstrap", "0")
    assert status == 0, errors
    assert "score 1.000" in output.splitlines()[-1] or "score 0.99" in output.splitlines()[-1]

    if both:
        (tmp_path / "truth" / "x.jpg").unlink()
        assert "has no image x, but" in evaluate(*flags)[2]


def test_the_page_shows_everything_and_needs_nothing_else(tmp_path, sets):
    for seed, name in enumerate(("fake", "input", "real", "train")):
        make_image_folder(tmp_path / name, 5, seed=seed)
    record, _ = sets(
        "--input", tmp_path / "input", "--train", tmp_path / "train", "--worst", "2", "--grid", "3"
    )
    page = tmp_path / "out" / "record.html"
    text = page.read_text()
    said = ["3 of 5 outputs, drawn at random", "nearest training picture", "FID-768"]
    assert record["warnings"]
    for part in [*said, *record["warnings"]]:
        assert html.escape(part, quote=False) in text
    for name in ("fake", "input", "real", "train"):
        shutil.rmtree(tmp_path / name)  # the page has its own copies
    if BROWSER is None:
        pytest.skip("no browser")
    with Browser() as browser:
        browser.open(page)
        pictures = browser.images()
        assert len(pictures) >= 3 * 2 + 2 * 2 * 2 + 5 * 2 and all(p["width"] for p in pictures)
        assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_encoders_judge_where_their_weights_are_given(run, evaluate, tmp_path):
    root, flags = run
    published = {f"lin{i}.model.1.weight": torch.rand(1, w, 1, 1) for i, w in enumerate(WIDTHS)}
    torch.save(published, tmp_path / "vgg.pth")
    lpips = ("--lpips", tmp_path / "vgg.pth")
    assert "--lpips needs VGG16 as well" in evaluate(*flags, *lpips)[2]
    torch.save(backbone(), tmp_path / "dino.pth")
    judges = ("--vgg_weights", "random", "--dino", tmp_path / "dino.pth")
    status, output, errors = evaluate(*flags, *lpips, *judges, "--bootstrap", "0")
    assert status == 0, errors
    record = json.loads((root / "results/horses/test_latest/truth.json").read_text())
    rows = record["images"]
    assert rows[0]["self_similarity"] == pytest.approx(0, abs=1e-6), "a copy of its input"
    assert rows[1]["lpips"] == pytest.approx(0, abs=1e-6) and rows[0]["lpips"] > 0.01
    assert rows[0]["self_similarity_dino"] == pytest.approx(0, abs=1e-5)
    assert rows[1]["self_similarity_dino"] > 0.01 and "self-similarity (DINO)" in output
    assert record["encoder"]["vgg"].startswith("random") and "SSIM" in output
    assert record["encoder"]["dino"].startswith("dino.pth, sha256 ")
    assert record["encoder"]["lpips"].startswith("vgg.pth, sha256 ")
