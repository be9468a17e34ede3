"""Batches: the same for any workers, cache, resume and world size; pairing, direction, and errors on the way."""

import pickle
import subprocess
import sys
from argparse import Namespace
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

import data
from data import cache as cache_module
from data import loader as loader_module
from data.cache import PixelCache, gather_views
from data.transforms import Source, View, cut_view, read_source
from tests.helpers import REPO, make_image_folder
from util.errors import UserError
from util.hardware.runtime import Runtime
from util.parser import OptionParser


def data_options(dataroot, **changes) -> Namespace:
    """The options that the data package reads, small, for training; `changes` win."""
    values = {
        "dataroot": str(dataroot), "dataset_mode": "unaligned", "phase": "train", "is_train": True, "seed": 3,
        "direction": "AtoB", "input_nc": 3, "output_nc": 3, "batch_size": 2, "accumulate": 1, "num_threads": 0,
        "cache": "none", "preprocess": "resize_and_crop", "load_size": 36, "crop_size": 32, "no_flip": False,
        "serial_batches": False, "max_dataset_size": float("inf"), "skip_bad_images": False, "n_epochs": 2,
        "n_epochs_decay": 2, "finetune_resize": True, "size_multiple": 4, "test_roles": "A",
        "pairs": "auto", "trained_pairs": None, "value_range": None,
    }  # fmt: skip
    assert set(changes) <= set(values)
    return Namespace(**(values | changes))


def test_options(dataroot, **changes) -> Namespace:
    """The same for test.py, without what its command line does not have."""
    opt = data_options(
        dataroot,
        **{"is_train": False, "phase": "test", "preprocess": "none", "batch_size": 1} | changes,
    )
    for name in ("accumulate", "n_epochs", "n_epochs_decay", "finetune_resize"):
        delattr(opt, name)
    return opt


test_options.__test__ = False


def runtime(rank: int = 0, world_size: int = 1) -> Runtime:
    made = Runtime(gpu_ids="-1")
    made.rank, made.world_size, made.is_main = rank, world_size, rank == 0
    return made


def make_loader(opt: Namespace, **where):
    return data.create_loader(opt, runtime(**where))


def assert_same(batches, others) -> None:
    batches, others = list(batches), list(others)
    assert len(batches) == len(others) > 0
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for key, value in batch.items():
            assert torch.equal(value, other[key]) if key in "AB" else value == other[key]


@pytest.fixture
def folders(tmp_path):
    make_image_folder(tmp_path / "trainA", count=5, size=(40, 44), seed=1)
    make_image_folder(tmp_path / "trainB", count=7, size=(50, 38), seed=2)
    return tmp_path


def fail_message(opt: Namespace, epoch: int = 1, **where) -> str:
    with pytest.raises(UserError) as caught:
        list(make_loader(opt, **where).epoch(epoch))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what a batch is


def test_a_batch_has_the_promised_form(folders):
    loader = make_loader(data_options(folders))
    batches = list(loader.epoch(1))
    assert len(loader) == len(batches) == 3  # 7 images, 2 a step, the last dropped
    assert loader.images_per_step == 2 and len(loader.dataset) == 7
    for batch in batches:
        for role in "AB":
            assert batch[role].shape == (2, 3, 32, 32) and batch[role].dtype == torch.float32
            assert -1 <= batch[role].min() < -0.2 and 0.2 < batch[role].max() <= 1
            assert all(f"train{role}" in path for path in batch[f"{role}_paths"])
            assert batch[f"{role}_size"] == [(32, 32)] * 2


def test_bytes_are_normalised_to_exactly_minus_one_and_one(tmp_path):
    for letter, colour in (("A", "white"), ("B", "black")):
        (tmp_path / f"train{letter}").mkdir()
        Image.new("RGB", (32, 32), colour).save(tmp_path / f"train{letter}" / "x.png")
    [batch] = make_loader(data_options(tmp_path, batch_size=1)).epoch(1)
    assert batch["A"].unique().tolist() == [1] and batch["B"].unique().tolist() == [-1]


def test_values_agree_with_the_field_formula(folders):
    opt = data_options(
        folders, preprocess="resize", serial_batches=True, no_flip=True, batch_size=1
    )
    batch = next(make_loader(opt).epoch(1))
    image = Image.open(batch["A_paths"][0]).resize((36, 36), Image.Resampling.BICUBIC)
    expected = (torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 - 0.5) / 0.5
    torch.testing.assert_close(batch["A"][0], expected)


