"""Figures of single pictures: how a translation keeps its input, and how far it is from a truth that is known."""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.picture_set import PictureSet, images_by_name, partners
from data.pixels import Levels
from models.networks.dino import DinoKeys
from models.networks.vgg import LAYER_NAMES, VGG16Features, describe_file, describe_weights
from scripts.evaluating.floors import DO_NOTHING, UNRELATED
from util.errors import UserError
from util.hardware.runtime import Runtime
from util.metrics import bootstrap
from util.metrics import truth as metrics
from util.metrics.lpips import LAYERS as LPIPS_LAYERS
from util.metrics.lpips import lpips, read_lpips
from util.metrics.structure import self_similarity_distance
from util.metrics.suite import of_kind

STRUCTURE_LAYERS = (4, 7, 9)  # relu3_1, relu4_1, relu4_3

PairFunction = Callable[[Any, Any], float]


@dataclass(frozen=True)
class PairMeasure:
    """A measure of two pictures (H,W,3) in [0,1].

    It compares what `prepare` has made of each: feature maps, or the picture itself.
    """

    name: str
    title: str
    better: str  # "low" or "high"
    compare: PairFunction
    prepare: Callable[[np.ndarray], Any] = lambda picture: picture


def paired(fakes: PictureSet, folder: Path, flag: str, levels: Levels | None = None) -> PictureSet:
    """The images of a folder that belong to the outputs, in their order.

    Raises:
        UserError: an output has no image of its name there.
    """
    names = list(images_by_name(fakes.folder))
    paths = []
    for name, path in partners(names, folder):
        if path is None:
            raise UserError(f"--{flag} {folder} has no image {name}, but --fake {fakes.folder} has")
        paths.append(path)
    return PictureSet(folder, fakes.resize, paths, levels)


def check_equal_sizes(fakes: PictureSet, others: PictureSet, what: str) -> None:
    """Raise UserError where an output differs in size from its input or truth."""
    for index, (one, other) in enumerate(zip(fakes.sizes, others.sizes, strict=True)):
        if one != other:
            raise UserError(
                f"{fakes.paths[index]} is {one[0]}x{one[1]} and differs in size from its {what}, "
                f"{other[0]}x{other[1]}; translate at their own size (test.py --size own), "
                "or bring both to one with --resize 256"
            )


def pair_measures(args: argparse.Namespace, kind: str, device: torch.device) -> list[PairMeasure]:
    """The measures of pairs or of truths that can be had."""
    found = [PairMeasure(m.name, m.title, m.better, m.function) for m in of_kind(kind)]
    structure = of_features(self_similarity_distance)

    if kind == "pairs" and args.vgg_weights:
        encode = on_pictures(VGG16Features(STRUCTURE_LAYERS, args.vgg_weights), device)
        found.append(
            PairMeasure("self_similarity", "self-similarity", "low", structure, prepare=encode)
        )
    if kind == "pairs" and args.dino:
        encode = on_pictures(DinoKeys(args.dino), device)
        title = "self-similarity (DINO)"
        found.append(PairMeasure("self_similarity_dino", title, "low", structure, prepare=encode))

    if kind == "truths" and args.lpips:
        if not args.vgg_weights:
            raise UserError("--lpips needs VGG16 as well: give --vgg_weights imagenet or PATH")
        weights = [weight.to(device) for weight in read_lpips(args.lpips)]
        encode = on_pictures(VGG16Features(LPIPS_LAYERS, args.vgg_weights), device)
        compare = of_features(partial(lpips, weights=weights))
        found.append(PairMeasure("lpips", "LPIPS", "low", compare, prepare=encode))
    return found


def on_pictures(net: nn.Module, device: torch.device) -> Callable[[np.ndarray], list[Tensor]]:
    """What computes a frozen encoder's feature maps (1,C,h,w) of a picture (H,W,3) in [0,1]."""
    net = net.to(device)

    def encode(picture: np.ndarray) -> list[Tensor]:
        pixels_HWC = torch.from_numpy(picture.astype(np.float32) * 2 - 1)
        with torch.inference_mode():
            return net(pixels_HWC.permute(2, 0, 1)[None].contiguous().to(device))

    return encode


def of_features(distance: Callable[[list[Tensor], list[Tensor]], Tensor]) -> PairFunction:
    """A distance of feature maps, as a number."""

    def compare(one: list[Tensor], other: list[Tensor]) -> float:
        with torch.inference_mode():
            return float(distance(one, other))

    return compare


