"""Nothing vanishes and no value changes unsaid: what is told of image files before the first step, and at which."""

import io
import os
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile

import data
from data import image_file
from data.image_file import read_image, read_size
from data.image_folder import image_suffixes, list_images
from data.inspection import read_headers
from tests.helpers import make_image_folder, refusal
from tests.test_data_files import random_rgb
from tests.test_data_loader import data_options, make_loader, test_options
from util.errors import UserError

ELEVEN = ["jpg", "png", "jfif", "gif", "avif", "pgm", "jp2", "jpe", "tga", "bmp", "webp"]


def notes(folder) -> str:
    found = []
    list_images(str(folder), found)
    return "\n".join(found)


def said(capsys, opt) -> str:
    """What a start prints; the loader is built, nothing is decoded but the sample of values."""
    make_loader(opt)
    return capsys.readouterr().out


def refused(opt) -> str:
    with pytest.raises(UserError) as caught:
        make_loader(opt)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def folders(tmp_path):
    for seed, name in enumerate(("trainA", "trainB", "testA")):
        make_image_folder(tmp_path / name, count=4, seed=seed)
    return tmp_path


# -- which files are read, and what is left out --------------------------------------------------------------


def test_what_pillow_reads_is_read(tmp_path):
    for suffix in ELEVEN:
        Image.fromarray(random_rgb(16, 16)).convert("L").save(tmp_path / f"{suffix}.{suffix}")
    found = list_images(str(tmp_path))
    assert len(found) == 11
    assert all(read_image(path, 3).size == (16, 16) == read_size(path) for path in found)


def test_what_pillow_only_knows_by_name_is_no_image():
    known = image_suffixes()
    assert {".jpeg", ".tiff", ".apng", ".j2k", ".qoi", ".psd", ".ppm", ".ico"} <= known
    assert not known & {".mpg", ".eps", ".ps", ".wmf", ".h5", ".hdf", ".pdf", ".mov", ".heic"}


@pytest.mark.parametrize("phase", ["train", "test"])
def test_files_that_are_left_out_are_counted(folders, phase, capsys):
    for name in ("a.mov", "b.txt", "c.TXT", "d", "e.heic", "Thumbs.db", ".DS_Store"):
        (folders / f"{phase}A" / name).write_bytes(b"x")
    opt = data_options(folders) if phase == "train" else test_options(folders)
    text = said(capsys, opt)
    assert "left out 5 files: .txt 2, " in text and ".mov 1" in text and "no ending 1" in text
    assert "to use .heic, convert to .png or .jpg" in text


def test_a_folder_of_other_files_says_what_it_holds(tmp_path):
    (tmp_path / "a.cr2").write_bytes(b"x")
    text = refusal(list_images, str(tmp_path))
    assert "holds no images" in text and "left out 1 file: .cr2 1 (to use .cr2, convert" in text


def test_images_are_counted_by_folder_and_equal_names_are_told(tmp_path):
    make_image_folder(tmp_path / "imgs", 3)
    assert notes(tmp_path) == ""  # one place
    make_image_folder(tmp_path / "bbox", 2, suffix=".bmp")
    text = notes(tmp_path)
    assert "5 images: imgs 3, bbox 2" in text
    assert (
        "warning: 2 names come more than once, such as bbox/image_000.bmp and imgs/image_000.png"
        in text
    )
    assert len(list_images(str(tmp_path))) == 5, "told, not decided"


