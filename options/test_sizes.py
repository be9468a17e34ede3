"""At what size test.py translates: that at which a run's last epochs saw images, or each image's own."""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import data
from data.transforms import Preprocess, cuts, scaled_as_trained, scaler_of
from util.errors import UserError

GEOMETRY = ("preprocess", "load_size", "crop_size")
SIZES = ("trained", "own")


def as_trained(options: Mapping[str, Any]) -> dict[str, Any]:
    """How test.py scales images for a run with these options: as training did in its last epochs, uncut."""
    if data.find_dataset(options["dataset_mode"]).OWN_SIZE_AT_TEST:
        return {"preprocess": "none"}
    return scaled_as_trained(options)


def check_sizes(given: Mapping[str, Any], has_record: bool) -> None:
    """Raise UserError for flags of test.py on sizes that contradict each other or have no effect."""
    size = given.get("size")
    with_size = [f"--{name} {given[name]}" for name in GEOMETRY if name in given]
    if size and with_size:
        raise UserError(
            f"--size {size} and {with_size[0]} both say at which size images are translated: "
            "give one of them"
        )
    if size == "trained" and not has_record:
        raise UserError(
            "--size trained needs the record of a training run (train_opt.json), which is not there: "
            "leave it out, or say with --preprocess resize --load_size N how images are scaled"
        )


def check_effect(given: Mapping[str, Any], opt: Namespace) -> None:
    """Raise UserError for a size that the resolved --preprocess has no use for."""
    scaler = scaler_of(opt.preprocess)
    if "load_size" in given and scaler == "none":
        raise UserError(
            f"--load_size {opt.load_size} has no effect where images keep their own size: "
            "add --preprocess resize, or leave it out"
        )

    zooms = "zoom" in opt.preprocess.split("_and_")
    uses_crop = scaler == "scale_width" or cuts(opt.preprocess) or zooms
    if "crop_size" in given and not uses_crop:
        raise UserError(
            f"--crop_size {opt.crop_size} has no effect with --preprocess {opt.preprocess}, which cuts nothing: "
            f"give --load_size {opt.crop_size} for another size, or leave it out"
        )


def size_of(opt: Namespace, given: dict[str, Any], saved: dict[str, Any]) -> str | None:
    """What --size comes to: trained or own, None where other flags say how images are scaled."""
    if opt.preprocess == "none":
        return "own"
    as_saved = all(given.get(name, saved.get(name)) == saved.get(name) for name in GEOMETRY)
    return "trained" if as_saved else None


def describe_sizes(opt: Namespace) -> str:
    """At what size images are translated, in words."""
    what = {
        "none": "their own",
        "resize": "resized to {0} x {1}",
        "scale_width": "scaled to a width of {0}",
        "scale_shortside": "enlarged to a shorter side of {0}",
        "resize_shortside": "scaled to a shorter side of {0}",
    }
    if opt.preprocess not in what:
        return f"as --preprocess {opt.preprocess} --load_size {opt.load_size} --crop_size {opt.crop_size} says"

    size, steps = (opt.load_size, opt.load_size), Preprocess.of(opt)
    if opt.preprocess == "resize":
        size = steps.resized(None, opt.load_size, None)
    text = what[opt.preprocess].format(*size)
    if steps.rounds and opt.preprocess != "resize":
        text += f", to the nearest multiples of {opt.size_multiple}"
    return f"{text}, as in training" if opt.size == "trained" else text
