"""STROTSS: each term and every gradient against loops, pyramids, scales, and test.py that goes on where it stopped."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from models import create_model
from models.inference.laplacian import (
    finest_band,
    fitted,
    long_sides,
    pyramid,
    reduced,
    synthesize,
)
from models.inference.regions import Regions
from models.inference.style_target import StyleTarget
from models.inference.translate import translate
from models.losses.optimal_transport import (
    StyleSample,
    colour_distances,
    cosine_distances,
    decorrelated,
    moment_loss,
    moments,
    relaxed_emd,
    self_similarity_loss,
    strotss_terms,
)
from models.networks.hypercolumns import Hypercolumns, read_bilinear
from models.networks.vgg import VGG16Features
from models.networks.vgg_scale import natural_noise
from models.strotss_model import STROTSSModel, starting_picture
from options import TestOptions, TrainOptions, parse
from tests.helpers import make_image_folder, run_command, start_command
from util.errors import UserError
from util.hardware.runtime import Runtime

# -- the terms -------------------------------------------------------------------------------------------------------


def slow_cosine(a, b):
    return 1 - (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())


def slow_colour(a, b):
    return slow_cosine(a, b) + (a - b).square().sum().sqrt()


def slow_relaxed_emd(x, y, distance):
    there = sum(min(distance(a, b) for b in y) for a in x) / len(x)
    back = sum(min(distance(a, b) for a in x) for b in y) / len(y)
    return max(there, back)


def slow_self_similarity(x, y):
    count, total = len(x), 0.0
    for j in range(count):
        own = [slow_cosine(x[i], x[j]) for i in range(count)]
        other = [slow_cosine(y[i], y[j]) for i in range(count)]
        for i in range(count):
            total = total + (own[i] / sum(own) - other[i] / sum(other)).abs()
    return count * total / count**2


def slow_moment_loss(x, y):
    channels, total = x.shape[1], 0.0
    for i in range(channels):
        total = total + (x[:, i].mean() - y[:, i].mean()).abs() / channels
    for i in range(channels):
        for j in range(channels):
            entries = []
            for feat in (x, y):
                products = [
                    (row[i] - feat[:, i].mean()) * (row[j] - feat[:, j].mean()) for row in feat
                ]
                entries.append(sum(products) / (len(feat) - 1))
            total = total + (entries[0] - entries[1]).abs() / channels**2
    return total


def features(count, channels=5, seed=0):
    """Like those behind a ReLU: no negative numbers, some rows all but dead."""
    generator = torch.Generator().manual_seed(seed)
    feat = torch.randn(count, channels, generator=generator, dtype=torch.float64).abs()
    feat[0, 1:] = 0
    return feat.requires_grad_()


TERMS = {
    "transport": (relaxed_emd, lambda x, y: slow_relaxed_emd(x, y, slow_cosine)),
    "palette": (
        lambda x, y: relaxed_emd(x[:, :3], y[:, :3], colour_distances),
        lambda x, y: slow_relaxed_emd(x[:, :3], y[:, :3], slow_colour),
    ),
    "moments": (lambda x, y: moment_loss(moments(x), moments(y)), slow_moment_loss),
    "content": (lambda x, y: self_similarity_loss(x, y[: len(x)]), None),
}


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        (name, sizes)
        for name in ("transport", "palette", "moments")
        for sizes in ((1, 1), (3, 8), (9, 4))
        if (name, sizes) != ("moments", (1, 1))  # one position has no covariance
    ],
)
def test_terms_and_all_gradients_against_loops(name, sizes):
    x, y = features(sizes[0]), features(sizes[1], seed=1)
    quick, slow = (function(x, y) for function in TERMS[name])
    torch.testing.assert_close(quick, slow)
    found = torch.autograd.grad(quick, (x, y))
    expected = torch.autograd.grad(slow, (x, y))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("count", [3, 7])
def test_self_similarity_and_its_gradient_against_loops(count):
    x, y = features(count), features(count, seed=1)
    quick, slow = self_similarity_loss(x, y), slow_self_similarity(x, y)
    torch.testing.assert_close(quick, slow)
    for a, b in zip(
        torch.autograd.grad(quick, (x, y)), torch.autograd.grad(slow, (x, y)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8)


def test_distances_of_a_set_to_itself_are_nothing():
    x = features(6)
    assert relaxed_emd(x, x).item() == pytest.approx(0, abs=1e-7)
    assert relaxed_emd(x, x.flip(0)).item() == pytest.approx(0, abs=1e-7)  # order does not matter
    assert relaxed_emd(x, 3 * x).item() == pytest.approx(
        0, abs=1e-7
    )  # nor does length, to a cosine
    assert relaxed_emd(x[:, :3], 3 * x[:, :3], colour_distances).item() > 0.1
    assert self_similarity_loss(x, 2 * x).item() == pytest.approx(0, abs=1e-7)
    assert moment_loss(moments(x), moments(x)).item() == 0


def test_relaxed_emd_is_at_least_what_each_side_misses():
    """Everything of x lies in y, but not the other way round: the maximum sees it."""
    y = torch.eye(4, dtype=torch.float64)
    assert relaxed_emd(y[:1], y).item() == pytest.approx(3 / 4)
    assert relaxed_emd(y, y[:1]).item() == pytest.approx(3 / 4)


def test_dead_and_equal_features_give_finite_losses_and_gradients():
    for feat in (torch.zeros(5, 7), torch.ones(5, 7)):
        x = feat.clone().requires_grad_()
        sample = StyleSample(feat, moments(feat))
        total = sum(strotss_terms(x, feat, sample, 4.0).values())
        total.backward()
        assert torch.isfinite(total) and torch.isfinite(x.grad).all()


def test_a_change_of_basis_of_colours_changes_no_distance():
    x, y = features(6, channels=3).detach(), features(4, channels=3, seed=1).detach()
    assert torch.allclose(decorrelated(torch.eye(3)) @ decorrelated(torch.eye(3)).T, torch.eye(3))
    for distances in (colour_distances, cosine_distances):
        torch.testing.assert_close(distances(decorrelated(x), decorrelated(y)), distances(x, y))
    assert decorrelated(torch.ones(1, 3)).tolist() == [[pytest.approx(3**0.5), 0, 0]]


@pytest.mark.parametrize("alpha", [16.0, 0.25])
def test_terms_are_weighted_as_in_the_formula(alpha):
    x, content, style = (
        features(count, seed=seed).detach() for seed, count in enumerate((6, 6, 9))
    )
    terms = strotss_terms(x, content, StyleSample(style, moments(style)), alpha)
    palette = slow_relaxed_emd(x[:, :3], style[:, :3], slow_colour)
    expected = {
        "content": alpha * slow_self_similarity(x, content),
        "transport": slow_relaxed_emd(x, style, slow_cosine),
        "moments": slow_moment_loss(x, style),
        "palette": palette / max(alpha, 1),
    }
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value / (alpha + 2))


# -- pyramids and hypercolumns ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 48), (33, 21), (3, 2)])
def test_a_pyramid_adds_up_to_its_image(size):
    image = torch.rand(2, 3, *size, dtype=torch.float64)
    bands = pyramid(image, 5)
    assert len(bands) == 6
    torch.testing.assert_close(synthesize(bands), image)
    torch.testing.assert_close(finest_band(image), bands[0])


def test_a_level_is_what_a_mean_of_four_pixels_loses():
    image = torch.rand(1, 1, 4, 6)
    small = torch.zeros(1, 1, 2, 3)
    for row in range(2):
        for column in range(3):
            small[0, 0, row, column] = image[
                0, 0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2
            ].mean()
    band, rest = pyramid(image, 1)
    torch.testing.assert_close(rest, small)
    again = torch.zeros(4, 6)  # enlarged: pixel centres at quarters, edges repeated
    for row in range(4):
        for column in range(6):
            y, x = (row + 0.5) / 2 - 0.5, (column + 0.5) / 2 - 0.5
            for i in range(2):
                for j in range(3):
                    near_y = max(0, 1 - abs(min(max(y, 0), 1) - i))
                    near_x = max(0, 1 - abs(min(max(x, 0), 2) - j))
                    again[row, column] += near_y * near_x * small[0, 0, i, j]
    torch.testing.assert_close(band[0, 0], image[0, 0] - again)


@pytest.mark.parametrize(
    ("longest", "sides"),
    [(512, [64, 128, 256, 512]), (256, [64, 128, 256]), (300, [75, 150, 300]), (40, [40])],
)
def test_scales_are_halvings_of_the_longer_side(longest, sides):
    assert long_sides(longest) == sides
    assert fitted((200, 100), 64) == (64, 32) and fitted((100, 333), 64) == (19, 64)


def test_reducing_averages():
    image = torch.rand(1, 1, 8, 8)
    assert reduced(image, (1, 1)).item() == pytest.approx(image.mean().item(), abs=0.05)


def test_reading_between_pixels_against_loops():
    feat = torch.rand(1, 3, 4, 5, dtype=torch.float64)
    x, y = torch.tensor([0.0, 1.25, 4.0, 7.5, 2.0]), torch.tensor([0.0, 2.5, 3.0, 0.5, 9.0])
    read = read_bilinear(feat, x.double(), y.double())
    for n in range(len(x)):
        px, py = min(x[n].item(), 4), min(y[n].item(), 3)
        expected = torch.zeros(3, dtype=torch.float64)
        for row in range(4):
            for column in range(5):
                weight = max(0, 1 - abs(px - column)) * max(0, 1 - abs(py - row))
                expected += weight * feat[0, :, row, column]
        torch.testing.assert_close(read[n], expected)


def test_hypercolumns_are_colour_and_features_at_their_own_scale():
    columns, vgg = Hypercolumns([0, 4, 12], "random"), VGG16Features([0, 4, 12], "random")
    assert columns.channels == 3 + 64 + 256 + 512 and columns.smallest == 16
    image = torch.rand(1, 3, 32, 48)
    read = columns.read(columns(image), torch.tensor([0, 20, 32]), torch.tensor([0, 8, 16]))
    assert read.shape == (3, columns.channels)
    first, third, fifth = vgg(image * 2 - 1)
    for n, (x, y) in enumerate([(0, 0), (20, 8), (32, 16)]):
        torch.testing.assert_close(read[n, :3], image[0, :, y, x])
        torch.testing.assert_close(read[n, 3:67], first[0, :, y, x])
        torch.testing.assert_close(read[n, 67:323], third[0, :, y // 4, x // 4])
    torch.testing.assert_close(read[2, 323:], fifth[0, :, 1, 2])


def test_activations_far_from_torchvisions_are_scaled(tmp_path):
    """As Oxford's weights have them; what is scaled keeps its pattern."""
    large = VGG16Features([2], "random").state_dict()
    large["features.2.weight"] = 1000 * large["features.2.weight"]
    torch.save(large, tmp_path / "large.pth")
    plain = Hypercolumns([0, 1, 2], str(tmp_path / "large.pth"), "off")
    scaled = Hypercolumns([0, 1, 2], str(tmp_path / "large.pth"))
    assert scaled.scaled and not plain.scaled and not Hypercolumns([2], "random").scaled
    assert Hypercolumns([2], "random", "on").scaled
    noise = natural_noise()
    for number, (one, other) in enumerate(zip(plain(noise), scaled(noise), strict=True)):
        if number == 0:
            assert torch.equal(one, other)  # the image
        else:
            torch.testing.assert_close(other, one / one.mean(), rtol=1e-4, atol=1e-4)


