"""Pairs: both halves cut at the same place, mirrored together, the right way round, whatever the cache or the phase."""

import numpy as np
import pytest
import torch
from PIL import Image

import data
from data.transforms import cut_view, read_source
from models.inference.evaluation import evaluation_options
from tests.helpers import make_image_folder
from tests.test_data_loader import assert_same, data_options, make_loader, test_options
from util.errors import UserError

WIDTH, HEIGHT = 60, 48  # of one half
MODES = [
    "resize_and_crop", "resize", "crop", "scale_width", "scale_width_and_crop", "scale_shortside",
    "scale_shortside_and_crop", "zoom_and_crop", "trim", "none",
]  # fmt: skip


def make_pairs(folder, count=5, size=(WIDTH, HEIGHT), negate=True) -> list[np.ndarray]:
    """Files whose right half is the negative of the left one, so that a pair shows where it was cut."""
    halves = []
    for path in make_image_folder(folder, count, size):
        left = np.asarray(Image.open(path))
        Image.fromarray(np.concatenate([left, 255 - left if negate else left], 1)).save(path)
        halves.append(left)
    return halves


def aligned(root, **changes):
    return data_options(root, dataset_mode="aligned", **changes)


def aligned_test(root, **changes):
    return test_options(root, dataset_mode="aligned", **changes)


