"""Put trained runs side by side on the same inputs: translations in folders, and one page to look through them.

    python scripts/compare.py --names h2z h2z_cut h2z_cyclegan
    python scripts/compare.py --names a b --dataroot photos/ --epoch 100 --num_test 50
    python scripts/compare.py --names a b c --measure
    python scripts/compare.py --names a b --with results/pictures/test_latest

Each run is restored and translates as with test.py, whose flags all apply to every run; one model is in memory at a
time. The page goes to RESULTS_DIR/a+b+c/index.html and the pictures of a run below it to where test.py would put them,
so that `python scripts/evaluate.py --name a --results_dir RESULTS_DIR/a+b+c` measures it. --measure does that for all
runs and shows the figures on the page. --with shows what test.py has written before, such as the pictures of a method
that has no run.
"""

import argparse
import hashlib
import shlex
import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from data import find_dataset
from data.image_file import read_image
from data.layout import phase_folder
from data.transforms import Preprocess, Size
from models.inference.translate import translate
from options import TestOptions, parse
from scripts import evaluate
from scripts.comparing.facts import differing_options, measured, training_facts
from scripts.comparing.made import made_column
from scripts.comparing.page import Column, write_comparison
from util.errors import UserError, exit_status
from util.metrics.features import LAYERS
from util.pages.files import Picture
from util.pages.gallery import Gallery
from util.parser import OptionParser, show_value
from util.run.folder import run_dir, saved_record

LONGEST_FOLDER = 100  # characters; beyond, a checksum takes the place of further names


def parse_arguments(argv: Sequence[str]) -> tuple[Namespace, list[str]]:
    """The flags of this command and those for test.py; raises UserError."""
    parser = OptionParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    text = "the runs, in the order of columns"
    parser.add_argument("--names", nargs="+", required=True, metavar="NAME", help=text)
    parser.add("--results_dir", "./results/compare", "where the folder of the comparison goes")

    text = "also show the pictures of these result folders of test.py, by the names of the inputs"
    parser.add_argument("--with", nargs="+", default=[], type=Path, metavar="FOLDER", help=text)

    text = "measure every run with scripts/evaluate.py and show the figures"
    parser.add("--measure", False, text)
    parser.add("--inception", None, "handed on to scripts/evaluate.py", metavar="PATH")
    parser.add("--feature", None, "handed on to scripts/evaluate.py", choices=LAYERS)

    args, rest = parser.parse_known_args(argv)
    args.given = {flag.split("=")[0] for flag in rest}
    if "--name" in args.given:
        raise UserError(
            "--name is a flag of test.py; --names takes all the runs, as in --names a b c"
        )

    for name in args.names:
        if args.names.count(name) > 1:
            raise UserError(f"--names {name} is given twice; each run has one column")
        if name.startswith("/") or {"..", "."} & {*PurePosixPath(name).parts, name}:
            raise UserError(
                f"--names {name}: give the name of a run in --checkpoints_dir, not a path"
            )
    return args, rest


def folder_of(args: Namespace) -> Path:
    """The folder of this comparison: each list of names has its own, so that none overwrites another."""
    joined = "+".join(name.replace("/", "_") for name in args.names)
    if len(joined) > LONGEST_FOLDER:
        checksum = hashlib.sha256(joined.encode()).hexdigest()
        joined = f"{joined[:LONGEST_FOLDER]}+{checksum[:8]}"
    return Path(args.results_dir) / joined


def restore(args: Namespace, rest: Sequence[str], folder: Path) -> list[Namespace]:
    """The options of test.py for every run; all is checked that can be before the first image is translated.

    Raises:
        UserError: a run or its weights do not exist, or the runs have no inputs in common.
    """
    top = Path(TestOptions().peek(rest).checkpoints_dir)
    for name in args.names:
        if not any((top / name).glob("*_net_*.pth")):
            raise UserError(f"--names {name}: no run of this name in {top}; {_existing(top, name)}")
    opts = [_parse(name, rest, folder) for name in args.names]

    # the same inputs for all
    directions = {}
    for name in args.names:
        directions[name] = saved_record(top / name).get("options", {}).get("direction")
    if len({*directions.values()} - {None}) > 1:
        raise UserError(
            f"--names: {_list(directions)}: opposite directions have no inputs in common; "
            "compare runs of one direction"
        )
    if "--dataroot" not in args.given and len({opt.dataroot for opt in opts}) > 1:
        roots = {opt.name: opt.dataroot for opt in opts}
        raise UserError(
            f"--dataroot is missing, and the runs were trained on different data ({_list(roots)})"
        )

    # read in one way by all
    unlike = "--dataset_mode" not in args.given and len({opt.dataset_mode for opt in opts}) > 1
    if unlike and _has_halves(opts[0]):
        opts = [_parse(name, [*rest, "--dataset_mode", "aligned"], folder) for name in args.names]

    for opt in opts:
        _require_weights(opt)
        # What a method makes of the other domain has no counterpart in the others.
        opt.test_roles = "A"
    check_same_sizes(opts)
    return opts


