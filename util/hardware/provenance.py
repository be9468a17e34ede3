"""What a result was made with: commit, library versions, hardware; every record takes them from here."""

import importlib.metadata
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

LIBRARIES = ("torch", "torchvision")  # what every result depends on
ROOT = Path(__file__).resolve().parent.parent.parent


def versions(device: str = "", libraries: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Commit, Python and libraries by name; `device` in words where the result depends on it."""
    found = {"commit": git_commit(), "python": platform.python_version()}
    found |= {library: library_version(library) for library in libraries}
    if device:
        found["device"] = device
    return found


def library_version(library: str) -> str:
    """The version of an installed library, or "not installed"."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def git_commit() -> str:
    """The commit of this checkout, marked when files differ from it; "unknown" outside a checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
