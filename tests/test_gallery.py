"""Results of test.py: names, files, pages and errors of the gallery, and a look at it with a real browser."""

import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.result_names import unique_names
from tests.browser import Browser, needs_browser
from util.errors import UserError
from util.pages import gallery as gallery_module
from util.pages.gallery import Gallery, unfinished_in

ODD_NAME = 'sub dir/a #1 100% "it\'s" <b>&amp; ?x=1 æ雪'


def picture(seed: int = 0, channels: int = 3) -> torch.Tensor:
    return torch.rand(channels, 6, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def make(folder: Path, names: list[str], **options) -> Gallery:
    gallery = Gallery(folder, "title", {"model": "patchgcl"}, **options)
    for index, name in enumerate(names):
        gallery.add(name, {"real_A": picture(index), "fake_B": picture(index + 100)})
    return gallery


def page_names(folder: Path, page: str = "index.html") -> list[str]:
    """The headings of the cards, in order."""
    return [
        part.split("</h3>")[0]
        for part in (folder / page).read_text(encoding="utf-8").split("<h3>")[1:]
    ]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["a.jpg", "b.png"], ["a", "b"]),
        (["a.jpg", "a.png"], ["a", "a_png"]),
        (["a.jpg", "a_png.jpg", "a.png"], ["a", "a_png", "a_png_2"]),
        (["a.jpg", "a.jpg", "a.jpg"], ["a", "a_jpg", "a_jpg_2"]),
        (["A.jpg", "a.jpg"], ["A", "a_jpg"]),
        (["a.jpg", "A.jpg"], ["a", "A_jpg"]),
        (["cats/001.png", "dogs/001.png"], ["cats/001", "dogs/001"]),
        (["img.v2.png", "img.v3.png", "plain"], ["img.v2", "img.v3", "plain"]),
        (["x/../../outside.png"], ["outside"]),
        (["/elsewhere/deep/c.png", "c.jpg"], ["c", "c_jpg"]),
        (["...png"], [".._png"]),
    ],
)
def test_names_are_distinct_and_stay_inside(files, expected):
    root = Path("/data/testA")
    assert unique_names([root / file for file in files], root) == expected


def test_names_of_a_relative_root_and_of_a_single_file():
    assert unique_names(["data/testA/x/1.png"], "./data/testA/") == ["x/1"]
    assert unique_names(["data/one.png"], "data/one.png") == ["one"]


def test_files_hold_the_pixels_and_the_page_shows_them_in_order(tmp_path):
    bytes_in = torch.randint(0, 256, (3, 6, 8), dtype=torch.uint8)
    grey = picture(1, channels=1)
    with Gallery(tmp_path, "run <1>", {"what & why": "a <b>"}) as gallery:
        gallery.add("b/2", {"real_A": bytes_in, "fake_B": grey})
        gallery.add("a", {"fake_B": picture(2)})
    with Image.open(tmp_path / "images/real_A/b/2.png") as image:
        assert np.array_equal(np.asarray(image), bytes_in.permute(1, 2, 0).numpy())
    with Image.open(tmp_path / "images/fake_B/b/2.png") as image:
        assert np.array_equal(
            np.asarray(image), ((grey[0] + 1) * 127.5).round().to(torch.uint8).numpy()
        )
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert page_names(tmp_path) == ["a", "b/2"]
    assert text.index("images/real_A/b/2.png") < text.index("images/fake_B/b/2.png")
    assert "2 inputs · 3 pictures" in text and text.count("<img") == 3
    assert "run &lt;1&gt;" in text and "what &amp; why" in text and "a &lt;b&gt;" in text


def test_a_second_run_replaces_files_and_shows_only_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery_module, "ROWS_PER_PAGE", 2)
    make(tmp_path, ["a", "b", "c"]).close()
    assert (tmp_path / "page_002.html").exists()
    old = (tmp_path / "images/fake_B/b.png").read_bytes()
    make(tmp_path, ["b"]).close()
    assert page_names(tmp_path) == ["b"] and not (tmp_path / "page_002.html").exists()
    assert (tmp_path / "images/fake_B/b.png").read_bytes() != old
    assert (tmp_path / "earlier/fake_B/a.png").exists() and not (
        tmp_path / "images/fake_B/a.png"
    ).exists()


def test_many_rows_are_split_in_pages_that_link_to_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery_module, "ROWS_PER_PAGE", 2)
    make(tmp_path, ["e", "d", "c", "b", "a"]).close()
    assert [
        page_names(tmp_path, page) for page in ("index.html", "page_002.html", "page_003.html")
    ] == [
        ["a", "b"],
        ["c", "d"],
        ["e"],
    ]
    middle = (tmp_path / "page_002.html").read_text()
    assert middle.count('href="index.html">1-2<') == 2  # above and below the rows
    assert middle.count("<b>3-4</b>") == 2 and middle.count('href="page_003.html">5-5<') == 2


def test_an_empty_run_has_a_page(tmp_path):
    make(tmp_path, []).close()
    assert "0 inputs" in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "a"])
