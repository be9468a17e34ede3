"""Loading for test.py: only the input domain, every image once, at its own size."""

import numpy as np
import pytest
import torch
from PIL import Image

import data
from tests.helpers import make_image_folder
from tests.test_data_loader import assert_same, make_loader, test_options
from util.errors import UserError


def by_path(loader) -> dict[str, torch.Tensor]:
    """Each image by its path, cropped back to its own size."""
    found = {}
    for batch in loader.epoch(1):
        for image, path, (height, width) in zip(
            batch["A"], batch["A_paths"], batch["A_size"], strict=True
        ):
            assert path not in found
            found[path] = image[:, :height, :width]
    return found


@pytest.fixture
def mixed(tmp_path):
    """Nine images of four sizes, two of which fill up to the same size."""
    sizes = [(40, 36), (41, 33), (8, 8), (39, 35), (40, 36), (41, 33), (5, 3), (40, 36), (40, 36)]
    for index, size in enumerate(sizes):
        make_image_folder(tmp_path / "testA" / str(index), count=1, size=size, seed=index)
    return tmp_path


@pytest.mark.parametrize("mode", ["unaligned", "single"])
def test_the_other_domain_is_not_needed_and_not_loaded(mixed, mode):
    [batch, *_] = make_loader(test_options(mixed, dataset_mode=mode)).epoch(1)
    assert set(batch) == {"A", "A_paths", "A_size", "index"}
    (mixed / "testB").mkdir()  # empty: an error, were it read
    assert len(make_loader(test_options(mixed, dataset_mode=mode))) == 9


@pytest.mark.parametrize("mode", ["unaligned", "single"])
def test_training_images_are_not_translated_among_the_test_images(tmp_path, mode):
    """A root with train and test, without domains; a folder with one of them holds photographs."""
    make_image_folder(tmp_path / "Train", 3, size=(16, 16))
    assert len(make_loader(test_options(tmp_path, dataset_mode=mode)).dataset) == 3

    make_image_folder(tmp_path / "testing", 2, size=(16, 16))
    with pytest.raises(UserError, match=r"holds Train and testing: .* --dataroot \S+.testing$"):
        make_loader(test_options(tmp_path, dataset_mode=mode))
    assert len(make_loader(test_options(tmp_path / "testing", dataset_mode=mode)).dataset) == 2


