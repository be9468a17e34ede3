"""Weights of single networks as files, of our runs and of released CUT-family ones."""

import difflib
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from util.errors import UserError
from util.files import atomic_path

COUNTER = ".num_batches_tracked"
STATISTICS = (".running_mean", ".running_var", COUNTER)  # InstanceNorm kept them before torch 0.4


def atomic_save(value: Any, path: Path) -> None:
    """torch.save that leaves the old file or the new one, never a part.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    try:
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            torch.save(value, file)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise UserError(
            f"could not write {path}: {error}. The files saved before are intact"
        ) from error


def read_file(path: Path) -> Any:
    """torch.load of a file of tensors and plain values; no code in it is ever run.

    Raises:
        UserError: missing, damaged, or something other than tensors and plain values.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; {_there_is(path)}")

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is damaged or not a file of weights ({reason}); restore it or use another"
        ) from error


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
