"""Which folders a command of scripts/evaluate.py means: those of a run are found by its name and its record."""

import argparse
import os
import shlex
from pathlib import Path
from typing import Any

from data.image_folder import survey
from data.layout import phase_folder
from util.errors import UserError
from util.pages.gallery import unfinished_in
from util.registry import did_you_mean
from util.run.folder import is_other_data, result_dir, saved_record

FLAGS = ("fake", "input", "truth", "real", "train", "train_input")


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
    hint = did_you_mean(args.name, folders_in(args.results_dir))
    raise UserError(
        f"--name {args.name}: {folder} does not exist; {hint}first run: python test.py {shlex.join(flags)}"
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


def find_training_images(args: argparse.Namespace, options: dict[str, Any]) -> None:
    """The images that the run has learned from, by domain, where they are still there."""
    source, target = options["direction"].split("to")
    for flag, letter in (("train", target), ("train_input", source)):
        folder = Path(options["dataroot"]) / f"{options.get('phase', 'train')}{letter}"
        if getattr(args, flag) is None and folder.is_dir():
            setattr(args, flag, folder)


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