# --- samples are pure functions of seed, epoch, index


def test_a_plan_depends_on_seed_epoch_and_index_alone(folders):
    dataset = data.find_dataset("unaligned")(data_options(folders))
    again = data.find_dataset("unaligned")(data_options(folders))
    plans = [dataset.plan(epoch, index) for epoch in (1, 2) for index in range(7)]
    torch.manual_seed(9)
    np.random.seed(9)
    assert [again.plan(epoch, index) for epoch in (2, 1) for index in reversed(range(7))] == plans[
        ::-1
    ]
    assert len({str(plan) for plan in plans}) == len(plans)
    other = data.find_dataset("unaligned")(data_options(folders, seed=4))
    assert [other.plan(1, index) for index in range(7)] != plans[:7]


def test_loading_leaves_global_random_numbers_alone(folders):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(
        loader_module.Loader(
            data.find_dataset("unaligned")(data_options(folders)), _quiet(), 2, 0, "none"
        ).epoch(1)
    )
    assert torch.equal(before[0], torch.get_rng_state()) and np.array_equal(
        before[1], np.random.get_state()[1]
    )


def _quiet() -> Namespace:
    """A stand-in for Runtime that seeds nothing."""
    return Namespace(
        rank=0,
        world_size=1,
        is_main=True,
        device=torch.device("cpu"),
        images=lambda pixels: pixels.float().div_(127.5).sub_(1),
    )


def test_a_comes_in_shuffled_order_and_b_independently(folders):
    dataset = data.find_dataset("unaligned")(data_options(folders))
    assert sorted(dataset.order(1)) == sorted(dataset.order(2)) == list(range(7))
    assert len({tuple(dataset.order(epoch)) for epoch in range(1, 6)}) == 5
    drawn = [dataset.plan(epoch, 0)["B"].source.path for epoch in range(1, 200)]
    counts = [drawn.count(path) for path in dataset.domains["B"].paths]
    assert min(counts) > 10 and sum(counts) == 199  # uniform: about 28 each
    a_paths = dataset.domains["A"].paths
    assert [dataset.plan(1, index)["A"].source.path for index in range(7)] == [
        a_paths[i % 5] for i in range(7)
    ]


def test_a_and_b_are_cut_independently(folders):
    dataset = data.find_dataset("unaligned")(data_options(folders))
    plans = [dataset.plan(1, index) for index in range(50)]
    assert any(p["A"].flip != p["B"].flip for p in plans) and any(
        p["A"].box != p["B"].box for p in plans
    )


def test_serial_batches_go_in_order(folders):
    batches = list(make_loader(data_options(folders, serial_batches=True, batch_size=1)).epoch(1))
    names = [(b["A_paths"][0][-7:-4], b["B_paths"][0][-7:-4]) for b in batches]
    assert names == [(f"{i % 5:03d}", f"{i:03d}") for i in range(7)]


def test_max_dataset_size_takes_the_first_of_each_domain(folders):
    dataset = data.find_dataset("unaligned")(data_options(folders, max_dataset_size=4))
    assert [len(domain.paths) for domain in dataset.domains.values()] == [4, 4] and len(
        dataset
    ) == 4
    assert dataset.domains["A"].paths[-1].endswith("image_003.png")


def test_b_to_a_swaps_folders_and_keeps_channels_with_their_role(folders):
    batch = next(
        make_loader(data_options(folders, direction="BtoA", input_nc=1, output_nc=3)).epoch(1)
    )
    assert "trainB" in batch["A_paths"][0] and "trainA" in batch["B_paths"][0]
    assert batch["A"].shape[1] == 1 and batch["B"].shape[1] == 3


def test_in_the_decay_phase_images_are_resized_to_the_crop_size(folders):
    loader = make_loader(data_options(folders, no_flip=True, serial_batches=True))
    assert loader.dataset.plan(2, 0)["A"].source.size == (36, 36)
    batch = next(loader.epoch(3))
    image = Image.open(batch["A_paths"][0]).resize((32, 32), Image.Resampling.BICUBIC)
    bytes_ = ((batch["A"][0] + 1) * 127.5).round().to(torch.uint8)
    assert np.array_equal(bytes_.permute(1, 2, 0), np.asarray(image))
    kept = data.find_dataset("unaligned")(data_options(folders, finetune_resize=False))
    assert kept.plan(3, 0)["A"].source.size == (36, 36)


