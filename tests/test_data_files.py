"""Finding image files and reading each kind of them, and the line that a user sees for each kind of bad input."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.image_file import find_bad_images, read_image, read_size
from data.image_folder import find_images, list_images
from tests.helpers import make_image_folder, refusal


def random_rgb(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- finding files


def test_nested_folders_and_odd_names_are_found_in_sorted_order(tmp_path):
    names = [
        "b.PNG",
        "a/x y.jpg",
        "a/ü#1%20.png",
        "a/deep/er/z.JPEG",
        "c.tif",
        "d.WebP",
        "e.bmp",
        "f.ppm",
        "g.tiff",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random_rgb(5, 4)).save(tmp_path / name)
    found = list_images(str(tmp_path))
    assert found == sorted(str(tmp_path / name) for name in names)
    assert all(read_image(path, 3).size == (5, 4) for path in found)


def test_files_that_are_no_images_by_name_and_hidden_ones_are_ignored(tmp_path):
    [path] = make_image_folder(tmp_path, count=1)
    for name in (
        "notes.txt",
        "Thumbs.db",
        ".DS_Store",
        "._image.png",
        ".ipynb_checkpoints/image.png",
        "png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no image")
    assert list_images(str(tmp_path)) == [str(path)]


def test_links_are_followed_and_a_circle_ends(tmp_path):
    make_image_folder(tmp_path / "elsewhere", count=2)
    folder = tmp_path / "trainA"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "circle").symlink_to(folder)
    assert [os.path.relpath(path, folder) for path in list_images(str(folder))] == [
        "link/image_000.png",
        "link/image_001.png",
    ]


def test_an_empty_folder_is_named(tmp_path):
    text = refusal(list_images, str(tmp_path))
    assert str(tmp_path) in text and "no images" in text and ".jpg" in text


def test_train_folders_are_found_and_missing_ones_named(tmp_path):
    make_image_folder(tmp_path / "trainA")
    assert len(find_images(str(tmp_path), "train", "A", True)[1]) == 3
    text = refusal(find_images, str(tmp_path), "train", "B", True)
    assert f"--dataroot {tmp_path} has no folder trainB" in text and "trainA and trainB" in text
    text = refusal(find_images, str(tmp_path / "nowhere"), "train", "A", True)
    assert "nowhere does not exist" in text and "trainA and trainB" in text
    text = refusal(find_images, str(tmp_path / "trainA" / "image_000.png"), "train", "A", True)
    assert "is a file" in text


def test_at_test_a_file_a_folder_or_a_data_set_will_do(tmp_path):
    paths = make_image_folder(tmp_path / "loose" / "inner")
    assert find_images(str(paths[0]), "test", "A", False) == (str(paths[0].parent), [str(paths[0])])
    assert find_images(str(tmp_path / "loose"), "test", "A", False) == (
        str(tmp_path / "loose"),
        [*map(str, paths)],
    )
    val = make_image_folder(tmp_path / "set" / "valA")
    assert find_images(str(tmp_path / "set"), "test", "A", False) == (
        str(val[0].parent),
        [*map(str, val)],
    )
    test = make_image_folder(tmp_path / "set" / "testA")
    assert find_images(str(tmp_path / "set"), "test", "A", False) == (
        str(test[0].parent),
        [*map(str, test)],
    )


def test_a_data_set_without_test_images_is_not_taken_for_a_folder_of_images(tmp_path):
    make_image_folder(tmp_path / "trainA")
    text = refusal(find_images, str(tmp_path), "test", "A", False)
    assert "no folder testA or valA" in text and "folder of images" in text


def test_a_file_of_another_kind_is_refused_at_test(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"x")
    assert "is not an image" in refusal(find_images, str(tmp_path / "film.mp4"), "test", "A", False)


# --- reading files


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp", "ppm"])
def test_each_format_decodes_to_what_pillow_gives(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(random_rgb(9, 7)).save(path)
    assert np.array_equal(read_image(str(path), 3), np.asarray(Image.open(path).convert("RGB")))
    assert read_size(str(path)) == (9, 7)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_to_pixels_and_to_the_size(tmp_path, suffix, orientation):
    # Corners of the stored picture, clockwise from the top left, as they must appear after turning upright.
    upright = {
        1: "RGBW",
        2: "GRWB",
        3: "BWRG",
        4: "WBGR",
        5: "RWBG",
        6: "WRGB",
        7: "BGRW",
        8: "GBWR",
    }[orientation]
    colours = {"R": (255, 0, 0), "G": (0, 255, 0), "B": (0, 0, 255), "W": (255, 255, 255)}
    stored = np.zeros((32, 48, 3), np.uint8)
    for (row, column), name in zip([(0, 0), (0, 24), (16, 24), (16, 0)], "RGBW", strict=True):
        stored[row : row + 16, column : column + 24] = colours[name]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(stored).save(path, exif=exif)
    image = read_image(str(path), 3)
    assert image.size == read_size(str(path)) == ((32, 48) if orientation >= 5 else (48, 32))
    right, bottom = image.width - 5, image.height - 5
    corners = [
        image.getpixel(place) for place in [(4, 4), (right, 4), (right, bottom), (4, bottom)]
    ]
    for corner, name in zip(corners, upright, strict=True):
        assert max(abs(a - b) for a, b in zip(corner, colours[name], strict=True)) < 40


@pytest.mark.parametrize("orientation", [0, 9, 200])
def test_an_orientation_that_does_not_exist_turns_neither_size_nor_pixels(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = str(tmp_path / "image.png")
    Image.fromarray(random_rgb(9, 7)).save(path, exif=exif)
    assert read_size(path) == read_image(path, 3).size == (9, 7)


def test_damaged_exif_does_not_stop_a_sound_image(tmp_path):
    path = tmp_path / "image.webp"
    Image.fromarray(random_rgb(9, 7)).save(path, exif=b"nonsense")
    assert read_image(str(path), 3).size == read_size(str(path)) == (9, 7)


def test_channels_are_what_the_network_expects(tmp_path):
    colour, grey = tmp_path / "colour.png", tmp_path / "grey.png"
    pixels = random_rgb(6, 5)
    Image.fromarray(pixels).save(colour)
    Image.fromarray(pixels[:, :, 0]).save(grey)
    luminance = pixels @ np.array([0.299, 0.587, 0.114])
    assert np.abs(np.asarray(read_image(str(colour), 1)) - luminance).max() <= 1
    assert np.array_equal(read_image(str(grey), 1), pixels[:, :, 0])
    assert np.array_equal(read_image(str(grey), 3), np.repeat(pixels[:, :, :1], 3, axis=2))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_with_rounding_not_clipped(tmp_path, suffix):
    values = np.array([[0, 128, 129, 257], [30000, 50000, 65406, 65535]], np.uint16)
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(values).save(path)
    expected = np.round(values / 257).astype(np.uint8)
    assert expected.tolist() == [[0, 0, 1, 1], [117, 195, 254, 255]]
    assert np.array_equal(read_image(str(path), 1), expected)
    assert np.array_equal(read_image(str(path), 3), np.repeat(expected[:, :, None], 3, axis=2))


def test_32_bit_integers_in_the_16_bit_range_are_read_and_others_refused(tmp_path):
    path = str(tmp_path / "int.tif")
    Image.fromarray(np.array([[0, 65535]], np.int32)).save(path)
    assert np.asarray(read_image(path, 1)).tolist() == [[0, 255]]
    Image.fromarray(np.array([[0, 65536]], np.int32)).save(path)
    assert "int.tif: 32-bit values outside" in refusal(read_image, path, 1)


def test_floating_point_images_are_refused_with_a_remedy(tmp_path):
    path = str(tmp_path / "float.tif")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(path)
    text = refusal(read_image, path, 3)
    assert "float.tif" in text and "floating-point" in text and "convert" in text


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_shows_white(tmp_path, mode):
    path = tmp_path / "clear.png"
    red = Image.new("RGBA", (4, 2), (200, 0, 0, 255))
    red.paste((0, 50, 0, 0), (0, 0, 2, 2))
    red.convert(mode).save(path)
    image = read_image(str(path), 3)
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert (
        image.getpixel((3, 0))
        == Image.open(path).convert("RGBA").getpixel((3, 0))[:3]
        != (255, 255, 255)
    )


def test_palette_bilevel_and_cmyk_are_read(tmp_path):
    rgb = Image.new("RGB", (16, 16), (255, 0, 0))
    rgb.convert("P").save(tmp_path / "p.png")
    rgb.convert("CMYK").save(tmp_path / "c.jpg")
    Image.new("1", (16, 16), 1).save(tmp_path / "b.png")
    assert read_image(str(tmp_path / "p.png"), 3).getpixel((8, 8)) == (255, 0, 0)
    red, green, blue = read_image(str(tmp_path / "c.jpg"), 3).getpixel((8, 8))
    assert red > 240 and green < 15 and blue < 15
    assert read_image(str(tmp_path / "b.png"), 1).getpixel((8, 8)) == 255


def test_the_first_frame_is_taken(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black")]
    frames[0].save(tmp_path / "film.tif", save_all=True, append_images=frames[1:])
    assert read_image(str(tmp_path / "film.tif"), 1).getpixel((0, 0)) == 255


def spoil(folder, kind: str) -> str:
    """Write one bad image file of a kind and return its path."""
    path = folder / "bad.jpg"
    if kind == "truncated":
        Image.fromarray(random_rgb(64, 64)).save(path)
        path.write_bytes(path.read_bytes()[:1500])
    elif kind == "truncated png":
        path = folder / "bad.png"
        Image.fromarray(random_rgb(64, 64)).save(path)
        path.write_bytes(path.read_bytes()[:3000])
    else:
        path.write_bytes({"empty": b"", "text": b"<html>404 not found</html>"}[kind])
    return str(path)


@pytest.mark.parametrize(
    "kind, says",
    [
        ("truncated", "truncated"),
        ("truncated png", "cannot be read"),
        ("empty", "0 bytes"),
        ("text", "not an image"),
    ],
)
def test_a_bad_file_is_named_with_its_fault_and_the_remedy(tmp_path, kind, says):
    path = spoil(tmp_path, kind)
    text = refusal(read_image, path, 3)
    assert (
        text.startswith(path) and says in text and "replace" in text and "--skip_bad_images" in text
    )


def test_a_file_that_is_gone_is_named(tmp_path):
    text = refusal(read_image, str(tmp_path / "gone.png"), 3)
    assert "gone.png" in text and "No such file" in text


def test_all_bad_files_are_found(tmp_path):
    good = [str(path) for path in make_image_folder(tmp_path)]
    bad = spoil(tmp_path, "truncated")
    assert list(find_bad_images([*good, bad])) == [bad]


def test_a_file_is_decoded_once_in_search_of_faults_until_it_changes(tmp_path, monkeypatch):
    """Both halves of pairs, and images to measure on, are the files that training has looked through."""
    paths = [str(path) for path in make_image_folder(tmp_path)]
    decoded = []

    def read(path, *settings):
        decoded.append(path)
        return read_image(path, *settings)

    monkeypatch.setattr("data.image_file.read_image", read)
    assert find_bad_images(paths) == find_bad_images(paths[:2]) == {}
    assert sorted(decoded) == paths

    find_bad_images(paths[:1], (0, 18))  # read in another way
    assert len(decoded) == 4
    Path(paths[2]).write_bytes(b"no image")
    assert list(find_bad_images(paths)) == [paths[2]] and len(decoded) == 5
