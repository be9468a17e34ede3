"""Steps of a tiny run, recorded beside plain, under one runtime: the same losses, the same weights?"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from data import create_loader
from models import create_model, find_model, model_names
from models.step.cuda_graph import RecordedStep
from models.step.runners import PlainStep, Step, create_step
from options import TrainOptions, parse
from util.hardware.runtime import Runtime

STEPS = 8  # of each turn of a cycle: warm-up, recording, trial and replays
SEED = 5
SMALL = "--netG resnet_4blocks --ngf 4 --ndf 4 --load_size 36 --crop_size 32 --num_threads 0"
# what some methods need so that a tiny run is possible, where they have the flag
FITTING = {
    "vgg_weights": "random",
    "num_patches": "8",
    "crops_per_epoch": "8",
    "unpool": "sum",
}
Build = Callable[..., tuple]  # flags -> options, runtime, loader, model


class Likeness(NamedTuple):
    """How far recorded steps were from plain ones.

    Attributes:
        recorded: steps were recorded and replayed.
        said: what was printed meanwhile, such as why steps are not recorded.
        worst: largest relative difference of a loss in any step.
        same_bits: losses of all steps and the weights at the end are equal.
    """

    recorded: bool
    said: list[str]
    worst: float
    same_bits: bool

    @property
    def good(self) -> bool:
        """Recorded, and no further off than another order of additions takes it."""
        return self.recorded and not self.said and self.worst <= 1e-4


def recipes() -> list[tuple[str, str | None]]:
    """Every method that is trained, with each of its presets."""
    trained = [name for name in model_names() if find_model(name).TRAINABLE]
    return [(name, preset) for name in trained for preset in (find_model(name).PRESETS or [None])]


def tiny_flags(data: Path, model: str, preset: str | None) -> list[str]:
    """A command line of train.py that any method takes."""
    options = TrainOptions()
    declared = options.build_parser(options.peek(["--model", model])).declared()
    flags = ["--dataroot", str(data), "--name", "tiny", "--model", model, *SMALL.split()]
    flags += ["--checkpoints_dir", str(data.parent / "checkpoints"), "--display_id", "0"]
    flags += ["--preset", preset] if preset else []

    for name, value in FITTING.items():
        if name in declared:
            flags += [f"--{name}", value]
    if "crops_per_epoch" in declared:
        flags += ["--max_dataset_size", "1", "--batch_size", "1"]
    return flags


def build(*flags: str) -> tuple:
    """Options, runtime, loader and model of a command line of train.py."""
    opt = parse(TrainOptions(), list(flags))
    runtime = Runtime.from_options(opt)
    return opt, runtime, create_loader(opt, runtime), create_model(opt, runtime)


def compare(build: Build) -> Likeness:
    """Recorded against plain steps of a run whose options ask for recorded ones.

    Both models are made for recording: a learning rate is a tensor, and autocast keeps no copies of weights. Those
    change the last bit of a plain step, and are no fault of a recording.
    """
    histories, ends, said = [], [], []
    for recorded in (False, True):
        _, runtime, loader, model = build()
        step = Step(model, PlainStep(model))
        if recorded:
            step = create_step(model, runtime, said.append)

        torch.manual_seed(SEED)
        batches = itertools.chain.from_iterable(loader.epoch(e) for e in itertools.count(1))
        seen = []
        for batch in itertools.islice(batches, STEPS * model.CYCLE):
            step(batch)
            losses = model.get_current_losses()
            seen.append({name: float(value) for name, value in losses.items()})
        histories.append(seen)
        ends.append([weight.detach().clone() for weight in all_weights(model)])

    plain, fast = histories
    differences = [0.0]
    for one, other in zip(plain, fast, strict=True):
        differences += [abs(other[k] - v) / max(abs(v), 1e-3) for k, v in one.items()]
    worst = max(differences, key=lambda value: float("inf") if value != value else value)

    same_weights = all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    recorded = isinstance(step.work, RecordedStep) and bool(step.work.recordings)
    return Likeness(recorded, list(dict.fromkeys(said)), worst, plain == fast and same_weights)


def all_weights(model) -> list[torch.Tensor]:
    """The parameters of all networks."""
    return [weight for net in model.networks.values() for weight in net.parameters()]
