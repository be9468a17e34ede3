"""One image in many styles: which are drawn, which are read, both directions, the page of test.py, interpolation."""

import itertools
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from data import create_loader
from models import create_model
from models.inference.styles import OTHER, on_the_way
from models.inference.translate import translate
from options import TestOptions, parse
from tests.helpers import make_dataset, make_image_folder, train_options
from tests.test_models import build, step
from util.errors import UserError
from util.hardware.runtime import Runtime
from util.run.checkpoint import Checkpoint, load_for_inference
from util.run.folder import run_dir
from util.run.progress import Progress

MODELS = ["munit", "drit"]


@pytest.fixture(scope="module", params=MODELS)
def run(request, tmp_path_factory):
    """A run of each method after one step, with moving averages."""
    root = tmp_path_factory.mktemp(request.param)
    make_dataset(root / "data", count=4)
    opt, runtime, loader, model = build(root, request.param, None, "--ema", "0.5")
    checkpoint = Checkpoint(opt, runtime, model, Progress(1, 1, len(loader), 1))
    checkpoint.begin()
    step(model, next(iter(loader.epoch(1))))
    checkpoint.save_latest()
    make_image_folder(root / "looks", count=2, size=(34, 26), seed=7)
    return root


def options(root, *flags):
    where = ["--name", "run", "--checkpoints_dir", str(root / "checkpoints"), "--gpu_ids", "-1"]
    return parse(TestOptions(), [*where, "--num_threads", "0", *flags])


def translator(opt):
    """The trained model, and a loader of the test set."""
    runtime = Runtime.from_options(opt)
    loader, model = create_loader(opt, runtime), create_model(opt, runtime)
    load_for_inference(model, run_dir(opt), opt.epoch)
    return model, loader


def shown(root, *flags) -> list[dict[str, torch.Tensor]]:
    """What test.py would write of each batch."""
    model, loader = translator(options(root, *flags))
    with torch.inference_mode():
        return [model.show(batch) for batch in loader.epoch(1)]


def of_domain(batches, role):
    return [pictures for pictures in batches if f"real_{role}" in pictures]


def test_each_input_gets_a_picture_in_each_drawn_style_in_both_directions(run):
    batches = shown(run, "--num_styles", "3")
    assert len(of_domain(batches, "A")) == len(of_domain(batches, "B")) == 4
    for role in ("A", "B"):
        fake = f"fake_{OTHER[role]}"
        for pictures in of_domain(batches, role):
            assert list(pictures) == [f"real_{role}", fake, f"{fake}_2", f"{fake}_3"]
            images = list(pictures.values())
            assert all(image.shape == images[0].shape for image in images)
            for a in range(1, 4):
                assert not any(torch.equal(images[a], images[b]) for b in range(a))


def test_styles_are_those_of_the_seed_whatever_their_number_and_the_batch(run):
    one, three = shown(run), shown(run, "--num_styles", "3", "--batch_size", "3")
    other = shown(run, "--seed", "1")
    first = torch.cat([p["fake_B"] for p in of_domain(one, "A")])
    torch.testing.assert_close(torch.cat([p["fake_B"] for p in of_domain(three, "A")]), first)
    assert not torch.allclose(torch.cat([p["fake_B"] for p in of_domain(other, "A")]), first)

    two, many = (translator(options(run, "--num_styles", n))[0].drawn_styles for n in ("2", "500"))
    assert torch.equal(many[:2], two)
    assert many.shape == (500, 8) and abs(many.mean()) < 0.05 and abs(many.std() - 1) < 0.05


def test_translate_takes_a_style_or_the_first_that_is_drawn(run):
    model, loader = translator(options(run, "--num_styles", "2"))
    with torch.inference_mode():
        batch = next(iter(loader.epoch(1)))
        pictures, images = model.show(batch), batch["A"]
        torch.testing.assert_close(model.translate(images), pictures["fake_B"])
        second = model.translate(images, model.drawn_styles[1])
        torch.testing.assert_close(second, pictures["fake_B_2"])
        assert torch.equal(model.translate(images), model.translate(images)), "nothing is drawn"


def test_references_give_their_style_to_images_of_a(run):
    looks = run / "looks"
    batches = shown(run, "--style", str(looks))
    alone = shown(run, "--style", str(looks / "image_001.png"))
    for pictures, only in zip(of_domain(batches, "A"), of_domain(alone, "A"), strict=True):
        assert list(pictures) == ["real_A", "fake_B", "fake_B_2"]
        assert list(only) == ["real_A", "fake_B"]
        torch.testing.assert_close(only["fake_B"], pictures["fake_B_2"])
    drawn = of_domain(shown(run), "B")
    for pictures, expected in zip(of_domain(batches, "B"), drawn, strict=True):
        assert torch.equal(pictures["fake_A"], expected["fake_A"]), "references are of domain B"


def test_references_are_looked_for_under_their_own_flag(run, tmp_path):
    with pytest.raises(UserError, match=r"--style .*nowhere is no image and no folder"):
        shown(run, "--style", str(tmp_path / "nowhere"))
    model, _ = translator(options(run, "--style", str(run / "data")))
    domain = model.references.domains["A"]
    assert domain.folder == str(run / "data" / "testB"), "references are of domain B"


