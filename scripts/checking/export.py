"""The export of a released module: an .npz file of arrays, read in double precision."""

import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from util.errors import UserError


class Export:
    """The arrays of a file, by name; whatever is wrong with it is one line that names the file.

    Raises:
        UserError: it is no .npz file of plain arrays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with np.load(path, allow_pickle=False) as file:
                self.arrays = {name: np.asarray(file[name]) for name in file.files}
        except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
            raise self.unusable(str(error)) from None

    def unusable(self, why: str) -> UserError:
        """The error to raise when the file does not hold what it should."""
        return UserError(f"--reference {self.path} is not an export of the released module: {why}")

    def require(self, names: Iterable[str]) -> None:
        """Raise UserError unless all these arrays are there."""
        lacking = [name for name in names if name not in self.arrays]
        if lacking:
            raise self.unusable(f"it lacks {', '.join(lacking)}")

    def tensor(self, name: str, axes: int | None = None) -> Tensor:
        """An array, floating point numbers in float64.

        Raises:
            UserError: there is none, it holds no numbers, or not so many `axes`.
        """
        self.require([name])
        array = self.arrays[name]
        if array.dtype.kind not in "fiub":
            raise self.unusable(f"{name} holds no numbers ({array.dtype})")
        if axes is not None and array.ndim != axes:
            raise self.unusable(f"{name} has the shape {array.shape}, where {axes} axes are due")
        tensor = torch.from_numpy(array.copy())
        return tensor.double() if tensor.is_floating_point() else tensor

    def learning(self, name: str, axes: int | None = None) -> Tensor:
        """As `tensor`, to be differentiated with respect to."""
        return self.tensor(name, axes).double().requires_grad_()

    def number(self, name: str) -> float:
        """A single number; raises UserError as `tensor`, or where there are several."""
        tensor = self.tensor(name)
        if tensor.numel() != 1:
            raise self.unusable(f"{name} holds {tensor.numel()} numbers instead of one")
        return tensor.item()

    def text(self, name: str, default: str | None = None) -> str:
        """A string; raises UserError where there is none and no `default`."""
        if default is None:
            self.require([name])
        return str(self.arrays.get(name, default))

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """All arrays whose names begin so, by the rest of their names."""
        names = [name for name in self.arrays if name.startswith(prefix)]
        return {name.removeprefix(prefix): self.tensor(name) for name in names}
