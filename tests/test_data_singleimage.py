"""Crops of single images: which part of them, that seed, epoch and index alone decide it, and what is refused."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import data
from data import transforms
from options import TestOptions, TrainOptions, parse
from tests.helpers import make_image_folder, train_options
from util.errors import UserError
from util.hardware.runtime import Runtime

CROP = 16
SIZE = {"A": (100, 70), "B": (61, 90)}  # width, height


@pytest.fixture
def images(tmp_path) -> Path:
    for seed, (letter, size) in enumerate(SIZE.items()):
        make_image_folder(tmp_path / "data" / f"train{letter}", count=1, size=size, seed=seed)
    return tmp_path


def options(root: Path, *extra: str) -> Namespace:
    flags = [
        "--crop_size",
        str(CROP),
        "--batch_size",
        "5",
        "--crops_per_epoch",
        "200",
        "--seed",
        "3",
    ]
    return train_options(root, *flags, *extra, model="sincut")


def make(root: Path, *extra: str):
    return data.find_dataset("singleimage")(options(root, *extra))


def loader(root: Path, *extra: str):
    opt = options(root, *extra)
    return data.create_loader(opt, Runtime(gpu_ids="-1"))


def test_a_crop_is_that_of_the_resized_image(images):
    dataset = make(images)
    for index in (0, 7, 42):
        for role, view in dataset.plan(1, index).items():
            image = Image.open(dataset.domains[role].paths[0]).convert("RGB")
            resized = np.array(image.resize(view.source.size, Image.Resampling.BILINEAR))
            left, top, width, height = view.box
            expected = resized[top : top + height, left : left + width]
            expected = expected[:, ::-1] if view.flip else expected
            cut = transforms.cut_view(transforms.read_source(view.source), view)
            assert np.array_equal(cut.permute(1, 2, 0).numpy(), expected)


def test_zooms_are_shared_by_a_mini_batch_and_lie_in_their_range(images):
    dataset = make(images)
    for role, (width, height) in SIZE.items():
        sizes = [dataset.plan(2, index)[role].source.size for index in range(200)]
        batches = [set(sizes[first : first + 5]) for first in range(0, 200, 5)]
        assert all(len(batch) == 1 for batch in batches)
        drawn = np.array([sizes[first] for first in range(0, 200, 5)])
        assert len(set(map(tuple, drawn))) > 30, "every batch draws its own"
        factors = drawn / (width, height)
        assert factors.max() <= 1 and drawn.min() >= CROP
        assert (
            factors[:, 0].max() > 0.9 and (drawn >= np.round(np.array([width, height]) / 3)).all()
        )
        assert drawn.min(0).tolist() < [width * 0.5, height * 0.5]
        assert np.abs(np.corrcoef(factors.T)[0, 1]) < 0.5, "width and height are drawn apart"
    sources = {
        role: view.source.size[0] / SIZE[role][0] for role, view in dataset.plan(2, 0).items()
    }
    assert abs(sources["A"] - sources["B"]) > 0.05, "and so do the domains"


def test_tiles_lie_on_a_grid_and_follow_their_numbers(images):
    """Box = random offset within what the tiles leave over + tile number, columns counted first by rows."""
    dataset = make(images)
    numbers = {role: [dataset._number(role, 1, index) for index in range(200)] for role in "AB"}
    for role in "AB":
        assert sorted(numbers[role]) == list(range(200)), "no number comes twice in an epoch"
        offsets = set()
        for index in range(200):
            view = dataset.plan(1, index)[role]
            (width, height), (left, top, *size) = view.source.size, view.box
            assert size == [CROP, CROP] and left + CROP <= width and top + CROP <= height
            rows, tiles = height // CROP, (width // CROP) * (height // CROP)
            number = numbers[role][index] % tiles
            offset = left - number // rows * CROP, top - number % rows * CROP
            assert 0 <= offset[0] <= width % CROP and 0 <= offset[1] <= height % CROP
            offsets.add(offset)
        assert len(offsets) > 50
    assert numbers["A"] != numbers["B"]
    assert numbers["A"] != [dataset._number("A", 2, index) for index in range(200)]


def test_all_of_the_image_is_seen_and_half_of_it_mirrored(images):
    dataset = make(images)
    views = [dataset.plan(1, index)["A"] for index in range(200)]
    assert 60 < sum(view.flip for view in views) < 140
    assert not any(
        view.flip
        for index in range(50)
        for view in make(images, "--no_flip").plan(1, index).values()
    )
    seen = np.zeros((10, 10), bool)
    for view in views:
        (width, height), (left, top, *_) = view.source.size, view.box
        seen[int(10 * (top + CROP / 2) / height), int(10 * (left + CROP / 2) / width)] = True
    assert seen[1:-1, 1:-1].mean() > 0.8


def test_a_sample_depends_on_seed_epoch_and_index_alone(images):
    one, other = make(images), make(images)
    late = [other.plan(epoch, index) for epoch in (3, 1, 2) for index in (199, 0, 60)]
    early = [one.plan(epoch, index) for epoch in (1, 2, 3) for index in (0, 60, 199)]
    assert all(plan in early for plan in late)
    assert one.plan(1, 0) != one.plan(2, 0) != make(images, "--seed", "4").plan(2, 0)
    assert one.order(1) == list(range(200)) == list(range(len(one)))


@pytest.mark.parametrize("workers", ["0", "2"])
def test_batches_are_the_same_for_any_workers_and_resume(images, workers):
    plain = list(loader(images, "--crops_per_epoch", "20").epoch(2))
    assert len(plain) == 4 and plain[0]["A"].shape == (5, 3, CROP, CROP)
    others = list(
        loader(images, "--crops_per_epoch", "20", "--num_threads", workers).epoch(2, start=1)
    )
    for batch, other in zip(plain[1:], others, strict=True):
        assert torch.equal(batch["A"], other["A"]) and torch.equal(batch["B"], other["B"])


def test_each_file_is_decoded_once_and_resized_once_per_batch(images):
    transforms._kept_image.cache_clear()
    transforms._kept_pixels.cache_clear()
    batches = list(loader(images, "--crops_per_epoch", "50").epoch(1))
    assert len(batches) == 10
    assert transforms._kept_image.cache_info().misses == 2
    assert (
        16 <= transforms._kept_pixels.cache_info().misses <= 2 * 10
    )  # two zooms may be equal by chance


def test_what_is_kept_cannot_be_changed_by_a_crop(tmp_path):
    make_image_folder(tmp_path, count=1, size=(CROP, CROP))
    source = transforms.Source(
        str(tmp_path / "image_000.png"), 1, (CROP, CROP), bilinear=True, kept=True
    )
    before = transforms.read_source(source).clone()
    view = transforms.View(source, (0, 0, CROP, CROP))
    data.loader.cut_views(transforms.read_source, [view]).zero_()
    assert torch.equal(transforms.read_source(source), before)


def test_an_image_smaller_than_the_crop_is_enlarged(tmp_path):
    for letter in "AB":
        make_image_folder(tmp_path / "data" / f"train{letter}", count=1, size=(10, 30))
    for plan in (make(tmp_path).plan(1, index) for index in range(20)):
        assert plan["A"].source.size[0] == CROP and plan["A"].source.size[1] >= CROP


def test_direction_and_order_can_be_given(images):
    there, back = make(images), make(images, "--direction", "BtoA")
    assert there.domains["A"].paths == back.domains["B"].paths != there.domains["B"].paths
    assert [make(images, "--serial_batches")._number("A", 1, index) for index in range(5)] == [
        0,
        1,
        2,
        3,
        4,
    ]


def test_at_test_the_whole_image_is_one_sample(images):
    command = [
        "--model",
        "sincut",
        "--dataroot",
        str(images / "data"),
        "--name",
        "none",
        "--num_threads",
        "0",
    ]
    opt = parse(TestOptions(), command)
    assert (opt.phase, opt.dataset_mode, opt.crop_size) == ("train", "singleimage", 64)
    for extra in ([], ["--cache", "ram"]):
        loaded = data.create_loader(parse(TestOptions(), [*command, *extra]), Runtime(gpu_ids="-1"))
        [batch] = loaded.epoch(1)
        assert (
            batch["A"].shape == (1, 3, 72, 100)
            and batch["A_size"] == [(70, 100)]
            and "B" not in batch
        )


def refused(root: Path, *extra: str) -> str:
    with pytest.raises(UserError) as caught:
        loader(root, *extra)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_makes_no_sense_is_refused(images):
    assert "zooms and cuts by itself" in refused(images, "--preprocess", "resize_and_crop")
    assert "--random_scale_max 0.5" in refused(images, "--random_scale_max", "0.5")
    assert "as --preprocess zoom_and_patch does; use --cache none" in refused(
        images, "--cache", "ram"
    )
    assert "not a multiple of 4" in refused(images, "--crop_size", "18")
    assert "has only 4 images per epoch" in refused(images, "--crops_per_epoch", "4")
    make_image_folder(images / "data" / "trainB", count=3)
    text = refused(images, "--max_dataset_size", "inf")
    assert "trainB holds 3 images" in text and "--max_dataset_size 1" in text
    assert len(make(images).domains["B"].paths) == 1  # as the tests' flags say --max_dataset_size 1


def test_the_defaults_are_the_released_ones(images):
    opt = parse(TrainOptions(), ["--model", "sincut", "--dataroot", str(images / "data")])
    found = (
        opt.dataset_mode,
        opt.crops_per_epoch,
        opt.random_scale_max,
        opt.crop_size,
        opt.batch_size,
    )
    assert found == ("singleimage", 100_000, 3.0, 64, 16)
