"""Which folders a command of scripts/evaluate.py means: those of a run are found by its name and its record."""

import argparse
import math
import os
import shlex
from pathlib import Path
from typing import Any

from data.held_out import FEWEST, split_held_out
from data.image_file import find_bad_images
from data.image_folder import survey
from data.layout import folder_names, phase_folder
from data.pixels import Levels
from util.errors import UserError
from util.pages.gallery import unfinished_in
from util.registry import did_you_mean
from util.run.folder import is_other_data, result_dir, saved_record

FLAGS = ("fake", "input", "truth", "real", "train", "train_input")
# which pictures of a run are meant, as test.py takes it too
PLACES = {
    "phase": "test",
    "epoch": "latest",
    "checkpoints_dir": Path("checkpoints"),
    "results_dir": Path("results"),
}


def find_folders(args: argparse.Namespace) -> dict[str, Any]:
    """Fill in what --name implies; returns what the JSON says of the run (nothing without --name).

    A run implies its folders, and how it reads grey files. `args.found` has the images of the training folders that
    nobody has named: flag -> files.

    Raises:
        UserError: the run's results do not exist, or its record does not although it is needed, or is damaged.
    """
    args.found = {}
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
    args.value_range = args.value_range or options.get("value_range")
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
    if record:
        find_training_images(args, options)
    args.out = args.out or results / f"{measure_name(args)}.json"
    return run


def check_translated(args: argparse.Namespace, folder: Path) -> None:
    """Raise UserError, with the command that is missing, where test.py has not made this folder of a run."""
    if folder.is_dir():
        return

    flags = ["--name", args.name]
    if args.dataroot and getattr(args, "other_data", True):
        flags += ["--dataroot", str(args.dataroot)]
    for flag, default in PLACES.items():
        if getattr(args, flag) != default:
            flags += [f"--{flag}", str(getattr(args, flag))]

    known = any((top / args.name).is_dir() for top in (args.checkpoints_dir, args.results_dir))
    hint = "" if known else did_you_mean(args.name, folders_in(args.results_dir))
    raise UserError(
        f"--name {args.name}: {folder} does not exist; {hint}first run: python test.py {shlex.join(flags)}"
    )


def folders_in(folder: Path) -> list[str]:
    """The names of the folders in a folder, none where it does not exist."""
    return [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def find_reference(args: argparse.Namespace, options: dict[str, Any], results: Path) -> None:
    """What the pictures of a run are compared with: their truth where there is one, else the target domain.

    Raises:
        UserError: the data have neither.
    """
    source, target = options["direction"].split("to")
    paired = options["dataset_mode"] == "aligned"  # test.py then wrote the other half as real_B
    own_truth = results / "images" / "real_B"
    truth = own_truth if paired else args.dataroot / f"{args.phase}{source}_truth"
    if truth.is_dir():
        args.truth = truth
        return

    folder = phase_folder(str(args.dataroot), args.phase, target)
    if folder is None:
        tried = " or ".join(folder_names(args.phase, target))
        raise UserError(
            f"{args.dataroot} has no real images of the target domain (no folder {tried}): "
            "give their folder with --real, or another data set with --dataroot"
        )
    args.real = Path(folder)


def find_training_images(args: argparse.Namespace, options: dict[str, Any]) -> None:
    """The images that the run has learned from, by domain, where they are still there."""
    source, target = options["direction"].split("to")
    for flag, letter in (("train", target), ("train_input", source)):
        folder = Path(options["dataroot"]) / f"{options.get('phase', 'train')}{letter}"
        if getattr(args, flag) is not None or not folder.is_dir():
            continue
        paths = learned_from(folder, options, levels_of(args, folder))
        if paths:
            setattr(args, flag, folder)
            args.found[flag] = paths


def learned_from(folder: Path, options: dict[str, Any], levels: Levels | None) -> list[str]:
    """The files of a training folder that the run has learned from.

    Those beyond --max_dataset_size, those that cannot be read and those that were held out to measure on are none of
    them.
    """
    paths = sorted(survey(str(folder)).paths)
    paths = paths[: min(len(paths), options.get("max_dataset_size", math.inf))]
    if options.get("skip_bad_images"):
        bad = find_bad_images(paths, levels)
        paths = [path for path in paths if path not in bad]

    holds_out = options.get("eval_freq") and options.get("eval_split") == "holdout"
    if holds_out and len(paths) >= 2 * FEWEST:
        paths, _ = split_held_out(paths, options["eval_images"], str(folder))
    return paths


def levels_of(args: argparse.Namespace, folder: Path) -> Levels | None:
    """The values of a folder's grey files that are black and white: those of --value_range.

    What test.py has written is left alone: it has gone through that range, and has 8 bits.
    """
    if args.value_range is None or is_result(folder):
        return None
    low, high = args.value_range
    return low, high


def is_result(folder: Path) -> bool:
    """Whether test.py has written the pictures of this folder."""
    whole = Path(os.path.abspath(folder))
    return any(
        inside.name == "images" and (inside.parent / "pictures.json").exists()
        for inside in (whole, *whole.parents)
    )


def check_folders(args: argparse.Namespace) -> dict[str, str]:
    """The folders that are measured, by flag.

    Raises:
        UserError: one is no folder, holds pictures of several kinds, or those of an unfinished test.py.
    """
    chosen = {flag: getattr(args, flag) for flag in FLAGS}
    folders = {flag: str(folder) for flag, folder in chosen.items() if folder}
    for flag, folder in folders.items():
        if not Path(folder).is_dir():
            raise UserError(f"--{flag} {folder} is not a folder")
        check_belongs(flag, Path(folder))
        check_finished(flag, Path(folder))
        for line in survey(folder).left_out():
            print(line)
    return folders


def check_belongs(flag: str, folder: Path) -> None:
    """Raise UserError for a folder of result pictures that holds several kinds, such as inputs among outputs."""
    if (folder.parent / "pictures.json").exists() and folder.name == "images":
        kinds = sorted(path.name for path in folder.iterdir() if path.is_dir())
        raise UserError(
            f"--{flag} {folder} holds pictures of several kinds ({', '.join(kinds)}): "
            f"name one, such as {folder / 'fake_B'}"
        )


def check_finished(flag: str, folder: Path) -> None:
    """Raise UserError for result pictures that a test.py has not finished: some may be of other weights."""
    whole = Path(os.path.abspath(folder))
    for inside in (whole, *whole.parents):
        marks = unfinished_in(inside.parent) if inside.name == "images" else []
        if marks:
            raise UserError(
                f"--{flag} {folder} is not finished ({marks[0]} says so): test.py was interrupted while it wrote "
                "there, or still does. Run the same test.py again, or measure a copy of the folder"
            )


def measure_name(args: argparse.Namespace) -> str:
    """The name of the result file, without its ending."""
    return f"fid_{args.feature}" if args.real else "truth"
