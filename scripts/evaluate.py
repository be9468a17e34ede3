"""Measure translated images: against real ones, against their inputs, and against their truth where it is known.

    python scripts/evaluate.py --name RUN                               what test.py wrote for a run
    python scripts/evaluate.py --fake DIR --real DIR                    FID, KID, precision, recall, density, coverage
    python scripts/evaluate.py --fake DIR --input DIR --truth DIR       against a known truth

With --name the data decide: aligned pairs are their own truth; a folder testA_truth (testB_truth for BtoA) is one too;
without either, pictures are compared with all real images of the target domain, testB (testA). Every figure comes with
its number of images, a bootstrap interval, and the floors it must be read against: doing nothing, and real against
real. The result is a JSON file with all that the figures depend on, a page beside it, and a Markdown row.
docs/evaluation.md says what each figure means, and what may be compared with what.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from data.picture_set import PictureSet, images_by_name
from scripts.evaluating import words
from scripts.evaluating.folders import PLACES, check_folders, find_folders, levels_of
from scripts.evaluating.page import Shown, write_report
from scripts.evaluating.pairs import (
    check_equal_sizes,
    encoder_facts,
    pair_figures,
    paired,
    truth_figures,
)
from scripts.evaluating.sets import (
    Judge,
    Sets,
    check_sets,
    default_store,
    duplicate_report,
    fault_of,
    set_figures,
)
from util.errors import UserError, exit_status
from util.files import atomic_path
from util.hardware import provenance
from util.hardware.launch import start_processes
from util.hardware.runtime import Runtime
from util.metrics.features import LAYERS, Inception
from util.metrics.prdc import NEIGHBOURS, nearest
from util.parser import natural, positive_int, script_parser, value_range
from util.words import counted

LIBRARIES = ("numpy", "pillow", "torch", "torchvision", "torch-fidelity")
SETTINGS = ("value_range", "resize", "bootstrap", "seed", "worst", "grid")  # that the JSON names


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, this process's by default."""
    parser = script_parser(__doc__)
    add = parser.add_argument_group("a run (its folders are found by name)").add_argument
    add("--name", help="name of the run, as given to train.py and test.py")
    add("--phase", help="as given to test.py (default: test)")
    add("--epoch", help="as given to test.py (default: latest)")
    add("--checkpoints_dir", type=Path, help="default: checkpoints")
    add("--results_dir", type=Path, help="default: results")
    parser.set_defaults(**PLACES)
    text = "the data folder, if it is not the one the run was trained on"
    add("--dataroot", type=Path, help=text)

    add = parser.add_argument_group("folders (instead of those found by --name)").add_argument
    add("--fake", type=Path, metavar="DIR", help="translated images")
    text = "what they were translated from, same names"
    add("--input", type=Path, metavar="DIR", help=text)
    add("--truth", type=Path, metavar="DIR", help="what they should be, same names")
    text = "real images of the TARGET domain: FID and KID"
    add("--real", type=Path, metavar="DIR", help=text)
    text = "real images of the target domain that training saw: a floor, duplicates, neighbours"
    add("--train", type=Path, metavar="DIR", help=text)
    text = "images of the source domain that training saw: duplicates"
    add("--train_input", type=Path, metavar="DIR", help=text)

    add_judges(parser)
    text = "where the JSON goes, and the page beside it (default: beside the images)"
    parser.add_argument("--out", type=Path, metavar="FILE", help=text)

    args = parser.parse_args(argv)
    comparable = args.real or (args.truth and args.input)
    if not (args.name or (args.fake and comparable)):
        parser.error("give --name RUN, or --fake with --real, or --fake with --truth and --input")
    return args


