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


def implied_model(argv: Sequence[str]) -> str | None:
    """The model that a training command without --model means, by a flag that only one method's commands have."""
    given = {argument.split("=")[0] for argument in argv}
    return next((name for name in model_names() if given & set(find_model(name).IMPLIED_BY)), None)


def create_model(opt: Namespace, runtime: Runtime) -> BaseModel:
    """Build the model that the options ask for, on the runtime's device."""
    return find_model(opt.model)(opt, runtime)
