"""Gather what must travel to a machine with a GPU and without a network: `python scripts/gpu_pack.py`.

    python scripts/gpu_pack.py --weights vgg16.pth --official ../PatchGCL                       for gpu_check.py
    python scripts/gpu_pack.py --weights vgg16.pth inception.pth --dataroot datasets/horse2zebra \\
        --quality 60 --images 450                                                               for gpu_train.py

Everything goes into one folder, of at most 60 MiB, which the other two commands find when it lies in the project; the
sizes are printed. Libraries that such a machine is likely to lack are fetched as wheels of Python alone. The data set
goes as it is, or as WebP of a --quality, which changes what is learned a little and is told in every result.
"""

import argparse
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from data.image_file import in_threads, read_image
from data.image_folder import list_images
from scripts.on_gpu.carried import DATA, HERE, MANIFEST, RELEASED, WHEELS
from util.errors import UserError, exit_status
from util.parser import script_parser

MIB = 1 << 20
MOST = 60  # MiB
MISSING = ("dominate", "torch-fidelity")  # of what this project uses; both are of Python alone
OF_RELEASE = (".py", "LICENSE")  # what is taken of a checkout
ROLES = ("trainA", "trainB", "testA", "testB")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = script_parser(__doc__)
    add = parser.add_argument
    text = "folder to make (default: carried); one of an earlier call is replaced"
    add("--out", type=Path, default=HERE, metavar="DIR", help=text)
    text = "files of weights: VGG16's, and Inception's for KID and FID"
    add("--weights", type=Path, nargs="+", default=[], metavar="FILE", help=text)
    text = "your checkout of the released PatchGCL"
    add("--official", type=Path, metavar="PATH", help=text)
    text = "data set: a folder with trainA, trainB, testA and testB"
    add("--dataroot", type=Path, metavar="DIR", help=text)
    text = "images as WebP of this quality, 1 to 100 (default: the files as they are)"
    add("--quality", type=int, metavar="Q", help=text)
    text = "at most so many training images of each domain, evenly chosen (default: all)"
    add("--images", type=int, metavar="N", help=text)
    text = f"libraries to fetch (default: {' '.join(MISSING)})"
    add("--wheels", nargs="*", default=list(MISSING), metavar="NAME", help=text)
    add("--python", default="3.12", help="of the machine (default: 3.12)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; raises UserError where something is missing or all is too much."""
    args = parse_arguments(argv)
    check_replaceable(args.out)
    with tempfile.TemporaryDirectory(dir=args.out.parent, prefix=".packing_") as folder:
        place = Path(folder) / "packed"
        place.mkdir()
        facts: dict[str, Any] = {}
        pack_wheels(args, place)
        pack_release(args, place)
        pack_weights(args, place, facts)
        pack_data(args, place, facts)

        sizes = measure(place)
        check_size(sizes)
        facts |= {"sizes": sizes, "python": args.python}
        (place / MANIFEST).write_text(json.dumps(facts, indent=1) + "\n")
        if args.out.exists():
            shutil.rmtree(args.out)
        place.replace(args.out)

    for name, size in sizes.items():
        print(f"{size / MIB:8.2f} MiB  {name}")
    print(f"{sum(sizes.values()) / MIB:8.2f} MiB  in all, of at most {MOST}: {args.out}")
    return 0


def check_replaceable(out: Path) -> None:
    """Raise UserError for a folder with anything in it that was not packed by this script."""
    if out.exists() and not (out / MANIFEST).is_file() and (out.is_file() or any(out.iterdir())):
        raise UserError(
            f"--out {out} is there and was not made by this script; name a new folder, or remove it"
        )


def pack_wheels(args: argparse.Namespace, place: Path) -> None:
    """Fetch libraries, without what they need themselves."""
    for name in args.wheels:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--platform", "any", "--python-version", args.python]
        command += ["--dest", str(place / WHEELS), name]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            raise UserError(f"--wheels {name} cannot be fetched: {last}; leave it out, or mend pip")


def pack_release(args: argparse.Namespace, place: Path) -> None:
    """Copy the code of a checkout."""
    if args.official is None:
        return
    if not (args.official / "models" / "PatchGCL.py").is_file():
        raise UserError(f"--official {args.official}: no models/PatchGCL.py there")
    for path in sorted(args.official.rglob("*")):
        if path.is_file() and path.name.endswith(OF_RELEASE) and ".git" not in path.parts:
            target = place / RELEASED / path.relative_to(args.official)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def pack_weights(args: argparse.Namespace, place: Path, facts: dict[str, Any]) -> None:
    """Copy files of weights and note their checksums."""
    for path in args.weights:
        if not path.is_file():
            raise UserError(f"--weights {path} does not exist")
        shutil.copyfile(path, place / path.name)
        with open(path, "rb") as file:
            facts[path.name] = hashlib.file_digest(file, "sha256").hexdigest()


def pack_data(args: argparse.Namespace, place: Path, facts: dict[str, Any]) -> None:
    """One file with the images of all domains."""
    if args.dataroot is None:
        return
    with tarfile.open(place / DATA, "w") as archive:
        counts = {}
        for role in ROLES:
            folder = args.dataroot / role
            if not folder.is_dir():
                raise UserError(f"--dataroot {args.dataroot}: no folder {role} in it")
            images = [Path(path) for path in list_images(str(folder))]
            total = len(images)
            if role.startswith("train") and args.images:
                images = evenly(images, args.images)
            for name, data in encoded(images, args.quality):
                info = tarfile.TarInfo(f"{role}/{name}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
            counts[role] = [len(images), total]
    how = f"WebP of quality {args.quality}" if args.quality else "the files as they are"
    facts["data"] = {"name": args.dataroot.name, "images as": how, "of": counts}


def evenly(images: Sequence[Path], count: int) -> list[Path]:
    """So many images, from the first to the last at equal distances."""
    if count >= len(images):
        return list(images)
    return [images[index * len(images) // count] for index in range(count)]


def encoded(images: Sequence[Path], quality: int | None) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each image."""

    def encode(path: Path) -> bytes:
        if not quality:
            return path.read_bytes()
        buffer = io.BytesIO()
        read_image(str(path), 3).save(buffer, "WEBP", quality=quality, method=4)
        return buffer.getvalue()

    for path, data in zip(images, in_threads(encode, images), strict=True):
        yield (f"{path.stem}.webp" if quality else path.name), data


def measure(place: Path) -> dict[str, int]:
    """Bytes of each file or folder."""
    sizes = {}
    for entry in sorted(place.iterdir()):
        files = [entry] if entry.is_file() else [f for f in entry.rglob("*") if f.is_file()]
        sizes[entry.name] = sum(file.stat().st_size for file in files)
    return sizes


def check_size(sizes: dict[str, int]) -> None:
    """Raises UserError where all is too much."""
    total = sum(sizes.values()) / MIB
    if total > MOST:
        parts = ", ".join(f"{name} {size / MIB:.1f}" for name, size in sizes.items())
        raise UserError(
            f"{total:.1f} MiB are too much, at most {MOST} may travel ({parts}): leave weights out, "
            "or shrink the data set with --quality 60 and --images 400"
        )


if __name__ == "__main__":
    sys.exit(exit_status(main))
