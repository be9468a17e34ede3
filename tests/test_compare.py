"""scripts/compare.py: what it writes for several runs, its errors, and its page in a real browser."""

import base64
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models import create_model
from models.inference.translate import translate
from options import TestOptions, TrainOptions, parse
from scripts.compare import main
from scripts.comparing.facts import Measured, best, differing_options, measured
from scripts.comparing.page import Column, write_comparison
from tests.browser import Browser, needs_browser
from tests.helpers import TINY, folder_in_use, make_dataset, make_image_folder, run_command
from util.hardware.runtime import Runtime
from util.pages.files import Picture
from util.pages.gallery import Gallery
from util.run.folder import save_record

ODD_RUN = "run 'b' \"50%\" <i>é#"
ODD_IMAGE = 'it\'s "1" #2 100% <b> & 雪'


def make_run(root: Path, name: str, *flags: str, model: str = "cut", epoch: str = "latest") -> None:
    """What a training run leaves for test.py, with untrained weights."""
    where = [
        "--dataroot",
        str(root / "data"),
        "--name",
        name,
        "--checkpoints_dir",
        str(root / "checkpoints"),
    ]
    vgg = ["--vgg_weights", "random", "--attn_layers", "0,1"] if model == "patchgcl" else []
    opt = parse(
        TrainOptions(), [*where, "--model", model, *TINY, *vgg, "--seed", str(len(name)), *flags]
    )
    networks = create_model(opt, Runtime.from_options(opt)).networks
    folder = root / "checkpoints" / name
    folder.mkdir(parents=True, exist_ok=True)
    save_record(opt, {"commit": "abc123", "torch": "2"})
    for key in networks:
        torch.save(networks[key].state_dict(), folder / f"{epoch}_net_{key}.pth")


def compare(root: Path, *flags: str) -> int:
    """The command in this process."""
    where = ["--checkpoints_dir", str(root / "checkpoints"), "--results_dir", str(root / "results")]
    return main([*where, "--gpu_ids", "-1", "--num_threads", "0", "--size", "own", *flags])