# --- the same batches however they are loaded


@pytest.mark.parametrize("epoch", [1, 3])
@pytest.mark.parametrize("cache", ["none", "ram", "device"])
@pytest.mark.parametrize("workers", [0, 2])
def test_workers_and_caches_give_identical_batches(folders, cache, workers, epoch):
    plain = make_loader(data_options(folders))
    loader = make_loader(data_options(folders, cache=cache, num_threads=workers))
    assert_same(plain.epoch(epoch), loader.epoch(epoch))


@pytest.mark.parametrize("cache", ["ram", "device"])
def test_a_cache_follows_the_change_of_size_and_mixes_channels_and_sizes(folders, cache):
    make_image_folder(folders / "trainB", count=9, size=(61, 47), seed=5)
    options = {"preprocess": "crop", "input_nc": 1, "num_threads": 1}
    for preprocess in ("crop", "scale_shortside_and_crop", "resize_and_crop"):
        options["preprocess"] = preprocess
        loader = make_loader(data_options(folders, cache=cache, **options))
        plain = make_loader(data_options(folders, **options))
        for epoch in (1, 2, 3, 4, 1):
            assert_same(plain.epoch(epoch), loader.epoch(epoch))


def test_a_cache_decodes_each_image_once(folders, monkeypatch):
    decoded = []
    monkeypatch.setattr(
        cache_module, "read_source", lambda s: decoded.append(s.path) or read_source(s)
    )
    monkeypatch.setattr(loader_module, "read_source", None)  # called by mistake it would fail
    loader = make_loader(data_options(folders, cache="ram"))
    for epoch in (1, 2):
        list(loader.epoch(epoch))
    assert len(decoded) == len(set(decoded)) == 12
    list(loader.epoch(3))
    assert len(decoded) == 24  # once more at the new size


@pytest.mark.parametrize("cache", ["ram", "device"])
def test_a_cache_that_no_size_changes_is_filled_once(folders, capsys, cache):
    loader = make_loader(data_options(folders, cache=cache, preprocess="crop"))
    kept = []
    for epoch in (1, 3, 4, 1):
        list(loader.epoch(epoch))
        kept.append(loader._cache)
    assert all(one is kept[0] for one in kept)
    assert capsys.readouterr().out.count(f"cache {cache}: ") == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_epoch_goes_on_with_the_same_batches(folders, workers):
    loader = make_loader(data_options(folders, num_threads=workers))
    full = list(loader.epoch(2))
    assert_same(full[1:], make_loader(data_options(folders, num_threads=workers)).epoch(2, start=1))
    assert_same(full[2:], loader.epoch(2, start=2))
    assert list(loader.epoch(2, start=3)) == []


