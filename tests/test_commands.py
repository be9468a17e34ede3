"""train.py and test.py as a user meets them: run, killed, run again, fed with nonsense."""

import json
import re
import signal
import time

import numpy as np
import pytest
import torch
from PIL import Image

from models.networks import create_generator
from tests.helpers import (
    free_port,
    make_image_folder,
    run_command,
    run_together,
    start_command,
    train_flags,
)

SCHEDULE = [
    "--n_epochs",
    "2",
    "--n_epochs_decay",
    "1",
    "--print_freq",
    "1",
    "--save_latest_freq",
    "3",
    "--save_epoch_freq",
    "2",
]


def train(root, *extra, fresh=False):
    return run_command(["train.py", *train_flags(root, *SCHEDULE, *extra)], fresh=fresh)


def state(root, run="run"):
    return torch.load(root / "checkpoints" / run / "latest_state.pt", weights_only=True)


def flat(value, path=""):
    """Every tensor and plain value of a nested state, by path."""
    if isinstance(value, dict):
        return {k: v for key, part in value.items() for k, v in flat(part, f"{path}/{key}").items()}
    if isinstance(value, list):
        return {
            k: v for key, part in enumerate(value) for k, v in flat(part, f"{path}/{key}").items()
        }
    return {path: value}


def assert_same_run(one, two):
    a, b = flat(one), flat(two)
    assert a.keys() == b.keys()
    for key, value in a.items():
        if key.split("/")[1] != "options":
            same = (
                torch.equal(value, b[key]) if isinstance(value, torch.Tensor) else value == b[key]
            )
            assert same, f"{key} differs"


def records(root, run="run"):
    lines = (root / "checkpoints" / run / "metrics.jsonl").read_text().splitlines()
    return [(r["epoch"], r["images"], r["losses"]) for r in map(json.loads, lines)]


