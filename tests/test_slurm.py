"""The job script for SLURM, with stand-ins for its commands: it starts torchrun, passes signals on, queues again."""

import os
import signal
import subprocess
import time

import pytest

from tests.helpers import REPO

SRUN = """#!/usr/bin/env bash
trap 'echo stopped >>"$LOG"; exit 143' TERM
echo "srun $* within ${PET_SHUTDOWN_TIMEOUT:-30} s" >>"$LOG"
[[ -z ${QUICK:-} ]] || exit "$QUICK"
sleep 30 &
wait
"""
SCONTROL = """#!/usr/bin/env bash
echo "scontrol $*" >>"$LOG"
echo node1
echo node2
"""


@pytest.fixture
def slurm(tmp_path):
    """The environment of a job, and the log of what was called in it."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    env = {
        **os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(tmp_path / "log"), "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "8",
        "SLURM_SUBMIT_DIR": str(REPO),
    }  # fmt: skip
    return env, tmp_path / "log"


def start(env):
    command = ["bash", str(REPO / "scripts" / "slurm.sh"), "--name", "a b"]
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


def test_a_job_that_is_asked_to_end_saves_and_is_queued_again(slurm):
    env, log = slurm
    job = start(env)
    deadline = time.monotonic() + 30
    while not (log.exists() and "srun" in log.read_text()):
        assert time.monotonic() < deadline and job.poll() is None
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(20) == 143
    nodes, called, stopped, queued = log.read_text().splitlines()
    assert nodes == "scontrol show hostnames node[1-2]"
    assert "torchrun --nnodes 2 --nproc_per_node 8" in called
    assert called.endswith(" within 150 s"), "less than the time of the warning, more than 30 s"
    assert "--rdzv_endpoint node1:20007 train.py --name a b" in called, "a port of this job alone"
    assert (stopped, queued) == ("stopped", "scontrol requeue 7")


@pytest.mark.parametrize("status", [0, 2])
def test_a_job_that_ends_by_itself_is_not_queued_again(slurm, status):
    env, log = slurm
    assert start({**env, "QUICK": str(status)}).wait(20) == status
    assert "requeue" not in log.read_text()


def test_outside_of_slurm_it_says_so(slurm):
    env, _ = slurm
    del env["SLURM_JOB_ID"]
    job = start(env)
    assert "docs/scaling.md" in job.communicate(timeout=20)[1] and job.returncode == 2
