"""Contents with their styles, photographs of any folder, and label maps."""

from argparse import Namespace

import numpy as np
import pytest
import torch
from PIL import Image

from data import create_loader, find_dataset
from data.label_maps import common_labels, label_file, read_labels
from tests.helpers import make_image_folder
from tests.test_data_loader import data_options, runtime, test_options
from util.errors import UserError

RED, BLUE = (255, 0, 0), (0, 0, 250)


def pairs(root, mode="content_style", **changes):
    """The loader of test.py for contents and styles."""
    own = {"style": None, "pair_by": "order", "content_labels": None, "style_labels": None}
    given = {name: changes.pop(name) for name in own.keys() & changes.keys()}
    opt = test_options(root, dataset_mode=mode, **changes)
    return create_loader(Namespace(**vars(opt) | own | given), runtime())


def names(loader) -> list[tuple[str, str]]:
    """(content, style) of each batch, without their folders."""
    found = []
    for batch in loader.epoch(1):
        found += [
            (a.rsplit("/", 1)[1], b.rsplit("/", 1)[1])
            for a, b in zip(batch["A_paths"], batch["B_paths"], strict=True)
        ]
    return found


@pytest.fixture
def three_and_two(tmp_path):
    make_image_folder(tmp_path / "testA", 3, size=(20, 12))
    make_image_folder(tmp_path / "testB", 2, size=(9, 16), seed=1)
    return tmp_path


@pytest.mark.parametrize("mode", ["content_style", "photographs"])
def test_styles_go_round(three_and_two, mode):
    first, second, third = (f"image_{number:03d}.png" for number in range(3))
    loader = pairs(three_and_two, mode)
    assert names(loader) == [(first, first), (second, second), (third, first)]
    batch = next(loader.epoch(1))
    assert (batch["A_size"], batch["B_size"]) == ([(12, 20)], [(16, 9)])
    assert loader.dataset.result_names() == ["image_000", "image_001", "image_002"]


def draw(root, *files):
    """Small pictures under these names."""
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), RED).save(path)


def by_name(root, **changes) -> list[tuple[str, str]]:
    """(content, style) of each pair by name, below their folders."""
    dataset = pairs(root, pair_by="name", **changes).dataset
    A, B = (dataset.domains[role].paths for role in "AB")
    return [
        (A[content].split("testA/")[1], B[style].split("testB/")[1])
        for content, style in dataset.pairs
    ]


def test_pairs_by_name_lie_at_the_same_place_below_their_folders(tmp_path):
    draw(tmp_path, "testA/x/1.png", "testA/y/1.png", "testB/x/1.jpg", "testB/Y/1.png")
    assert by_name(tmp_path) == [("x/1.png", "x/1.jpg"), ("y/1.png", "Y/1.png")]


def test_a_style_elsewhere_is_found_by_its_name_where_no_other_has_it(tmp_path):
    draw(tmp_path, "testA/x/1.png", "testA/2.png", "testB/1.png", "testB/deep/2.png")
    assert by_name(tmp_path) == [("2.png", "deep/2.png"), ("x/1.png", "1.png")]
    draw(tmp_path, "testB/z/1.png")
    with pytest.raises(UserError, match=r"x/1\.png has several styles of its name, such as"):
        by_name(tmp_path)


def test_two_styles_at_one_place_are_no_pair(tmp_path):
    draw(tmp_path, "testA/1.png", "testB/1.png", "testB/1.jpg")
    with pytest.raises(UserError, match=r"--pair_by name: .*/1\.png has several .*1\.jpg and "):
        by_name(tmp_path)


def test_the_first_contents_keep_their_styles(tmp_path):
    """--num_test counts what is translated, so that styles are not cut before they are paired."""
    draw(tmp_path, *(f"testA/{name}.png" for name in "bcd"))
    draw(tmp_path, *(f"testB/{name}.png" for name in "abcd"))
    found = by_name(tmp_path, max_dataset_size=2)
    assert found == [("b.png", "b.png"), ("c.png", "c.png")]
    each = pairs(tmp_path, pair_by="each", max_dataset_size=2).dataset
    assert each.pairs == [(content, style) for content in range(2) for style in range(4)]


# -- photographs -----------------------------------------------------------------------------------------------------


def photographs(root, **changes):
    return create_loader(data_options(root, dataset_mode="photographs", **changes), runtime())


def test_any_folder_of_photographs_is_learned_from(tmp_path):
    make_image_folder(tmp_path / "holiday" / "day 1", 2)
    make_image_folder(tmp_path / "holiday" / "day 2", 2, seed=1)
    loader = photographs(tmp_path / "holiday")
    seen = [path for batch in loader.epoch(1) for path in batch["A_paths"]]
    assert len(seen) == len(set(seen)) == 4
    assert set(next(loader.epoch(1))) == {"A", "A_paths", "A_size", "index"}


def test_both_domains_are_photographs(tmp_path):
    make_image_folder(tmp_path / "trainA", 3)
    make_image_folder(tmp_path / "testA", 1)
    assert len(photographs(tmp_path).dataset) == 3
    make_image_folder(tmp_path / "trainB", 2, seed=1)
    loader = photographs(tmp_path, batch_size=5)
    [batch] = loader.epoch(1)
    assert {path.split("/")[-2] for path in batch["A_paths"]} == {"trainA", "trainB"}


def test_the_first_photographs_are_those_of_each_domain(tmp_path):
    for name in ("trainA", "trainB"):
        make_image_folder(tmp_path / name, 3)
    paths = photographs(tmp_path, max_dataset_size=2).dataset.domains["A"].paths
    assert [path.split("/")[-2] for path in paths] == ["trainA", "trainA", "trainB", "trainB"]
    assert len(photographs(tmp_path / "trainB", max_dataset_size=2).dataset) == 2