def add_judges(parser: argparse.ArgumentParser) -> None:
    """Flags that say how pictures are measured and shown."""
    add = parser.add_argument_group("how to measure").add_argument
    text = (
        "weights of Inception-v3 in torch-fidelity's layout; "
        "without this flag its own are downloaded once"
    )
    add("--inception", type=Path, metavar="PATH", help=text)
    text = (
        "layer to compare. 2048 is the FID of the papers; an earlier layer gives another "
        "number, FID-768, which compares only with its like"
    )
    add("--feature", choices=LAYERS, default="2048", help=text)
    text = (
        "VGG16 for the self-similarity distance and for LPIPS: imagenet, random, or a file; "
        "without this flag the two are left out"
    )
    add("--vgg_weights", metavar="WEIGHTS", help=text)
    text = "backbone of DINO v1 for the self-similarity distance in its features"
    add("--dino", type=Path, metavar="PATH", help=text)
    add("--lpips", type=Path, metavar="PATH", help="linear layers of LPIPS for VGG16, vgg.pth")

    text = (
        "values of grey files that become black and white, as given to train.py; of all folders but "
        "--fake and what test.py has written (default: the run's)"
    )
    add("--value_range", type=value_range, metavar="LOW,HIGH", help=text)
    text = "scale all images to squares of N pixels before anything is measured"
    add("--resize", type=positive_int, metavar="N", help=text)
    text = "resamples behind an interval (default: 200; 0: no intervals)"
    add("--bootstrap", type=resamples, default=200, metavar="N", help=text)
    add("--seed", type=natural, default=0, help="of resamples and of the grid (default: 0)")
    add("--batch_size", type=positive_int, default=32, help="images at once (default: 32)")
    text = "GPU to use, several as 0,1, or -1 for the CPU; the best device without it"
    add("--gpu_ids", metavar="IDS", help=text)
    text = "keep no features of real images beside torch's weights"
    add("--no_store", action="store_true", help=text)

    add = parser.add_argument_group("the page").add_argument
    add("--worst", type=natural, default=12, metavar="N", help="worst pictures (default: 12)")
    add("--grid", type=positive_int, default=24, metavar="N", help="random pictures (default: 24)")


def resamples(text: str) -> int:
    """Read how many resamples are behind an interval: 0, or enough for one."""
    number = natural(text)
    if number == 1:
        raise argparse.ArgumentTypeError("one resample has no spread: give 0, or 2 and more")
    return number


def measure(args: argparse.Namespace, runtime: Runtime) -> None:
    """Measure, and on the main process write JSON and page, and print the figures."""
    run = find_folders(args)
    folders = check_folders(args)
    settings = {key: getattr(args, key) for key in SETTINGS}
    facts = {
        "command": shlex.join(["python", *sys.argv]),
        "run": run,
        "folders": folders,
        "settings": settings,
        "versions": provenance.versions(libraries=LIBRARIES),
    }

    fakes = PictureSet(args.fake, args.resize)
    shown = Shown(list(images_by_name(args.fake)), fakes)
    if args.input:
        shown.inputs = paired(fakes, args.input, "input", levels_of(args, args.input))

    result: dict[str, Any] = {"figures": {}, "warnings": []}
    lines: list[str] = []
    if args.real:
        result = compare_sets(args, runtime, shown)
    if args.truth:
        lines += compare_with_truth(args, runtime, shown, result)
    if shown.inputs:
        compare_with_inputs(args, runtime, shown, result)
    if not runtime.is_main:
        return

    result["markdown"] = words.markdown_row(args.name or str(args.fake), result["figures"])
    result |= facts
    with atomic_path(args.out) as temporary:
        temporary.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
    title = f"{args.name or args.fake}: figures"
    page = write_report(args.out.with_suffix(".html"), title, result, shown)

    print(f"written to {args.out}, page {page}", *said(args, result), *lines, sep="\n")


def said(args: argparse.Namespace, result: dict[str, Any]) -> list[str]:
    """The result for people: warnings, figures, and the row for a table."""
    lines = [f"warning: {text}" for text in result["warnings"]]
    if args.real:
        counts = result["counts"]
        lines.append(
            f"{counted(counts['fake'], 'image')} of {args.fake} against {counts['real']} of {args.real}"
        )
    if args.input and not (args.vgg_weights or args.dino):
        lines.append(
            "self-similarity was left out: it needs --vgg_weights imagenet or PATH, or --dino PATH"
        )
    notes = words.column_notes(words.figure_table(result["figures"]))
    return [*lines, *words.text_table(result["figures"]), *notes, "", result["markdown"], ""]


