"""Label maps: figures by loops, maps as colours and as ids, the two commands, and facades where they are there."""

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from scripts.segmentation import main as measure
from scripts.segmenting.network import (
    OWN_SIZE,
    Segmenter,
    new_network,
    save_segmenter,
    to_tensor,
)
from scripts.segmenting.pairs import read_labels, read_pairs
from scripts.train_segmenter import main as train
from tests.helpers import REPO
from util.errors import UserError
from util.metrics.segmentation import (
    CITYSCAPES,
    FACADES,
    IGNORED,
    LABEL_SETS,
    confusion,
    segmentation_figures,
)

PAIRS = REPO.parent / "shared" / "datasets" / "facades"


def figures_by_loops(predicted: np.ndarray, truth: np.ndarray, classes: int) -> dict[str, float]:
    pixels = [(p, t) for p, t in zip(predicted.ravel(), truth.ravel(), strict=True) if t != IGNORED]
    right = {c: sum(p == t == c for p, t in pixels) for c in range(classes)}
    true = {c: sum(t == c for _, t in pixels) for c in range(classes)}
    union = {c: sum(p == c or t == c for p, t in pixels) for c in range(classes)}
    return {
        "pixel_accuracy": sum(right.values()) / len(pixels),
        "class_accuracy": np.mean([right[c] / true[c] for c in range(classes) if true[c]]),
        "mean_iou": np.mean([right[c] / union[c] for c in range(classes) if union[c]]),
    }


def test_figures_by_loops():
    rng = np.random.default_rng(0)
    predicted, truth = rng.integers(0, 5, (2, 9, 7)).astype(np.uint8)
    truth[:2] = IGNORED
    predicted[5, 5] = IGNORED  # left open: wrong, and no prediction of any class
    truth[truth == 3] = 2  # a class that is predicted and never true
    found = segmentation_figures(confusion(predicted, truth, 6))
    assert found == pytest.approx(figures_by_loops(predicted, truth, 6), abs=1e-12)
    assert set(segmentation_figures(confusion(truth, truth, 6)).values()) == {1.0}
    with pytest.raises(ValueError, match="no pixel"):
        segmentation_figures(confusion(predicted, np.full_like(truth, IGNORED), 6))


def test_colours_and_ids_mean_the_same_classes():
    colours = np.array([[CITYSCAPES["car"], CITYSCAPES["sky"]], [(0, 0, 0), (0, 0, 90)]], np.uint8)
    ids, train_ids = (
        np.array([[26, 23], [0, 29]], np.uint8),
        np.array([[13, 10], [255, 255]], np.uint8),
    )
    expected = [[13, 10], [IGNORED, IGNORED]]
    for name, pixels in (
        ("cityscapes", colours), ("cityscapes_ids", ids), ("cityscapes_train_ids", train_ids)
    ):  # fmt: skip
        assert LABEL_SETS[name].read(pixels).tolist() == expected, name
    assert len(CITYSCAPES) == 19 and len(FACADES) == 12


def test_compressed_colours_are_the_nearest(tmp_path):
    labels = LABEL_SETS["facades"]
    truth = np.repeat(np.repeat(np.arange(12).reshape(3, 4), 16, 0), 16, 1).astype(np.uint8)
    Image.fromarray(labels.show(truth)).save(tmp_path / "map.jpg", quality=80)
    found = labels.read(np.asarray(Image.open(tmp_path / "map.jpg")))
    assert (found == truth).mean() > 0.95
    assert (labels.read(labels.show(truth)) == truth).all()


