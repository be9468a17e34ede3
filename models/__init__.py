"""Methods, one file each: `--model NAME` is the one BaseModel subclass in models/NAME_model.py."""

import sys
from argparse import Namespace
from collections.abc import Sequence

from models.base_model import BaseModel
from util.hardware.runtime import Runtime
from util.registry import find_class, names_in


def model_names() -> list[str]:
    """Every name that --model takes."""
    return [name for name in names_in(sys.modules[__name__], "_model") if name != "base"]


def find_model(name: str) -> type[BaseModel]:
    """The model class for a name; raises UserError with a did-you-mean for an unknown one."""
    return find_class(sys.modules[__name__], "_model", BaseModel, name, "--model")


def resolve_alias(name: str, argv: Sequence[str], trained: str | None = None) -> str:
    """What --model says as the name of a file: it may be the name that a method has in its release.

    Where several methods share a name there, the flags of the command line tell which is meant. They may also tell
    that a name from here means another method in a release that calls its own so.

    Args:
        name: what --model says.
        argv: the command line.
        trained: the method of the run that is to be used, which is meant where it has that name in its release.
    """
    if trained and name in find_model(trained).ALIASES:
        return trained

    names = model_names()
    given, best, most = flags_of(argv), name, 0 if name in names else -1
    for own in names:
        telling = find_model(own).ALIASES.get(name)
        if telling is not None and given.issuperset(telling) and len(telling) > most:
            best, most = own, len(telling)
    return best  # an unknown name is explained by whoever looks it up


def flags_of(argv: Sequence[str]) -> set[str]:
    """The flags of a command line, without their values."""
    return {argument.split("=")[0] for argument in argv}


def implied_model(argv: Sequence[str]) -> str | None:
    """The model that a training command without --model means, by a flag that only one method's commands have."""
    given = flags_of(argv)
    for name in model_names():
        if given.intersection(find_model(name).IMPLIED_BY):
            return name
    return None


def create_model(opt: Namespace, runtime: Runtime) -> BaseModel:
    """Build the model that the options ask for, on the runtime's device."""
    return find_model(opt.model)(opt, runtime)
