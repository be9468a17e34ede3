"""What a command may change in a run that goes on, and what the run keeps."""

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from util.errors import UserError
from util.parser import show_value
from util.run.folder import OF_NO_RECORD, plain_options, run_dir
from util.run.state_file import STATE

# What a run keeps for life, beside its architecture: where its schedule and its weights began, and what they have seen.
FIXED = (
    *("epoch_count", "lr_policy", "direction", "seed", "dataset_mode"),
    *("init_type", "init_gain"),
)
FIRST_WEIGHTS = ("pretrained_name", "epoch")  # which only the first start of a run reads
# No part of what is trained; data are compared by their files.
SILENT = ("checkpoints_dir", "dataroot", *OF_NO_RECORD)
# Groups of options that change nothing that is learned.
OF_NO_EFFECT = ("run", "logs", "checkpoints", "speed")
OF_NO_EFFECT_EITHER = {"num_threads", "cache", "skip_bad_images"}  # of other groups
WHEN_TO_STOP = {"max_steps", "max_minutes"}  # which a run that has come to its end has no use for
LENGTH = ("n_epochs", "n_epochs_decay")


def check_first_weights(saved: dict[str, Any], opt: Namespace, names: Sequence[str]) -> None:
    """Raise UserError where a run that goes on is asked to start from other weights than it has.

    Flags that are left out, or as they were at the first start, ask for nothing.
    """
    for name in names:
        now = getattr(opt, name, None)
        if name in opt.changed and now != saved.get(name, now):
            remedy = "leave the flag out, or start another run with another --name"
            if name in FIRST_WEIGHTS:
                source = opt.pretrained_name or opt.name
                remedy += f" and --pretrained_name {source} --epoch {opt.epoch}"
            raise UserError(
                f"--{name} {show_value(now)} would have no effect, since the run in {run_dir(opt)} continues from "
                f"{STATE}: {remedy}"
            )


def compare_options(saved: dict[str, Any], opt: Namespace) -> list[str]:
    """What this command changes in a run under way, a line each.

    Raises:
        UserError: an option differs that a run keeps for life.
    """
    notes = []
    for name, (then, now) in differences(saved, opt).items():
        if name in opt.architecture or name in FIXED:
            way_out = f"{another_name(opt)}, or --from_scratch to move that run aside"
            if name == "epoch_count":
                way_out = (
                    "leave --continue_train and --epoch_count out, the same command goes on by itself where the run "
                    f"stopped; or {way_out}"
                )
            raise UserError(
                f"--{name} {show_value(now)} contradicts the run in {run_dir(opt)}, which has {show_value(then)}: "
                f"{way_out}"
            )
        notes.append(
            f"changed since the last start: {name} {show_value(then)} -> {show_value(now)}"
        )
    return notes


def differences(saved: dict[str, Any], opt: Namespace) -> dict[str, tuple[Any, Any]]:
    """Options whose value is not that of a saved run: name -> then, now."""
    found = {}
    for name, now in plain_options(opt).items():
        then = saved.get(name, now)
        if then != now and name not in SILENT:
            found[name] = (then, now)
    return found


def refuse_changes(saved: dict[str, Any], opt: Namespace, epoch: int) -> None:
    """Raise UserError where a run that has no step left is asked to be another; `epoch`: the one it has come to."""
    silent = {name for group in OF_NO_EFFECT for name in opt.groups.get(group, ())}
    silent |= WHEN_TO_STOP | OF_NO_EFFECT_EITHER
    changes = {
        name: f"--{name} {show_value(now)} (then {show_value(then)})"
        for name, (then, now) in differences(saved, opt).items()
        if name not in silent
    }
    last_then = sum(saved[name] for name in LENGTH)
    last_now = sum(getattr(opt, name) for name in LENGTH)
    if last_now < last_then and last_now <= epoch <= last_then:
        shorter = [text for name, text in changes.items() if name in LENGTH]
        raise UserError(
            f"the run in {run_dir(opt)} has already come to the end that {', '.join(shorter)} would give it, or past "
            "it; nothing was trained: give more epochs, or use the weights that were saved"
        )
    if changes:
        raise UserError(
            f"the run in {run_dir(opt)} is already complete, nothing was trained, so {', '.join(changes.values())} "
            f"cannot take effect: {another_name(opt)}, more --n_epochs to train on, or --from_scratch"
        )


def another_name(opt: Namespace) -> str:
    """The advice to give a run a name, for one who has given none or that of another run."""
    return "give another --name" if "name" in opt.changed else "give this run a --name"
