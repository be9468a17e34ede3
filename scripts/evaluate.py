"""Measure translated images: against their known truth, or by FID and KID against real images of the target domain.

    python scripts/evaluate.py --name RUN                               what test.py wrote for a run
    python scripts/evaluate.py --fake DIR --input DIR --truth DIR       against a known truth
    python scripts/evaluate.py --fake DIR --real DIR                    FID and KID

With --name the data decide: aligned pairs are their own truth; a folder testA_truth (testB_truth for BtoA) is one too;
without either, pictures are compared with all real images of the target domain, testB (testA). The truth is scored as
util/metrics/truth.py defines it: 0 for copying the input, 1 for the truth. FID (arXiv 1706.08500) and KID (arXiv
1801.01401) come from torch-fidelity, over all images found. Every result is written as JSON together with what it
depends on.
"""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from data.image_file import read_image
from data.image_folder import list_images, survey
from data.layout import phase_folder
from data.picture_set import PictureSet
from util.errors import UserError, exit_status
from util.files import atomic_path
from util.hardware import provenance
from util.metrics import truth as metrics
from util.metrics.fid import FID_BIAS, fid_and_kid
from util.registry import did_you_mean
from util.run.folder import is_other_data, result_dir, saved_record

LIBRARIES = ("numpy", "pillow", "torch", "torchvision", "torch-fidelity")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, this process's by default."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument_group("a run (its folders are found by name)").add_argument
    add("--name", help="name of the run, as given to train.py and test.py")
    add("--phase", default="test", help="as given to test.py (default: test)")
    add("--epoch", default="latest", help="as given to test.py (default: latest)")
    add("--checkpoints_dir", type=Path, default=Path("checkpoints"), help="default: checkpoints")
    add("--results_dir", type=Path, default=Path("results"), help="default: results")
    text = "the data folder, if it is not the one the run was trained on"
    add("--dataroot", type=Path, help=text)

    add = parser.add_argument_group("folders (instead of those found by --name)").add_argument
    add("--fake", type=Path, metavar="DIR", help="translated images")
    text = "what they were translated from, same names"
    add("--input", type=Path, metavar="DIR", help=text)
    add("--truth", type=Path, metavar="DIR", help="what they should be, same names")
    text = "real images of the TARGET domain: FID and KID"
    add("--real", type=Path, metavar="DIR", help=text)

    add = parser.add_argument_group("FID and KID").add_argument
    text = (
        "weights of Inception-v3 in torch-fidelity's layout; "
        "without this flag its own are downloaded once"
    )
    add("--inception", type=Path, metavar="PATH", help=text)
    text = (
        "layer to compare. 2048 is the FID of the papers; 768, an earlier layer, gives another "
        "number, FID-768, which compares only with its like"
    )
    add("--feature", choices=("2048", "768"), default="2048", help=text)
    add("--batch_size", type=int, default=32, help="images at once (default: 32)")

    text = "where the JSON goes (default: beside the images)"
    parser.add_argument("--out", type=Path, metavar="FILE", help=text)

    args = parser.parse_args(argv)
    comparable = args.real or (args.truth and args.input)
    if not (args.name or (args.fake and comparable)):
        parser.error("give --name RUN, or --fake with --real, or --fake with --truth and --input")
    return args


def find_folders(args: argparse.Namespace) -> dict[str, Any]:
    """Fill in what --name implies; returns what the JSON says of the run (nothing without --name).

    Raises:
        UserError: the run's results do not exist, or its record does not although it is needed, or is damaged.
    """
    if not args.name:
        args.out = args.out or Path(f"{args.fake}_{measure_name(args)}.json")
        return {}

    check_translated(args, args.results_dir / args.name)

    # the record of the run
    run = {"name": args.name}
    chosen = args.real or args.truth
    remedy = "" if chosen else "say with --real or --truth what to compare with"
    record = saved_record(args.checkpoints_dir / args.name, remedy)
    options = record.get("options", {})
    if record:
        run |= {"recipe": record["recipe"], "seed": options["seed"]}
        run |= {"trained_with": record["versions"], "trained_on": options["dataroot"]}

    # what test.py wrote with it
    args.dataroot = args.dataroot or Path(options.get("dataroot", "."))
    args.other_data = is_other_data(str(args.dataroot), options.get("dataroot"))
    results = result_dir(args)
    if not results.is_dir() and args.other_data and not os.path.exists(options["dataroot"]):
        args.other_data = False  # the run's own data, which have moved since
        results = result_dir(args)
    args.fake = args.fake or results / "images" / "fake_B"
    args.input = args.input or results / "images" / "real_A"
    check_translated(args, args.fake)

    if not chosen:
        find_reference(args, options, results)
    args.out = args.out or results / f"{measure_name(args)}.json"
    return run


