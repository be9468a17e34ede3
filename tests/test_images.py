"""Pictures as files: value range, layout, atomic writes, grids."""

import os
import socket
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

from util import files
from util.files import atomic_path
from util.images import grid, save_png, to_uint8


def test_every_level_survives_the_round_trip():
    levels = torch.arange(256)
    tensor = (levels.float() / 255 * 2 - 1).view(1, 16, 16)
    assert np.array_equal(to_uint8(tensor)[..., 0].ravel(), levels.numpy())


def test_values_are_rounded_and_clamped_and_nan_is_black():
    tensor = torch.tensor(
        [-3.0, -1.0, 0.9999, 1.5, float("nan"), float("inf"), -float("inf")]
    ).view(1, 1, 7)
    assert to_uint8(tensor)[0, :, 0].tolist() == [0, 0, 255, 255, 0, 255, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_layout_of_one_picture_and_of_a_batch(dtype):
    batch = torch.rand(2, 3, 5, 7, requires_grad=True).mul(2).sub(1).to(dtype)
    arrays = to_uint8(batch)
    assert arrays.shape == (2, 5, 7, 3) and arrays.dtype == np.uint8
    assert np.array_equal(to_uint8(batch[1]), arrays[1])
    assert to_uint8(batch[0, :1]).shape == (5, 7, 1)
    assert abs(int(arrays[1, 2, 3, 0]) - (batch[1, 0, 2, 3].item() + 1) * 127.5) <= 0.5


@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_pass_unchanged_and_share_no_memory(channels):
    tensor = torch.randint(0, 256, (channels, 4, 6), dtype=torch.uint8).contiguous()
    array = to_uint8(tensor)
    before = array.copy()
    assert np.array_equal(array, tensor.permute(1, 2, 0).numpy())
    tensor.zero_()
    assert np.array_equal(array, before)


def test_a_picture_of_the_wrong_rank_is_refused():
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        to_uint8(torch.zeros(4, 4))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_png_holds_exactly_the_pixels(tmp_path, channels, mode):
    array = np.random.default_rng(0).integers(0, 256, (5, 9, channels), dtype=np.uint8)
    path = tmp_path / "made" / "on the way" / "a#b?.png"
    save_png(array, path)
    with Image.open(path) as image:
        assert image.mode == mode
        assert np.array_equal(np.asarray(image).reshape(array.shape), array)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_png_from_a_tensor_equals_png_from_its_array(tmp_path):
    tensor = torch.rand(3, 4, 5) * 2 - 1
    save_png(tensor, tmp_path / "a.png")
    save_png(to_uint8(tensor), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_unusual_channel_counts_name_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"two\.png"):
        save_png(np.zeros((3, 3, 2), np.uint8), tmp_path / "two.png")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path, monkeypatch):
    """The last one stays; each was whole."""
    path = tmp_path / "features.npy"
    with atomic_path(path) as slow:
        slow.write_text("slow")
        monkeypatch.setattr(files.os, "getpid", lambda: 1)  # as another process would
        with atomic_path(path) as quick:
            quick.write_text("quick")
        assert path.read_text() == "quick" and slow.read_text() == "slow"
    assert path.read_text() == "slow" and list(tmp_path.iterdir()) == [path]


def test_what_killed_writers_left_is_removed_and_what_others_write_is_not(tmp_path):
    with atomic_path(tmp_path / "elsewhere" / "x") as temporary:
        digest, here = temporary.name[1:13], socket.gethostname()
        temporary.write_text("")
    dead = subprocess.Popen(["true"])
    dead.wait()

    left = [f".{digest}.{here}.{dead.pid}.tmp", f".{digest}.far.7.tmp", f".{digest}.tmp"]
    kept = [f".{digest}.{here}.{os.getppid()}.tmp", f".{digest}.near.7.tmp", ".mine.tmp", "x.tmp"]
    for name in (*left, *kept):
        (tmp_path / name).write_text("half")
    for name in left[1:]:
        os.utime(tmp_path / name, (0, 0))
    with atomic_path(tmp_path / "y") as temporary:
        temporary.write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "y", "elsewhere"}


def test_a_name_as_long_as_the_system_allows_can_be_written(tmp_path):
    save_png(np.zeros((2, 2, 3), np.uint8), tmp_path / ("n" * 251 + ".png"))


def test_grid_places_pictures_row_by_row_on_white():
    red = np.full((2, 3, 3), (255, 0, 0), np.uint8)
    grey = np.full((4, 2, 1), 7, np.uint8)
    canvas = grid([red, grey, red], columns=2, gap=1)
    assert canvas.shape == (4 + 1 + 4, 3 + 1 + 3, 3)
    assert np.array_equal(canvas[0:2, 0:3], red)
    assert (canvas[0:4, 4:6] == 7).all()
    assert np.array_equal(canvas[5:7, 0:3], red)
    covered = np.zeros(canvas.shape[:2], bool)
    covered[0:2, 0:3] = covered[0:4, 4:6] = covered[5:7, 0:3] = True
    assert (canvas[~covered] == 255).all()


def test_grid_is_no_wider_than_its_pictures():
    assert grid([np.zeros((2, 2, 3), np.uint8)], columns=4).shape == (2, 2, 3)
