"""The file of a run's state, and the one before it, which is kept until the newer one has been read back."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch

from util.errors import UserError
from util.files import atomic_path, explain_os_error
from util.run.weight_files import reason_not_readable
from util.run.weights import NotSaved, read_file, write_file

STATE = "latest_state.pt"
BEFORE = "previous_state.pt"
PARTS = ("model", "progress", "steps_per_epoch", "images_per_step", "rng", "options", "data")


class Found(NamedTuple):
    """A state that could be read, where it lay, and what a user should be told about it."""

    state: dict[str, Any]
    path: Path
    notes: list[str]


def write_state(state: dict[str, Any], folder: Path) -> Path:
    """Write the state of a run; returns where. At any moment there is a whole one, also while this runs.

    The new file takes the name only after its checksums have been compared on the disk; then the one that had the name
    is kept as previous_state.pt.

    Raises:
        NotSaved: it could not be written, and the states written before are as they were.
    """
    path = folder / STATE
    try:
        with atomic_path(path) as temporary:
            write_file(state, temporary)
            damage = reason_not_readable(temporary)
            if damage:
                raise OSError(f"what was written cannot be read back: {damage}")
            if path.exists():
                os.replace(path, folder / BEFORE)
    except OSError as error:
        raise NotSaved(
            f"could not write {path}: {explain_os_error(error, folder)}. "
            f"The state saved before is intact"
        ) from error
    return path


def has_state(folder: Path) -> bool:
    """Whether there is a state of a run, readable or not."""
    return (folder / STATE).exists() or (folder / BEFORE).exists()


def find_state(folder: Path) -> Found | None:
    """The newest state of a run that can be read; None where there is none at all.

    Raises:
        UserError: no file of a state can be read; the message names the ways out.
    """
    damage: dict[Path, str] = {}
    for path in (folder / STATE, folder / BEFORE):
        if not path.exists():
            continue
        try:
            state = read_file(path)
            check_parts(state, path)
        except UserError as error:
            damage[path] = str(error)
            continue
        return Found(state, path, [_went_back(path, text) for text in damage.values()])

    if not damage:
        return None
    raise UserError(f"{next(iter(damage.values()))}. {ways_out(folder)}")


def glance(folder: Path) -> dict[str, Any] | None:
    """The newest state that opens, its tensors left on the disk and their checksums not compared; None without one.

    To ask how far many runs are: a state is half a gigabyte. Whoever goes on with one takes `find_state`.
    """
    for path in (folder / STATE, folder / BEFORE):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            check_parts(state, path)
        except Exception:  # not there, or whatever a damaged file makes of the reader
            continue
        return state
    return None


def check_parts(state: Any, path: Path) -> None:
    """Raise UserError for a file that can be read but is no state of a run."""
    if not isinstance(state, dict):
        raise UserError(f"{path} holds no state of a run but a {type(state).__name__}")
    missing = [name for name in PARTS if name not in state]
    if missing:
        raise UserError(f"{path} is no state of a run: it lacks {', '.join(missing)}")


def ways_out(folder: Path) -> str:
    """What to do where no state of a run can be used."""
    return (
        f"Restore {folder / STATE} from a copy; or remove it and go on from the weights beside it with "
        "--continue_train --epoch_count N; or begin anew with --from_scratch, which moves this run aside"
    )


def _went_back(path: Path, damage: str) -> str:
    return f"warning: {damage}; going on from the state before it, {path}"
