"""Weights of single networks as files, of our runs and of released CUT-family ones."""

import difflib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from util.errors import UserError, first_line
from util.files import atomic_path, explain_os_error
from util.run.weight_files import reason_not_readable

COUNTER = ".num_batches_tracked"
STATISTICS = (".running_mean", ".running_var", COUNTER)  # InstanceNorm kept them before torch 0.4


class NotSaved(UserError):
    """A file could not be written: the disk is full, or the folder is gone or cannot be written to."""


@contextmanager
def or_not_saved(attempt: str, folder: Path) -> Iterator[None]:
    """Raise NotSaved where the system does not let the block do its work in a folder; `attempt`: as in "write a.pt"."""
    try:
        yield
    except OSError as error:
        reason = explain_os_error(error, folder)
        raise NotSaved(f"could not {attempt}: {reason}") from error


def atomic_save(value: Any, path: Path) -> None:
    """torch.save that leaves the old file or the new one, never a part; raises as `save_together`."""
    save_together({path: value})


def save_together(files: Mapping[Path, Any]) -> None:
    """torch.save of files that belong together: none takes its name before all of them are written.

    Raises:
        NotSaved: the disk is full or the folder cannot be written; the files are as they were.
    """
    path = None
    try:
        with ExitStack() as all_written:
            for path, value in files.items():
                temporary = all_written.enter_context(atomic_path(path))
                write_file(value, temporary)
    except OSError as error:
        reason = explain_os_error(error, path.parent)
        raise NotSaved(
            f"could not write {path}: {reason}. The files saved before are intact"
        ) from error


def write_file(value: Any, path: Path) -> None:
    """torch.save; an error of the system comes as the OSError that it is, which torch hides behind one of its own."""
    try:
        with open(path, "wb") as file:
            torch.save(value, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise OSError(first_line(error)) from error


def remove(path: Path) -> None:
    """Delete a file that may be there; raises NotSaved where the system does not let it."""
    with or_not_saved(f"delete {path}", path.parent):
        path.unlink(missing_ok=True)


def read_file(path: Path) -> Any:
    """torch.load of a file of tensors and plain values, its checksums compared; no code in it is ever run.

    Raises:
        UserError: missing, damaged, or something other than tensors and plain values.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; {_there_is(path)}")

    reason = reason_not_readable(path)
    if reason is None:
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a strange file makes of the reader
            reason = _why_refused(error)
    raise UserError(
        f"{path} is damaged or not a file of weights ({reason}); restore it or use another"
    )


def _why_refused(error: Exception) -> str:
    """What torch says of a file it refuses, without its advice to let the file run code."""
    if "weights_only" in str(error):
        return (
            "it holds Python objects, for which code would have to run; "
            "save the network's state_dict() instead"
        )
    return first_line(error)


def _there_is(path: Path) -> str:
    weights = []
    if path.parent.is_dir():
        weights = sorted(file.name for file in path.parent.glob("*_net_*.pth"))
    return f"{path.parent} holds {', '.join(weights) or 'no weights'}"


def load_weights(net: nn.Module, path: Path) -> None:
    """Load a state dict, ours or released, into a network.

    Raises:
        UserError: the file does not fit the network; the message names the first difference and the
            likely flag.
    """
    found = read_file(path)
    is_state = isinstance(found, dict) and all(isinstance(v, Tensor) for v in found.values())
    if not is_state:
        raise UserError(
            f"{path} does not hold the weights of one network; "
            "expected a state dict such as latest_net_G.pth"
        )

    wanted = net.state_dict()
    # batch norm does not count before torch 0.4.1
    state = {key: value for key, value in wanted.items() if key.endswith(COUNTER)}
    for key, value in found.items():
        name = key.removeprefix("module.")  # DataParallel's
        if name in wanted or not name.endswith(STATISTICS):
            state[name] = value

    problem = _mismatch(wanted, state)
    if problem:
        raise UserError(f"{path} does not fit this network: {problem}")
    net.load_state_dict(state)


def _mismatch(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> str | None:
    flags = "--netG, --ngf, --normG, --padG, --no_antialias, --no_antialias_up, --no_dropout"
    advice = f"give the flags it was trained with ({flags})"

    for key in found.keys() - wanted.keys():
        near = difflib.get_close_matches(key, wanted, n=1)
        here = f" (here: {near[0]})" if near else ""
        return f"it holds {key}, unknown here{here}; {advice}"

    for key, value in wanted.items():
        if key not in found:
            return f"{key} is missing; {advice}"
        there, here = tuple(found[key].shape), tuple(value.shape)
        if there != here:
            return f"{key} is {there} in the file and {here} here; {advice}"
    return None