def test_all_layers_of_the_release_make_2179_channels():
    opt = parse(TestOptions(), ["--model", "strotss", "--dataroot", "x"])
    assert Hypercolumns(opt.vgg_layers, "random").channels == 2179
    assert (opt.iterations, opt.positions, opt.style_positions, opt.long_side) == (
        250,
        1024,
        5000,
        512,
    )


# -- one picture -----------------------------------------------------------------------------------------------------

TINY = [
    *("--vgg_weights", "random", "--vgg_layers", "0,2", "--gpu_ids", "-1", "--num_threads", "0"),
    *("--iterations", "3", "--positions", "24", "--style_positions", "30"),
]


def make(*flags):
    opt = parse(TestOptions(), ["--model", "strotss", "--dataroot", "x", *TINY, *flags])
    return create_model(opt, Runtime.from_options(opt))


def images(content=(20, 32), style=(28, 24)):
    return torch.rand(1, 3, *content), torch.rand(1, 3, *style)


def test_scales_alphas_and_rates():
    model = make()
    scales = model.scales(*images((200, 300), (300, 300)))
    assert [(s.long_side, s.alpha, s.rate) for s in scales] == [
        (64, 16, 0.002),
        (128, 8, 0.002),
        (256, 4, 0.002),
        (512, 2, 0.001),
    ]
    assert scales[0].before == 0
    assert sum(scale.share for scale in scales) == pytest.approx(1)
    own = make("--long_side", "0", "--content_weight", "0.5").scales(*images((200, 300)))
    assert [(s.long_side, s.alpha) for s in own] == [(75, 8), (150, 4), (300, 2)]