def test_names_that_escape_or_repeat_are_refused(tmp_path, name):
    gallery = make(tmp_path / "in", ["a"])
    with pytest.raises(ValueError, match="result name"):
        gallery.add(name, {"real_A": picture()})
    gallery.close()


def test_one_name_may_have_several_rows_of_different_pictures(tmp_path):
    """Two domains translated in one run may have files of the same name."""
    with make(tmp_path, ["a"]) as gallery:
        gallery.add("a", {"real_B": picture(), "fake_A": picture()})
    assert {path.parent.name for path in tmp_path.rglob("a.png")} == {
        "real_A",
        "fake_B",
        "real_B",
        "fake_A",
    }
    assert "2 inputs · 4 pictures" in (tmp_path / "index.html").read_text()


def test_pictures_of_an_earlier_run_do_not_stay_among_the_new_ones(tmp_path):
    make(tmp_path, ["a", "b", "sub/c"]).close()
    (tmp_path / "images" / "real_A" / "mine.png").write_text("not the gallery's")
    make(tmp_path, ["b"]).close()
    found = sorted(
        path.relative_to(tmp_path / "images").as_posix()
        for path in (tmp_path / "images").rglob("*.png")
    )
    assert [name for name in found if name.startswith("real_A")] == [
        "real_A/b.png",
        "real_A/mine.png",
    ]
    assert (tmp_path / "earlier" / "fake_B" / "sub" / "c.png").exists()


def test_figures_are_shown_at_their_own_width_and_arrays_are_written(tmp_path):
    figure = torch.randint(0, 256, (3, 20, 900), dtype=torch.uint8)
    numbers = {"x": np.arange(6).reshape(2, 3), "names": np.array(["a", "b"])}
    with Gallery(tmp_path, "title", {}) as gallery:
        gallery.add("sub/a", {"real_A": picture()}, {"graph": figure}, numbers)
        gallery.add("plain", {"real_A": picture()})
    with Image.open(tmp_path / "figures/graph/sub/a.png") as image:
        assert np.array_equal(np.asarray(image), figure.permute(1, 2, 0).numpy())
    with np.load(tmp_path / "arrays/sub/a.npz") as arrays:
        assert {key: arrays[key].tolist() for key in arrays} == {
            "x": [[0, 1, 2], [3, 4, 5]],
            "names": ["a", "b"],
        }
    text = (tmp_path / "index.html").read_text()
    assert "2 inputs · 3 pictures" in text
    narrow, wide = text.split("<section")[1:]
    assert "plain" in narrow and re.findall(r"width: (\d+)px", narrow) == ["292", "256"]
    assert "sub/a" in wide and re.findall(r"width: (\d+)px", wide) == ["936", "256", "900"]
    with pytest.raises(ValueError, match="used before"):
        gallery.add("sub/a", {}, {}, numbers)


def test_figures_and_arrays_of_an_earlier_run_are_set_aside_too(tmp_path):
    with Gallery(tmp_path, "title", {}) as gallery:
        gallery.add("a", {"real_A": picture()}, {"graph": picture()}, {"x": np.ones(2)})
    with Gallery(tmp_path, "title", {}) as gallery:
        gallery.add("a", {"real_A": picture()})
    earlier = sorted(
        path.relative_to(tmp_path / "earlier").as_posix()
        for path in tmp_path.rglob("earlier/**/*.*")
    )
    assert earlier == ["arrays/a.npz", "figures/graph/a.png"]
    assert (
        not list((tmp_path / "figures").rglob("*.png"))
        and (tmp_path / "images/real_A/a.png").exists()
    )


def interrupt(folder: Path, names: list[str], rank: int = 0) -> None:
    """Write some pictures, and end before the page."""
    with pytest.raises(KeyboardInterrupt), make(folder, names, rank=rank) as gallery:
        gallery.flush()
        raise KeyboardInterrupt


def pictures_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}


def test_an_interrupted_run_is_no_result(tmp_path):
    """Neither page nor facts of the run before it stay, since they would speak for pictures of both."""
    make(tmp_path, ["a", "b", "c"]).close()
    assert not unfinished_in(tmp_path)
    interrupt(tmp_path, ["a"])
    assert unfinished_in(tmp_path) == [tmp_path / "unfinished.jsonl"]
    assert not list(tmp_path.glob("*.html")) and not (tmp_path / "facts.json").exists()
    assert pictures_in(tmp_path / "images" / "fake_B") == {"a.png", "b.png", "c.png"}

    make(tmp_path, ["a", "b"]).close()
    assert not unfinished_in(tmp_path) and page_names(tmp_path) == ["a", "b"]
    assert pictures_in(tmp_path / "images" / "fake_B") == {"a.png", "b.png"}
    assert pictures_in(tmp_path / "earlier" / "fake_B") == {"c.png"}


