"""What several test files need: small image folders, and the project's commands run as a user runs them."""

import atexit
import functools
import os
import socket
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models import find_model
from options import TrainOptions, parse
from tests.forked import Ended, Forks
from util.errors import UserError

REPO = Path(__file__).resolve().parent.parent


def make_image_folder(
    folder: Path,
    count: int = 3,
    size: tuple[int, int] = (40, 36),
    seed: int = 0,
    suffix: str = ".png",
) -> list[Path]:
    """Write `count` smooth random RGB images of `size` (width, height) into `folder` and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = []
    for index in range(count):
        coarse = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        path = folder / f"image_{index:03d}{suffix}"
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
        paths.append(path)
    return paths


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """One CPU thread: workers of the suite do not fight, and the order of additions is always the same."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **(extra or {})}


def refusal(call, *args) -> str:
    """The one line in which a call refuses what it was given."""
    with pytest.raises(UserError) as caught:
        call(*args)
    text = str(caught.value)
    assert "\n" not in text
    return text


@functools.cache
def forks() -> Forks:
    """The process from which commands are forked, one for all tests of a worker."""
    found = Forks(environment())
    atexit.register(found.close)
    return found


def run_command(
    args: list,
    cwd: Path | None = None,
    timeout: float = 300,
    env: dict[str, str] | None = None,
    fresh: bool = False,
    missing: Sequence[str] = (),
) -> subprocess.CompletedProcess:
    """Run `python ARGS` from the repository root (or `cwd`) and capture its text output.

    Its process is forked from one that has imported the libraries, which saves most of a start (tests/forked.py).

    Args:
        fresh: start a new interpreter instead, as a user does.
        missing: packages that the command cannot import.
    """
    args, cwd, env = list(map(str, args)), cwd or REPO, environment(env)
    if fresh or not forks().can_run(args, env):
        assert not missing
        command = [sys.executable, *args]
        return subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=timeout, env=env
        )
    [status], stdout, stderr = forks().run(args, cwd, timeout, [env], missing)
    return subprocess.CompletedProcess([sys.executable, *args], status, stdout, stderr)


def run_together(args: list, processes: int, timeout: float = 300) -> Ended:
    """Run `python ARGS` in processes that find each other as those of torchrun do."""
    place = {"WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    ranks = [place | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(processes)]
    environments = [environment({name: str(rank[name]) for name in rank}) for rank in ranks]
    return forks().run(list(map(str, args)), REPO, timeout, environments)


def start_command(args: list, env: dict[str, str] | None = None) -> subprocess.Popen:
    """Start `python ARGS` from the repository root, standard error joined to its output."""
    command = [sys.executable, *map(str, args)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=REPO, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=environment(env)
    )


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


TINY = [
    "--netG", "resnet_4blocks", "--ngf", "4", "--ndf", "4", "--load_size", "36", "--crop_size", "32",
    "--num_threads", "0", "--gpu_ids", "-1", "--display_id", "0", "--amp", "off",
]  # fmt: skip

SINGLE = [
    "--crops_per_epoch",
    "8",
    "--max_dataset_size",
    "1",
    "--batch_size",
    "1",
    "--num_patches",
    "16",
]


def make_dataset(root: Path, count: int = 4, size: tuple[int, int] = (40, 36)) -> Path:
    """A data set with trainA, trainB, testA and testB; returns its folder."""
    for seed, name in enumerate(("trainA", "trainB", "testA", "testB")):
        make_image_folder(root / name, count, size, seed)
    return root


def published_batch(model: str, given: Sequence[str]) -> int:
    """Images per step where the command line does not say: those of the method's preset."""
    presets = find_model(model).PRESETS
    name = given[given.index("--preset") + 1] if "--preset" in given else next(iter(presets), None)
    return presets.get(name, {}).get("batch_size", 1)


def train_flags(root: Path, *extra: str, model: str = "patchgcl") -> list[str]:
    """Flags of a training run that takes seconds on a CPU, for any model; its folders lie under `root`.

    A published batch of more than two images is cut down to two. The data set, where there is none yet, fills four.
    """
    batch = 1 if "--batch_size" in extra else min(published_batch(model, extra), 2)
    data = root / "data"
    if not data.is_dir():
        make_dataset(data, count=4 * batch)
    options = TrainOptions()
    declared = options.build_parser(options.peek(["--model", model])).declared()
    sees = "vgg_weights" in declared and ("vgg_w" not in declared or "--vgg_w" in extra)
    vgg = ["--vgg_weights", "random"] if sees else []
    wavelets = ["--unpool", "sum"] if "unpool" in declared else []  # the smaller of its decoders
    single = SINGLE if "crops_per_epoch" in declared else []
    where = [
        "--dataroot",
        str(data),
        "--name",
        "run",
        "--checkpoints_dir",
        str(root / "checkpoints"),
    ]
    small = ["--batch_size", str(batch)] if batch > 1 else []
    return [*where, "--model", model, *TINY, *vgg, *wavelets, *single, *small, *extra]


def train_options(root: Path, *extra: str, model: str = "patchgcl") -> Namespace:
    """Those flags, parsed."""
    return parse(TrainOptions(), train_flags(root, *extra, model=model))


HOLDER = """
import sys, time
from pathlib import Path
from util.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]), "", "")
lock.take()
print("taken", flush=True)
time.sleep(60)
"""


@contextmanager
def folder_in_use(folder: Path) -> Iterator[subprocess.Popen]:
    """While entered, another process, which this gives, holds the lock of a folder; then it is killed."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPO)
    try:
        assert holder.stdout.readline() == "taken\n"
        yield holder
    finally:
        holder.kill()
        holder.wait()