def test_scales_too_narrow_for_vgg_are_left_out_or_named():
    model = make("--vgg_layers", "12")
    wide = images((20, 200), (100, 100))
    assert [scale.long_side for scale in model.scales(*wide)] == [256, 512]
    model.opt.long_side = 100
    with pytest.raises(UserError, match=r"--long_side 100: .* narrower than 16 .* relu5_3 needs"):
        model.scales(*wide)


def test_where_a_scale_starts():
    content, style = images()
    first = starting_picture(None, content, style, is_last=False)
    for channel in range(3):
        expected = style[0, channel].mean() + finest_band(content)[0, channel]
        torch.testing.assert_close(first[0, channel], expected)
    small = torch.rand(1, 3, 10, 16)
    later = starting_picture(small, content, style, is_last=False)
    last = starting_picture(small, content, style, is_last=True)
    torch.testing.assert_close(later - last, finest_band(content))
    torch.testing.assert_close(pyramid(last, 1)[1].mean(), small.mean(), rtol=0.05, atol=0)


def test_the_loss_falls_and_the_picture_takes_the_styles_colours():
    torch.manual_seed(0)
    content, style = images()
    style = style * torch.tensor([0.2, 0.5, 1.0])[:, None, None]
    flags = ["--iterations", "60", "--content_weight", "0.02", "--positions", "100"]
    model = make("--long_side", "32", *flags)
    told = []
    model.tell = lambda part, figures, note="": told.append((part, figures, note))
    [(side, result)] = model.stylize(content, style).items()
    curve = model.curves[32]
    assert side == 32 and len(curve) == 60 and sum(curve[-5:]) < 0.7 * sum(curve[:5])
    distance = [
        relaxed_emd(image[0].flatten(1).T, style[0].flatten(1).T, colour_distances).item()
        for image in (content, result)
    ]
    assert distance[1] < 0.5 * distance[0]
    assert [part for part, _, _ in told] == pytest.approx([k / 6 for k in range(1, 7)] + [1.0])
    assert told[0][1]["scale"] == 32 and told[-1][1] == {"loss_32": curve[-1]}
    assert told[-1][2].startswith("scale 32: loss")