def test_skipped_batches_are_not_decoded(folders):
    for name in ("image_000.png", "image_001.png"):
        whole = (folders / "trainA" / name).read_bytes()
        (folders / "trainA" / name).write_bytes(whole[: len(whole) // 2])  # the header is sound
    opt = data_options(folders, serial_batches=True, max_dataset_size=4)
    assert len(list(make_loader(opt).epoch(1, start=1))) == 1
    with pytest.raises(UserError):
        next(make_loader(opt).epoch(1))


def test_an_epoch_left_halfway_does_not_disturb_the_next(folders):
    loader = make_loader(data_options(folders, num_threads=2))
    full = list(loader.epoch(1))
    list(islice(loader.epoch(2), 1))
    assert_same(full, loader.epoch(1))


def test_parts_of_all_ranks_make_up_the_batch(folders):
    opt = data_options(folders, batch_size=2, accumulate=2)
    whole = make_loader(opt)
    assert len(whole) == 1 and whole.images_per_step == 4
    [batch] = whole.epoch(1)
    parts = [next(make_loader(opt, rank=rank, world_size=2).epoch(1)) for rank in (0, 1)]
    for role in "AB":
        assert parts[0][role].shape[0] == 2
        assert torch.equal(torch.cat([part[role] for part in parts]), batch[role])
        assert [path for part in parts for path in part[f"{role}_paths"]] == batch[f"{role}_paths"]


def test_what_workers_need_can_be_pickled(folders):
    """Where processes are spawned and not forked, the data set travels by pickle."""
    loader = make_loader(data_options(folders))
    [first, *_] = loader.epoch(1)
    batches = pickle.loads(pickle.dumps(loader._host.dataset))
    keys = [(1, index) for index in loader.dataset.order(1)[:2]]
    assert torch.equal(batches[keys].pixels["A"] / 127.5 - 1, first["A"])


# --- the cache on the device


def test_gathering_equals_cutting_for_any_mixture_of_sizes_and_overhang(tmp_path):
    paths = [
        make_image_folder(tmp_path / f"{w}x{h}", 1, (w, h), seed=w)[0]
        for w, h in [(9, 7), (20, 31), (5, 40)]
    ]
    sources = [Source(str(path), 3, Image.open(path).size) for path in paths]
    cache = PixelCache(sources, torch.device("cpu"), "device")
    rng = np.random.default_rng(0)
    views = []
    for _ in range(30):
        source = sources[rng.integers(3)]
        left, top = rng.integers(source.size[0]), rng.integers(source.size[1])
        views.append(View(source, (int(left), int(top), 12, 8), bool(rng.integers(2))))
    assert torch.equal(
        cache.cut(cache.plan(views), (3, 8, 12)),
        torch.stack([cut_view(read_source(v.source), v) for v in views]),
    )
    assert torch.equal(cache.pixels(sources[1]), read_source(sources[1]))


def test_gathering_never_looks_at_values_so_it_can_be_captured():
    with FakeTensorMode():  # any .item() or data-dependent shape raises here
        buffer, table = torch.zeros(900, dtype=torch.uint8), torch.zeros(3, 3, dtype=torch.int64)
        assert gather_views(
            buffer, table, torch.zeros(2, 4, dtype=torch.int64), (3, 8, 4)
        ).shape == (2, 3, 8, 4)


def test_a_cache_that_does_not_fit_is_refused_before_it_is_filled(folders, monkeypatch):
    monkeypatch.setattr(cache_module, "free_memory", lambda device: 1000)
    monkeypatch.setattr(cache_module, "read_source", None)
    text = fail_message(data_options(folders, cache="device"))
    assert "--cache device needs" in text and "12 images" in text and "--cache none" in text


def test_free_memory_is_known_on_linux():
    free = cache_module.free_memory(torch.device("cpu"))
    assert free > 2**20 if sys.platform == "linux" else free is None


@pytest.mark.parametrize(
    ("device", "changes", "free", "expected"),
    [
        ("cuda", {}, 4 * 12 * 3 * 36 * 36, "device"),
        ("cuda", {}, 4 * 12 * 3 * 36 * 36 - 1, "none"),  # it would fill more than a quarter
        ("cuda", {"preprocess": "zoom_and_crop"}, 1 << 40, "none"),
        ("cuda", {"is_train": False}, 1 << 40, "none"),  # each image is read once
        ("cpu", {}, 1 << 40, "none"),
    ],
)
def test_the_cache_is_chosen_by_what_a_gpu_has_free(
    folders, monkeypatch, device, changes, free, expected
):
    monkeypatch.setattr(cache_module, "free_memory", lambda device: free)
    dataset = make_loader(data_options(folders, **changes)).dataset
    assert cache_module.choose_cache("auto", dataset, torch.device(device)) == expected
    assert cache_module.choose_cache("ram", dataset, torch.device(device)) == "ram"


def test_the_size_of_a_cache_is_told(folders, capsys):
    list(make_loader(data_options(folders, cache="ram")).epoch(1))
    assert "cache ram: 12 images, 0.00 GiB on cpu" in capsys.readouterr().out


def test_zoom_cannot_be_cached(folders):
    text = fail_message(data_options(folders, preprocess="zoom_and_crop", cache="ram"))
    assert "--cache ram" in text and "zoom_and_crop" in text and "--cache none" in text


# --- errors on the way


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache", ["none", "ram", "device"])
def test_a_corrupt_file_is_one_line_even_from_a_worker(folders, workers, cache):
    bad = folders / "trainA" / "image_001.png"
    bad.write_bytes(bad.read_bytes()[:200])
    text = fail_message(data_options(folders, num_threads=workers, cache=cache))
    assert text.startswith(str(bad)) and "--skip_bad_images" in text and "Traceback" not in text


def test_bad_images_are_left_out_when_asked_and_counted(folders, capsys):
    (folders / "trainA" / "image_001.png").write_bytes(b"")
    loader = make_loader(data_options(folders, skip_bad_images=True))
    assert len(loader.dataset.domains["A"].paths) == 4
    [line] = capsys.readouterr().out.splitlines()
    assert "left out 1 of 5 images" in line and "trainA/image_001.png" in line
    assert len(list(loader.epoch(1))) == 3


def test_only_bad_images_are_an_error(folders):
    for path in (folders / "trainA").iterdir():
        path.write_bytes(b"")
    assert "none of the 5 images can be read" in fail_message(
        data_options(folders, skip_bad_images=True)
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_images_of_different_size_in_a_batch_are_named(folders, workers):
    Image.new("RGB", (80, 60)).save(folders / "trainA" / "odd.png")
    text = fail_message(data_options(folders, preprocess="none", batch_size=6, num_threads=workers))
    assert "odd.png is 80x60" in text and "is 40x44" in text and "--batch_size 1" in text


def test_an_image_too_small_for_its_crop_is_named(folders):
    Image.new("RGB", (20, 60)).save(folders / "trainB" / "thin.png")
    text = fail_message(data_options(folders, preprocess="crop"), epoch=1)
    assert "thin.png" in text and "20x60" in text and "scale_shortside_and_crop" in text


def test_fewer_images_than_a_batch_are_an_error_with_the_numbers(folders):
    text = fail_message(data_options(folders, batch_size=4, accumulate=2))
    assert "4 * 2 = 8" in text and "7 images" in text


def test_a_batch_that_processes_cannot_share_is_an_error(folders):
    for batch, accumulate in ((3, 1), (1, 2), (3, 2)):
        opt = data_options(folders, batch_size=batch, accumulate=accumulate)
        text = fail_message(opt, world_size=2)
        assert f"--batch_size {batch} cannot be shared by 2 processes" in text
        assert text.endswith("make it a multiple of 2")


def test_an_unknown_mode_gets_a_suggestion_and_known_ones_are_listed():
    with pytest.raises(UserError, match="did you mean 'unaligned'"):
        data.find_dataset("unalinged")
    assert {"single", "unaligned"} <= set(data.dataset_modes())
    assert all(
        issubclass(data.find_dataset(mode), data.BaseDataset) for mode in data.dataset_modes()
    )


def test_the_option_of_data_sets_is_declared_for_training_only():
    parser = OptionParser()
    assert data.BaseDataset.modify_commandline_options(parser, is_train=True) is parser
    assert parser.defaults() == {"finetune_resize": True}
    assert (
        OptionParser().defaults()
        == data.BaseDataset.modify_commandline_options(OptionParser(), False).defaults()
    )


SCRIPT = """
import os, signal, sys, time
sys.path.insert(0, {repo!r})
import data
import data.loader
from tests.test_data_loader import data_options, runtime
ignore_signals = data.loader.ignore_signals
def late(worker):  # the second worker is still starting when the signal comes
    time.sleep(worker)
    ignore_signals(worker)
data.loader.ignore_signals = late
def main():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell may have switched it off
    loader = data.create_loader(data_options({root!r}, num_threads=2, batch_size=1), runtime())
    batches = loader.epoch(1)
    next(batches)
    number = getattr(signal, {name!r})
    if {polite}:  # the program notes the signal and goes on for a while, to save: the workers must still be there
        signal.signal(number, lambda *_: None)
    os.killpg(0, number)
    time.sleep(0.3)
    print(len(list(batches)))
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("name, polite", [("SIGINT", True), ("SIGTERM", True), ("SIGINT", False)])
def test_workers_outlive_a_signal_to_the_group_and_end_with_the_program(folders, name, polite):
    code = SCRIPT.format(repo=str(REPO), root=str(folders), name=name, polite=polite)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=40,
        start_new_session=True,
    )
    assert done.stdout.strip() == ("6" if polite else ""), done.stderr
    assert done.stderr.count("Traceback") == (not polite) and "worker" not in done.stderr.lower()


# --- JPEG files at the sizes of published runs


def test_jpeg_files_load_alike_from_the_disk_and_from_the_device(tmp_path):
    for seed, name in enumerate(("trainA", "trainB")):
        make_image_folder(tmp_path / name, 6, (256, 256), seed, suffix=".jpg")
    options = {"load_size": 286, "crop_size": 256}
    plain, cached = (
        make_loader(data_options(tmp_path, cache=cache, **options)) for cache in ("none", "device")
    )
    assert_same(plain.epoch(1), cached.epoch(1))