def test_each_input_can_have_the_style_of_the_reference_of_its_name(run, tmp_path):
    names = sorted(path.stem for path in (run / "data" / "testA").iterdir())
    for name, look in zip(names, itertools.cycle(sorted((run / "looks").iterdir())), strict=False):
        shutil.copy(look, tmp_path / f"{name}{look.suffix}")
    every = of_domain(shown(run, "--style", str(run / "looks")), "A")
    by_name = of_domain(shown(run, "--style", str(tmp_path), "--style_by_name"), "A")
    assert len(by_name) > 1
    for number, (found, of_all) in enumerate(zip(by_name, every, strict=True)):
        assert list(found) == ["real_A", "fake_B"]
        torch.testing.assert_close(found["fake_B"], of_all["fake_B_2" if number % 2 else "fake_B"])

    twice = tmp_path / "more" / f"{names[0]}{look.suffix}"
    twice.parent.mkdir()
    (tmp_path / twice.name).rename(twice)
    shutil.copytree(twice.parent, tmp_path / "again")
    with pytest.raises(UserError, match=f"--style_by_name: .*{names[0]}.* has several images"):
        shown(run, "--style", str(tmp_path), "--style_by_name")

    for path in tmp_path.glob(f"*/{twice.name}"):
        path.unlink()
    with pytest.raises(UserError, match=f"has no image called {names[0]}"):
        shown(run, "--style", str(tmp_path), "--style_by_name")


@pytest.mark.parametrize("flags", ["", "--style x --interpolate_styles 2"])
def test_styles_by_name_come_from_a_folder_one_for_each(run, flags):
    with pytest.raises(UserError, match="--style_by_name"):
        options(run, "--style_by_name", *flags.split())


def test_the_style_of_a_reference_is_what_the_encoder_of_b_reads(run):
    model, _ = translator(options(run, "--style", str(run / "looks"), "--size", "own"))
    with torch.inference_mode():
        for path, style in zip(
            sorted((run / "looks").iterdir()), model.reference_styles, strict=True
        ):
            pixels = np.asarray(Image.open(path)).astype(np.float32) / 127.5 - 1
            filled = np.pad(pixels, ((0, 2), (0, 2), (0, 0)), mode="reflect")  # 34x26 to fours
            image = torch.from_numpy(filled).permute(2, 0, 1)[None]
            torch.testing.assert_close(style, model.encode_styles("B", image)[0])
        assert not torch.equal(model.encode_styles("A", image), model.encode_styles("B", image))


@pytest.mark.parametrize("name", MODELS)
def test_moving_averages_translate_and_read_styles(tmp_path, name):
    opt = train_options(tmp_path, "--ema", "0.5", model=name)
    model = create_model(opt, Runtime.from_options(opt))
    images, styles = torch.rand(2, 3, 32, 24) * 2 - 1, torch.randn(2, 8)
    with torch.no_grad():
        fake, style = model.translate_with("A", images, styles), model.encode_styles("B", images)
        for net in model.averages.values():
            for parameter in net.parameters():
                parameter.add_(0.1)
        assert not torch.allclose(model.translate_with("A", images, styles), fake)
        assert not torch.allclose(model.encode_styles("B", images), style)


def test_one_row_per_input_on_the_page(run, tmp_path):
    flags = ["--num_styles", "3", "--num_test", "2", "--results_dir", str(tmp_path)]
    translate(options(run, *flags))
    folder = tmp_path / "run" / "test_latest"
    names = {path.name for path in (folder / "images").iterdir()}
    made = [f"fake_{role}{number}" for role in "AB" for number in ("", "_2", "_3")]
    assert names == {"real_A", "real_B", *made}
    page = (folder / "index.html").read_text()
    for image in ("image_000", "image_001"):
        for label in made:
            assert f'"images/{label}/{image}.png"' in page


def test_pictures_between_two_styles(run):
    between = shown(run, "--interpolate_styles", "4")
    ends = shown(run, "--num_styles", "2")
    for role in ("A", "B"):
        fake = f"fake_{OTHER[role]}"
        for pictures, (first, second) in zip(
            of_domain(between, role),
            [(p[fake], p[f"{fake}_2"]) for p in of_domain(ends, role)],
            strict=True,
        ):
            labels = [fake, *(f"{fake}_{n}" for n in (2, 3, 4))]
            assert list(pictures)[1:] == labels
            torch.testing.assert_close(pictures[labels[0]], first)
            torch.testing.assert_close(pictures[labels[3]], second)
            steps = [pictures[label] for label in labels]
            assert all(not torch.equal(a, b) for a, b in itertools.pairwise(steps))


def test_the_way_is_in_equal_parts():
    styles = torch.tensor([[0.0, 4.0], [3.0, 1.0], [9.0, 9.0]])
    expected = torch.tensor([[0.0, 4.0], [1.0, 3.0], [2.0, 2.0], [3.0, 1.0]])
    torch.testing.assert_close(on_the_way(styles, 4), expected)
    with pytest.raises(UserError, match="--interpolate_styles 4 needs two styles"):
        on_the_way(styles[:1], 4)


@pytest.mark.parametrize("flags", ["--num_styles 0", "--interpolate_styles 0"])
def test_numbers_that_make_no_sense_are_refused(run, flags):
    with pytest.raises(UserError, match="at least 1"):
        options(run, *flags.split())


def test_a_style_that_is_not_there_is_named(run):
    with pytest.raises(UserError, match="nowhere"):
        shown(run, "--style", str(run / "nowhere"))
