"""The toy data set: reproducible to the bit, unpaired, and with a truth that changes the coat and nothing else."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.make_toy_dataset import FOLDERS, draw_scene
from tests.helpers import run_command


def draw(out: Path, *flags: object):
    return run_command(
        [
            "scripts/make_toy_dataset.py",
            "--out",
            out,
            "--size",
            32,
            "--train",
            2,
            "--test",
            1,
            *flags,
        ]
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.png"))
    }


def scene(folder: str, index: int, size: int = 64) -> list[np.ndarray]:
    rng = np.random.default_rng([0, FOLDERS.index(folder), index])
    return [picture / 255 for picture in draw_scene(rng, size)]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "toy"
    result = draw(out)
    assert result.returncode == 0, result.stderr
    return out


def test_folders_and_sizes(toy):
    files = set(contents(toy))
    assert files == {
        *(f"train{domain}/000{i}.png" for domain in "AB" for i in range(2)),
        *(f"{folder}/0000.png" for folder in ("testA", "testB", "testA_truth")),
    }
    for file in files:
        with Image.open(toy / file) as image:
            assert image.size == (32, 32) and image.mode == "RGB"


def test_same_seed_same_bits_whatever_the_count(toy, tmp_path):
    assert draw(tmp_path / "again", "--train", 3, "--test", 2).returncode == 0
    again, first = contents(tmp_path / "again"), contents(toy)
    assert {name: again[name] for name in first} == first
    assert draw(tmp_path / "other", "--seed", 1).returncode == 0
    other = contents(tmp_path / "other")
    assert all(other[name] != data for name, data in first.items())


def test_the_files_are_the_scenes(toy):
    plain, striped = draw_scene(np.random.default_rng([0, FOLDERS.index("testA"), 0]), 32)
    assert np.array_equal(np.asarray(Image.open(toy / "testA/0000.png")), plain)
    assert np.array_equal(np.asarray(Image.open(toy / "testA_truth/0000.png")), striped)
    striped_B = draw_scene(np.random.default_rng([0, FOLDERS.index("testB"), 0]), 32)[1]
    assert np.array_equal(np.asarray(Image.open(toy / "testB/0000.png")), striped_B)


def test_no_scene_occurs_in_both_domains(toy):
    assert len(set(contents(toy).values())) == len(contents(toy))
    (plain_A, striped_A), (_, striped_B) = scene("trainA", 0), scene("trainB", 0)
    same = (plain_A == striped_A).all(-1)
    assert np.abs(striped_A - striped_B)[same].mean() > 0.05, "the ground is the same too"


@pytest.mark.parametrize("index", range(5))
def test_the_truth_changes_the_coat_only(index):
    plain, striped = scene("testA", index)
    coat = (plain != striped).any(-1)
    assert 0.06 < coat.mean() < 0.4
    frame = np.ones_like(coat)
    frame[1:-1, 1:-1] = False
    assert not coat[frame].any(), "the animal leaves the picture"
    saturation = np.ptp(plain, axis=-1), np.ptp(striped, axis=-1)
    assert saturation[0][coat].mean() > 0.25, "A is not brown"
    assert saturation[1][coat].mean() < 0.1, "B is not black and white"
    light = striped[coat].mean(-1)
    assert (light > 0.7).mean() > 0.25 and (light < 0.3).mean() > 0.2


def test_stripes_are_wide_enough_to_be_painted():
    """Along the middle of the trunk black and white take turns every 2 to 4 pixels at 64."""
    widths = []
    for index in range(20):
        plain, striped = scene("testA", index)
        coat = (plain != striped).any(-1)
        row = max(range(64), key=lambda y: coat[y].sum())
        dark = striped[row, coat[row]].mean(-1) < 0.5
        edges = np.nonzero(np.diff(dark.astype(int)))[0]
        widths += np.diff(edges).tolist()
    assert 2 <= np.median(widths) <= 4


def test_another_size_shows_the_same_scene():
    for small, large in zip(scene("testA", 3, 40), scene("testA", 3, 120), strict=True):
        reduced = large.reshape(40, 3, 40, 3, 3).mean((1, 3))
        assert np.abs(small - reduced).mean() < 0.02


@pytest.mark.parametrize(
    ("flags", "culprit"),
    [(("--size", 31), "--size 31"), (("--train", 0), "--train 0"), (("--seed", -1), "--seed -1")],
)
def test_bad_values_are_named(tmp_path, flags, culprit):
    result = draw(tmp_path / "toy", *flags)
    assert result.returncode == 2 and culprit in result.stderr
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_left_alone(toy):
    before = contents(toy)
    result = draw(toy, "--seed", 5)
    assert result.returncode == 2 and "exists already" in result.stderr
    assert contents(toy) == before


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    result = draw(tmp_path / "file" / "toy")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"error: {tmp_path / 'file'}")


def test_only_what_a_drawing_left_is_cleared_away(tmp_path):
    part = tmp_path / "toy.part"
    (part / "trainA").mkdir(parents=True)
    (part / "trainA" / "0007.png").write_bytes(b"half an ima")
    (part / "notes.txt").write_text("mine")
    result = draw(tmp_path / "toy")
    assert (
        result.returncode == 2
        and f"{part / 'notes.txt'} in it is of something else" in result.stderr
    )
    assert (part / "notes.txt").read_text() == "mine" and not (tmp_path / "toy").exists()

    (part / "notes.txt").unlink()
    assert draw(tmp_path / "toy").returncode == 0
    assert not part.exists() and not (tmp_path / "toy" / "trainA" / "0007.png").exists()


def test_aligned_pairs_are_the_unpaired_scenes_with_their_truth(toy, tmp_path):
    assert draw(tmp_path / "pairs", "--kind", "aligned").returncode == 0
    assert {path.parent.name for path in (tmp_path / "pairs").rglob("*.png")} == {"train", "test"}
    pair = np.asarray(Image.open(tmp_path / "pairs" / "test" / "0000.png"))
    assert pair.shape == (32, 64, 3)
    for half, folder in ((pair[:, :32], "testA"), (pair[:, 32:], "testA_truth")):
        assert np.array_equal(half, np.asarray(Image.open(toy / folder / "0000.png")))


def test_a_single_image_is_its_own_test(toy, tmp_path):
    out = tmp_path / "single"
    result = draw(out, "--kind", "single")
    assert result.returncode == 0
    assert "note: --train 2 and --test 1 without effect" in result.stdout
    files = contents(out)
    assert set(files) == {
        f"{folder}/0000.png" for folder in ("trainA", "trainB", "testA", "testA_truth")
    }
    assert files["testA/0000.png"] == files["trainA/0000.png"] == contents(toy)["trainA/0000.png"]
    assert files["testA_truth/0000.png"] != files["testA/0000.png"]