def check_translated(args: argparse.Namespace, folder: Path) -> None:
    """Raise UserError, with the command that is missing, where test.py has not made this folder of a run."""
    if folder.is_dir():
        return

    flags = f"--name {args.name}"
    if args.dataroot and getattr(args, "other_data", True):
        flags += f" --dataroot {args.dataroot}"
    hint = did_you_mean(args.name, folders_in(args.results_dir))
    raise UserError(
        f"--name {args.name}: {folder} does not exist; {hint}first run: python test.py {flags}"
    )


def folders_in(folder: Path) -> list[str]:
    """The names of the folders in a folder, none where it does not exist."""
    return [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def find_reference(args: argparse.Namespace, options: dict[str, Any], results: Path) -> None:
    """What the pictures of a run are compared with: their truth where there is one, else the target domain."""
    source, target = options["direction"].split("to")
    paired = options["dataset_mode"] == "aligned"  # test.py then wrote the other half as real_B
    own_truth = results / "images" / "real_B"
    truth = own_truth if paired else args.dataroot / f"{args.phase}{source}_truth"
    args.truth = truth if truth.is_dir() else None

    folder = phase_folder(str(args.dataroot), args.phase, target)
    real = folder or args.dataroot / f"{args.phase}{target}"
    args.real = None if args.truth else Path(real)


def check_belongs(flag: str, folder: Path) -> None:
    """Raise UserError for a folder of result pictures that holds several kinds, such as inputs among outputs."""
    if (folder.parent / "pictures.json").exists() and folder.name == "images":
        kinds = sorted(path.name for path in folder.iterdir() if path.is_dir())
        raise UserError(
            f"--{flag} {folder} holds pictures of several kinds ({', '.join(kinds)}): "
            f"name one, such as {folder / 'fake_B'}"
        )


def measure_name(args: argparse.Namespace) -> str:
    """The name of the result file."""
    return f"fid_{args.feature}" if args.real else "truth"


def images_by_name(folder: Path) -> dict[str, Path]:
    """The images of a folder, by their place in it without suffix, sorted; raises UserError where there are none."""
    paths = map(Path, list_images(str(folder)))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def read_unit(path: Path) -> np.ndarray:
    """(H,W,3) values in [0,1]."""
    return np.asarray(read_image(str(path), 3), dtype=np.float64) / 255


def compare_with_truth(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Score every translated image against its truth; returns what the JSON holds, and the table to print.

    Raises:
        UserError: an image has no truth or input of its name and size, or there is nothing to translate.
    """
    fakes = images_by_name(args.fake)
    truths = images_by_name(args.truth)
    inputs = images_by_name(args.input)

    rows = []
    for name, path in fakes.items():
        for flag, found in (("truth", truths), ("input", inputs)):
            if name not in found:
                folder = getattr(args, flag)
                raise UserError(
                    f"--{flag} {folder} has no image {name}, but --fake {args.fake} has"
                )
        rows.append({"name": name, **compare_image(path, truths[name], inputs[name])})

    errors = {who: [row[who]["error"] for row in rows] for who in ("model", "copy")}
    try:
        score = metrics.score(errors["model"], errors["copy"])
    except ValueError as error:
        text = f"--truth {args.truth} is no truth for --input {args.input}: {error}"
        raise UserError(text) from None

    missing = len(truths.keys() - fakes.keys())
    result = {
        "score": score,
        "counts": {"images": len(rows), "not_translated": missing},
        "means": {who: mean_errors([row[who] for row in rows]) for who in ("copy", "model")},
        "images": rows,
    }
    return result, truth_table(args.truth, result)


def compare_image(path: Path, truth_path: Path, input_path: Path) -> dict[str, Any]:
    """Errors of a translated image and of a copy of its input; its score is None where the input is its own truth.

    Raises:
        UserError: the images differ in size.
    """
    fake, truth, source = read_unit(path), read_unit(truth_path), read_unit(input_path)
    if not fake.shape == truth.shape == source.shape:
        raise UserError(
            f"{path} differs in size from its truth or input; "
            "translate at their own size (test.py --size own)"
        )

    model = metrics.errors_by_region(fake, truth, source)
    copy = metrics.errors_by_region(source, truth, source)
    score = metrics.score([model["error"]], [copy["error"]]) if copy["error"] else None
    return {"score": score, "model": model, "copy": copy}


def mean_errors(errors: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean over images of each kind of error."""
    return {key: float(np.mean([row[key] for row in errors])) for key in errors[0]}


def truth_table(truth: Path, result: dict[str, Any]) -> str:
    """The result for people."""
    count, missing = result["counts"].values()
    title = f"{count} images against {truth}"
    if missing:
        title += f" ({missing} more were not translated)"
    lines = [title, f"{'':20}{'error':>9}{'object':>9}{'backgr.':>9}{'L1':>9}{'PSNR':>9}"]

    means = result["means"]
    rows = {
        "copy of the input": means["copy"],
        "model": means["model"],
        "perfect": dict.fromkeys(means["copy"], 0.0),
    }
    for label, row in rows.items():
        cells = "".join(f"{row[key]:9.4f}" for key in ("error", "object", "background", "l1"))
        lines.append(f"{label:20}{cells}{metrics.psnr(row['mse']):9.2f}")

    lines.append(f"score {result['score']:.3f}: 0 is a copy of the input, 1 a perfect translation")
    return "\n".join(lines)


def compare_sets(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """FID and KID against the real images; returns what the JSON holds, and the lines to print."""
    fakes, reals = PictureSet(args.fake), PictureSet(args.real)
    result = fid_and_kid(fakes, reals, args.inception, args.feature, args.batch_size)
    counts, (fid, kid) = result["counts"], result["names"]

    lines = []
    if min(counts.values()) < FID_BIAS:
        lines.append(
            f"warning: FID from fewer than {FID_BIAS} images is biased upwards; "
            "compare equal numbers only"
        )
    lines += [
        f"{counts['fake']} images of {args.fake} against {counts['real']} of {args.real}",
        f"{fid} {result['fid']:.3f}, {kid} x100 {100 * result['kid']['mean']:.3f}",
    ]
    return result, "\n".join(lines)


def measure(args: argparse.Namespace) -> None:
    """Measure, write the JSON and print the figures."""
    run = find_folders(args)
    chosen = {flag: getattr(args, flag) for flag in ("fake", "input", "truth", "real")}
    folders = {flag: str(folder) for flag, folder in chosen.items() if folder}

    for flag, folder in folders.items():
        if not Path(folder).is_dir():
            raise UserError(f"--{flag} {folder} is not a folder")
        check_belongs(flag, Path(folder))
        print("".join(f"{line}\n" for line in survey(folder).left_out()), end="")

    result, text = compare_sets(args) if args.real else compare_with_truth(args)
    facts = {
        "command": shlex.join(["python", *sys.argv]),
        "run": run,
        "folders": folders,
        "versions": provenance.versions(libraries=LIBRARIES),
    }

    with atomic_path(args.out) as temporary:
        temporary.write_text(json.dumps({**result, **facts}, indent=2, allow_nan=False) + "\n")
    print(f"written to {args.out}", text, sep="\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse_arguments(argv)
    return exit_status(lambda: measure(args))


if __name__ == "__main__":
    sys.exit(main())
