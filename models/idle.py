"""Options that change nothing beside the values of others, so that no ablation compares equal with equal.

A method names its own in `idle`. Here are those of the common networks, of the schedule and of images, and what is said
of one that was given all the same.
"""

from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from data.transforms import reduced_in_decay, scaler_of
from models.networks import DISCRIMINATORS, GENERATORS, training_size
from util.errors import UserError
from util.parser import show_value

# a setting that networks take or not -> the flag that says it
OF_GENERATORS = {
    "norm": "normG",
    "padding": "padG",
    "use_dropout": "no_dropout",
    "antialias_up": "no_antialias_up",
    "halvings": "stylegan2_G_num_downsampling",
}
OF_DISCRIMINATORS = {"norm": "normD", "n_layers": "n_layers_D"}
OF_BOTH = {"antialias": "no_antialias", "size": "stylegan2_size"}
OF_COMMON_NETWORKS = (
    *("netG", "netD", *OF_GENERATORS.values()),
    *(*OF_DISCRIMINATORS.values(), *OF_BOTH.values()),
)
CROPS = {"crop", "trim", "zoom", "patch"}  # words of --preprocess


class Idle(NamedTuple):
    """A rule: options without effect, and beside the present values of which others that is so.

    Where it is so for good, as the method has no other values, an option is never refused: a script gives it to all.
    """

    names: tuple[str, ...]
    beside: tuple[str, ...]
    for_good: bool = False


@dataclass(frozen=True)
class IdleOption:
    """An option that was given and changes nothing.

    Attributes:
        beside: what leaves it without effect, as flags.
        forgotten: nobody has asked for that either, so the flag that would give this one an effect may be missing.
    """

    name: str
    beside: str
    forgotten: bool

    def __str__(self) -> str:
        return f"--{self.name} has no effect beside {self.beside}"


def find_idle(
    opt: Namespace, rules: Iterable[Idle], given: Iterable[str], without: Mapping[str, Any]
) -> list[IdleOption]:
    """The options that change nothing and have other values than they would have had `without` being given.

    Args:
        given: options that were typed.
    """
    given = set(given)
    found: dict[str, IdleOption] = {}
    for names, beside, for_good in rules:
        words = " ".join(f"--{other} {show_value(getattr(opt, other))}" for other in beside)
        for name in names:
            if name not in without or getattr(opt, name) == without[name]:
                continue
            forgotten = name in given and given.isdisjoint(beside) and not for_good
            if name not in found or (found[name].forgotten and not forgotten):
                found[name] = IdleOption(name, words, forgotten)
    return list(found.values())


def refuse_forgotten(idle: Iterable[IdleOption]) -> None:
    """Raise UserError for an option that waits for another one; one that was switched off on purpose is only told."""
    for option in idle:
        if option.forgotten:
            raise UserError(f"{option}: leave it out, or change that")


def idle_in_networks(opt: Namespace) -> Iterator[Idle]:
    """What --netG and --netD do not take."""
    of_G, of_D = GENERATORS[opt.netG].takes, DISCRIMINATORS[opt.netD].takes
    yield Idle(not_taken(OF_GENERATORS, of_G), ("netG",))
    yield Idle(not_taken(OF_DISCRIMINATORS, of_D), ("netD",))
    yield Idle(not_taken(OF_BOTH, (*of_G, *of_D)), ("netG", "netD"))


def not_taken(flags: Mapping[str, str], takes: Iterable[str]) -> tuple[str, ...]:
    """The flags of the settings that a network does not take."""
    return tuple(flag for setting, flag in flags.items() if setting not in takes)


def idle_in_training(opt: Namespace) -> Iterator[Idle]:
    """What neither the schedule nor the way images are read asks for, in training."""
    if not opt.is_train:
        return
    if opt.lr_policy not in ("step", "halving"):
        yield Idle(("lr_decay_iters",), ("lr_policy",))
    if opt.init_type == "kaiming":
        yield Idle(("init_gain",), ("init_type",))

    scaler = scaler_of(opt.preprocess)
    if scaler == "none":
        yield Idle(("load_size",), ("preprocess",), for_good=opt.dataset_mode == "singleimage")

    # crop_size is also the least height of some, what images shrink to at the end, and what StyleGAN2 is made for
    asks = scaler == "scale_width" or CROPS & set(opt.preprocess.split("_and_"))
    shrinks = scaler != "none" and reduced_in_decay(vars(opt))
    sized = training_size(opt.netG, opt.netD, opt.crop_size) is not None
    if not (asks or shrinks or sized):
        yield Idle(("crop_size",), ("preprocess",))