def message(root: Path, capsys, *flags: str) -> str:
    """The one line that a command fails with."""
    assert compare(root, *flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Three runs of two methods and three recipes, and test images of several sizes, one with an odd name."""
    root = tmp_path_factory.mktemp("compare")
    make_dataset(root / "data", count=3)
    make_image_folder(root / "data" / "testA" / "sub", 1, size=(37, 50), seed=7)[0].rename(
        root / "data" / "testA" / "sub" / f"{ODD_IMAGE}.png"
    )
    make_run(root, "a", model="patchgcl")
    make_run(
        root,
        ODD_RUN,
        "--preset",
        "paper",
        "--load_size",
        "80",
        "--crop_size",
        "64",
        model="patchgcl",
    )
    make_run(root, "cut", "--netG", "resnet_6blocks", "--ngf", "6")
    return root


@pytest.fixture(scope="module")
def page(world):
    assert compare(world, "--names", "a", ODD_RUN, "cut") == 0
    return world / "results" / f"a+{ODD_RUN}+cut" / "index.html"


# --- what is written --------------------------------------------------------------------------------------------------


def pngs(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*.png"))
    }


def test_each_run_writes_what_test_py_writes(world, page, tmp_path):
    where = [
        "--checkpoints_dir",
        str(world / "checkpoints"),
        "--gpu_ids",
        "-1",
        "--num_threads",
        "0",
        "--size",
        "own",
    ]
    for name in ("a", ODD_RUN, "cut"):
        translate(parse(TestOptions(), ["--name", name, "--results_dir", str(tmp_path), *where]))
        here, there = (
            pngs(page.parent / name / "test_latest" / "images"),
            pngs(tmp_path / name / "test_latest/images"),
        )
        assert here == there and f"fake_B/sub/{ODD_IMAGE}.png" in here and len(here) == 8
        with Image.open(
            page.parent / name / "test_latest/images/fake_B/sub" / f"{ODD_IMAGE}.png"
        ) as image:
            assert image.size == (37, 50)


def test_the_page_says_where_each_column_comes_from(page):
    text = page.read_text()
    assert "4 inputs · 3 methods" in text
    for fact in (
        "patchgcl, preset paper",
        "patchgcl, preset official",
        "cut, preset",
        "latest_net_G.pth",
        "commit abc123",
    ):
        assert fact in text
    assert "Options that differ" in text and "<th>ngf</th><td>4</td><td>4</td><td>6</td>" in text
    assert "<th>name</th>" not in text
    assert "http" not in text.replace("http://www.w3.org", ""), "no network"


@pytest.mark.slow
def test_the_command_line_of_the_documents(world, tmp_path):
    flags = ["--names", "a", "cut", "--num_test", "2", "--checkpoints_dir", world / "checkpoints"]
    result = run_command(
        ["scripts/compare.py", *flags, "--results_dir", tmp_path, "--gpu_ids", "-1"]
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == f"side by side: {tmp_path / 'a+cut' / 'index.html'}"
    assert "2 inputs · 2 methods" in (tmp_path / "a+cut" / "index.html").read_text()


def test_a_second_comparison_keeps_what_the_first_wrote(world, tmp_path):
    where = [
        "--checkpoints_dir",
        str(world / "checkpoints"),
        "--results_dir",
        str(tmp_path),
        "--gpu_ids",
        "-1",
    ]
    assert main(["--names", "a", "cut", *where]) == 0
    assert main(["--names", "a", "cut", "--num_test", "1", *where]) == 0
    folder = tmp_path / "a+cut" / "cut" / "test_latest"
    assert (
        len(pngs(folder / "images" / "fake_B")) == 1
        and len(pngs(folder / "earlier" / "fake_B")) == 3
    )
    assert "1 input ·" in (tmp_path / "a+cut" / "index.html").read_text()
    assert main(["--names", "cut", "a", "--num_test", "1", *where]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a+cut", "cut+a"]


def test_grey_and_colour_runs_share_the_coloured_input(tmp_path):
    make_dataset(tmp_path / "data", count=1)
    make_run(tmp_path, "grey", "--input_nc", "1", "--output_nc", "1")
    make_run(tmp_path, "rgb")
    assert compare(tmp_path, "--names", "grey", "rgb") == 0
    text = (tmp_path / "results" / "grey+rgb" / "index.html").read_text()
    assert (
        'src="rgb/test_latest/images/real_A/image_000.png"' in text
        and "grey/test_latest/images/real_A" not in text
    )


def test_cycle_gan_translates_the_inputs_only(tmp_path):
    make_dataset(tmp_path / "data", count=2)
    make_image_folder(tmp_path / "data" / "testB", 5, seed=9)
    make_run(tmp_path, "cycle", model="cycle_gan")
    make_run(tmp_path, "cut")
    assert compare(tmp_path, "--names", "cycle", "cut") == 0
    folder = tmp_path / "results" / "cycle+cut"
    assert "2 inputs · 2 methods" in (folder / "index.html").read_text()
    assert not (folder / "cycle" / "test_latest" / "images" / "fake_A").exists()


def test_pictures_that_were_made_before_have_a_column(world, tmp_path, capsys):
    """As those of a method without a run; inputs that it did not see have a gap."""
    facts = {
        "recipe": "strotss, preset official",
        "VGG16": "file.pth, sha256 12",
        "command": "secret",
    }
    with Gallery(tmp_path / "old", "by hand", facts) as gallery:
        gallery.add("image_001", {"fake_B": torch.full((3, 50, 60), 0.5)})
        gallery.add("another", {"fake_B": torch.zeros(3, 8, 8)})
    flags = ["--names", "cut", "--with", str(tmp_path / "old")]
    results = ["--results_dir", str(tmp_path / "results")]
    assert compare(world, *flags, *results) == 0
    folder = tmp_path / "results" / "cut"
    text = (folder / "index.html").read_text()
    assert "4 inputs · 2 methods" in text and "by hand" in text and "secret" not in text
    assert "strotss, preset official" in text and "file.pth, sha256 12" in text
    assert text.count('src="made_1/') == 1
    made = folder / "made_1" / "image_001.png"
    assert made.read_bytes() == (tmp_path / "old/images/fake_B/image_001.png").read_bytes()

    (tmp_path / "empty").mkdir()
    told = message(world, capsys, "--names", "cut", "--with", str(tmp_path / "empty"), *results)
    assert "not a folder that test.py has finished" in told
    with Gallery(tmp_path / "others", "others", facts) as gallery:
        gallery.add("another", {"fake_B": torch.zeros(3, 8, 8)})
    told = message(world, capsys, "--names", "cut", "--with", str(tmp_path / "others"), *results)
    assert "has no picture of the inputs compared, such as" in told


def make_halves(folder: Path, count: int) -> None:
    """Aligned pairs, A and B side by side in one file."""
    for one, other in zip(
        make_image_folder(folder, count, seed=3),
        make_image_folder(folder / "b", count, seed=4),
        strict=True,
    ):
        pair = np.concatenate([np.asarray(Image.open(one)), np.asarray(Image.open(other))], axis=1)
        Image.fromarray(pair).save(one)
        other.unlink()
    (folder / "b").rmdir()


def test_pairs_in_one_file_have_a_truth_and_are_measured(tmp_path):
    """A method for unpaired images takes the pairs apart too, since pix2pix is there; --measure scores both."""
    make_dataset(tmp_path / "data", count=2)
    make_halves(tmp_path / "pairs" / "val", 3)
    make_run(tmp_path, "cut")
    make_run(
        tmp_path, "pix", "--dataset_mode", "aligned", "--netG", "resnet_4blocks", model="pix2pix"
    )
    assert (
        compare(
            tmp_path, "--names", "cut", "pix", "--dataroot", str(tmp_path / "pairs"), "--measure"
        )
        == 0
    )
    folder = tmp_path / "results" / "cut+pix"
    text = (folder / "index.html").read_text()
    assert len(re.findall(r'src="pix/test_latest_on_pairs-\w+/images/real_B/', text)) == 3
    for name in ("cut", "pix"):
        [results] = (folder / name).iterdir()
        result = json.loads((results / "truth.json").read_text())
        assert f"{result['score']:.3f}" in text
        assert all(f">{row['score']:.2f}<" in text for row in result["images"])


def test_truth_in_a_folder_of_its_own_is_shown(tmp_path):
    make_dataset(tmp_path / "data", count=2)
    truth = make_image_folder(tmp_path / "data" / "testA_truth", 1, seed=5)[0]
    make_run(tmp_path, "one")
    assert compare(tmp_path, "--names", "one") == 0
    copied = tmp_path / "results" / "one" / "test_truth" / "images" / "real_B" / truth.name
    assert np.array_equal(np.asarray(Image.open(copied)), np.asarray(Image.open(truth)))
    assert (tmp_path / "results" / "one" / "index.html").read_text().count(
        "test_truth/images/real_B"
    ) == 2


def test_a_truth_that_another_process_writes_is_left_alone(tmp_path, capsys):
    make_dataset(tmp_path / "data", count=1)
    make_image_folder(tmp_path / "data" / "testA_truth", 1, seed=5)
    make_run(tmp_path, "one")
    with folder_in_use(tmp_path / "results" / "one" / "test_truth") as holder:
        said = message(tmp_path, capsys, "--names", "one")
    assert f"process {holder.pid} on " in said and "is writing these pictures" in said


def test_a_truth_is_shown_and_measured_in_the_range_of_values(tmp_path):
    """With values from -1000 to 3000, as the run reads its inputs."""
    for folder in ("trainA", "trainB", "testA", "testA_truth"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for number in range(2):
            values = np.linspace(-1000, 3000, 32 * 32, dtype=np.float32).reshape(32, 32)
            values = values if folder.endswith("A") else values.T
            Image.fromarray(values).save(tmp_path / "data" / folder / f"{number}.tif")
    make_run(tmp_path, "one", "--value_range", "-1000,3000")

    assert compare(tmp_path, "--names", "one", "--measure") == 0
    folder = tmp_path / "results" / "one"
    truth = np.asarray(Image.open(folder / "test_truth" / "images" / "real_B" / "0.png"))
    source = np.asarray(Image.open(folder / "one" / "test_latest" / "images" / "real_A" / "0.png"))
    assert np.array_equal(truth, source.transpose(1, 0, 2)) and np.ptp(truth) == 255
    found = json.loads((folder / "one" / "test_latest" / "truth.json").read_text())
    assert found["settings"]["value_range"] == [-1000, 3000]


def test_figures_older_than_the_pictures_are_not_shown(tmp_path):
    row = {"name": "x", "score": 0.5}
    result = {
        "score": 0.25,
        "means": {"model": {"error": 0.1, "l1": 0.2, "mse": 0.01}},
        "images": [row],
        "figures": {
            "l1": {"title": "L1", "value": 0.2},
            "peak_snr": {"title": "PSNR", "value": 23.5},
            "ssim": {"title": "SSIM", "value": 0.75},
        },
    }
    of_fid = {"title": "FID-768", "value": 12.5, "n": {"fake": 8, "real": 9}, "interval": [12, 13]}
    fid = {"figures": {"fid": of_fid, "kid": {"title": "KID-768", "value": 0.03}}}
    fid["warnings"] = ["8 images are few"]
    for name, content in (("pictures", []), ("truth", result), ("fid_768", fid)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        os.utime(tmp_path / f"{name}.json", (1000, 1000))
    found = measured(tmp_path)
    assert found.figures == {
        "FID-768": 12.5, "KID-768 x100": pytest.approx(3), "score": 0.25, "error": 0.1, "L1": 0.2,
        "PSNR": 23.5, "SSIM": 0.75,
    }  # fmt: skip
    assert found.scores == {"x": 0.5} and found.warnings == ["8 images are few"]
    assert found.details["FID-768"] == "12.000 to 13.000, 8 / 9 images"
    assert found.details["score"] == "1 image" and found.details["KID-768 x100"] == ""
    os.utime(tmp_path / "truth.json", (999, 999))
    found = measured(tmp_path)
    assert found.figures == {"FID-768": 12.5, "KID-768 x100": pytest.approx(3)}
    assert found.scores == {}


def test_figures_stand_with_what_they_must_be_read_with(tmp_path):
    columns, values = [], {"one": 1.2341, "two": 1.2339, "three": 1.3}
    for number, (name, value) in enumerate(values.items()):
        of_all = ["FID from few images"] + (["JPEG"] if name == "two" else [])
        found = Measured({"FID": value}, {"FID": f"{value:.1f} to 2, 8 / 9 images"}, {}, of_all)
        columns.append(Column(name, "method", number, measured=found))
    write_comparison(tmp_path / "index.html", columns, {}, {}, {})
    text = (tmp_path / "index.html").read_text()
    assert text.count("<b>1.234</b>") == 2 and "<b>1.300" not in text, "both print the same"
    assert "<small>1.3 to 2, 8 / 9 images</small>" in text
    assert "all: FID from few images" in text and "two: JPEG" in text


def test_the_best_figure_depends_on_what_it_is():
    assert best("score", [0.1, None, 0.3]) == "0.300" and best("PSNR", [20, 10]) == "20.000"
    assert best("FID-768", [12.0, 9.0]) == "9.000" and best("error", [0.2, 0.1]) == "0.100"
    assert best("FID", [12.0, None]) is None and best("recall-768", [0.0, 0.0]) is None
    assert best("FID", [1.2341, 1.2339]) is None, "they print alike"


def test_options_that_differ_leave_out_what_does_not_matter():
    one = {
        "name": "a",
        "gpu_ids": "0",
        "print_freq": 1,
        "lr": 0.1,
        "ngf": 4,
        "seed": 0,
        "only_here": 1,
        "amp": "off",
        "tf32": True,
        "compile": "off",
    }
    two = {"name": "b", "gpu_ids": None, "print_freq": 2, "lr": 0.2, "ngf": 4, "seed": 1}
    two |= {"amp": "bf16", "tf32": False, "compile": "auto"}
    found = differing_options({"a": {"options": one}, "b": {"options": two}})
    differing = {"lr": ["0.1", "0.2"], "seed": ["0", "1"]}
    assert found == {**differing, "amp": ["off", "bf16"], "tf32": ["true", "false"]}
    assert differing_options({"a": {"options": one}, "weights alone": {}}) == {}


def test_what_cannot_be_measured_still_has_a_page(tmp_path, capsys):
    make_dataset(tmp_path / "data", count=1)
    make_run(tmp_path, "one")
    assert (
        compare(tmp_path, "--names", "one", "--measure", "--inception", str(tmp_path / "none.pth"))
        == 0
    )
    assert "error: " in capsys.readouterr().err
    assert 'class="figures"' not in (tmp_path / "results" / "one" / "index.html").read_text()


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            ["--names", "a", "cot"],
            "--names cot: no run of this name in .*did you mean 'cut'.*there are: .*a.*, cut",
        ),
        (["--names", "a", "a"], "--names a is given twice"),
        (["--names", "../checkpoints/a"], "not a path"),
        (["--names", "."], "not a path"),
        (["--name", "a"], "the following arguments are required: --names"),
        (["--names", "a", "--name", "b"], "--names takes all the runs"),
        (["--names", "a", "--epoch", "7"], "--epoch 7: a has no such weights; it has latest"),
        (
            ["--names", "a", "cut", "--num_tset", "7"],
            "a: unknown argument --num_tset 7; did you mean --num_test",
        ),
        (
            ["--names", "a", "cut", "--show_graph"],
            "cut: --show_graph belongs to --model patchgcl or .*not to cut",
        ),
        (["--names", "a", "--dataroot", "/nowhere"], "--dataroot /nowhere does not exist"),
    ],
)
def test_what_cannot_be_done_is_one_line(world, capsys, flags, expected):
    assert re.search(expected, message(world, capsys, *flags))


def test_without_any_run_there_are_none(tmp_path, capsys):
    assert "there are: none" in message(tmp_path, capsys, "--names", "a")


def test_opposite_directions_and_different_data_are_refused(tmp_path, capsys):
    make_dataset(tmp_path / "data", count=1)
    make_dataset(tmp_path / "more", count=2)
    make_run(tmp_path, "to")
    make_run(tmp_path, "fro", "--direction", "BtoA")
    make_run(tmp_path, "else", "--dataroot", str(tmp_path / "more"))
    assert "to AtoB, fro BtoA: opposite directions" in message(
        tmp_path, capsys, "--names", "to", "fro"
    )
    assert "trained on different data" in message(tmp_path, capsys, "--names", "to", "else")
    assert compare(tmp_path, "--names", "to", "else", "--dataroot", str(tmp_path / "more")) == 0
    assert compare(tmp_path, "--names", "fro") == 0
    assert "testB" not in (tmp_path / "results" / "fro" / "index.html").read_text()


def test_runs_that_read_different_images_are_refused(tmp_path, capsys):
    make_dataset(tmp_path / "data", count=2)
    make_image_folder(tmp_path / "data" / "testA", 4)
    make_run(tmp_path, "cut")
    make_run(
        tmp_path, "pix", "--dataset_mode", "aligned", "--netG", "resnet_4blocks", model="pix2pix"
    )
    flags = ["--names", "cut", "pix", "--skip_bad_images"]  # pairs are left out that lack one half
    assert "cut and pix read different images (4 and 2; only one has image_002)" in message(
        tmp_path, capsys, *flags
    )
    assert compare(tmp_path, *flags, "--dataset_mode", "unaligned") == 0


# --- the page in a browser --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        browser.command(
            "Emulation.setDeviceMetricsOverride",
            width=1280,
            height=900,
            deviceScaleFactor=1,
            mobile=False,
        )
        yield browser


def press(browser: Browser, key: str, modifiers: int = 0) -> None:
    codes = {
        "Escape": 27,
        " ": 32,
        "ArrowLeft": 37,
        "ArrowUp": 38,
        "ArrowRight": 39,
        "ArrowDown": 40,
    }
    text = {"text": key} if len(key) == 1 else {}
    for kind in ("keyDown", "keyUp"):
        browser.command(
            "Input.dispatchKeyEvent", type=kind, key=key, modifiers=modifiers,
            windowsVirtualKeyCode=codes.get(key, 0), **(text if kind == "keyDown" else {}),
        )  # fmt: skip


def mouse(browser: Browser, kind: str, x: float, y: float, **extra) -> None:
    browser.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, **extra)


def box(browser: Browser, selector: str, number: int = 0) -> dict:
    rectangle = (
        f"document.querySelectorAll({json.dumps(selector)})[{number}].getBoundingClientRect()"
    )
    return browser.evaluate(
        f"(r => ({{x: r.x, y: r.y, width: r.width, height: r.height}}))({rectangle})"
    )


def pixels(browser: Browser) -> np.ndarray:
    browser.evaluate(
        "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )
    data = browser.command("Page.captureScreenshot", format="png")["data"]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)


def shown(browser: Browser) -> tuple[str, str, str]:
    """Left and right label, and the heading of the viewer."""
    labels = "[...document.querySelectorAll('#viewer .tag')].map(e => e.textContent)"
    return (
        *browser.evaluate(labels),
        browser.evaluate("document.querySelector('#viewer h2').firstChild.textContent"),
    )


def open_viewer(browser: Browser, page: Path, number: int) -> None:
    browser.open(page)
    images = browser.images()
    assert images and all(image["width"] > 0 for image in images), images
    browser.evaluate(f"document.querySelectorAll('.side-by-side a')[{number}].click()")
    ready = "Promise.all([...document.querySelectorAll('#viewer .layer img')].map(image => image.decode()))"
    browser.evaluate(f"{ready}.then(() => true)")


def plain_page(folder: Path, rows: int = 3, kinds=("input", "method", "method")) -> Path:
    """A page of flat pictures, each of a colour of its own: red by row, green by column."""
    found = {}
    for row in range(rows):
        found[f"{row:04d}"] = []
        for column in range(len(kinds)):
            file = f"images/{row}_{column}.png"
            (folder / "images").mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 24), (row * 20 % 256, column * 60, 200)).save(folder / file)
            found[f"{row:04d}"].append(Picture("x", file, 32, 24))
    columns = [Column(f"{kind} {i}", kind, i, page="index.html") for i, kind in enumerate(kinds)]
    return write_comparison(folder / "index.html", columns, found, {}, {})


@needs_browser
def test_odd_names_load_and_are_shown_as_they_are(browser, page):
    browser.open(page)
    images = browser.images()
    assert len(images) == 16 and all(image["width"] > 0 for image in images), images
    assert (
        browser.evaluate("[...document.querySelectorAll('.row h3')].map(h => h.textContent)")[-1]
        == f"sub/{ODD_IMAGE}"
    )
    names = browser.evaluate("[...document.querySelectorAll('.method h3')].map(h => h.textContent)")
    assert names == ["a", ODD_RUN, "cut"]
    assert browser.evaluate("document.querySelectorAll('i, .row b').length") == 0, (
        "a name became markup"
    )
    open_viewer(browser, page, 4 * 3 + 2)
    assert shown(browser) == ("input", ODD_RUN, f"sub/{ODD_IMAGE}")
    links = browser.evaluate("[...document.querySelectorAll('.method a')].map(a => a.href)")
    for link in links:
        browser.open(link)
        assert browser.images(), link


@needs_browser
def test_the_slider_decides_which_picture_is_seen(browser, tmp_path):
    open_viewer(browser, plain_page(tmp_path), 2)
    stage = box(browser, "#viewer .stage")
    assert (
        stage["width"] / stage["height"] == pytest.approx(32 / 24, rel=0.01)
        and stage["width"] > 700
    )

    def colours() -> list[list[int]]:
        picture, y = pixels(browser), round(stage["y"] + 0.75 * stage["height"])
        return [
            picture[y, round(stage["x"] + share * stage["width"])].tolist() for share in (0.2, 0.8)
        ]

    left, right = [0, 0, 200], [0, 120, 200]
    assert colours() == [left, right]
    y = stage["y"] + stage["height"] / 2
    start, target = stage["x"] + stage["width"] / 2, stage["x"] + 0.1 * stage["width"]
    mouse(browser, "mousePressed", start, y, button="left", clickCount=1, buttons=1)
    mouse(browser, "mouseMoved", target, y, button="left", buttons=1)
    assert colours() == [right, right]
    mouse(browser, "mouseReleased", target, y, button="left")
    mouse(browser, "mouseMoved", start, y)
    assert colours() == [right, right], "moves only while the button is down"
    for key, modifiers, expected in (
        (" ", 0, [left, left]),
        (" ", 0, [right, right]),
        ("x", 0, [left, left]),
    ):
        press(browser, key, modifiers)
        assert colours() == expected, key
    for _ in range(10):
        press(browser, "ArrowRight", modifiers=8)
    assert colours() == [right, left], (
        "shift and an arrow move the slider; left and right have been swapped"
    )


@needs_browser
def test_keys_and_buttons_choose_what_is_compared(browser, tmp_path):
    open_viewer(browser, plain_page(tmp_path, kinds=("input", "truth", "method", "method")), 2)
    assert shown(browser) == ("input 0", "method 2", "0000")
    steps = [
        ("ArrowRight", "method 3", "0000"),
        ("ArrowRight", "truth 1", "0000"),
        ("ArrowLeft", "method 3", "0000"),
    ]
    steps += [
        ("ArrowDown", "method 3", "0001"),
        ("ArrowDown", "method 3", "0002"),
        ("ArrowDown", "method 3", "0002"),
    ]
    steps += [("ArrowUp", "method 3", "0001")]
    for key, right, name in steps:
        press(browser, key)
        assert shown(browser) == ("input 0", right, name), key
    sources = browser.evaluate(
        "[...document.querySelectorAll('#viewer .layer img')].map(i => i.src.split('/').pop())"
    )
    assert sources == ["1_0.png", "1_3.png"]
    browser.evaluate("document.querySelectorAll('[data-side=left] .chip')[3].click()")
    assert shown(browser)[:2] == ("method 3", "input 0"), "the two sides change places"
    browser.evaluate("document.querySelectorAll('[data-side=right] .chip')[1].click()")
    assert shown(browser)[:2] == ("method 3", "truth 1")
    press(browser, "Escape")
    assert browser.evaluate("document.querySelector('#viewer').open") is False
    browser.evaluate(
        "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )
    assert browser.evaluate("document.activeElement.getAttribute('href')") == "images/1_1.png", (
        "where one was last"
    )


@needs_browser
def test_zoom_enlarges_both_pictures_about_the_pointer(browser, tmp_path):
    open_viewer(browser, plain_page(tmp_path), 2)
    transforms = "[...document.querySelectorAll('#viewer .layer img')].map(i => i.style.transform)"
    stage = box(browser, "#viewer .stage")
    x, y = stage["x"] + stage["width"] * 0.25, stage["y"] + stage["height"] * 0.25
    mouse(browser, "mouseWheel", x, y, deltaX=0, deltaY=-400)
    one, other = browser.evaluate(transforms)
    factor = float(one.split("scale(")[1].rstrip(")"))
    assert one == other and factor == pytest.approx(np.e, rel=1e-3)
    moved = float(one.split("(")[1].split("px")[0])
    assert moved == pytest.approx(0.25 * stage["width"] * (1 - factor), rel=0.01), (
        "the point stays under the pointer"
    )
    mouse(browser, "mousePressed", x, y, button="left", clickCount=1, buttons=1)
    mouse(browser, "mouseMoved", x + 30, y, button="left", buttons=1)
    mouse(browser, "mouseReleased", x + 30, y, button="left")
    assert float(browser.evaluate(transforms)[0].split("(")[1].split("px")[0]) == pytest.approx(
        moved + 30, abs=1
    )
    press(browser, "0")
    assert browser.evaluate(transforms) == ["translate(0px, 0px) scale(1)"] * 2


@needs_browser
def test_the_pointer_wipes_in_the_table(browser, tmp_path):
    browser.open(plain_page(tmp_path))
    browser.images()
    place = box(browser, ".side-by-side a", 2)
    x, y = place["x"] + 0.75 * place["width"], place["y"] + place["height"] / 2
    mouse(browser, "mouseMoved", x, y)
    browser.evaluate("document.querySelector('.over').decode().then(() => true)")
    seen = pixels(browser)[round(place["y"] + 10)]
    assert seen[round(place["x"] + 10)].tolist() == [0, 0, 200], "the input, left of the pointer"
    assert seen[round(place["x"] + place["width"] - 10)].tolist() == [0, 120, 200]
    mouse(browser, "mouseMoved", 2, 2)
    assert browser.evaluate("document.querySelector('.over')") is None
    browser.evaluate("document.querySelector('#with').value = ''")
    mouse(browser, "mouseMoved", x, y)
    assert browser.evaluate("document.querySelector('.over')") is None


@needs_browser
def test_columns_can_be_hidden_but_not_all(browser, tmp_path):
    browser.open(plain_page(tmp_path))
    visible = "[...document.querySelectorAll('.row:first-child figure')].filter(f => !f.hidden).map(f => f.textContent)"
    for number, left in ((0, ["method 1", "method 2"]), (1, ["method 2"]), (2, ["method 2"])):
        browser.evaluate(f"document.querySelectorAll('#columns .chip')[{number}].click()")
        assert browser.evaluate(visible) == left


@needs_browser
def test_hundreds_of_inputs_load_only_what_is_in_view(browser, tmp_path):
    browser.open(plain_page(tmp_path, rows=400))
    loaded = "[...document.images].filter(i => i.complete && i.naturalWidth).length"
    assert 0 < browser.evaluate(loaded) < 300
    assert len(browser.images()) == 1200


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_runs_over_the_edge(browser, page, width):
    metrics = {"height": 900, "deviceScaleFactor": 1, "mobile": False}
    try:
        browser.command("Emulation.setDeviceMetricsOverride", width=width, **metrics)
        browser.open(page)
        browser.images()
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        browser.evaluate("document.querySelectorAll('.side-by-side a')[1].click()")
        assert browser.evaluate("document.querySelector('#viewer').scrollWidth") <= width
        stage = box(browser, "#viewer .stage")
        assert (
            stage["width"] > width * 0.25
            and stage["x"] >= 0
            and stage["x"] + stage["width"] <= width
        )
    finally:
        browser.command("Emulation.setDeviceMetricsOverride", width=1280, **metrics)


def test_a_page_that_cannot_be_written_is_an_error(tmp_path, capsys):
    make_dataset(tmp_path / "data", count=1)
    make_run(tmp_path, "one")
    (tmp_path / "results").write_text("a file where the folder should be")
    assert "choose another --results_dir" in message(tmp_path, capsys, "--names", "one")