def test_what_an_interrupted_run_left_is_set_aside_by_the_next(tmp_path):
    """Also where it was the first one, whose pictures no record knew, of several processes."""
    interrupt(tmp_path, ["a", "b"])
    interrupt(tmp_path, ["c", "sub/d"], rank=1)
    with open(tmp_path / "unfinished.jsonl", "a") as mark:
        mark.write('"images/fake_B/cut sho')  # a line under way when the process was killed

    interrupt(tmp_path, ["e"])
    make(tmp_path, ["b"]).close()
    assert pictures_in(tmp_path / "images" / "fake_B") == {"b.png"}
    assert pictures_in(tmp_path / "earlier" / "fake_B") == {"a.png", "c.png", "sub/d.png", "e.png"}
    assert not unfinished_in(tmp_path)


def test_a_run_that_wrote_nothing_leaves_the_earlier_result_as_it_is(tmp_path):
    make(tmp_path, ["a"]).close()
    interrupt(tmp_path, [])
    assert page_names(tmp_path) == ["a"] and not unfinished_in(tmp_path)


def full_disk(array, path):
    raise OSError(28, "No space left on device")


def test_a_full_disk_is_one_clear_error_at_close(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery_module, "save_png", full_disk)
    gallery = Gallery(tmp_path, "title", {})
    gallery.add("a", {"real_A": picture()})
    with pytest.raises(UserError, match=r"images/real_A/a\.png: No space left on device"):
        gallery.close()
    assert not (tmp_path / "index.html").exists()


def test_a_full_disk_stops_the_run_at_the_next_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery_module, "save_png", full_disk)
    gallery = Gallery(tmp_path, "title", {})
    gallery.add("a", {"real_A": picture()})
    gallery.pool.submit(lambda: None).result()
    deadline = time.monotonic() + 5
    while gallery.error is None and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(UserError, match="No space left"):
        gallery.add("b", {"real_A": picture()})


def test_after_a_failure_nothing_more_is_written_and_the_first_is_named(tmp_path, monkeypatch):
    go, tried = threading.Event(), []

    def fail(array, path):
        go.wait(10)
        tried.append(path.stem)
        full_disk(array, path)

    monkeypatch.setattr(gallery_module, "WRITERS", 1)
    monkeypatch.setattr(gallery_module, "save_png", fail)
    gallery = Gallery(tmp_path, "title", {})
    for name in "abc":
        gallery.add(name, {"real_A": picture()})
    go.set()
    with pytest.raises(UserError, match=r"a\.png"):
        gallery.close()
    assert tried == ["a"]


def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    gallery = make(tmp_path / "file", ["a"])
    with pytest.raises(
        UserError, match=r"file/images/(real_A|fake_B)/a\.png"
    ):  # whichever writer came first
        gallery.close()


def test_writing_overlaps_the_caller_and_memory_is_bounded(tmp_path, monkeypatch):
    """While the disk stands still `add` returns at once, until the bound is reached; nothing is lost."""
    go, written = threading.Event(), []
    monkeypatch.setattr(gallery_module, "WAITING_PICTURES", 3)
    monkeypatch.setattr(
        gallery_module, "save_png", lambda array, path: (go.wait(10), written.append(path.stem))
    )
    gallery = Gallery(tmp_path, "title", {})
    for name in "abc":
        gallery.add(name, {"real_A": picture()})
    fourth = threading.Thread(target=gallery.add, args=("d", {"real_A": picture()}))
    fourth.start()
    fourth.join(0.2)
    assert fourth.is_alive() and written == []
    go.set()
    fourth.join(10)
    gallery.close()
    assert sorted(written) == ["a", "b", "c", "d"]


def test_an_exception_in_the_block_passes_and_writes_no_index(tmp_path):
    with pytest.raises(KeyError), make(tmp_path, ["a"]):
        raise KeyError
    assert not (tmp_path / "index.html").exists()


def test_the_caller_may_reuse_its_tensor_at_once(tmp_path, monkeypatch):
    go = threading.Event()
    real_save = gallery_module.save_png
    monkeypatch.setattr(
        gallery_module, "save_png", lambda array, path: (go.wait(10), real_save(array, path))
    )
    tensor = torch.full((1, 4, 4), 200, dtype=torch.uint8)
    with Gallery(tmp_path, "title", {}) as gallery:
        gallery.add("a", {"real_A": tensor})
        tensor.zero_()
        go.set()
    with Image.open(tmp_path / "images/real_A/a.png") as image:
        assert image.getextrema() == (200, 200)


@needs_browser
def test_a_browser_shows_every_picture_whatever_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery_module, "ROWS_PER_PAGE", 3)
    undecodable = b"caf\xe9".decode("utf-8", "surrogateescape")
    names = [ODD_NAME, "plain", "a:b", "back\\slash", undecodable]
    gallery = make(tmp_path / "results #2 50%", names)
    gallery.close()
    shown = []
    with Browser() as browser:
        for page in ("index.html", "page_002.html"):
            browser.open(gallery.folder / page)
            images = browser.images()
            assert images and all(image["width"] == 8 for image in images), images
            shown += browser.evaluate("[...document.querySelectorAll('h3')].map(h => h.innerText)")
    assert sorted(shown) == sorted([*names[:-1], "caf\ufffd"])
