"""Whose flag is it? What a command line is told that has a flag of another method, data set or command."""

from argparse import Namespace
from collections import defaultdict
from collections.abc import Collection, Sequence

import data
import models
from options.base_options import BaseOptions
from options.test_options import TestOptions
from options.train_options import TrainOptions
from util.parser import OptionParser

COMMANDS = {"train.py": TrainOptions, "test.py": TestOptions}


def flags_elsewhere(
    options: BaseOptions,
    parser: OptionParser,
    first: Namespace,
    argv: Sequence[str],
    saved: Collection[str],
) -> dict[str, str]:
    """Flags that another --model, --dataset_mode or command has -> what to say of one, as in "belongs to --model cut".

    This loads every method and builds dozens of parsers: it is for a command line that has failed.

    Args:
        options, parser: the command and its parser.
        first: what decided which flags there are: model, dataset_mode.
        argv: the command line.
        saved: names of the options that came from a training run.
    """
    now = {
        "model": first.model,
        "dataset_mode": first.dataset_mode or parser.get_default("dataset_mode"),
    }
    own, other = COMMANDS if options.is_train else reversed(COMMANDS)
    given = {text.split("=")[0] for text in argv}
    found = {}

    # of this command, with another --model or --dataset_mode
    for choice, owners in _owners(options, now).items():
        reason = _reason(choice, now["model"], given, saved)
        remedy = "leave it out"
        if choice not in saved:
            remedy += f", or choose another --{choice}"
        for flag, names in owners.items():
            text = f"belongs to --{choice} {_either(names)}, not to {now[choice]}{reason}; {remedy}"
            found.setdefault(flag, text)

    # of the other command
    for choice, owners in _owners(COMMANDS[other](), now).items():
        for flag, names in owners.items():
            where = "" if now[choice] in names else f" with --{choice} {_either(names)}"
            found.setdefault(flag, f"is a flag of {other}{where}, not of {own}; leave it out")

    known = set(parser.flags())
    return {flag: text for flag, text in found.items() if flag not in known}


def _owners(options: BaseOptions, now: dict[str, str]) -> dict[str, dict[str, list[str]]]:
    """By choice, --model or --dataset_mode, the other one staying as it is: flag -> all names that bring it along."""
    usable = {now["model"]}
    for name in models.model_names():
        if models.find_model(name).TRAINABLE or not options.is_train:
            usable.add(name)

    owners = {"model": defaultdict(list), "dataset_mode": defaultdict(list)}
    choices = {"model": usable, "dataset_mode": data.dataset_modes()}
    for choice, names in choices.items():
        for name in sorted(names):
            parser = options.build_parser(Namespace(**now | {choice: name}))
            for flag in parser.flags():
                owners[choice][flag].append(name)
    return owners


def _reason(choice: str, model: str, given: set[str], saved: Collection[str]) -> str:
    """Why the model or data set is what it is, for one who did not type it."""
    if f"--{choice}" in given:
        return ""
    if choice in saved:
        return " (with which the run was trained)"
    if choice == "dataset_mode":
        return f" (the default of --model {model})"

    implied = sorted(given.intersection(models.find_model(model).IMPLIED_BY))
    return f" (chosen by {implied[0]})" if implied else " (the default)"


def _either(names: Sequence[str]) -> str:
    """One name or several, as in "cut, sincut or test"."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