def compare_sets(args: argparse.Namespace, runtime: Runtime, shown: Shown) -> dict[str, Any]:
    """Figures of the outputs against real images as sets; fills in what the page shows.

    Raises:
        UserError: unequal sizes within a set, or unusable weights.
    """
    reals = real_pictures(args, "real")
    sets = Sets(shown.fakes, reals, shown.inputs)
    left_out = []
    if args.train:
        sets.train = real_pictures(args, "train")
        fault = fault_of(sets.train) if "train" in args.found else None
        if fault:  # nobody has asked for these pictures
            left_out.append(f"training pictures were left out: {fault}")
            sets.train = None
        shown.train = sets.train
    if args.train_input:
        sets.train_inputs = real_pictures(args, "train_input")
    check_sets(sets)

    inception = Inception(args.inception, args.feature, device=runtime.device)
    store = None if args.no_store else default_store()
    judge = Judge(runtime, inception, args.batch_size, store)
    figures, features = set_figures(sets, judge, args.bootstrap, args.seed)
    duplicates = duplicate_report(sets)

    _, to_real = nearest(features["fakes"], features["reals"])
    shown.ranks = {"far from every real picture (distance of features)": -to_real}
    if sets.train:
        shown.nearest = nearest(features["fakes"], features["train"])
    return {
        "figures": figures,
        "counts": {"fake": len(shown.fakes), "real": len(reals)},
        "warnings": left_out + words.warnings(sets, duplicates),
        "duplicates": duplicates,
        "files": {name: file_facts(pictures) for name, pictures in sets.present().items()},
        "inception": judge.inception.describe(),
        "neighbours": NEIGHBOURS,
        "images": [{"name": name} for name in shown.names],
    }


def real_pictures(args: argparse.Namespace, flag: str) -> PictureSet:
    """The pictures of the folder that a flag names, or that a run implies; grey ones in the range of --value_range."""
    folder = getattr(args, flag)
    return PictureSet(folder, args.resize, args.found.get(flag), levels_of(args, folder))


def file_facts(pictures: PictureSet) -> dict[str, Any]:
    """What tells a set of files from another."""
    sizes = {f"{width}x{height}": n for (width, height), n in pictures.file_sizes.items()}
    return {
        "folder": str(pictures.folder),
        "images": len(pictures),
        "sha256": pictures.checksum,
        "sizes": sizes,
        "formats": dict(pictures.formats),
    }


def compare_with_truth(
    args: argparse.Namespace, runtime: Runtime, shown: Shown, result: dict[str, Any]
) -> list[str]:
    """Score every output against its truth, into the result; returns the table to print.

    Raises:
        UserError: an image has no truth or input of its name and size, or there is nothing to translate.
    """
    if shown.inputs is None:
        raise UserError("--truth needs --input as well: a score counts from a copy of the input")
    shown.truths = paired(shown.fakes, args.truth, "truth", levels_of(args, args.truth))
    check_equal_sizes(shown.fakes, shown.truths, "truth")
    check_equal_sizes(shown.fakes, shown.inputs, "input")

    found = truth_figures(args, runtime, shown.fakes, shown.truths, shown.inputs)
    errors = np.array([row["model"]["error"] for row in found["images"]])
    shown.ranks = {"far from its truth (error)": -errors, **shown.ranks}

    counts = {**result.get("counts", {}), **found["counts"]}
    figures = {**result["figures"], **found["figures"]}
    result |= found | {"counts": counts, "figures": figures}
    return words.truth_table(str(args.truth), found)


def compare_with_inputs(
    args: argparse.Namespace, runtime: Runtime, shown: Shown, result: dict[str, Any]
) -> None:
    """How outputs keep their inputs, into the result; outputs of another size than their input are not compared."""
    if shown.fakes.sizes != shown.inputs.sizes:
        result["warnings"].append(
            "outputs differ in size from their inputs: correspondence was not measured; "
            "--resize 256 brings both to one size"
        )
        return

    figures, rows = pair_figures(args, runtime, shown.fakes, shown.inputs, "pairs")
    result["figures"] |= figures
    result["encoder"] = encoder_facts(args)
    for image, row in zip(result["images"], rows, strict=True):
        image |= row

    values = np.array([row["edges"] for row in rows])
    shown.ranks = {**shown.ranks, "edges unlike those of the input (agreement)": values}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse_arguments(argv)
    return exit_status(lambda: evaluate(args))


def evaluate(args: argparse.Namespace) -> None:
    """Measure with the devices that --gpu_ids names; in full precision, so that figures are a CPU's."""
    start_processes(args.gpu_ids)
    plain = {"amp": "off", "tf32": False, "compile": "off", "cuda_graph": "off"}
    with Runtime(args.gpu_ids, args.seed, **plain) as runtime:
        measure(args, runtime)


if __name__ == "__main__":
    sys.exit(main())
