"""Stage: what the machine is, and what it could do at best."""

import importlib.util
import platform
import subprocess

import torch

from scripts.on_gpu.notes import Notes
from scripts.on_gpu.setup import Setup
from util.hardware.cores import cpu_count
from util.hardware.provenance import git_commit, library_version

LIBRARIES = ("torch", "torchvision", "triton", "numpy", "pillow", "dominate", "torch-fidelity")
WANTED = ("torch", "torchvision", "numpy", "PIL", "tqdm", "matplotlib", "scipy", "pytest")


def run(setup: Setup, notes: Notes) -> None:
    """Versions, the state of the GPU, rates."""
    versions = {name: library_version(name) for name in LIBRARIES}
    versions |= {"python": platform.python_version(), "cuda": torch.version.cuda}
    notes.figure("versions", versions)
    notes.figure("commit", git_commit())
    notes.figure("nvidia_smi", nvidia_smi())

    missing = [name for name in WANTED if importlib.util.find_spec(name) is None]
    notes.find(not missing, f"libraries missing: {', '.join(missing) or 'none'}")

    device = setup.device
    notes.figure("hardware", device.hardware())
    notes.figure("before", device.state())
    notes.figure("cudnn", torch.backends.cudnn.version())
    name = torch.cuda.get_device_name(0)
    notes.find(True, f"{name}, torch {torch.__version__}, {cpu_count()} cores")

    rates = device.rates(0.05 if setup.tiny else 0.5)
    notes.figure("rates", rates)
    shown = ", ".join(f"{key.replace('_', ' ')} {value:.3g}" for key, value in rates.items())
    notes.find(True, shown)
    notes.figure("after", device.state())


def nvidia_smi() -> str:
    """All that nvidia-smi says, or why it says nothing."""
    try:
        done = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        return f"not to be had: {error}"
    return done.stdout or done.stderr
