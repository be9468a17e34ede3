"""Random command lines for train.py and test.py: every flag that there is, with plain, extreme and senseless values."""

import argparse
from argparse import Namespace
from random import Random

import data
from models import find_model, model_names
from options.base_options import BaseOptions
from util.parser import OptionParser

# what would start a server, reach into a network or compile for minutes is only parsed
ONLY_PARSED = {
    *("use_wandb", "use_tensorboard", "compile", "cuda_graph", "display_id", "display_port"),
    *(
        "display_server",
        "num_threads",
        "netG",
        "netD",
        "ngf",
        "ndf",
        "vgg_weights",
        "checkpoints_dir",
    ),
    *("results_dir", "max_minutes", "continue_train", "profile", "netF_nc", "stylegan2_size"),
}
WHOLE = [
    "0",
    "1",
    "2",
    "3",
    "5",
    "16",
    "31",
    "-1",
    "64",
    "1000000",
    str(2**31),
    str(2**63),
    "9" * 30,
]
REAL = ["0", "1", "0.5", "-1", "1e-9", "1e9", "3.4e38", "1e400", "nan", "inf", "-inf", "0.1", "2"]
JUNK = [
    "",
    " ",
    "x",
    "true",
    "1,2",
    "nan",
    "ü",
    "-",
    "--",
    "%s",
    "{model}",
    "a b",
    "\t",
    "0x10",
    "1e3",
]
LISTS = [
    "0",
    "0,4",
    "1,0.5",
    "4,4",
    "0,99",
    "-1",
    "1,",
    ",",
    "0,2,4,6,8,10",
    "9" * 20,
    "0.5",
    "1,1,1",
]
NAMES = ["run", "a b", "a/b", "", ".", "../x", "/x", "x" * 300, "é" * 120, "a\nb", "{model}", "-x"]
PLACES = [
    "DATA",
    "DATA/trainA",
    "DATA/trainA/image_000.png",
    "nowhere",
    "",
    ".",
    "PAIRS",
    "EMPTY",
    "/dev/null",
]
WORDS = [
    "latest",
    "1",
    "0",
    "best",
    "train",
    "test",
    "val",
    "AtoB",
    "none",
    "random",
    "imagenet",
    "all",
]
PREPROCESS = [
    "none",
    "resize",
    "crop",
    "trim",
    "zoom_and_crop",
    "scale_width",
    "scale_width_and_crop",
]
PREPROCESS += [
    "scale_shortside_and_crop",
    "resize_shortside",
    "resize_and_trim",
    "crop_and_trim",
    "scale",
    "and",
]

# small networks and images, so that a step takes part of a second
TINY = {
    "netG": "resnet_4blocks", "ngf": "4", "ndf": "4", "num_threads": "0",
    "gpu_ids": "-1", "display_id": "0", "max_steps": "1", "vgg_weights": "random", "unpool": "sum",
    "crops_per_epoch": "4", "num_patches": "16", "checkpoints_dir": "checkpoints", "dataroot": "DATA", "name": "run",
    "vgg_layers": "0,2", "long_side": "32", "iterations": "2",
}  # fmt: skip
TINY_TRAINING = {"load_size": "36", "crop_size": "32", "batch_size": "2"}


def draw(rng: Random, options: BaseOptions, model: str, mild: bool) -> list[str]:
    """A random command line; it fits the model, mostly.

    Args:
        rng: where it comes from.
        options: of train.py or test.py.
        model: the method.
        mild: only flags that a step can be tried with.
    """
    mode = rng.choice(data.dataset_modes()) if rng.random() < 0.2 else None
    parser = options.build_parser(Namespace(model=model, dataset_mode=mode))
    actions = parser.declared()
    base = {name: value for name, value in TINY.items() if name in actions}
    if options.is_train:
        base |= {name: value for name, value in TINY_TRAINING.items() if name in actions}
        if "crops_per_epoch" in actions:
            base["max_dataset_size"] = "1"
    if mode:
        base["dataset_mode"] = mode

    argv = ["--model", model]
    for name, value in base.items():
        argv += [f"--{name}", value]
    chosen = [name for name in actions if not (mild and name in ONLY_PARSED) and name != "model"]
    for name in rng.sample(sorted(chosen), rng.randint(0, 3 if mild else 5)):
        argv += flag(rng, actions[name], model, mild)

    if rng.random() < 0.03:
        argv += [rng.choice(JUNK)]
    return argv


def flag(rng: Random, action: argparse.Action, model: str, mild: bool) -> list[str]:
    """One flag with a value that it may or may not take."""
    name = rng.choice(action.option_strings)
    if action.nargs == "?" and rng.random() < 0.4:
        return [name]
    plain = mild and rng.random() < 0.5 and plain_value(rng, action)
    chosen = plain or value(rng, action, model)
    return [f"{name}={chosen}"] if rng.random() < 0.2 else [name, chosen]


def plain_value(rng: Random, action: argparse.Action) -> str:
    """A value as one might try it; empty for a flag whose kind of values is not plain."""
    default = action.default
    if action.choices:
        return str(rng.choice(list(action.choices)))
    if isinstance(default, bool):
        return rng.choice(["true", "false"])
    if isinstance(default, int):
        return str(rng.choice([1, 2, max(default // 2, 1)]))
    if isinstance(default, float):
        return str(rng.choice([0.1, 0.5, default]))
    return ""


def value(rng: Random, action: argparse.Action, model: str) -> str:
    """A value for a flag: mostly of its kind, sometimes of another."""
    if rng.random() < 0.1:
        return rng.choice(JUNK)
    if action.choices:
        return str(rng.choice(list(action.choices)))

    pools = {
        "name": NAMES, "suffix": NAMES, "pretrained_name": NAMES, "preprocess": PREPROCESS, "dataroot": PLACES,
        "style": PLACES, "content_labels": PLACES, "style_labels": PLACES, "checkpoints_dir": PLACES,
        "results_dir": PLACES, "preset": [*find_model(model).PRESETS, "none", "x"],
        "dataset_mode": data.dataset_modes(), "value_range": ["0,255", "0,18", "5,1", "-1,1", "0,0", "nan,1"],
        "gpu_ids": ["-1", "0", "99", "0,1", "x"], "model_suffix": ["", "_A", "/", ".."],
    }  # fmt: skip
    if action.dest in pools:
        return rng.choice(pools[action.dest])

    kind = getattr(action.type, "__name__", "str")
    by_kind = {
        "boolean": ["true", "false", "yes", "0"], "switch": ["auto", "on", "off"], "str": WORDS,
        "int_list": LISTS, "float_list": LISTS,
    }  # fmt: skip
    whole = {
        "whole",
        "int",
        "natural",
        "positive_int",
        "size_limit",
        "seed_number",
        "power_of_two",
        "patch_count",
    }
    if kind in by_kind:
        return rng.choice(by_kind[kind])
    return rng.choice(WHOLE if kind in whole else REAL)


def models(is_train: bool) -> list[str]:
    """The methods of a phase."""
    names = model_names()
    return [name for name in names if find_model(name).TRAINABLE] if is_train else names


def shown(argv: list[str]) -> str:
    """The command line for a report."""
    return " ".join(repr(part) if set(part) - set(SAFE) or not part else part for part in argv)


SAFE = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./=,"

__all__ = ["OptionParser", "draw", "models", "shown"]
