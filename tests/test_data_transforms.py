"""The geometry of each --preprocess against plain Pillow calls, and the two ways of filling up an image."""

import numpy as np
import pytest
import torch
from PIL import Image

from data.transforms import MODES, Preprocess, Source, View, cut_view, read_source, reflect
from util.errors import UserError

LOAD, CROP = 36, 32
BICUBIC = Image.Resampling.BICUBIC


def preprocess(
    mode: str, is_train: bool = True, no_flip: bool = True, crop: int = CROP, multiple: int = 4
) -> Preprocess:
    return Preprocess(mode, crop, multiple, is_train, no_flip)


def view_of(steps: Preprocess, path: str, size: tuple[int, int], seed: int | None = 0) -> View:
    rng = None if seed is None else np.random.default_rng(seed)
    return steps.view(Source(path, 3, steps.resized(size, LOAD, rng)), rng)


@pytest.fixture
def photo(tmp_path):
    def write(width: int, height: int) -> str:
        path = tmp_path / f"{width}x{height}.png"
        coarse = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height), BICUBIC).save(path)
        return str(path)

    return write


def pixels_of(view: View) -> np.ndarray:
    return cut_view(read_source(view.source), view).permute(1, 2, 0).numpy()


RESIZED = [
    # mode, size of the file, size after resizing in training
    ("resize_and_crop", (60, 40), (36, 36)),
    ("resize", (60, 40), (36, 36)),
    ("crop", (61, 43), (61, 43)),
    ("scale_width_and_crop", (72, 90), (36, 45)),
    ("scale_width_and_crop", (72, 50), (36, 32)),  # at least crop_size high
    ("scale_width_and_crop", (36, 40), (36, 40)),
    ("scale_width", (72, 90), (36, 44)),  # 45 to the nearest multiple of 4
    ("scale_shortside_and_crop", (18, 25), (36, 50)),
    ("scale_shortside_and_crop", (90, 61), (90, 61)),  # never made smaller
    ("scale_shortside", (18, 25), (36, 48)),  # 50 / 4 rounds half to even, as CUT does
    ("resize_shortside_and_crop", (18, 25), (36, 50)),
    ("resize_shortside_and_crop", (120, 90), (48, 36)),  # made smaller too
    ("resize_shortside_and_crop", (101, 47), (77, 36)),  # 77.36
    ("resize_shortside", (90, 61), (52, 36)),  # 53.1 to the nearest multiple of 4
    ("none", (61, 43), (60, 44)),
    ("none", (60, 44), (60, 44)),
    ("none", (1, 3), (4, 4)),
    ("trim", (61, 43), (61, 43)),  # cut to 32 x 32, not resized before
    ("trim", (61, 27), (61, 28)),  # the side that stays whole becomes a multiple
    ("resize_and_trim", (61, 43), (36, 36)),
]


@pytest.mark.parametrize("mode, size, expected", RESIZED)
def test_size_after_resizing_in_training(mode, size, expected):
    assert preprocess(mode).resized(size, LOAD, np.random.default_rng(0)) == expected


@pytest.mark.parametrize("mode, size, expected", RESIZED)
def test_pixels_equal_resizing_and_cropping_by_pillow(photo, mode, size, expected):
    path = photo(*size)
    view = view_of(preprocess(mode, no_flip=False), path, size)
    left, top, width, height = view.box
    cut = {"crop": (CROP, CROP), "trim": tuple(min(side, CROP) for side in expected)}
    assert (width, height) == cut.get(mode.split("_and_")[-1], expected)
    image = Image.open(path)
    image = image if image.size == expected else image.resize(expected, BICUBIC)
    image = image.crop((left, top, left + width, top + height))
    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if view.flip else image
    assert np.array_equal(pixels_of(view), np.asarray(image))


def test_both_flips_occur_equally_often_and_none_with_no_flip():
    flips = [
        view_of(preprocess("none", no_flip=False), "x", (8, 8), seed).flip for seed in range(400)
    ]
    assert 160 < sum(flips) < 240
    assert not any(view_of(preprocess("none"), "x", (8, 8), seed).flip for seed in range(20))


@pytest.mark.parametrize("mode", ["resize_and_crop", "trim"])
def test_cuts_reach_every_position_and_no_further(mode):
    steps = preprocess(mode)
    size = (36, 36)
    places = {view_of(steps, "x", size, seed).box for seed in range(400)}
    assert places == {(x, y, CROP, CROP) for x in range(5) for y in range(5)}