def palette_of(ids: np.ndarray) -> Image.Image:
    """Ids as places in a palette of other colours."""
    image = Image.fromarray(ids).convert("P")
    image.putdata(ids.ravel().tolist())
    image.putpalette([255 - value // 3 for value in range(768)])
    return image


FORMS = {
    "grey": lambda ids: Image.fromarray(ids),
    "deep grey": lambda ids: Image.fromarray(ids.astype(np.uint16)),
    "palette": palette_of,
    "grey as colours": lambda ids: Image.fromarray(np.repeat(ids[..., None], 3, 2)),
}


@pytest.mark.parametrize("form", FORMS)
def test_ids_are_read_as_they_are_stored(tmp_path, form):
    """Whatever profile the file has, and whatever is transparent in it."""
    ids = np.array([[0, 18, 5], [255, 1, 7]], np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    clear = (0, 0, 0) if form == "grey as colours" else 0
    FORMS[form](ids).save(tmp_path / "ids.png", transparency=clear, icc_profile=profile)
    labels = LABEL_SETS["cityscapes_train_ids"]
    assert read_labels(str(tmp_path / "ids.png"), labels).tolist() == ids.tolist()
    twice = read_labels(str(tmp_path / "ids.png"), labels, (6, 4))
    assert twice.tolist() == np.kron(ids, np.ones((2, 2), int)).tolist()


def test_halves_may_hold_ids(tmp_path):
    ids = np.random.default_rng(0).integers(0, 19, (8, 8)).astype(np.uint8)
    photo = np.stack([ids * 9, ids * 5, ids * 2], 2)
    (tmp_path / "train").mkdir()
    both = np.concatenate([np.repeat(ids[..., None], 3, 2), photo], 1)
    Image.fromarray(both).save(tmp_path / "train" / "0.png")
    labels = LABEL_SETS["cityscapes_train_ids"]
    [(image, classes)] = read_pairs(tmp_path, "train", "B", labels, 8)
    assert (classes == ids).all() and (np.asarray(image) == photo).all()
    with pytest.raises(UserError, match=r"0\.png holds colours where ids are expected"):
        read_pairs(tmp_path, "train", "A", labels, 8)


@pytest.mark.parametrize(
    ("name", "form", "message"),
    [
        ("cityscapes_ids", "colours", "holds colours where ids are expected"),
        (
            "cityscapes_ids",
            "instances",
            "holds the numbers 7 to 26001, and ids lie between 0 and 255",
        ),
        ("cityscapes_ids", "floats", "floating-point numbers"),
        ("cityscapes", "ids", "holds numbers where the colours of label maps are expected"),
        ("cityscapes", "instances", "holds numbers where the colours of label maps are expected"),
    ],
)
def test_label_maps_of_another_kind_are_refused(tmp_path, name, form, message):
    ids = np.array([[7, 26], [8, 11]], np.uint8)
    pixels = {
        "colours": LABEL_SETS["cityscapes"].show(ids % 19),
        "ids": ids,
        "instances": np.where(ids == 26, np.uint16(26001), ids),
        "floats": ids.astype(np.float32),
    }
    path = tmp_path / "map.tif"
    Image.fromarray(pixels[form]).save(path)
    with pytest.raises(UserError, match=message) as caught:
        read_labels(str(path), LABEL_SETS[name])
    assert str(path) in str(caught.value)


def test_coloured_maps_may_be_all_grey(tmp_path):
    """As a program leaves a map of void, buildings and poles that makes files small."""
    grey = np.array([[0, 70], [153, 70]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "map.png")
    found = read_labels(str(tmp_path / "map.png"), LABEL_SETS["cityscapes"])
    assert found.tolist() == [[IGNORED, 2], [5, 2]]


@pytest.fixture
def maps(tmp_path):
    """Four true maps of facades, and predictions that are wrong in a quarter of the first one."""
    rng = np.random.default_rng(0)
    for number in range(4):
        truth = rng.integers(0, 12, (8, 8)).astype(np.uint8)
        guess = truth.copy()
        if number == 0:
            guess[:4, :4] = (guess[:4, :4] + 1) % 12
        for folder, classes in (("truth", truth), ("predicted", guess)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(LABEL_SETS["facades"].show(classes)).save(
                tmp_path / folder / f"{number}.png"
            )
    return tmp_path


def command(*flags) -> int:
    return measure([str(flag) for flag in flags])


def test_a_folder_of_predictions_is_measured(maps, capsys):
    folders = ("--predicted", maps / "predicted", "--truth", maps / "truth", "--labels", "facades")
    assert command(*folders) == 0
    result = json.loads((maps / "predicted_segmentation.json").read_text())
    assert result["figures"]["pixel_accuracy"] == 1 - 16 / 256 and result["images"] == 4
    assert (
        0 < result["classes"]["door"]["iou"] <= 1
        and "pixel accuracy 0.938" in capsys.readouterr().out
    )

    (maps / "truth" / "3.png").unlink()
    assert command(*folders) == 2 and "has no label map 3, but" in capsys.readouterr().err
    assert command("--truth", maps / "truth") == 2
    assert command("--photos", maps / "truth", "--truth", maps / "truth") == 2
    assert "scripts/train_segmenter.py makes one" in capsys.readouterr().err


def test_a_segmenter_is_trained_on_pairs_and_used(tmp_path, capsys):
    """Pairs in which the photograph is the label map's own brightness: a few steps, no claim on what they reach."""
    rng = np.random.default_rng(0)
    for phase, count in (("train", 4), ("test", 2)):
        (tmp_path / "pairs" / phase).mkdir(parents=True)
        for number in range(count):
            classes = np.repeat(np.repeat(rng.integers(0, 2, (2, 2)), 16, 0), 16, 1).astype(
                np.uint8
            )
            photo = np.repeat(classes[..., None] * 200 + 20, 3, 2).astype(np.uint8)
            both = np.concatenate([photo, LABEL_SETS["facades"].show(classes)], 1)
            Image.fromarray(both).save(tmp_path / "pairs" / phase / f"{number}.png")
    out = tmp_path / "segmenter.pth"
    flags = ["--dataroot", tmp_path / "pairs", "--labels", "facades", "--out", out]
    assert (
        train([str(f) for f in (*flags, "--side", "24", "--steps", "3", "--batch_size", "4")]) == 0
    )
    assert "on 2 real test photographs pixel_accuracy" in capsys.readouterr().out
    assert train([str(f) for f in (*flags, "--batch_size", "5")]) == 2

    photos, truth = tmp_path / "photos", tmp_path / "truth"
    for folder, left in ((photos, 0), (truth, 32)):
        folder.mkdir()
        for path in (tmp_path / "pairs" / "test").iterdir():
            Image.open(path).crop((left, 0, left + 32, 32)).save(folder / path.name)
    where = ("--photos", photos, "--truth", truth, "--segmenter", out)
    assert command(*where, "--save", tmp_path / "maps") == 0
    assert "the segmenter on real test photographs: " in capsys.readouterr().out
    assert Image.open(tmp_path / "maps" / "0.png").size == (32, 32)

    # real photographs have the figures that training has noted, also at a side that is not theirs
    content = torch.load(out, weights_only=True)
    found = json.loads((tmp_path / "photos_segmentation.json").read_text())
    assert found["figures"] == content["facts"]["on real test photographs"]
    seen = []
    segmenter = Segmenter(out)
    segmenter.network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    photo = Image.open(photos / "0.png").resize((50, 40))
    assert segmenter(photo, (20, 10)).shape == (10, 20)
    once = photo.resize((24, 24), Image.Resampling.BICUBIC)
    assert torch.equal(seen[0], to_tensor(once)[None]), "a photograph is resized once"

    del content["facts"][OWN_SIZE]
    torch.save(content, out)
    assert command(*where) == 0
    assert "on real test photographs (at 24 x 24): " in capsys.readouterr().out
    assert command(*where, "--labels", "cityscapes") == 2
    torch.save({"a": 1}, out)
    assert command(*where) == 2 and "was not written by" in capsys.readouterr().err


@pytest.mark.skipif(not PAIRS.is_dir(), reason="needs ../shared with facades")
def test_the_colours_of_facades_are_those_of_its_files():
    """Most pixels lie near one of the twelve colours; what JPEG mixes at edges lies between two."""
    near = []
    palette = np.array(list(FACADES.values()), np.int64)
    for path in sorted((PAIRS / "test").iterdir())[:5]:
        pixels = np.asarray(Image.open(path).convert("RGB"))[:, 256:].reshape(-1, 3)[::7]
        distance = np.abs(pixels[:, None].astype(np.int64) - palette).sum(2).min(1)
        near.append((distance < 60).mean())
    assert np.mean(near) > 0.7


def test_a_saved_segmenter_is_the_same_network(tmp_path):
    network = new_network(LABEL_SETS["cityscapes"])
    save_segmenter(tmp_path / "s.pth", network, "cityscapes", 32, {})
    state = torch.load(tmp_path / "s.pth", weights_only=True)
    assert state["network"].keys() == network.state_dict().keys() and state["side"] == 32