@pytest.mark.parametrize("tool", ["@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "@__thumb"])
def test_thumbnails_of_known_tools_are_no_images(tmp_path, tool):
    [path] = make_image_folder(tmp_path, 1)
    make_image_folder(tmp_path / tool / "a.jpg", 2)
    assert list_images(str(tmp_path)) == [str(path)]
    assert f"left out folders of thumbnails or deleted files: {tool} 1" in notes(tmp_path)


@pytest.mark.parametrize("suffix", ["tif", "webp", "png", "gif", "avif"])
def test_several_pictures_in_a_file_are_told(folders, suffix, capsys):
    frames = [Image.fromarray(random_rgb(40, 36, seed)) for seed in range(3)]
    frames[0].save(folders / "trainA" / f"film.{suffix}", save_all=True, append_images=frames[1:])
    text = said(capsys, data_options(folders))
    assert text.count("1 of 5 files hold several pictures, of which the first is read") == 1
    assert f"film.{suffix}" in text
    make_image_folder(folders / "trainB", 1, suffix=f".{suffix}")
    assert said(capsys, data_options(folders)).count("several pictures") == 1, "not a still one"


# -- values ------------------------------------------------------------------------------------------------------


def save_values(folder, values, dtype, suffix="png"):
    for path in folder.iterdir():
        path.unlink()
    array = np.resize(np.array(values, dtype), (36, 40))
    for index in range(2):
        Image.fromarray(array).save(folder / f"{index}.{suffix}")
    return str(folder / f"0.{suffix}")


@pytest.mark.parametrize(
    ("values", "dtype", "suffix", "told", "flag"),
    [
        ([0, 4095], np.uint16, "png", "0..4095 of 0..65535", "0,4095"),
        ([0, 4095], np.uint16, "tif", "0..4095 of 0..65535", "0,4095"),
        (range(19), np.uint8, "png", "0..18 of 0..255", "0,18"),
        ([240, 255], np.uint8, "png", "240..255 of 0..255", "240,255"),
    ],
)
def test_values_in_a_corner_of_their_range_are_told_and_stretched(
    folders, values, dtype, suffix, told, flag, capsys
):
    path = save_values(folders / "trainA", values, dtype, suffix)
    text = said(capsys, data_options(folders))
    assert text.count("warning") == 1 and f"hold values {told}" in text
    assert f"--value_range {flag}" in text

    levels = tuple(map(float, flag.split(",")))
    assert "warning" not in said(capsys, data_options(folders, value_range=list(levels)))
    image = np.asarray(read_image(path, 1, levels))
    low, high = levels
    expected = (np.resize(np.array(values), (36, 40)) - low) / (high - low) * 255
    assert np.abs(image - expected).max() <= 0.5 and (image.min(), image.max()) == (0, 255)


def test_photographs_are_not_warned_of(folders, capsys):
    assert said(capsys, data_options(folders)) == ""


def test_dark_colours_are_told_without_a_flag_that_cannot_help(folders, capsys):
    save_values(folders / "trainA", range(15), np.uint8)
    for path in (folders / "trainA").iterdir():
        Image.open(path).convert("RGB").save(path)
    text = said(capsys, data_options(folders))
    assert "values 0..14 of 0..255" in text and "stretch them" in text
    text = said(capsys, data_options(folders, value_range=[0.0, 14.0]))
    assert "--value_range is for grey files, and none was found" in text


def test_values_beyond_the_range_given_are_told(folders, capsys):
    save_values(folders / "trainA", [0, 4095], np.uint16)
    text = said(capsys, data_options(folders, value_range=[0.0, 1000.0]))
    assert "values 0..4095 reach beyond --value_range" in text


@pytest.mark.parametrize(("levels", "warned"), [([0.0, 4095.0], True), ([0.0, 255.0], False)])
def test_a_range_that_is_not_that_of_both_domains_is_told(folders, levels, warned, capsys):
    """Ordinary grey of 8 bits beside 12 bits in files of 16: nearly black."""
    save_values(folders / "trainB", [0, 255], np.uint8)
    text = said(capsys, data_options(folders, value_range=levels))
    assert (
        "trainB: the grey images looked at hold values 0..255 of --value_range" in text
    ) == warned


def test_the_range_is_part_of_every_view(folders):
    """Caches, workers and the plain reader see the same pixels."""
    save_values(folders / "trainA", [0, 4095], np.uint16)
    opt = data_options(folders, value_range=[0.0, 4095.0], batch_size=1, preprocess="crop")
    for cache in ("none", "ram", "device"):
        opt.cache = cache
        batch = next(make_loader(opt).epoch(1))
        assert batch["A"].min() < -0.9 and batch["A"].max() > 0.9


def test_floating_point_pixels_need_a_range_and_take_it(folders):
    path = save_values(folders / "trainA", [0.0, 0.25, 1.0], np.float32, "tif")
    text = refused(data_options(folders))
    assert "floating-point" in text and "(0..1 here)" in text and "--value_range LOW,HIGH" in text
    make_loader(data_options(folders, value_range=[0.0, 1.0]))
    assert sorted(set(np.asarray(read_image(path, 1, (0.0, 1.0))).flat)) == [0, 64, 255]


def test_images_that_are_transparent_everywhere_are_told(folders, capsys):
    for path in (folders / "trainA").iterdir():
        image = Image.open(path).convert("RGBA")
        image.putalpha(0)
        image.save(path)
    assert "4 of 4 images looked at are transparent everywhere" in said(
        capsys, data_options(folders)
    )


def wide_gamut() -> bytes:
    """A profile whose red and green are further out than those of sRGB: an sRGB profile with its primaries moved."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", profile[128:132])[0]
    place = {}
    for index in range(count):
        name, offset, size = struct.unpack(">4sII", profile[132 + 12 * index : 144 + 12 * index])
        place[name] = offset, size
    for name, xyz in {
        b"rXYZ": (0.61, 0.311, 0.019),
        b"gXYZ": (0.205, 0.626, 0.061),
        b"bXYZ": (0.149, 0.063, 0.745),
    }.items():
        offset, _ = place[name]
        numbers = (round(value * 65536) for value in xyz)  # those of Adobe RGB
        profile[offset + 8 : offset + 20] = struct.pack(">iii", *numbers)
    offset, size = place[b"desc"]
    profile[offset : offset + size] = bytes(profile[offset : offset + size]).replace(
        "sRGB".encode("utf-16-be"), "wide".encode("utf-16-be")
    )
    return bytes(profile)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_colours_of_another_profile_become_srgb(tmp_path, suffix):
    """A green of a wide gamut, which as plain numbers would look dull, and is further out in sRGB."""
    path = tmp_path / f"wide.{suffix}"
    green = Image.new("RGB", (16, 16), (100, 200, 100))
    green.save(path, icc_profile=wide_gamut(), quality=95)
    red, level, blue = read_image(str(path), 3).getpixel((8, 8))
    assert red < 75 and abs(level - 201) < 6 and abs(blue - 92) < 12

    green.save(path, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    assert np.abs(np.subtract(read_image(str(path), 3).getpixel((8, 8)), (100, 200, 100))).max() < 6
    green.save(path, icc_profile=b"damaged")
    assert np.abs(np.subtract(read_image(str(path), 3).getpixel((8, 8)), (100, 200, 100))).max() < 6


def test_transparency_and_palettes_are_kept_beside_a_profile(tmp_path):
    clear = Image.new("RGBA", (8, 8), (100, 200, 100, 255))
    clear.paste((0, 0, 0, 0), (0, 0, 4, 8))
    clear.save(tmp_path / "rgba.png", icc_profile=wide_gamut())
    clear.convert("RGB").convert("P").save(tmp_path / "p.png", icc_profile=wide_gamut())
    image = read_image(str(tmp_path / "rgba.png"), 3)
    assert image.getpixel((0, 0)) == (255, 255, 255) and image.getpixel((7, 7))[0] < 75
    assert read_image(str(tmp_path / "p.png"), 3).getpixel((7, 7))[0] < 75


@pytest.mark.parametrize("mode", ["RGB", "L", "I;16"])
@pytest.mark.parametrize("profile", [None, "wide"])
def test_the_one_colour_that_is_transparent_shows_white(tmp_path, mode, profile):
    """PNG names it beside the pixels, where a change of colours would lose it."""
    path = tmp_path / "image.png"
    hidden = {"RGB": (9, 9, 9), "L": 9, "I;16": 900}[mode]
    Image.new(mode, (4, 4), hidden).save(
        path, transparency=hidden, icc_profile=profile and wide_gamut()
    )
    assert read_image(str(path), 3).getpixel((0, 0)) == (255, 255, 255)


def test_transparent_grey_shows_white_in_a_range_too(tmp_path):
    path = tmp_path / "image.png"
    Image.new("I;16", (4, 4), 900).save(path, transparency=900)
    assert read_image(str(path), 1, (0.0, 4095.0)).getpixel((0, 0)) == 255


def test_cielab_is_read_in_colour_and_in_grey(tmp_path):
    path = tmp_path / "lab.tif"
    Image.new("LAB", (8, 8), (128, 200, 128)).save(path)  # a strong pink
    red, green, blue = read_image(str(path), 3).getpixel((4, 4))
    assert red > 200 and green < 60 and 100 < blue < 150
    assert 80 < read_image(str(path), 1).getpixel((4, 4)) < 130


# -- files that cannot be read -------------------------------------------------------------------------------


def tiff_of_bands(path, bands: int, bits: int, floating: bool = False) -> None:
    """A TIFF file of 2 x 2 pixels, written by hand."""
    pixels = bytes(4 * bands * bits // 8)
    tags = [(256, 3, 1, 2), (257, 3, 1, 2), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, 1, 8), (277, 3, 1, bands), (278, 3, 1, 2), (279, 4, 1, len(pixels))]
    tags += [(339, 3, 1, 3)] if floating else []
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    body = struct.pack("<H", len(tags)) + entries + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + body)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\0\0\0\x18ftypheic", "HEIC, which phones write under any name; convert it to .jpg"),
        (b"\0\0\0\x18ftypmif1", "HEIC"),
        (b"\0\0\0\x18ftypqt  ", "a video"),
        (b"<!DOCTYPE html><p>404", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"%PDF-1.7", "a PDF document"),
        (b"PK\x03\x04", "a zip archive"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"<?xml version='1.0'?><svg xmlns=", "an SVG drawing"),
        (b"\x76\x2f\x31\x01", "an OpenEXR image"),
        (b"anything", "not an image, whatever its name says"),
    ],
)
def test_a_file_of_another_kind_is_named_with_what_to_do(tmp_path, content, said):
    path = tmp_path / "b.jpg"
    path.write_bytes(content + bytes(64))
    text = refusal(read_size, str(path))
    assert text.startswith(f"{path}: not an image") and said in text


def test_satellite_bands_are_named(tmp_path):
    tiff_of_bands(tmp_path / "eight.tif", 8, 16)
    text = refusal(read_size, str(tmp_path / "eight.tif"))
    assert "a TIFF file with 8 bands of 16 bits each" in text and "choose three" in text
    tiff_of_bands(tmp_path / "float.tif", 3, 64, floating=True)
    assert "3 bands of floating-point numbers" in refusal(read_size, str(tmp_path / "float.tif"))


@pytest.mark.parametrize("what", ["pipe", "folder", "link"])
def test_what_is_no_file_is_refused(folders, what):
    path = folders / "trainA" / "b.jpg"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()  # which is looked through like any other
        os.mkfifo(path / "c.png")
    else:
        path.symlink_to(folders / "gone.jpg")
    text = refused(data_options(folders))
    says = {
        "pipe": "b.jpg is a named pipe",
        "folder": "c.png is a named pipe",
        "link": "a link to a file that is gone",
    }
    assert says[what] in text
    if what == "pipe":
        assert "is a named pipe" in refused(test_options(path))


def test_a_large_image_is_read_where_memory_allows(tmp_path, monkeypatch):
    """180 megapixels, which Pillow itself refuses; of one bit each, to be quick."""
    path = str(tmp_path / "large.png")
    Image.new("1", (18000, 10000), 1).save(path)
    assert read_size(path) == (18000, 10000)
    assert read_image(path, 1).getpixel((9, 9)) == 255

    monkeypatch.setattr(image_file, "free_memory", lambda device: 10**9)
    text = refusal(read_image, path, 1)
    assert "18000 x 10000 pixels take 2.0 GiB to read, and 0.9 GiB are free" in text
    assert "make the image smaller" in text


# -- before the first step ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "size", "said"),
    [
        (
            {"preprocess": "crop"},
            (20, 20),
            "20x20 pixels after scaling are too few for --crop_size 32",
        ),
        ({"preprocess": "none", "batch_size": 2}, (44, 36), "images of one batch differ in size"),
        (
            {"preprocess": "scale_shortside_and_crop", "load_size": 36, "crop_size": 36},
            (3, 200),
            None,
        ),
        ({"preprocess": "resize_and_crop"}, (1, 1), None),
    ],
)
def test_an_image_that_does_not_fit_is_found_before_the_first_step(folders, changes, size, said):
    """Late in the set, where no step would come upon it for hours."""
    make_image_folder(folders / "trainB" / "z", 1, size=size)
    opt = data_options(folders, **changes)
    if said is None:
        make_loader(opt)
    else:
        text = refused(opt)
        assert said in text and "trainB/z/image_000.png" in text


def test_an_image_too_small_for_the_decay_phase_is_found_before_the_first(folders):
    flags = {"preprocess": "scale_width_and_crop", "load_size": 64, "crop_size": 40}
    make_loader(data_options(folders, **flags))
    text = refused(
        data_options(folders, preprocess="resize_shortside_and_crop", load_size=48, crop_size=52)
    )
    assert "too few for --crop_size 52" in text


def test_pairs_are_checked_before_the_first_step(tmp_path):
    for letter in "AB":
        make_image_folder(tmp_path / f"train{letter}", 3)
    make_image_folder(tmp_path / "trainB", 1, size=(50, 36))
    text = refused(data_options(tmp_path, dataset_mode="aligned", preprocess="resize"))
    assert "trainB/image_000.png 50 x 36: the images of a pair have one size" in text
    make_image_folder(tmp_path / "train", 3)
    make_image_folder(tmp_path / "train" / "z", 1, size=(41, 36))
    text = refused(data_options(tmp_path, dataset_mode="aligned"))
    assert "z/image_000.png is 41 pixels wide" in text


def test_all_bad_headers_are_counted_and_none_is_decoded(folders, monkeypatch):
    for name in ("image_001.png", "image_003.png"):
        (folders / "trainB" / name).write_bytes(b"")
    assert "image_001.png: the file is empty (0 bytes)" in refused(data_options(folders))
    assert "(1 more like it)" in refused(data_options(folders))

    def decode(self):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    headers = read_headers(list_images(str(folders / "trainA")) * 500)
    assert len(headers) == 2000 and {header.size for header in headers} == {(40, 36)}


def test_bad_images_that_are_left_out_stop_nothing(folders, capsys):
    (folders / "trainB" / "image_001.png").write_bytes(b"")
    os.mkfifo(folders / "trainB" / "pipe.png")
    loader = make_loader(data_options(folders, skip_bad_images=True))
    assert len(loader.dataset.domains["B"].paths) == 3
    assert "left out 2 of 5 images that cannot be read" in capsys.readouterr().out


def test_a_batch_of_unlike_images_may_come_from_accumulation(folders):
    make_image_folder(folders / "trainB" / "z", 1, size=(44, 36))
    text = refused(data_options(folders, preprocess="none", batch_size=1, accumulate=2))
    assert "one image per step (--batch_size 1 --accumulate 1)" in text


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"preprocess": "resize"}, True),
        ({"preprocess": "scale_width"}, True),
        ({"preprocess": "resize", "finetune_resize": False}, False),
        ({"preprocess": "resize", "n_epochs_decay": 0}, False),
        ({"preprocess": "resize", "load_size": 32}, False),
        ({"preprocess": "resize_and_crop"}, False),
        ({"preprocess": "none", "batch_size": 1}, False),
    ],
)
def test_another_size_in_the_decay_phase_is_told(folders, changes, told, capsys):
    opt = data_options(folders, **changes)
    line = "from epoch 3 on images are scaled to 32 (--crop_size) instead of 36"
    assert (line in said(capsys, opt)) == told


def test_a_scale_that_is_changed_by_rounding_is_told(folders, capsys):
    """Sides of 36 and 32 pixels where the network takes multiples of 64."""
    opt = data_options(folders, preprocess="resize", size_multiple=64)
    text = said(capsys, opt)
    assert "image_000.png, 36 x 36 after scaling, becomes 64 x 64" in text
    assert "multiples of 64" in text and text.count("trainA") == 2, "in each phase, for one image"
    assert "becomes" not in said(capsys, data_options(folders, preprocess="resize"))

    opt = data_options(folders, preprocess="resize", size_multiple=64, n_epochs_decay=0)
    assert said(capsys, opt).count("trainA") == 1, "there is no second phase"


def test_the_first_samples_are_the_same_as_without_the_look(folders):
    """Looking at values takes no random number."""
    opt = data_options(folders)
    plain = data.find_dataset("unaligned")(opt)
    assert [plain.plan(1, 0)] == [make_loader(opt).dataset.plan(1, 0)]


def test_icc_buffer_is_what_pillow_wrote(tmp_path):
    """The profile of these tests is one that Pillow accepts."""
    assert ImageCms.ImageCmsProfile(io.BytesIO(wide_gamut())).tobytes()