def test_a_picture_depends_on_its_seed_and_on_nothing_before_it():
    content, style = images()
    model = make("--long_side", "32")
    first = model.stylize(content, style)[32]
    torch.rand(5)
    model.stylize(style, content)
    assert torch.equal(model.stylize(content, style)[32], first)
    other = make("--long_side", "32", "--seed", "1")
    assert not torch.equal(other.stylize(content, style)[32], first)


def test_a_picture_asks_no_other_process():
    """Each process has pictures of its own, and one may have more of them than another."""
    model = make("--long_side", "32")
    model.runtime.world_size = 2  # the other one answers nothing
    told = []
    model.tell = lambda part, figures, note="": told.append(figures)
    assert model.stylize(*images())[32].isfinite().all() and told


def test_positions_stay_in_their_regions():
    """Left is red and takes from red, right is blue: colours are read where the labels say."""
    content, style = torch.zeros(1, 3, 8, 16), torch.zeros(1, 3, 6, 12)
    for image, half in ((content, 8), (style, 6)):
        image[:, 0, :, :half], image[:, 2, :, half:] = 1, 1
    labels = [torch.zeros(image.shape[2:], dtype=torch.int64) for image in (content, style)]
    labels[0][:, 8:], labels[1][:, 6:] = 5, 5
    generator = torch.Generator().manual_seed(0)
    columns = Hypercolumns([0], "random")
    target = StyleTarget(columns, content, style, Regions(*labels), 20, 30, generator)
    assert [region.sample.feat_MC[:, 0].unique().tolist() for region in target.regions] == [
        [1],
        [0],
    ]
    assert [len(region.content_P) for region in target.regions] == [64, 64]
    matched = target.loss(content, 1.0)
    crossed = Regions(labels[0], 5 - labels[1])
    crossed_target = StyleTarget(columns, content, style, crossed, 20, 30, generator)
    assert crossed_target.loss(content, 1.0) > matched + 0.1
    tiny = Regions(*labels)
    with pytest.raises(UserError, match="no region is left of them in a picture of 1x1"):
        StyleTarget(columns, content[:, :, :1, :1], style, tiny, 20, 30, generator)