def to_bytes(image: torch.Tensor) -> np.ndarray:
    return ((image + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()


@pytest.fixture
def pairs(tmp_path):
    make_pairs(tmp_path / "train")
    return tmp_path


@pytest.mark.parametrize("mode", MODES)
def test_both_halves_are_cut_at_the_same_place_and_mirrored_together(pairs, mode):
    """Every pixel of B must be the negative of the same pixel of A, in every mode, and crops and flips must vary."""
    dataset = data.find_dataset("aligned")(aligned(pairs, preprocess=mode))
    flips = set()
    for index in range(20):
        plan = dataset.plan(1, index)
        assert plan["A"].box == plan["B"].box and plan["A"].flip == plan["B"].flip
        a, b = (
            cut_view(read_source(view.source), view).numpy().astype(int) for view in plan.values()
        )
        assert a.shape == b.shape and a.std() > 10
        assert (
            np.abs(a + b - 255).max() <= 2
        )  # bicubic resizing rounds and clips each half by itself
        flips.add(plan["A"].flip)
    assert flips == {True, False}
    varied = {dataset.plan(1, index)["A"].box[:2] for index in range(40)}
    assert (
        len(varied) > 4 or not ("crop" in mode or mode == "trim") or mode.startswith("scale_width")
    )


def test_the_left_half_is_a_and_the_direction_swaps(tmp_path):
    [left] = make_pairs(tmp_path / "test", count=1)
    for direction, first, second in (("AtoB", left, 255 - left), ("BtoA", 255 - left, left)):
        [batch] = make_loader(aligned_test(tmp_path, direction=direction, preprocess="none")).epoch(
            1
        )
        assert np.array_equal(to_bytes(batch["A"][0])[:HEIGHT, :WIDTH], first)
        assert np.array_equal(to_bytes(batch["B"][0])[:HEIGHT, :WIDTH], second)
        assert batch["A_size"] == batch["B_size"] == [(HEIGHT, WIDTH)]


def test_channels_stay_with_their_role(pairs):
    batch = next(make_loader(aligned(pairs, direction="BtoA", input_nc=1, output_nc=3)).epoch(1))
    assert batch["A"].shape == (2, 1, 32, 32) and batch["B"].shape == (2, 3, 32, 32)


@pytest.mark.parametrize("epoch", [1, 3])
@pytest.mark.parametrize(("cache", "workers"), [("none", 2), ("ram", 0), ("device", 0)])
def test_workers_and_caches_give_identical_batches(pairs, cache, workers, epoch):
    plain = list(make_loader(aligned(pairs)).epoch(epoch))
    assert_same(plain, make_loader(aligned(pairs, cache=cache, num_threads=workers)).epoch(epoch))
    assert_same(plain[1:], make_loader(aligned(pairs)).epoch(epoch, start=1))


def test_pairs_come_in_another_order_each_epoch_and_each_once(pairs):
    dataset = data.find_dataset("aligned")(aligned(pairs))
    assert len(dataset) == 5
    orders = [tuple(dataset.order(epoch)) for epoch in range(1, 6)]
    assert len(set(orders)) > 1 and all(sorted(order) == list(range(5)) for order in orders)
    assert (
        dataset.plan(1, 3)
        == data.find_dataset("aligned")(aligned(pairs)).plan(1, 3)
        != dataset.plan(2, 3)
    )


def test_two_folders_with_equal_names_are_pairs_too(tmp_path):
    for letter in "AB":
        make_pairs(tmp_path / f"train{letter}", count=3)
    for path in (tmp_path / "trainB").iterdir():
        path.rename(path.with_suffix(".bmp"))  # the ending does not matter
    dataset = data.find_dataset("aligned")(aligned(tmp_path))
    plan = dataset.plan(1, 1)
    assert plan["A"].box == plan["B"].box and plan["A"].source.region is None
    assert plan["A"].source.path.endswith("trainA/image_001.png")
    assert plan["B"].source.path.endswith("trainB/image_001.bmp")
    swapped = data.find_dataset("aligned")(aligned(tmp_path, direction="BtoA")).plan(1, 1)
    assert swapped["A"].source.path == plan["B"].source.path


def test_at_test_every_pair_comes_once_whatever_the_batch(tmp_path):
    make_pairs(tmp_path / "val", count=3)
    make_pairs(tmp_path / "val" / "wide", count=2, size=(80, 48))
    for batch_size in (1, 2, 5):
        loader = make_loader(aligned_test(tmp_path, batch_size=batch_size))
        batches = list(loader.epoch(1))
        paths = [path for batch in batches for path in batch["A_paths"]]
        assert len(paths) == len(set(paths)) == 5 and all(
            b["A_paths"] == b["B_paths"] for b in batches
        )
        assert all(batch["A"].shape == batch["B"].shape for batch in batches)
    wide = tmp_path / "val" / "wide"  # a folder of pairs, without phases
    alone = make_loader(aligned_test(wide / "image_000.png", pairs="halves"))
    assert next(alone.epoch(1))["A_size"] == [(48, 80)]
    assert len(make_loader(aligned_test(wide, pairs="halves"))) == 2


@pytest.mark.parametrize("trained", ["halves", "folders", None])
def test_a_photograph_is_translated_whole(tmp_path, trained, capsys):
    """Nothing shows that a file or a folder of files holds pairs, however those of the run lay."""
    [photo] = make_image_folder(tmp_path / "photos", 1, size=(41, 36))
    for root in (photo, photo.parent):
        [batch] = make_loader(aligned_test(root, trained_pairs=trained)).epoch(1)
        assert np.array_equal(to_bytes(batch["A"][0])[:36, :41], np.asarray(Image.open(photo)))
        assert "B" not in batch and batch["A_size"] == [(36, 41)]
        assert "each file is one image, translated whole" in capsys.readouterr().out


def test_files_are_read_as_the_run_read_its_pairs(tmp_path):
    make_image_folder(tmp_path / "photos" / "test", 2)
    for trained, sizes in (
        ("folders", {"A": (40, 36)}),
        ("halves", {"A": (20, 36), "B": (20, 36)}),
    ):
        opt = aligned_test(tmp_path / "photos", trained_pairs=trained)
        plan = data.find_dataset("aligned")(opt).plan(1, 0)
        assert {role: view.source.size for role, view in plan.items()} == sizes
    make_image_folder(tmp_path / "inputs" / "testA", 2)  # a set of which only the input is there
    assert len(make_loader(aligned_test(tmp_path / "inputs"))) == 2


@pytest.mark.parametrize("pairs", ["auto", "halves"])
@pytest.mark.parametrize(
    ("folder", "phase", "said"),
    [
        ("train", "test", "it has more, train"),
        ("validation", "val", "rename validation to val"),
        ("test", "valid", "it has more, test"),
    ],
)
def test_images_of_another_phase_are_never_translated_instead(tmp_path, folder, phase, said, pairs):
    """A folder that is missing or misspelt leaves the training images, whole or cut into halves."""
    make_pairs(tmp_path / folder, count=2)
    make_pairs(tmp_path / "more", count=1)
    text = message(aligned_test(tmp_path, phase=phase, pairs=pairs))
    assert f"has no folder {phase}" in text and "side by side" in text and said in text


@pytest.mark.parametrize(
    ("phase", "folders", "lacking"),
    [
        ("train", ["train", "test"], "val with"),
        ("mine", ["mine"], "val with"),
        ("train", ["trainA", "trainB"], "valA;"),
    ],
)
def test_a_run_is_measured_on_pairs_of_their_phase_alone(tmp_path, phase, folders, lacking):
    """Its own training images, which lie below the same root, would flatter it."""
    for folder in folders:
        make_pairs(tmp_path / folder, count=2)
    opt = aligned(tmp_path, phase=phase)
    make_loader(opt)
    opt.eval_split = "val"
    assert f"has no folder {lacking}" in message(evaluation_options(opt))


def test_pairs_in_folders_need_both_of_them_at_test(tmp_path):
    """Else each image would be its own partner."""
    photos = make_image_folder(tmp_path / "photos", 2)
    for root in (tmp_path / "photos", photos[0]):
        assert "has no folder testA or valA" in message(aligned_test(root, pairs="folders"))
    make_image_folder(tmp_path / "photos" / "testA", 2)
    text = message(aligned_test(tmp_path / "photos", pairs="folders"))
    assert "has no folder testB or valB" in text


def test_halves_in_folders_of_folders_need_no_flag_at_test(tmp_path):
    make_pairs(tmp_path / "test" / "day", count=2)
    make_pairs(tmp_path / "test" / "night", count=2)
    assert "holds only folders" in message(aligned_test(tmp_path))
    dataset = make_loader(aligned_test(tmp_path, trained_pairs="halves")).dataset
    assert (dataset.kind, len(dataset)) == ("halves", 4)


@pytest.mark.parametrize("phase", ["train", "test"])
def test_the_start_says_how_files_are_cut(tmp_path, phase, capsys):
    make_pairs(tmp_path / phase, count=2)
    make_loader((aligned if phase == "train" else aligned_test)(tmp_path))
    assert "each file is cut into two 60 x 48 halves, A on the left" in capsys.readouterr().out


def test_how_pairs_lie_becomes_part_of_the_record(tmp_path):
    make_pairs(tmp_path / "halves" / "train")
    for letter in "AB":
        make_image_folder(tmp_path / "folders" / f"train{letter}")
    for kind in ("halves", "folders"):
        opt = aligned(tmp_path / kind)
        data.find_dataset("aligned")(opt)
        assert opt.pairs == kind


def test_a_folder_of_folders_is_no_folder_of_halves(tmp_path):
    for letter in "AB":
        make_image_folder(tmp_path / "train" / letter)
    text = message(aligned(tmp_path))
    assert "train holds only folders (A, B)" in text and "trainA and trainB" in text
    make_pairs(tmp_path / "train" / "A")
    make_pairs(tmp_path / "train" / "B")
    assert len(make_loader(aligned(tmp_path, pairs="halves")).dataset) == 10


def message(opt) -> str:
    with pytest.raises(UserError) as caught:
        list(make_loader(opt).epoch(1))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_missing_is_said_in_one_line(tmp_path):
    assert "has no folder train with images that hold A and B side by side" in message(
        aligned(tmp_path)
    )
    assert "nowhere does not exist" in message(aligned_test(tmp_path / "nowhere"))
    for pairs in ("halves", "folders"):
        assert "nowhere does not exist" in message(aligned_test(tmp_path / "nowhere", pairs=pairs))
    assert "nowhere does not exist" in message(aligned(tmp_path / "nowhere"))
    [path] = make_image_folder(tmp_path / "one", 1)
    assert "image_000.png is a file" in message(aligned(path))
    make_image_folder(tmp_path / "trainA", count=2)
    assert "has no folder trainB" in message(aligned(tmp_path))
    make_image_folder(tmp_path / "trainB", count=3)
    assert "1 image without a partner of the same name in the other folder: image_002" in message(
        aligned(tmp_path)
    )
    make_image_folder(tmp_path / "trainA", count=3, size=(50, 36))
    assert "the images of a pair have one size" in message(aligned(tmp_path))
    make_image_folder(tmp_path / "trainA", count=3, suffix=".bmp")
    assert "names differ in the ending only" in message(aligned(tmp_path))


def test_a_width_that_cannot_be_halved_is_named(tmp_path):
    make_image_folder(tmp_path / "train", count=2, size=(41, 36))
    text = message(aligned(tmp_path))
    assert "image_00" in text and "is 41 pixels wide, which is no two halves" in text


def test_unreadable_images_take_their_partners_with_them(tmp_path, capsys):
    for letter in "AB":
        make_image_folder(tmp_path / f"train{letter}", count=4)
    (tmp_path / "trainB" / "image_001.png").write_bytes(b"no image")
    loader = make_loader(aligned(tmp_path, skip_bad_images=True))
    paths = [[path[-13:] for path in domain.paths] for domain in loader.dataset.domains.values()]
    assert paths[0] == paths[1] and len(paths[0]) == 3
    assert "left out: 1 image without a partner" in capsys.readouterr().out
    make_pairs(tmp_path / "train", count=3)
    (tmp_path / "train" / "image_001.png").write_bytes(b"no image")
    assert len(make_loader(aligned(tmp_path, skip_bad_images=True)).dataset) == 2
    assert capsys.readouterr().out.count("left out") == 1


def test_the_first_pairs_are_taken_of_pairs(tmp_path):
    """And not the first files of each folder, which may have no partner among the first of the other."""
    make_image_folder(tmp_path / "trainA", count=4)
    make_image_folder(tmp_path / "trainB", count=4)
    (tmp_path / "trainA" / "image_000.png").unlink()
    dataset = make_loader(aligned(tmp_path, skip_bad_images=True, max_dataset_size=2)).dataset
    for domain in dataset.domains.values():
        assert [path[-7:] for path in domain.paths] == ["001.png", "002.png"]


def test_an_unreadable_image_takes_no_pair_but_its_own_from_those_held_out(tmp_path):
    """Places of images to measure on are counted in pairs, else they differ between the folders."""
    for letter in "AB":
        make_image_folder(tmp_path / f"train{letter}", count=12)
    (tmp_path / "trainA" / "image_011.png").write_bytes(b"no image")
    opt = aligned(tmp_path, skip_bad_images=True)
    opt.held_out = 2
    dataset = make_loader(opt).dataset
    assert [len(domain.paths) for domain in dataset.domains.values()] == [9, 9]