def check_same_sizes(opts: Sequence[Namespace]) -> None:
    """Raise UserError where two runs would translate an image at different sizes."""
    first, *others = opts
    sizes = input_sizes(first)
    for opt in others:
        for path, size in input_sizes(opt).items():
            if sizes.get(path, size) != size:
                raise UserError(
                    f"{first.name} translates {path} at {sizes[path][0]} x {sizes[path][1]}, "
                    f"{opt.name} at {size[0]} x {size[1]}: give one size for all, "
                    "with --size own or --preprocess resize --load_size N"
                )


def input_sizes(opt: Namespace) -> dict[str, Size]:
    """(width, height) at which a run translates each image."""
    dataset = find_dataset(opt.dataset_mode)(opt)
    sizes = {}
    for index in range(len(dataset)):
        view = dataset.plan(1, index)["A"]
        height, width = view.content_size
        sizes[view.source.path] = width, height
    return sizes


def _require_weights(opt: Namespace) -> None:
    """Raise UserError where the run has no generator of the chosen epoch."""
    if any(run_dir(opt).glob(f"{opt.epoch}_net_G*.pth")):
        return

    epochs = {path.name.split("_net_")[0] for path in run_dir(opt).glob("*_net_G*.pth")}
    known = ", ".join(sorted(epochs)) or "none"
    raise UserError(f"--epoch {opt.epoch}: {opt.name} has no such weights; it has {known}")


