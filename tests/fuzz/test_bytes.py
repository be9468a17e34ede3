"""Files with wrong bytes: images, weights, states and records either load as they were or are refused in one line."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from data.image_file import read_image, read_size
from options import TestOptions, parse
from tests.fuzz.budget import hypothesis, one_line, tries
from tests.test_checkpoint import FakeModel, checkpoint
from util.errors import UserError
from util.hardware.runtime import Runtime
from util.run.checkpoint import Checkpoint
from util.run.progress import Progress
from util.run.weights import atomic_save, load_weights, read_file

given, st = hypothesis.given, hypothesis.strategies


def changes():
    """A change to bytes: (where, what it does, with which bytes)."""
    kinds = st.sampled_from(["flip", "cut", "insert", "remove", "overwrite"])
    return st.lists(
        st.tuples(st.floats(0, 1), kinds, st.binary(min_size=1, max_size=16)),
        min_size=1,
        max_size=4,
    )


def changed(content: bytes, edits) -> bytes:
    data = bytearray(content)
    for share, kind, new in edits:
        place = int(share * max(len(data) - 1, 0))
        if kind == "cut":
            del data[place:]
        elif kind == "insert":
            data[place:place] = new
        elif kind == "remove":
            del data[place : place + len(new)]
        elif kind == "overwrite":
            data[place : place + len(new)] = new
        elif data:
            data[place] ^= new[0] or 1
    return bytes(data)


FORMATS = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF"}


def picture_bytes() -> dict[str, bytes]:
    """A small picture in each format and mode that matters."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8)
    images = {
        "RGB": Image.fromarray(pixels[:, :, :3]),
        "RGBA": Image.fromarray(pixels),
        "L": Image.fromarray(pixels[:, :, 0]),
        "P": Image.fromarray(pixels[:, :, :3]).quantize(8),
        "I;16": Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257),
    }
    found = {}
    for suffix, formats in FORMATS.items():
        for mode, image in images.items():
            out = io.BytesIO()
            try:
                image.save(out, formats)
            except OSError:  # a mode that the format has not
                continue
            found[f"{mode}{suffix}"] = out.getvalue()
    return found


PICTURES = picture_bytes()


@tries()
@given(st.sampled_from(sorted(PICTURES)), changes())
def test_a_changed_picture_is_read_or_named(tmp_path_factory, name, edits):
    path = tmp_path_factory.getbasetemp() / f"fuzz_{name.replace(';', '')}"
    path.write_bytes(changed(PICTURES[name], edits))
    try:
        image = read_image(str(path), 3)
        assert image.mode == "RGB" and min(image.size) >= 1
        assert read_size(str(path)) == image.size
    except UserError as error:
        one_line(error, path)


@tries()
@given(st.binary(max_size=300))
def test_any_bytes_as_weights_are_refused_in_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any_net_G.pth"
    path.write_bytes(content)
    try:
        load_weights(FakeModel().networks["G"], path)
    except UserError as error:
        one_line(error, path)
    else:
        raise AssertionError("these were no weights")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run with two saves, and the values of the last one."""
    root = tmp_path_factory.mktemp("saved")
    run = checkpoint(root)
    run.begin()
    run.save_latest()
    run.progress.advance()
    run.save_latest()
    run.close()
    whole = (run.folder / "latest_state.pt").read_bytes()
    return run.opt, run.folder, whole, read_file(run.folder / "latest_state.pt")


def same(one, two) -> bool:
    """Equal nested values, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


@tries()
@given(changes())
def test_a_changed_state_is_what_it_was_or_refused(saved, edits):
    """Never other numbers: torch would load them without a word."""
    _, folder, whole, value = saved
    path = folder / "changed.pt"
    path.write_bytes(changed(whole, edits))
    try:
        found = read_file(path)
    except UserError as error:
        one_line(error, path)
    else:
        assert same(found, value)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
STRANGE = PLAIN | st.builds(torch.zeros, st.lists(st.integers(0, 3), max_size=3))


def replaced(value, path, new):
    """The nested value with another part: at each level the share in `path` chooses which."""
    if not path or not isinstance(value, dict | list) or not value:
        return new
    if isinstance(value, dict):
        keys = list(value)
        key = keys[int(path[0] * (len(keys) - 1))]
        return {**value, key: replaced(value[key], path[1:], new)}
    index = int(path[0] * (len(value) - 1))
    return [*value[:index], replaced(value[index], path[1:], new), *value[index + 1 :]]


@tries()
@given(st.lists(st.floats(0, 1), max_size=4), STRANGE)
def test_a_state_with_another_part_loads_or_is_refused(saved, path, new):
    opt, folder, _, value = saved
    spoiled = replaced(value, path, new)
    atomic_save(spoiled, folder / "latest_state.pt")
    run = Checkpoint(opt, Runtime("-1"), FakeModel(), Progress(1, 4, 10, 1))
    try:
        run.resume()
    except UserError as error:
        one_line(error, folder, "--dataroot", "contradicts")


@tries(0.2)
@given(st.lists(st.floats(0, 1), max_size=3), PLAIN, changes(), st.booleans())
def test_a_changed_record_of_options_is_read_or_refused(saved, path, new, edits, as_bytes):
    opt, folder, _, _ = saved
    whole = folder / "whole.json"
    record = folder / "train_opt.json"
    if not whole.exists():
        shutil.copy(record, whole)
    content = whole.read_bytes()
    spoiled = json.dumps(replaced(json.loads(content), path, new)).encode()
    record.write_bytes(changed(content, edits) if as_bytes else spoiled)
    argv = ["--name", "run", "--checkpoints_dir", opt.checkpoints_dir, "--gpu_ids", "-1"]
    try:
        parse(TestOptions(), argv)
    except UserError as error:
        one_line(error, record, "--")