def test_one_region_is_as_good_as_none():
    content, style = images()
    columns, losses = Hypercolumns([0], "random"), []
    everywhere = [torch.zeros(image.shape[2:], dtype=torch.int64) for image in (content, style)]
    for regions in (None, Regions(*everywhere)):
        generator = torch.Generator().manual_seed(0)
        target = StyleTarget(columns, content, style, regions, 20, 30, generator)
        losses.append(target.loss(content, 1.0).item())
    assert losses[0] == losses[1]


def test_a_weight_that_is_missing_names_its_layer(tmp_path):
    state = VGG16Features([9], "random").state_dict()
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(
        UserError, match=r"features.24.weight \(relu5_1\) is missing.*relu4_3: .*layers"
    ):
        make("--vgg_weights", str(tmp_path / "short.pth"), "--vgg_layers", "0,12")


# -- test.py ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path):
    """Three contents and two styles, and the flags of a quick test.py."""
    make_image_folder(tmp_path / "data" / "testA", 3, size=(40, 24))
    make_image_folder(tmp_path / "data" / "testB", 2, size=(20, 30), seed=5)
    flags = ["--model", "strotss", "--dataroot", str(tmp_path / "data"), "--name", "pictures"]
    return tmp_path, [*flags, "--long_side", "32", "--results_dir", str(tmp_path / "out"), *TINY]


def run(flags, monkeypatch, stop_before=None):
    """test.py in this process; returns the gallery and the contents whose pictures were made, by number."""
    made = []
    real = STROTSSModel.stylize

    def stylize(self, content, style, regions=None):
        if len(made) == stop_before:
            raise KeyboardInterrupt
        made.append(content)
        return real(self, content, style, regions)

    with monkeypatch.context() as patches:
        patches.setattr(STROTSSModel, "stylize", stylize)
        try:
            gallery = translate(parse(TestOptions(), flags))
        except KeyboardInterrupt:
            gallery = None
    return gallery, len(made)


def results(root):
    folder = root / "out" / "pictures" / "test_latest"
    return {
        path.name: path.read_bytes() for path in sorted((folder / "images/fake_B").glob("*.png"))
    }


def test_an_interrupted_test_goes_on_with_the_next_picture(pair, monkeypatch):
    root, flags = pair
    _, made = run(flags, monkeypatch, stop_before=2)
    assert made == 2 and len(results(root)) == 2
    interrupted = results(root)
    gallery, made = run(flags, monkeypatch)
    assert made == 1 and len(gallery.rows) == 3
    assert {
        name: data for name, data in results(root).items() if name in interrupted
    } == interrupted
    text = (gallery.folder / "index.html").read_text()
    for label in ("real_A", "style", "fake_B"):
        assert text.count(f"images/{label}/image_00") >= 3
    assert "random (untrained" in text and "relu1_1, relu2_1" in text and "mean loss_32" in text
    whole = results(root)
    shutil.rmtree(root / "out")
    assert run(flags, monkeypatch)[1] == 3
    assert results(root) == whole  # the same pictures as without an interruption
    assert run(flags, monkeypatch)[1] == 0  # nothing is done twice
    assert sorted(path.name for path in (gallery.folder / "arrays").iterdir()) == [
        f"image_{number:03d}.npz" for number in range(3)
    ]


def test_nothing_stale_is_taken_for_done(pair, monkeypatch):
    root, flags = pair
    assert run(flags, monkeypatch)[1] == 3
    assert run([*flags, "--seed", "1"], monkeypatch)[1] == 3  # other options
    assert run([*flags, "--seed", "1", "--num_threads", "1"], monkeypatch)[1] == 0
    assert run(flags, monkeypatch)[1] == 3  # back again: the pictures are those of seed 1

    make_image_folder(root / "data" / "testB", 1, size=(20, 30), seed=6)  # another first style,
    assert run(flags, monkeypatch)[1] == 2  # which two of the contents take
    picture = root / "out/pictures/test_latest/images/fake_B/image_001.png"
    Image.new("RGB", (4, 4)).save(picture)  # someone else's picture
    assert run(flags, monkeypatch)[1] == 1
    picture.unlink()
    assert run(flags, monkeypatch)[1] == 1
    assert run([*flags, "--save_scales"], monkeypatch)[1] == 3  # other pictures are asked for

    moved = root / "elsewhere"
    (root / "data").rename(moved)  # the same files in another place are the same inputs
    again = [str(moved) if flag == str(root / "data") else flag for flag in flags]
    assert run([*again, "--save_scales"], monkeypatch)[1] == 0
    assert run([*again, "--save_scales", "--pair_by", "each"], monkeypatch)[1] == 6  # other names


