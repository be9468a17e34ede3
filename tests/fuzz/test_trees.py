"""Trees of folders as they are found in the wild: a data set is read from them, or refused in one line."""

import os
import shutil
from pathlib import Path

from data import create_loader
from tests.fuzz.budget import hypothesis, one_line, tries
from tests.helpers import make_image_folder, train_options
from util.errors import UserError
from util.hardware.runtime import Runtime

given, st = hypothesis.given, hypothesis.strategies

LETTERS = "aZ0 .-_'\"%&<>\\é雪\u202e\u0301\n\t#?*$~`;|="
NAMES = st.text(LETTERS, min_size=1, max_size=12).filter(lambda name: name not in (".", ".."))
SUFFIXES = st.sampled_from([".png", ".PNG", ".jpg", ".txt", "", ".png.part", ".jpeg"])
ODD = ("empty", "text", "folder", "loop", "dangling", "pipe", "link")
KINDS = st.sampled_from(["image", "image", "image", *ODD])
PLACES = st.sampled_from(["", "sub", "trainA"])
ENTRIES = st.lists(st.tuples(PLACES, NAMES, SUFFIXES, KINDS), max_size=6)


def lay(folder: Path, entries, image: bytes) -> None:
    """Make the entries of a folder; two of one name are one."""
    folder.mkdir(parents=True)
    for below, name, suffix, kind in entries:
        place = folder / below
        place.mkdir(exist_ok=True)
        path = place / (name + suffix)
        if path.exists() or path.is_symlink() or not name.strip("/"):
            continue
        if kind in ("image", "empty", "text"):
            path.write_bytes({"image": image, "empty": b"", "text": b"no image\n"}[kind])
        elif kind == "folder":
            path.mkdir()
        elif kind == "loop":
            path.symlink_to(folder)
        elif kind == "dangling":
            path.symlink_to(folder / "nowhere.png")
        elif kind == "link":
            path.symlink_to(place)
        elif kind == "pipe":
            os.mkfifo(path)


@tries(0.2)
@given(ENTRIES, ENTRIES, st.booleans())
def test_a_strange_tree_is_read_or_named(tmp_path_factory, of_A, of_B, skip):
    base = tmp_path_factory.getbasetemp()
    image = make_image_folder(base / "one", 1, (40, 36))[0].read_bytes()
    root = base / "tree"
    shutil.rmtree(root, ignore_errors=True)
    lay(root / "trainA", of_A, image)
    lay(root / "trainB", of_B, image)
    flags = ["--dataroot", str(root), "--skip_bad_images", str(skip), "--num_threads", "0"]
    try:
        loader = create_loader(
            train_options(base / "options", *flags, model="cycle_gan"), Runtime("-1")
        )
        shapes = {tuple(batch["A"].shape) for batch in loader.epoch(1)}
        assert shapes == {(1, 3, 32, 32)}
        assert len(loader) == len(loader.dataset) >= 1
        loader.dataset.fingerprint()
    except UserError as error:
        one_line(error, root)