def wait_for_records(root, count, process):
    """Until a training run has written so many lines."""
    log = root / "checkpoints" / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and len(log.read_text().splitlines()) >= count):
        assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
        time.sleep(0.005)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never stopped."""
    root = tmp_path_factory.mktemp("whole")
    result = train(root, "--ema", "0.9", fresh=True)
    assert result.returncode == 0, result.stderr
    return root, result


def test_a_run_leaves_everything_behind(whole):
    root, result = whole
    folder = root / "checkpoints" / "run"
    names = {p.name for p in folder.iterdir()}
    for label in ("latest", "2", "3"):
        assert {f"{label}_net_{n}.pth" for n in ("G", "D", "F", "G_ema")} <= names
    assert {
        "latest_state.pt",
        "train_opt.json",
        "train_opt.txt",
        "loss_log.txt",
        "metrics.jsonl",
        "web",
    } <= names
    assert not [n for n in names if n.endswith(".tmp")]
    assert len(records(root)) == 12
    assert "recipe: patchgcl, preset official, float32" in result.stdout
    assert "end of epoch 3 of 3" in result.stdout
    assert "VGG16" in result.stdout and "random" in result.stdout


def test_the_same_command_on_a_finished_run_returns_at_once(whole):
    root, _ = whole
    before = state(root)
    again = train(root, "--ema", "0.9")
    assert again.returncode == 0, again.stderr
    assert "already complete, nothing was trained" in again.stdout
    assert_same_run(state(root), before)
    assert len(records(root)) == 12


@pytest.mark.parametrize(
    ("number", "after"), [(signal.SIGKILL, 5), (signal.SIGTERM, 2), (signal.SIGINT, 5)]
)
def test_a_killed_run_ends_bit_identical(tmp_path, whole, number, after):
    """Killed in the middle of an epoch, before or after the first save; then the same command again."""
    root, _ = whole
    flags = train_flags(tmp_path, *SCHEDULE, "--ema", "0.9", "--dataroot", str(root / "data"))
    process = start_command(["train.py", *flags])
    wait_for_records(tmp_path, after, process)
    process.send_signal(number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number), output
    if number != signal.SIGKILL:
        assert "the same command continues" in output
    result = run_command(["train.py", *flags])
    assert result.returncode == 0, result.stderr
    assert_same_run(state(tmp_path), state(root))
    assert records(tmp_path) == records(root)


def test_other_loaders_and_caches_train_the_same(tmp_path, whole):
    root, _ = whole
    same = [*SCHEDULE, "--ema", "0.9", "--dataroot", str(root / "data")]
    others = {
        "workers": ["--num_threads", "2"],
        "ram": ["--cache", "ram"],
        "device": ["--cache", "device"],
    }
    for run, extra in others.items():
        result = run_command(["train.py", *train_flags(tmp_path, *same, "--name", run, *extra)])
        assert result.returncode == 0, result.stderr
        assert_same_run(state(tmp_path, run), state(root))


def test_translating_needs_only_the_name(tmp_path, whole):
    root, _ = whole
    where = ["--checkpoints_dir", root / "checkpoints", "--results_dir", tmp_path]
    result = run_command(["test.py", "--name", "run", *where, "--gpu_ids", "-1"], fresh=True)
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "run" / "test_latest"
    for label in ("real_A", "fake_B"):
        files = sorted((folder / "images" / label).iterdir())
        assert [f.name for f in files] == [f"image_{i:03d}.png" for i in range(4)]
        assert Image.open(files[0]).size == (32, 32)  # as training cuts them
    page = (folder / "index.html").read_text()
    assert "image_003" in page and "latest_net_G_ema.pth" in page
    early = ["test.py", "--name", "run", *where, "--gpu_ids", "-1", "--epoch", "2"]
    early += ["--num_test", "2", "--size", "own"]
    translated = []
    for flags, weights in (([], "2_net_G_ema.pth"), (["--no_ema"], "2_net_G.pth")):
        result = run_command([*early, *flags])
        assert result.returncode == 0, result.stderr
        page = (tmp_path / "run" / "test_2" / "index.html").read_text()
        assert set(re.findall(r"\w+_net_\w+\.pth", page)) == {weights}
        images = tmp_path / "run" / "test_2" / "images"
        translated.append([path.read_bytes() for path in sorted((images / "fake_B").iterdir())])
    averaged, plain = translated
    assert len(averaged) == len(plain) == 2
    assert all(one != other for one, other in zip(averaged, plain, strict=True))
    real = np.asarray(Image.open(images / "real_A" / "image_000.png"))
    assert np.array_equal(real, np.asarray(Image.open(root / "data" / "testA" / "image_000.png")))


def test_odd_sizes_one_file_and_a_plain_folder(tmp_path, whole):
    root, _ = whole
    sizes = {"a": (37, 41), "b b": (64, 33), "c#1": (37, 41)}
    for name, size in sizes.items():
        path = make_image_folder(tmp_path / "in" / name, 1, size)[0]
        path.rename(tmp_path / "in" / f"{name}.png")
        path.parent.rmdir()
    common = [
        "test.py",
        "--name",
        "run",
        "--checkpoints_dir",
        root / "checkpoints",
        "--gpu_ids",
        "-1",
        "--batch_size",
        "2",
        "--size",
        "own",
    ]
    result = run_command([*common, "--results_dir", tmp_path / "r", "--dataroot", tmp_path / "in"])
    assert result.returncode == 0, result.stderr
    [batched] = (tmp_path / "r" / "run").iterdir()  # of other data than the run's
    for name, size in sizes.items():
        assert Image.open(batched / "images" / "fake_B" / f"{name}.png").size == size
    one = run_command(
        [*common, "--results_dir", tmp_path / "o", "--dataroot", tmp_path / "in" / "c#1.png"]
    )
    assert one.returncode == 0, one.stderr
    [alone] = (tmp_path / "o" / "run").iterdir()
    pictures = [Image.open(folder / "images/fake_B/c#1.png") for folder in (alone, batched)]
    difference = np.asarray(pictures[0]).astype(int) - np.asarray(pictures[1])
    assert abs(difference).max() <= 1  # the batch does not matter


BAD_INPUT = [
    (["--gpu_ids", "7"], "--gpu_ids 7: this machine has"),
    (["--modle", "patchgcl"], "did you mean --model"),
    (
        ["--model", "cut", "--vgg_weights", "random"],
        "--vgg_weights belongs to --model fsesim, lsesim, ",
    ),
    (
        ["--lambda_L", "1"],
        "did you mean --lambda_L1? It belongs to --model pix2pix, not to patchgcl",
    ),
    (["--vgg_weights", "nowhere.pth"], "nowhere.pth"),
    (["--netG", "resnet_9block"], "resnet_9blocks"),
    (["--batch_size", "50"], "50"),
]


def test_bad_input_is_one_line_and_exit_2(tmp_path):
    result = run_command(["train.py", *train_flags(tmp_path, "--dataroot", "nowhere")])
    assert result.returncode == 2
    assert re.fullmatch(r"error: .*nowhere.*\n", result.stderr), result.stderr

    for extra, message in BAD_INPUT:
        result = run_command(["train.py", *train_flags(tmp_path, *extra)])
        assert result.returncode == 2
        *_, error = result.stderr.strip().splitlines()
        assert error.startswith("error: ") and message in error, result.stderr
        assert result.stderr.count("error: ") == 1 and "Traceback" not in result.stderr
    assert not (tmp_path / "checkpoints").exists()


def test_a_bad_learning_rate_stops_with_the_last_good_state(tmp_path):
    result = train(
        tmp_path, "--lr", "1e30", "--normG", "none", "--normD", "none", "--gan_mode", "wgangp"
    )
    assert result.returncode == 2
    assert "is not finite: training stopped before that step" in result.stderr
    assert "none yet" in result.stderr


def test_from_scratch_keeps_the_old_run(tmp_path):
    assert train(tmp_path, "--max_steps", "2").returncode == 0
    assert train(tmp_path, "--max_steps", "2", "--ngf", "8", "--from_scratch").returncode == 0
    assert len(list((tmp_path / "checkpoints").glob("run.before-*"))) == 1


def test_dry_run_prints_and_stops(tmp_path):
    result = train(tmp_path, "--dry_run", "--preset", "official")
    assert result.returncode == 0
    assert "recipe: patchgcl, preset official" in result.stdout
    assert not (tmp_path / "checkpoints").exists()


def test_missing_weights_are_one_line(tmp_path):
    train_flags(tmp_path)
    where = ["--checkpoints_dir", tmp_path, "--dataroot", tmp_path / "data", "--gpu_ids", "-1"]
    command = ["test.py", "--name", "none", *where]
    result = run_command(command)
    assert result.returncode == 2
    assert result.stderr.strip().count("\n") == 0 and "no run of this name" in result.stderr
    (tmp_path / "none").mkdir()
    result = run_command(command)
    assert result.returncode == 2
    assert result.stderr.strip().count("\n") == 0 and "latest_net_G.pth" in result.stderr


def test_help_teaches():
    pages = {}
    for command in ("train.py", "test.py"):
        result = run_command([command, "--help"])
        assert result.returncode == 0
        pages[command] = result.stdout
        assert "--lambda_GNN" in result.stdout and "default: 0.1" in result.stdout
        usage, description, *_ = result.stdout.split("\n\n")
        assert len(usage) < 80 and description.startswith(("Train", "Translate")), (
            "not first a list of all flags"
        )
    for flags, wanted in (
        (["--model", "cut"], "lambda_NCE"),
        (["--dataset_mode", "singleimage"], "crops_per_epoch"),
    ):
        assert f"--{wanted}" in run_command(["train.py", *flags, "--help"]).stdout
        assert f"--{wanted}" not in pages["train.py"]


@pytest.mark.parametrize(
    "strided", [[], ["--no_antialias", "--no_antialias_up"]], ids=["antialiased", "strided"]
)
def test_published_weights_alone_translate(tmp_path, strided):
    """A folder with nothing but latest_net_G.pth, keys as DataParallel wrote them; pixels equal a direct forward."""
    plain = not strided
    net = create_generator("resnet_4blocks", 3, 3, 4, antialias=plain, antialias_up=plain)
    (tmp_path / "pub").mkdir()
    torch.save(
        {f"module.{k}": v for k, v in net.state_dict().items()},
        tmp_path / "pub" / "latest_net_G.pth",
    )
    photo = make_image_folder(tmp_path / "photos", 1, (40, 36))[0]
    where = [
        "--name",
        "pub",
        "--checkpoints_dir",
        tmp_path,
        "--results_dir",
        tmp_path / "r",
        "--gpu_ids",
        "-1",
    ]
    flags = ["--dataroot", tmp_path / "photos", "--netG", "resnet_4blocks", "--ngf", "4", *strided]
    result = run_command(["test.py", *where, *flags])
    assert result.returncode == 0, result.stderr
    image = (
        torch.from_numpy(np.asarray(Image.open(photo)).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    )
    with torch.inference_mode():
        expected = ((net(image)[0].permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).numpy()
    found = np.asarray(
        Image.open(tmp_path / "r" / "pub" / "test_latest" / "images" / "fake_B" / photo.name)
    )
    assert abs(found.astype(int) - expected).max() <= 1
    wrong = run_command(
        ["test.py", *where, "--dataroot", tmp_path / "photos", "--netG", "resnet_4blocks"]
    )
    assert wrong.returncode == 2 and "--ngf" in wrong.stderr and wrong.stderr.count("\n") == 1


def test_a_signal_to_one_of_two_processes_stops_both(tmp_path):
    """The process that did not get it does not claim that training is complete, and the same command continues."""
    flags = train_flags(tmp_path, "--n_epochs", "400", "--batch_size", "2", "--print_freq", "2")
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        start_command(["train.py", *flags], place | {"RANK": str(rank)}) for rank in range(2)
    ]
    try:
        wait_for_records(tmp_path, 2, processes[0])
        processes[1].send_signal(signal.SIGTERM)
        said = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [128 + signal.SIGTERM] * 2, said
    assert "stopped at epoch" in said[0] and "is complete" not in "".join(said)
    assert state(tmp_path)["progress"]["step"] is not None


def test_two_processes_train_as_one(tmp_path):
    """The same images and, with every position a node, the same losses up to rounding; refusals are said once."""
    flags = [
        "--max_steps",
        "2",
        "--batch_size",
        "2",
        "--num_patches",
        "100000",
        "--print_freq",
        "2",
    ]
    command = ["train.py", *train_flags(tmp_path, *SCHEDULE, *flags)]
    alone, two = run_command(command), run_together([*command, "--name", "two"], 2)
    assert alone.returncode == 0 and two.statuses == [0, 0], two.stderr
    for line in ("recipe: patchgcl", "lambda_GNN: 0.1", "--max_steps 2 is reached"):
        assert two.stdout.count(line) == 1, f"{line} is not printed once"

    one, other = records(tmp_path), records(tmp_path, "two")
    assert len(one) == len(other) == 2
    for (epoch, images, losses), together in zip(one, other, strict=True):
        assert (epoch, images) == together[:2]
        assert together[2] == pytest.approx(losses, rel=2e-3)

    odd = train_flags(tmp_path, "--name", "odd", "--batch_size", "3")
    refused = run_together(["train.py", *odd], 2)
    assert refused.statuses == [2, 2]
    assert refused.stderr.count("cannot be shared by 2 processes") == 1
    assert "Traceback" not in refused.stderr


def test_only_pages_need_the_library_of_pages(tmp_path):
    """Without dominate and visdom a run trains, translates and says in a line each that it wrote no page."""
    missing = ["dominate", "visdom"]
    flags = train_flags(tmp_path, "--max_steps", "1")
    result = run_command(["train.py", *flags], missing=missing)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("dominate is not installed") == 1
    assert "warning: web page is off for the rest of this run: dominate is not" in result.stdout
    assert "pip install dominate, or" in result.stdout and "--no_html" in result.stdout
    quiet = run_command(["train.py", *flags, "--no_html", "--from_scratch"], missing=missing)
    assert quiet.returncode == 0 and "dominate" not in quiet.stdout + quiet.stderr

    where = ["--name", "run", "--checkpoints_dir", tmp_path / "checkpoints", "--gpu_ids", "-1"]
    result = run_command(
        ["test.py", *where, "--results_dir", tmp_path / "results"], missing=missing
    )
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "results" / "run" / "test_latest"
    assert "no page: dominate is not installed; pip install dominate\n4 images in" in result.stdout
    assert result.stdout.rstrip().endswith(str(folder))
    assert len(list(folder.glob("images/fake_B/*.png"))) == 4 and (folder / "facts.json").is_file()
    assert not list(folder.glob("*.html"))

    result = run_command(["scripts/benchmark.py", "--help"], missing=missing)
    assert result.returncode == 0, result.stderr