def test_a_damaged_record_says_what_to_do(pair, monkeypatch):
    root, flags = pair
    run(flags, monkeypatch)
    (root / "out/pictures/test_latest/finished.json").write_text("[")
    with pytest.raises(UserError, match=r"not a record of finished pictures .* delete it"):
        run(flags, monkeypatch)


def test_label_maps_are_inputs_too(pair, monkeypatch):
    root, flags = pair
    pixels = np.zeros((24, 40, 3), np.uint8)
    pixels[:, 20:] = 200
    Image.fromarray(pixels).save(root / "labels.png")
    maps = [
        "--content_labels",
        str(root / "labels.png"),
        "--style_labels",
        str(root / "labels.png"),
    ]
    plain = run(flags, monkeypatch)[0] and results(root)
    assert run([*flags, *maps], monkeypatch)[1] == 3
    assert results(root) != plain
    assert run([*flags, *maps], monkeypatch)[1] == 0
    pixels[:, 10:] = 200
    Image.fromarray(pixels).save(root / "labels.png")
    assert run([*flags, *maps], monkeypatch)[1] == 3


def test_pictures_have_the_size_that_was_asked_for_and_scales_are_shown(pair, monkeypatch):
    flags = pair[1]
    side = flags.index("--long_side") + 1
    large = [*flags[:side], "128", *flags[side + 1 :], "--num_test", "1", "--save_scales"]
    gallery, _ = run(large, monkeypatch)
    [(_, row)] = gallery.rows
    assert {picture.label: (picture.width, picture.height) for picture in row} == {
        "real_A": (40, 24),
        "style": (20, 30),
        "scale_64": (64, 38),
        "fake_B": (128, 77),
    }
    with np.load(gallery.folder / "arrays" / "image_000.npz") as arrays:
        assert {name: len(arrays[name]) for name in arrays} == {"loss_64": 3, "loss_128": 3}


@pytest.mark.slow
def test_a_killed_test_py_goes_on(pair):
    """As a user meets it: killed between two pictures, started again; no training run is there or needed."""
    root, flags = pair
    flags[flags.index("--iterations") + 1] = "20"
    record = root / "out/pictures/test_latest/finished.json"
    process = start_command(["test.py", *flags])
    for line in process.stdout:
        if line.startswith("scale 32"):
            break
    process.kill()
    process.wait()
    done = len(json.loads(record.read_text())) if record.exists() else 0
    assert done < 3
    result = run_command(["test.py", *flags])
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("scale 32: loss") == 3 - done
    assert len(results(root)) == len(json.loads(record.read_text())) == 3


def test_without_styles_there_is_nothing_to_take(pair, monkeypatch):
    flags = [*pair[1], "--dataset_mode", "single"]
    with pytest.raises(UserError, match="--dataset_mode single gives no style beside each content"):
        run(flags, monkeypatch)


def test_there_is_nothing_to_train():
    with pytest.raises(UserError, match=r"nothing to train: run test.py --model strotss"):
        parse(TrainOptions(), ["--model", "strotss", "--dataroot", "x"])


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--batch_size 2", "one picture at a time"),
        ("--output_nc 1", "leave --input_nc and --output_nc at 3"),
        ("--positions 1", "at least 2"),
        ("--amp fp16", "--amp fp16"),
        ("--content_weight -1", "expected a number above 0"),
    ],
)
def test_what_cannot_be_done_is_refused(flags, told):
    with pytest.raises(UserError, match=told):
        parse(TestOptions(), ["--model", "strotss", "--dataroot", "x", *flags.split()])


def test_a_training_run_of_that_name_changes_nothing(pair, monkeypatch):
    """Its options are of another method, and so is its recipe."""
    root, flags = pair
    folder = root / "runs" / "pictures"
    folder.mkdir(parents=True)
    options = {"model": "cut", "dataset_mode": "unaligned", "seed": 7, "direction": "BtoA"}
    record = {"options": options, "recipe": "cut, preset official", "versions": {}}
    (folder / "train_opt.json").write_text(json.dumps(record))
    opt = parse(TestOptions(), [*flags, "--checkpoints_dir", str(root / "runs")])
    assert opt.recipe.startswith("strotss") and (opt.seed, opt.direction) == (0, "AtoB")
