"""What was gathered for a machine without a network: where each thing lies in the folder, and how it is put to use."""

import argparse
import hashlib
import importlib.util
import os
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parents[2] / "carried"  # where it lies if nobody says otherwise
VGG, INCEPTION = "vgg16*.pth", "*inception*.pth"  # files of weights, by name
RELEASED = "released"  # folder of a checkout of the released code
WHEELS = "wheels"  # folder of libraries that the machine lacks
DATA = "data.tar"  # trainA, trainB, testA, testB
MANIFEST = "manifest.json"  # what is in the folder


def add_carried(parser: argparse.ArgumentParser) -> None:
    """The flag that names the folder; None where there is none."""
    text = "folder that scripts/gpu_pack.py made (default: carried, where there is one)"
    there = HERE if HERE.is_dir() else None
    parser.add_argument("--carried", type=Path, default=there, metavar="DIR", help=text)


def found(carried: Path | None, pattern: str) -> Path | None:
    """A file of weights that was carried, None without one."""
    files = sorted(carried.glob(pattern)) if carried else []
    return files[0] if files else None


def unpack_data(carried: Path, folder: Path, name: str = DATA) -> Path:
    """The data set that was carried, or another file of images beside it, unpacked."""
    with tarfile.open(carried / name) as archive:
        archive.extractall(folder, filter="data")
    return folder


def unpack_data_once(carried: Path, top: Path) -> Path:
    """The data set that was carried, in a folder of its own for each content, so that none is mixed with another."""
    with open(carried / DATA, "rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    folder = top / f"data_{checksum[:16]}"
    if not folder.is_dir():
        top.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=top, prefix=".unpacking_") as temporary:
            unpack_data(carried, Path(temporary) / "data").replace(folder)
    return folder


def use_wheels(carried: Path | None, folder: Path) -> list[str]:
    """Make carried libraries that are not installed importable here and in processes started from here; their names.

    They are of Python alone, so that unpacking is all that it takes.
    """
    taken = []
    for wheel in sorted((carried / WHEELS).glob("*.whl")) if carried else []:
        name = wheel.name.split("-")[0]
        if importlib.util.find_spec(name) is None:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
            taken.append(name)
    if taken:
        sys.path.append(str(folder))
        known = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = f"{known}{os.pathsep}{folder}" if known else str(folder)
    return taken
