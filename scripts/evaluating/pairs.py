"""Figures of single pictures: how a translation keeps its input, and how far it is from a truth that is known."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.picture_set import PictureSet, images_by_name, partners
from models.networks.vgg import LAYER_NAMES, VGG16Features, describe_weights
from util.errors import UserError
from util.metrics import bootstrap
from util.metrics import truth as metrics
from util.metrics.lpips import LAYERS as LPIPS_LAYERS
from util.metrics.lpips import lpips, read_lpips
from util.metrics.structure import self_similarity_distance
from util.metrics.suite import of_kind

STRUCTURE_LAYERS = (4, 7, 9)  # relu3_1, relu4_1, relu4_3
UNRELATED = "unrelated"  # the floor of correspondence: each output beside another one's input

PairFunction = Callable[[np.ndarray, np.ndarray], float]


def paired(fakes: PictureSet, folder: Path, flag: str) -> PictureSet:
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
    return PictureSet(folder, fakes.resize, paths)


def check_equal_sizes(fakes: PictureSet, others: PictureSet, what: str) -> None:
    """Raise UserError where an output differs in size from its input or truth."""
    for index, (one, other) in enumerate(zip(fakes.sizes, others.sizes, strict=True)):
        if one != other:
            raise UserError(
                f"{fakes.paths[index]} is {one[0]}x{one[1]} and differs in size from its {what}, "
                f"{other[0]}x{other[1]}; translate at their own size (test.py --size own), "
                "or bring both to one with --resize 256"
            )


def pair_functions(args: argparse.Namespace, kind: str) -> dict[str, tuple[str, str, PairFunction]]:
    """The measures of pairs or of truths that can be had: name -> title, which way is better, the function."""
    functions = {m.name: (m.title, m.better, m.function) for m in of_kind(kind)}
    if kind == "pairs" and args.vgg_weights:
        net = VGG16Features(STRUCTURE_LAYERS, args.vgg_weights)
        function = _on_features(net, self_similarity_distance)
        functions["self_similarity"] = ("self-similarity", "low", function)
    if kind == "truths" and args.lpips:
        if not args.vgg_weights:
            raise UserError("--lpips needs VGG16 as well: give --vgg_weights imagenet or PATH")
        weights = read_lpips(args.lpips)
        net = VGG16Features(LPIPS_LAYERS, args.vgg_weights)
        functions["lpips"] = (
            "LPIPS",
            "low",
            _on_features(net, lambda one, other: lpips(one, other, weights)),
        )
    return functions


def _on_features(
    net: torch.nn.Module, distance: Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
) -> PairFunction:
    """A measure of two pictures from one of their feature maps."""

    def function(one: np.ndarray, other: np.ndarray) -> float:
        pictures = np.stack([one, other]).astype(np.float32) * 2 - 1
        with torch.inference_mode():
            maps = net(torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous())
            found = distance([m[:1] for m in maps], [m[1:] for m in maps])
        return float(found)

    return function


def pair_figures(
    args: argparse.Namespace, fakes: PictureSet, others: PictureSet, kind: str
) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Every measure of this kind as a mean over pictures with its interval and its floor; and picture by picture.

    The floor of correspondence is an output beside the input of another; with one picture there is none.
    """
    functions = pair_functions(args, kind)
    rows, unrelated = [], []
    for index in range(len(fakes)):
        fake, other = fakes.unit(index), others.unit(index)
        rows.append({name: of(fake, other) for name, (_, _, of) in functions.items()})

        stranger = others.unit((index + 1) % len(fakes)) if len(fakes) > 1 else None
        if kind == "pairs" and stranger is not None and stranger.shape == fake.shape:
            unrelated.append({name: of(fake, stranger) for name, (_, _, of) in functions.items()})

    found = {}
    for name, (title, better, _) in functions.items():
        values = np.array([row[name] for row in rows])
        entry = {"title": title, "better": better, "value": float(values.mean())}
        entry["n"] = {"fake": len(values)}
        if args.bootstrap:
            entry |= bootstrap.of_mean(values, args.bootstrap, args.seed)
        if unrelated:
            floor = float(np.mean([row[name] for row in unrelated]))
            entry["floors"] = {UNRELATED: {"value": floor, "n": {"fake": len(unrelated)}}}
        found[name] = entry
    return found, rows


def truth_figures(
    args: argparse.Namespace, fakes: PictureSet, truths: PictureSet, inputs: PictureSet
) -> dict[str, Any]:
    """The score against the truth, errors by region, and the measures of truths with the floor of doing nothing.

    Raises:
        UserError: input and truth do not differ anywhere.
    """
    figures, rows = pair_figures(args, fakes, truths, "truths")
    copies, _ = pair_figures(args, inputs, truths, "truths")
    for name, entry in figures.items():
        entry["floors"] = {"inputs": {key: copies[name][key] for key in ("value", "n")}}

    images = []
    names = list(images_by_name(fakes.folder))
    for index, name in enumerate(names):
        errors = compare_image(fakes.unit(index), truths.unit(index), inputs.unit(index))
        images.append({"name": name, **errors, **rows[index]})

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


def mean_errors(errors: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean over images of each kind of error."""
    return {key: float(np.mean([row[key] for row in errors])) for key in errors[0]}


def encoder_facts(args: argparse.Namespace) -> dict[str, str]:
    """Which encoder judged correspondence."""
    if not args.vgg_weights:
        return {}
    layers = ", ".join(LAYER_NAMES[index] for index in STRUCTURE_LAYERS)
    return {"vgg": describe_weights(args.vgg_weights), "layers": layers}
