"""Measure label maps: pixel accuracy, class accuracy, mean IoU.

    python scripts/segmentation.py --predicted DIR --truth DIR --labels cityscapes
    python scripts/segmentation.py --photos DIR --segmenter segmenter.pth --truth DIR

The first form compares label maps that any segmenter has predicted, the second labels photographs, real or translated,
with one of scripts/train_segmenter.py. Files go together by name. A map of another size than its truth is compared at
the truth's size. docs/evaluation.md says what may be compared with what.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from data.image_file import read_image
from data.picture_set import images_by_name, partners
from scripts.segmenting.network import OWN_SIZE, Segmenter
from scripts.segmenting.pairs import read_labels
from util.errors import UserError, exit_status
from util.files import atomic_path
from util.hardware import provenance
from util.images import save_png
from util.metrics.segmentation import LABEL_SETS, LabelSet, confusion, segmentation_figures
from util.parser import OptionParser
from util.words import counted

Predict = Callable[[Path, tuple[int, int]], np.ndarray]  # a file, (width, height) -> classes (H,W)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, this process's by default; raises UserError."""
    parser = OptionParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--predicted", type=Path, metavar="DIR", help="label maps that were predicted")
    add("--photos", type=Path, metavar="DIR", help="photographs that --segmenter is to label")
    add("--segmenter", type=Path, metavar="FILE", help="of scripts/train_segmenter.py")
    add("--truth", type=Path, required=True, metavar="DIR", help="true label maps, same names")
    text = "what the label maps look like (with --segmenter: as it was trained)"
    add("--labels", choices=tuple(LABEL_SETS), help=text)
    add("--save", type=Path, metavar="DIR", help="write the predicted maps there, in colour")
    add(
        "--out",
        type=Path,
        metavar="FILE",
        help="where the JSON goes (default: beside the pictures)",
    )

    args = parser.parse_args(argv)
    if bool(args.predicted) == bool(args.photos):
        raise UserError("give either --predicted, or --photos with --segmenter")
    if args.photos and not args.segmenter:
        raise UserError("--photos needs --segmenter FILE; scripts/train_segmenter.py makes one")
    if args.predicted and not args.labels:
        raise UserError(f"--predicted needs --labels: {', '.join(LABEL_SETS)}")
    return args


def measure(args: argparse.Namespace) -> None:
    """Compare every map with its truth, write JSON and print the figures."""
    segmenter = Segmenter(args.segmenter) if args.photos else None
    labels = LABEL_SETS[args.labels or segmenter.name]
    if segmenter and labels.classes != segmenter.labels.classes:
        raise UserError(
            f"--labels {args.labels}: the segmenter knows other classes ({segmenter.name})"
        )
    predict = by_segmenter(segmenter) if segmenter else by_file(labels)

    folder = args.predicted or args.photos
    counts, images = compare(folder, args.truth, labels, predict, args.save)
    try:
        figures = segmentation_figures(counts)
    except ValueError as error:
        raise UserError(f"--truth {args.truth}: {error}; is --labels right?") from None

    result = {
        "figures": figures,
        "classes": class_figures(counts, labels),
        "images": images,
        "folders": {"measured": str(folder), "truth": str(args.truth)},
        "segmenter": segmenter.facts if segmenter else None,
        "command": shlex.join(["python", *sys.argv]),
        "versions": provenance.versions(),
    }
    out = args.out or Path(f"{folder}_segmentation.json")
    with atomic_path(out) as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")

    print(f"written to {out}: {counted(images, 'picture')} of {folder} against {args.truth}")
    print(", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in figures.items()))
    if segmenter:
        real = segmenter.facts["on real test photographs"]
        shown = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in real.items())
        where = "" if OWN_SIZE in segmenter.facts else f" (at {segmenter.side} x {segmenter.side})"
        print(f"the segmenter on real test photographs{where}: {shown}")


def by_file(labels: LabelSet) -> Predict:
    """Predictions that are there as files."""
    return lambda path, size: read_labels(str(path), labels, size)


def by_segmenter(segmenter: Segmenter) -> Predict:
    """Predictions of a segmenter for photographs, at the truth's size."""

    return lambda path, size: segmenter(read_image(str(path), 3), size)


def compare(
    folder: Path, truth: Path, labels: LabelSet, predict: Predict, save: Path | None
) -> tuple[np.ndarray, int]:
    """The confusion over all pictures, and their number.

    Raises:
        UserError: a picture has no true map of its name.
    """
    files = images_by_name(folder)
    counts = np.zeros((len(labels.classes), len(labels.classes) + 1), np.int64)
    for name, path in partners(list(files), truth):
        if path is None:
            raise UserError(f"--truth {truth} has no label map {name}, but {folder} has a picture")
        true = read_labels(path, labels)
        found = predict(files[name], true.shape[::-1])
        counts += confusion(found, true, len(labels.classes))
        if save:
            save_png(labels.show(found), save / f"{name}.png")
    return counts, len(files)


def class_figures(counts: np.ndarray, labels: LabelSet) -> dict[str, dict[str, float | int | None]]:
    """By class: pixels that have it, accuracy and IoU; None for a class that does not occur."""
    found = {}
    for number, name in enumerate(labels.classes):
        right, true = int(counts[number, number]), int(counts[number].sum())
        union = true + int(counts[:, number].sum()) - right
        found[name] = {
            "pixels": true,
            "accuracy": right / true if true else None,
            "iou": right / union if union else None,
        }
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return exit_status(lambda: measure(parse_arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
