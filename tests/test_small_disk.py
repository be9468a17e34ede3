"""A run on a file system of 20 MB that fills up and has room again: nothing is lost, and training goes on."""

import contextlib
import os
import subprocess
import sys
import time

import pytest

from tests.helpers import REPO, environment, train_flags
from util.run.state_file import find_state

SIZE = 20  # MB


@pytest.fixture
def small(tmp_path):
    """A file system of 20 MB; needs root."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}M", "none", str(place)]
    if os.getuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("cannot mount a file system here; test_nothing_lost.py simulates a full disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(ballast):
    """Write until nothing more fits."""
    with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def wait_until(condition, process, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


def test_training_survives_a_full_disk_and_goes_on(tmp_path, small):
    flags = train_flags(
        tmp_path, "--checkpoints_dir", str(small), "--save_latest_freq", "2", "--print_freq", "2",
        "--n_epochs", "1000", "--no_html", model="cycle_gan",
    )  # fmt: skip
    command = [sys.executable, "train.py", *flags]
    log = tmp_path / "log"
    with open(log, "w") as output:
        process = subprocess.Popen(
            command, cwd=REPO, stdout=output, stderr=output, env=environment()
        )

    def hears(words):
        return words in log.read_text()

    try:
        state = small / "run" / "latest_state.pt"
        wait_until(state.exists, process)
        fill(small / "ballast")
        wait_until(lambda: hears("No space left on device (0 MB are free)"), process)
        assert hears("training goes on and tries again; last saved: ")
        kept = find_state(small / "run").state["progress"]["images"]
        wait_until(lambda: hears(f"iters: {kept + 6}"), process)  # it goes on
        assert find_state(small / "run").state["progress"]["images"] == kept

        (small / "ballast").unlink()
        wait_until(lambda: hears("saving works again"), process)
        assert find_state(small / "run").state["progress"]["images"] > kept + 2
    finally:
        process.kill()
        process.wait()
    records = (small / "run" / "metrics.jsonl").read_text().splitlines()
    assert [f'"images": {2 * k}' in line for k, line in enumerate(records, 1)] == [True] * len(
        records
    )