def _parse(name: str, rest: Sequence[str], folder: Path) -> Namespace:
    try:
        return parse(TestOptions(), ["--name", name, *rest, "--results_dir", str(folder)])
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def _existing(top: Path, name: str) -> str:
    """What there is instead, in words."""
    runs = sorted({path.parent.name for path in top.glob("*/*_net_*.pth")})
    near = get_close_matches(name, runs, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return f"{guess}there are: {', '.join(runs) or 'none'}"


def _list(values: dict[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _has_halves(opt: Namespace) -> bool:
    """Whether the images lie side by side in the files of one folder, which only --dataset_mode aligned takes apart."""
    return phase_folder(opt.dataroot, opt.phase) is not None


def pictures_of(gallery: Gallery, folder: Path) -> dict[str, dict[str, Picture]]:
    """What a run wrote, {name: {label: picture}}, files relative to `folder`; inputs of the other side left out."""
    inside = gallery.folder.relative_to(folder).as_posix()
    found = {}
    for name, pictures in gallery.rows:
        row = {}
        for picture in pictures:
            if not picture.is_figure:
                row[picture.label] = replace(picture, file=f"{inside}/{picture.file}")
        if {"real_A", "fake_B"} <= row.keys():
            found[name] = row
    return found


def check_same_inputs(names: Sequence[str], runs: Sequence[dict[str, dict[str, Picture]]]) -> None:
    """See that every run was given the same images; raises UserError."""
    for name, run in zip(names[1:], runs[1:], strict=True):
        alone = sorted(run.keys() ^ runs[0].keys())
        if alone:
            raise UserError(
                f"{names[0]} and {name} read different images ({len(runs[0])} and {len(run)}; "
                f"only one has {alone[0]}): say with --dataset_mode how all runs are to read "
                "--dataroot"
            )


def known_truth(runs: Iterable[dict[str, dict[str, Picture]]]) -> dict[str, Picture]:
    """The truth of every input, where a run read pairs; else nothing."""
    for run in runs:
        if all("real_B" in row for row in run.values()):
            return {name: row["real_B"] for name, row in run.items()}
    return {}


def find_truth(
    opt: Namespace, rows: dict[str, dict[str, Picture]], folder: Path
) -> dict[str, Picture]:
    """The images of DATAROOT/<phase>A_truth that go with the inputs, scaled as they are; none is fine too."""
    source = Path(opt.dataroot) / f"{opt.phase}{opt.direction[0]}_truth"
    if not source.is_dir():
        return {}

    steps = Preprocess.of(opt)
    levels = tuple(opt.value_range) if opt.value_range else None
    known, found = evaluate.images_by_name(source), {}
    gallery = Gallery(folder / f"{opt.phase}_truth", "truth", {"copied from": str(source)})
    gallery.open()
    with gallery:
        inside = f"{gallery.folder.name}/images/real_B"
        for name, row in rows.items():
            if name not in known:
                continue
            pixels = read_image(str(known[name]), 3, levels)
            pixels = pixels.resize(steps.resized(pixels.size, opt.load_size, None))
            if pixels.size != (row["real_A"].width, row["real_A"].height):
                print(f"{known[name]} is left out as a truth: it differs from its input in size")
                continue

            image = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
            gallery.add(name, {"real_B": image})
            found[name] = Picture("real_B", f"{inside}/{name}.png", *pixels.size)
    return found


def measure(args: Namespace, opts: Iterable[Namespace], truth: Path | None, source: Path) -> None:
    """Run scripts/evaluate.py for each run; what cannot be measured is said by it, and left out."""
    for opt in opts:
        flags = ["--name", opt.name, "--phase", opt.phase, "--epoch", opt.epoch]
        flags += ["--dataroot", opt.dataroot]
        flags += ["--checkpoints_dir", opt.checkpoints_dir, "--results_dir", opt.results_dir]
        if opt.gpu_ids is not None:
            flags += ["--gpu_ids", opt.gpu_ids]
        if opt.value_range:
            flags += ["--value_range", show_value(opt.value_range)]
        if truth:
            flags += ["--truth", str(truth), "--input", str(source)]
        if args.inception:
            flags += ["--inception", args.inception]
        if args.feature:
            flags += ["--feature", args.feature]

        print(f"measuring {opt.name}")
        evaluate.main(flags)


def _folder_with(name: str, picture: Picture | None, folder: Path) -> Path | None:
    """The folder that holds a picture and its like."""
    if picture is None:
        return None
    return folder / picture.file.removesuffix(f"/{name}.png")


def build_columns(
    opts: Sequence[Namespace], galleries: Sequence[Gallery], folder: Path
) -> list[Column]:
    """One column per run, with where it comes from and how it was measured."""
    columns = []
    for number, (opt, gallery) in enumerate(zip(opts, galleries, strict=True)):
        facts = {"weights": gallery.description["weights"]}
        facts |= training_facts(saved_record(run_dir(opt)))
        found = measured(gallery.folder)
        page = f"{gallery.folder.relative_to(folder).as_posix()}/index.html"
        columns.append(Column(opt.name, "method", number, opt.recipe, facts, found, page))
    return columns


def compare(args: Namespace, rest: Sequence[str]) -> Path:
    """Translate with every run, write the page and return its path."""
    folder = folder_of(args)
    opts = restore(args, rest, folder)
    galleries = [translate(opt) for opt in opts]  # each call lets go of its model
    runs = [pictures_of(gallery, folder) for gallery in galleries]
    check_same_inputs(args.names, runs)

    # inputs in colour, if a run sees colours, and what is known of their truth
    channels = [opt.input_nc for opt in opts]
    sources = runs[channels.index(max(channels))]
    truth = known_truth(runs) or find_truth(opts[0], sources, folder)
    if args.measure:
        one = next(iter(sources))
        truth_folder = _folder_with(one, truth.get(one), folder)
        measure(args, opts, truth_folder, _folder_with(one, sources[one]["real_A"], folder))

    columns = [Column("input", "input")]
    if truth:
        columns.append(Column("truth", "truth"))
    columns += build_columns(opts, galleries, folder)
    made = []
    for source in vars(args)["with"]:
        column, pictures = made_column(source, folder, len(opts) + len(made), sorted(sources))
        columns.append(column)
        made.append(pictures)

    rows = {}
    for name in sorted(sources):
        rows[name] = [sources[name]["real_A"]]
        if truth:
            rows[name].append(truth.get(name))
        rows[name] += [run[name]["fake_B"] for run in runs]
        rows[name] += [pictures.get(name) for pictures in made]

    made_with = ", ".join(galleries[0].description[key] for key in ("commit", "torch", "device"))
    facts = {
        "command": shlex.join(["python", *sys.argv]),
        "data": opts[0].dataroot,
        "translated with": made_with,
    }
    options = differing_options({opt.name: saved_record(run_dir(opt)) for opt in opts})
    options = {name: [*values, *["" for _ in made]] for name, values in options.items()}
    return write_comparison(folder / "index.html", columns, rows, facts, options)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, this process's by default; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv

    def work() -> None:
        page = compare(*parse_arguments(argv))
        print(f"side by side: {page}")

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
