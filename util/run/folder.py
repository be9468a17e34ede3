"""The folder of a run: where its files lie, what they are called, and the record of the options that made it."""

import datetime
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from util.errors import UserError
from util.files import atomic_path
from util.parser import show_value

RECORD = "train_opt.json"  # for test.py; train_opt.txt beside it is for people


def run_dir(opt: Namespace) -> Path:
    """The folder that holds everything of one run."""
    return Path(opt.checkpoints_dir) / opt.name


def weights_file(folder: Path, epoch: str | int, name: str, average: bool = False) -> Path:
    """Where the weights of network `name` lie, as in the released code; `average`: those of its moving average."""
    return folder / f"{epoch}_net_{name}{'_ema' if average else ''}.pth"


def result_dir(results_dir: Path | str, name: str, phase: str, epoch: str) -> Path:
    """The folder into which test.py translates with the weights of one epoch."""
    return Path(results_dir) / name / f"{phase}_{epoch}"


def plain_options(opt: Namespace) -> dict[str, Any]:
    """The options alone, by name, without what resolving them added."""
    return {name: getattr(opt, name) for names in opt.groups.values() for name in names}


def describe_options(opt: Namespace) -> str:
    """All options group by group, one a line; those that differ from the default are starred."""
    lines = []
    for title, names in opt.groups.items():
        lines.append(f"{title}:")
        for name in names:
            star = "*" if name in opt.changed else " "
            lines.append(f"  {star} {name:>20}: {show_value(getattr(opt, name))}")
    return "\n".join(lines)


def save_record(opt: Namespace, versions: dict[str, str]) -> None:
    """Write the options beside the weights: train_opt.txt for people, train_opt.json for test.py."""
    folder = run_dir(opt)
    record = {"options": plain_options(opt), "recipe": opt.recipe, "versions": versions}
    with atomic_path(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")
    with atomic_path(folder / "train_opt.txt") as temporary:
        temporary.write_text(f"recipe: {opt.recipe}\n{describe_options(opt)}\n")


def saved_record(folder: Path, remedy: str = "") -> dict:
    """The options, recipe and versions that a training run has saved; nothing for weights that came without them.

    Args:
        folder: the run's.
        remedy: what a user can do about a missing record; without it the caller goes on with an empty one.

    Raises:
        UserError: the record is damaged, or missing where there is a remedy.
    """
    path = folder / RECORD
    if not path.exists():
        if remedy:
            raise UserError(f"{path} does not exist; {remedy}")
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict) or not {"options", "recipe", "versions"} <= record.keys():
            raise ValueError("it lacks options, recipe or versions")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is not a record of training options ({error}); restore or delete it"
        ) from None
    return record


def move_aside(folder: Path) -> Path | None:
    """Rename a run's folder so that a new run can have its name; returns the new place, None if there was no run."""
    if not folder.is_dir():
        return None
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    target = folder.with_name(f"{folder.name}.before-{stamp}")
    folder.rename(target)
    return target