def test_zoom_scales_each_side_by_itself_within_bounds():
    steps = preprocess("zoom_and_crop")
    sizes = [steps.resized((100, 50), LOAD, np.random.default_rng(seed)) for seed in range(200)]
    widths, heights = zip(*sizes, strict=True)
    assert 80 <= min(widths) < 83 and 97 < max(widths) <= 100
    assert 40 <= min(heights) < 42 and 48 < max(heights) <= 50
    assert len({w / h for w, h in sizes}) > 100
    assert (
        steps.resized((33, 20), LOAD, np.random.default_rng(0))[1] == CROP
    )  # never below the crop
    assert preprocess("zoom_and_crop", is_train=False).resized((100, 50), LOAD, None) == (100, 50)


def test_at_test_cuts_are_centred_and_nothing_is_mirrored():
    view = view_of(
        preprocess("resize_and_crop", is_train=False, no_flip=False), "x", (90, 50), None
    )
    assert view == View(Source("x", 3, (36, 36)), (2, 2, CROP, CROP), False)


def test_at_test_sizes_are_kept_and_filled_up_to_the_multiple():
    view = view_of(preprocess("none", is_train=False), "x", (61, 43), None)
    assert (
        view.source.size == (61, 43)
        and view.box == (0, 0, 64, 44)
        and view.content_size == (43, 61)
    )
    view = view_of(preprocess("none", is_train=False, multiple=32), "x", (64, 43), None)
    assert view.box == (0, 0, 64, 64)


@pytest.mark.parametrize(
    ("multiple", "resized", "box"), [(32, (64, 32), (0, 0, 64, 32)), (4, (61, 43), (0, 0, 64, 44))]
)
def test_coarse_multiples_are_met_by_resizing_where_training_met_them_so(multiple, resized, box):
    """A U-Net's image that is filled up to twice its size is another; a few pixels do no harm."""
    steps = Preprocess("none", CROP, multiple, False, True, rounded=True)
    view = view_of(steps, "x", (61, 43), None)
    assert (view.source.size, view.box) == (resized, box)
    assert not Preprocess("none", CROP, 32, False, True).rounds


@pytest.mark.parametrize("size, filled", [((5, 6), (8, 8)), ((2, 1), (8, 4)), ((3, 9), (16, 12))])
@pytest.mark.parametrize("flip", [False, True])
def test_filling_reflects_like_numpy(size, filled, flip):
    array = np.random.default_rng(0).integers(0, 256, (3, size[1], size[0]), dtype=np.uint8)
    view = View(Source("x", 3, size), (0, 0, *filled), flip)
    expected = np.pad(
        array, ((0, 0), (0, filled[1] - size[1]), (0, filled[0] - size[0])), mode="reflect"
    )
    expected = expected[:, :, ::-1] if flip else expected
    assert np.array_equal(cut_view(torch.from_numpy(array), view), expected)


def test_reflect_works_on_many_sizes_at_once():
    sizes = torch.tensor([[1], [2], [3], [5]])
    folded = reflect(torch.arange(7).expand(4, 7), sizes)
    assert folded.tolist() == [
        [0] * 7,
        [0, 1, 0, 1, 0, 1, 0],
        [0, 1, 2, 1, 0, 1, 2],
        [0, 1, 2, 3, 4, 3, 2],
    ]


def test_a_region_of_the_file_is_cut_before_resizing(photo):
    path = photo(40, 20)
    right = Source(path, 3, (30, 30), region=(20, 0, 20, 20))
    expected = Image.open(path).crop((20, 0, 40, 20)).resize((30, 30), BICUBIC)
    assert np.array_equal(read_source(right).permute(1, 2, 0), np.asarray(expected))


@pytest.mark.parametrize(
    "mode",
    [
        "resize_and_crops",
        "crop_and_trim",
        "resize_and_scale_width",
        "",
        "none_and_none",
        "zoom_and_zoom",
    ],
)
def test_an_unknown_mode_lists_the_known_ones(mode):
    with pytest.raises(UserError) as caught:
        preprocess(mode)
    assert f"--preprocess {mode}" in str(caught.value) and "scale_shortside_and_crop" in str(
        caught.value
    )


@pytest.mark.parametrize("mode", MODES.split(", "))
def test_every_listed_mode_exists_and_ends_in_multiples_of_4(mode):
    box = view_of(preprocess(mode), "x", (77, 59)).box
    assert box[2] % 4 == 0 and box[3] % 4 == 0


def test_an_image_too_small_for_its_crop_is_named_with_size_and_remedy():
    with pytest.raises(UserError) as caught:
        view_of(preprocess("crop"), "small.png", (40, 20))
    text = str(caught.value)
    assert (
        "small.png" in text
        and "40x20" in text
        and "32" in text
        and "scale_shortside_and_crop" in text
    )


def test_a_crop_size_that_networks_cannot_take_is_refused_with_its_neighbours():
    with pytest.raises(UserError) as caught:
        preprocess("resize_and_crop", crop=30)
    assert "--crop_size 30" in str(caught.value) and "28 or 32" in str(caught.value)
    preprocess("none", crop=30)
