"""A fast way to run a step is tried beside the plain one before it is relied on."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from util.errors import UserError, first_line, is_out_of_memory

Run = Callable[[dict[str, Any]], None]

SMALL = 0.1  # losses below it are compared as if they were as large


class Closeness(NamedTuple):
    """How much two steps may differ."""

    loss: float  # relative
    cosine: float  # at least, between the two ways in which the weights move


# half precision and the first step of Adam, a sign, blur directions
REROUNDED = Closeness(loss=0.02, cosine=0.5)
# the same kernels, some of which add up in any order
REORDERED = Closeness(loss=0.002, cosine=0.99)

# what a trial may find: nothing is wrong, yet nothing is shown, as where float16 overflows at first; another batch may
UNTOLD = "a plain step moves no weight, or to no number"
TRIALS = 30  # of one fast step, at most, that end so
NO_ROOM = "there is too little memory for it"


def difference(
    model: Any, batch: dict[str, Any], plain: Run, fast: Run, closeness: Closeness
) -> str | None:
    """Why `fast` does not run the step that `plain` runs on this batch; None where it does, up to rounding.

    The model is left as it was, to the bit: weights, averages, optimisers, memories and random numbers.

    Raises:
        UserError: by the fast step itself.
        Exception: by the plain step; with several processes by the fast one too, since the others are within it.
    """
    try:
        return _difference(model, batch, plain, fast, closeness)
    except (RuntimeError, MemoryError) as error:
        if model.runtime.world_size > 1 or not is_out_of_memory(error):
            raise
    return NO_ROOM  # the error, and what it kept alive, is gone by now


def _difference(
    model: Any, batch: dict[str, Any], plain: Run, fast: Run, closeness: Closeness
) -> str | None:
    restore, start = model.remember(), Start(model)
    try:
        plain(batch)
        expected = Outcome(model, start)
        restore()

        try:
            fast(batch)
        except UserError:
            raise
        except Exception as error:  # whatever it is, plain steps can go on
            if model.runtime.world_size > 1 or is_out_of_memory(error):
                raise
            return first_line(error)

        return expected.explain(Outcome(model, start), closeness)
    finally:
        restore()


def weights_of(model: Any) -> Tensor:
    """All parameters of a model's networks in one row, a copy."""
    rows = []
    for net in model.networks.values():
        rows += [weight.detach().flatten() for weight in net.parameters()]
    return torch.cat(rows)


def random_of(model: Any) -> list[Tensor]:
    """The states of all random number generators."""
    states = []
    for of_process in model.runtime.rng_state():
        states += of_process.values()
    return states


class Start:
    """Where a step began."""

    def __init__(self, model: Any) -> None:
        self.weights = weights_of(model)
        self.random = random_of(model)


class Outcome:
    """What a step did: the loss of each player, where it moved the weights, and whether it drew random numbers."""

    def __init__(self, model: Any, start: Start) -> None:
        losses = model.get_current_losses()
        of_players = {name: losses[name] for name in model.optimizers if name in losses}
        self.losses = model.runtime.mean(of_players)
        self.move = weights_of(model) - start.weights

        states = zip(random_of(model), start.random, strict=True)
        self.drew = any(not torch.equal(now, then) for now, then in states)

    def explain(self, other: "Outcome", closeness: Closeness) -> str | None:
        """Why another outcome differs by more than rounding, in words; None where it does not.

        UNTOLD where this one has nothing to compare with.
        """
        for name, value in self.losses.items():
            if not close(value, other.losses[name], closeness.loss):
                return f"loss {name} came out as {other.losses[name]:.4g} instead of {value:.4g}"
        if self.drew and not other.drew:
            return "it draws the same random numbers each time"

        if not (is_finite(self.move) and self.move.any()):
            return UNTOLD
        if not is_finite(other.move):
            return "it moves weights to NaN or infinity"

        cosine = direction(self.move, other.move)
        if not cosine >= closeness.cosine:  # also where it is no number
            return f"weights moved another way (cosine {cosine:.3f})"
        return None


def is_finite(values: Tensor) -> bool:
    """Whether all are numbers."""
    return bool(torch.isfinite(values).all())


def close(a: float, b: float, tolerance: float) -> bool:
    """Equal up to a relative tolerance; a loss that is not finite equals another such."""
    finite = [abs(value) < float("inf") for value in (a, b)]  # NaN is not
    if not all(finite):
        return not any(finite)
    return abs(a - b) <= tolerance * max(abs(a), SMALL)


def direction(a: Tensor, b: Tensor) -> float:
    """The cosine between two moves (n,), 1 where neither moves."""
    lengths = (torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b)).item()
    if not lengths:
        return float(torch.equal(a, b))
    return (a @ b).item() / lengths