@pytest.mark.parametrize("cache", ["none", "ram", "device"])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_every_image_comes_once_at_its_own_size_whatever_the_batch(mixed, batch_size, cache):
    loader = make_loader(test_options(mixed, batch_size=batch_size, cache=cache))
    images = by_path(loader)
    assert len(images) == 9
    for path, image in images.items():
        original = np.asarray(Image.open(path))
        assert np.array_equal(
            ((image + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0), original
        )
    shapes = [tuple(batch["A"].shape) for batch in loader.epoch(1)]
    assert len(loader) == len(shapes)
    assert all(height % 4 == 0 and width % 4 == 0 for _, _, height, width in shapes)
    if batch_size == 3:  # five fill up to 40x36, of which three are in one batch
        assert sorted(shapes) == [
            (2, 3, 8, 8),  # one of them filled up to the least that generators take
            (2, 3, 36, 40),
            (2, 3, 36, 44),
            (3, 3, 36, 40),
        ]


def test_filled_up_pixels_are_reflections(mixed):
    loader = make_loader(test_options(mixed))
    for batch in loader.epoch(1):
        original = np.asarray(Image.open(batch["A_paths"][0])).astype(np.float32) / 127.5 - 1
        bottom, right = (
            have - own for have, own in zip(batch["A"].shape[2:], original.shape, strict=False)
        )
        expected = np.pad(original, ((0, bottom), (0, right), (0, 0)), mode="reflect")
        torch.testing.assert_close(batch["A"][0].permute(1, 2, 0), torch.from_numpy(expected))


def test_a_model_may_ask_for_another_multiple(mixed):
    for batch in make_loader(test_options(mixed, size_multiple=16)).epoch(1):
        assert batch["A"].shape[2] % 16 == 0 and batch["A"].shape[3] % 16 == 0


def test_nothing_is_random_and_the_order_is_that_of_the_names(mixed):
    first, second = (
        make_loader(test_options(mixed, seed=1)),
        make_loader(test_options(mixed, seed=2)),
    )
    assert_same(first.epoch(1), second.epoch(7))
    paths = [batch["A_paths"][0] for batch in first.epoch(1)]
    assert paths == sorted(paths)


def test_cropping_at_test_is_centred(tmp_path):
    [path] = make_image_folder(tmp_path / "testA", count=1)
    [batch] = make_loader(test_options(tmp_path, preprocess="resize_and_crop")).epoch(1)
    image = Image.open(path).resize((36, 36), Image.Resampling.BICUBIC).crop((2, 2, 34, 34))
    assert np.array_equal(
        ((batch["A"][0] + 1) * 127.5).round().byte().permute(1, 2, 0), np.asarray(image)
    )


def test_b_to_a_reads_b_with_the_input_channels(tmp_path):
    make_image_folder(tmp_path / "testB", count=2)
    opt = test_options(tmp_path, direction="BtoA", input_nc=1)
    images = by_path(make_loader(opt))
    assert all("testB" in path and image.shape[0] == 1 for path, image in images.items())
    with pytest.raises(UserError, match="no folder testA or valA"):
        make_loader(test_options(tmp_path))


def test_one_file_and_a_plain_folder(tmp_path):
    paths = make_image_folder(tmp_path / "my photos #1" / "more", count=3)
    assert list(by_path(make_loader(test_options(paths[1])))) == [str(paths[1])]
    folder = tmp_path / "my photos #1"
    assert list(by_path(make_loader(test_options(folder, dataset_mode="single")))) == [
        str(path) for path in paths
    ]
    assert len(by_path(make_loader(test_options(folder, max_dataset_size=2)))) == 2
    assert make_loader(test_options(folder)).dataset.domains["A"].folder == str(folder)


def test_training_images_can_be_translated(tmp_path):
    make_image_folder(tmp_path / "trainA", count=2)
    assert len(by_path(make_loader(test_options(tmp_path, phase="train")))) == 2


def test_ranks_share_an_incomplete_batch(tmp_path):
    make_image_folder(tmp_path / "testA", count=5)
    opt = test_options(tmp_path, batch_size=2)
    shares = [by_path(make_loader(opt, rank=rank, world_size=2)) for rank in (0, 1)]
    assert [len(share) for share in shares] == [3, 2] and len(shares[0] | shares[1]) == 5


def test_single_is_not_for_training(tmp_path):
    opt = test_options(tmp_path, dataset_mode="single")
    opt.is_train = True
    with pytest.raises(UserError, match="--dataset_mode unaligned"):
        data.find_dataset("single")(opt)


def test_a_method_for_both_directions_gets_every_image_of_both_domains(tmp_path):
    make_image_folder(tmp_path / "testA", count=3)
    make_image_folder(tmp_path / "testB", count=2, seed=1)
    loader = make_loader(test_options(tmp_path, test_roles="AB", batch_size=2))
    batches = list(loader.epoch(1))
    assert sorted((key, len(value)) for batch in batches for key, value in batch.items() if len(key) == 1) == [
        ("A", 1), ("A", 2), ("B", 2),
    ]  # fmt: skip
    assert all(("A" in batch) != ("B" in batch) for batch in batches)
    limited = make_loader(test_options(tmp_path, test_roles="AB", max_dataset_size=1))
    assert len(limited) == 2
    (tmp_path / "testB").rename(tmp_path / "elsewhere")  # without it A alone is translated
    assert len(make_loader(test_options(tmp_path, test_roles="AB"))) == 3
    alone = make_loader(
        test_options(tmp_path / "testA", test_roles="AB")
    )  # a folder of inputs has no second domain
    assert len(alone) == 3 and all("B" not in batch for batch in alone.epoch(1))