def test_photographs_that_are_not_there(tmp_path):
    make_image_folder(tmp_path / "testA", 1)
    with pytest.raises(UserError, match="no folder trainA"):
        photographs(tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        photographs(tmp_path / "testA" / "image_000.png")


# -- label maps ------------------------------------------------------------------------------------------------------


def label_map(path, left=RED, right=BLUE, size=(8, 6), columns=4):
    """A picture of two colours."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, :columns], pixels[:, columns:] = left, right
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def test_label_maps_keep_their_colours_at_any_size(tmp_path):
    labels = read_labels(str(label_map(tmp_path / "a.png")), (16, 3))
    assert labels.shape == (3, 16) and labels.dtype == torch.int64
    assert labels[0].tolist() == [0xFF0000] * 8 + [0x0000FA] * 8


def test_grey_labels_are_the_same_numbers_at_any_depth(tmp_path):
    values = np.array([[7, 26, 255]], np.uint8)
    for name, pixels in (
        ("eight", values), ("colours", np.repeat(values[..., None], 3, 2)), ("deep", values.astype(np.uint16))
    ):  # fmt: skip
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        assert read_labels(str(tmp_path / f"{name}.png"), (3, 1)).tolist() == [
            [0x070707, 0x1A1A1A, 0xFFFFFF]
        ]

    Image.fromarray(np.array([[7, 300, 65535]], np.uint16)).save(tmp_path / "more.png")
    first, *others = read_labels(str(tmp_path / "more.png"), (3, 1))[0].tolist()
    assert first == 0x070707 and len({*others}) == 2 and min(others) > 0xFFFFFF


def test_labels_count_only_where_both_pictures_have_enough_of_them():
    content, style = torch.zeros(20, 20, dtype=torch.int64), torch.zeros(20, 60, dtype=torch.int64)
    content[0, :11], style[0, :11] = 1, 1
    content[1, :10], style[1, :20] = 2, 2  # 10 pixels are too few
    content[2, :20], style[3:, :] = 3, 3  # 20 of 1020: less than 100 times as many
    content[3, :11], style[:, 50:] = 4, 5  # in one of them only
    assert common_labels(content, style) == [0, 1, 3]
    style[3:, :] = 1
    assert common_labels(content[:3], style) == [0, 1]
    wide = torch.full((20, 600), 1)
    assert common_labels(content, wide) == []  # 1100 times as many


def test_a_label_map_is_found_by_name_or_named(tmp_path):
    one = label_map(tmp_path / "maps" / "sea.png")
    assert label_file(str(one), "x/other.jpg", "--style_labels") == str(one)
    assert label_file(str(one.parent), "x/Sea.jpg", "--style_labels") == str(one)
    with pytest.raises(UserError, match=r"--style_labels .* no label map named hill"):
        label_file(str(one.parent), "x/hill.jpg", "--style_labels")
    label_map(tmp_path / "maps" / "more" / "sea.png")
    with pytest.raises(UserError, match="several label maps named sea"):
        label_file(str(one.parent), "x/sea.jpg", "--style_labels")
    with pytest.raises(UserError, match="neither a label map"):
        label_file(str(tmp_path / "no"), "x/sea.jpg", "--style_labels")


def test_label_maps_come_in_pairs_and_on_whole_pictures(three_and_two):
    with pytest.raises(UserError, match="both or neither"):
        pairs(three_and_two, content_labels="x")
    with pytest.raises(UserError, match="--preprocess none"):
        pairs(three_and_two, content_labels="x", style_labels="x", preprocess="resize_and_crop")


def test_a_missing_label_map_is_told_before_anything_is_translated(three_and_two, tmp_path):
    """Of a content, or of a style that is used; other styles need none."""
    label_map(tmp_path / "of_A" / "image_000.png")
    flags = {"content_labels": str(tmp_path / "of_A"), "style_labels": str(tmp_path / "of_B")}
    label_map(tmp_path / "of_B" / "image_000.png")
    assert len(pairs(three_and_two, max_dataset_size=1, **flags).dataset) == 1

    said = (
        r"--content_labels .*of_A holds no label map named image_001, which .*testA.image_001.png"
    )
    with pytest.raises(UserError, match=said):
        pairs(three_and_two, **flags)
    for number in (1, 2):
        label_map(tmp_path / "of_A" / f"image_{number:03d}.png")
    with pytest.raises(
        UserError, match=r"--style_labels .*of_B holds no label map named image_001"
    ):
        pairs(three_and_two, **flags)


def test_styles_of_a_data_set_are_those_of_the_target_domain(three_and_two):
    make_image_folder(three_and_two / "other" / "testA", 1)
    make_image_folder(three_and_two / "other" / "valB", 2)
    other = pairs(three_and_two, style=str(three_and_two / "other")).dataset
    assert other.domains["B"].folder.endswith("other/valB")
    back = pairs(three_and_two, style=str(three_and_two / "other"), direction="BtoA").dataset
    assert back.domains["B"].folder.endswith("other/testA")

    make_image_folder(three_and_two / "third" / "trainA", 1)
    with pytest.raises(UserError, match=r"--style .*third is a data set without testB or valB"):
        pairs(three_and_two, style=str(three_and_two / "third"))


def test_a_missing_root_is_said_before_a_missing_domain(tmp_path):
    with pytest.raises(UserError, match=r"--dataroot .*nowhere does not exist"):
        pairs(tmp_path / "nowhere")
    with pytest.raises(UserError, match="has no domain B to take styles from"):
        pairs(tmp_path)


def test_content_and_style_are_not_for_training(tmp_path):
    with pytest.raises(UserError, match="train with another"):
        find_dataset("content_style")(data_options(tmp_path))