def pair_figures(
    args: argparse.Namespace, runtime: Runtime, fakes: PictureSet, others: PictureSet, kind: str
) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Every measure of this kind as a mean over pictures with its interval and its floors; and picture by picture.

    Correspondence lies between an input beside itself and an output beside the input of another; with one picture
    there is no other.
    """
    measures = pair_measures(args, kind, runtime.device)
    with_floors = kind == "pairs"
    work = partial(compare_pairs, measures, fakes, others, with_floors)
    compared = runtime.spread(work, range(len(fakes)))
    rows = [row for row, _ in compared]

    found = {}
    for measure in measures:
        values = np.array([row[measure.name] for row in rows])
        entry = {"title": measure.title, "better": measure.better, "value": float(values.mean())}
        entry["n"] = {"fake": len(values)}
        if args.bootstrap:
            entry |= bootstrap.of_mean(values, args.bootstrap, args.seed)
        if with_floors:
            entry["floors"] = mean_floors(measure.name, [floors for _, floors in compared])
        found[measure.name] = entry
    return found, rows


def mean_floors(name: str, floors: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """The floors of one measure, from those of each picture: a mean, and of how many pictures it is."""
    found = {}
    for floor in (DO_NOTHING, UNRELATED):
        values = [of_picture[floor][name] for of_picture in floors if floor in of_picture]
        if values:
            found[floor] = {"value": float(np.mean(values)), "n": {"fake": len(values)}}
    return found


def compare_pairs(
    measures: Sequence[PairMeasure],
    fakes: PictureSet,
    others: PictureSet,
    with_floors: bool,
    indices: Sequence[int],
) -> Iterator[tuple[dict[str, float], dict[str, dict[str, float]]]]:
    """What the measures find of these outputs beside their partners and, where asked for, what each floor is there.

    A floor is the partner beside itself; another is the output beside the next one's partner, if that has its size.
    """

    def prepared(pictures: PictureSet, index: int) -> dict[str, Any]:
        picture = pictures.unit(index)
        return {measure.name: measure.prepare(picture) for measure in measures}

    def compared(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
        return {m.name: m.compare(one[m.name], other[m.name]) for m in measures}

    following = None  # the partner of the next output, once it is prepared
    for index in indices:
        fake = prepared(fakes, index)
        own = following or prepared(others, index)
        following, floors = None, {}

        if with_floors:
            floors[DO_NOTHING] = compared(own, own)
            after = (index + 1) % len(fakes)
            if after != index and fakes.sizes[index] == others.sizes[after]:
                following = prepared(others, after)
                floors[UNRELATED] = compared(fake, following)
        yield compared(fake, own), floors


def truth_figures(
    args: argparse.Namespace,
    runtime: Runtime,
    fakes: PictureSet,
    truths: PictureSet,
    inputs: PictureSet,
) -> dict[str, Any]:
    """The score against the truth, errors by region, and the measures of truths with the floor of doing nothing.

    Raises:
        UserError: input and truth do not differ anywhere.
    """
    figures, rows = pair_figures(args, runtime, fakes, truths, "truths")
    copies, _ = pair_figures(args, runtime, inputs, truths, "truths")
    for name, entry in figures.items():
        entry["floors"] = {DO_NOTHING: {key: copies[name][key] for key in ("value", "n")}}

    def compare_images(indices: Sequence[int]) -> Iterator[dict[str, Any]]:
        for index in indices:
            yield compare_image(fakes.unit(index), truths.unit(index), inputs.unit(index))

    names = list(images_by_name(fakes.folder))
    compared = runtime.spread(compare_images, range(len(names)))
    images = [
        {"name": name, **errors, **row}
        for name, errors, row in zip(names, compared, rows, strict=True)
    ]

    errors = {who: [row[who]["error"] for row in images] for who in ("model", "copy")}
    try:
        score = metrics.score(errors["model"], errors["copy"])
    except ValueError as error:
        text = f"--truth {truths.folder} is no truth for --input {inputs.folder}: {error}"
        raise UserError(text) from None

    missing = len(images_by_name(truths.folder)) - len(names)
    return {
        "score": score,
        "counts": {"images": len(images), "not_translated": max(missing, 0)},
        "means": {who: mean_errors([row[who] for row in images]) for who in ("copy", "model")},
        "figures": figures,
        "images": images,
    }


def compare_image(fake: np.ndarray, truth: np.ndarray, source: np.ndarray) -> dict[str, Any]:
    """Errors of a translated image and of a copy of its input; its score is None where the input is its own truth."""
    model = metrics.errors_by_region(fake, truth, source)
    copy = metrics.errors_by_region(source, truth, source)
    score = metrics.score([model["error"]], [copy["error"]]) if copy["error"] else None
    return {"score": score, "model": model, "copy": copy}


def mean_errors(errors: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """The mean of each kind of error over the images that have it; None where none has."""
    means = {}
    for key in errors[0]:
        known = [row[key] for row in errors if row[key] is not None]
        means[key] = float(np.mean(known)) if known else None
    return means


def encoder_facts(args: argparse.Namespace) -> dict[str, str]:
    """Which encoders judged correspondence, and the distance from a truth."""
    facts = {}
    if args.vgg_weights:
        layers = ", ".join(LAYER_NAMES[index] for index in STRUCTURE_LAYERS)
        facts |= {"vgg": describe_weights(args.vgg_weights), "layers": layers}
    if args.dino:
        facts["dino"] = describe_file(args.dino)
    if args.lpips and args.truth:
        facts["lpips"] = describe_file(args.lpips)
    return facts
