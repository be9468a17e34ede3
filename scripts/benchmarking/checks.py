"""Equality before speed: two steps must compute the same before one may be called faster than the other.

That two steps are the same function is shown in float64, on small crops, where rounding cannot hide a difference. What
a step computes in the precision that is timed is compared at full size, as closely as its rounding allows: gradients
of untrained generators amplify it, in float32 from 1e-7 to about 1e-3.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scripts.benchmarking.ours import Contestant, Ours
from util.errors import UserError

LOSS = 1e-5  # largest relative difference of losses in float32
DOUBLE_LOSS, DOUBLE_GRADIENT = 1e-9, 1e-5  # and of losses and of each of G's gradients in float64
DOUBLE_SIDE, DOUBLE_PATCHES = 64, 64  # the crops and graphs on which float64 is compared
# least cosine between G's gradients and the reference's
COSINE = {"fp32": 0.9999, "tf32": 0.99, "bf16": 0.95}
FLOOR = 0.01  # a gradient smaller than this share of the largest one is measured against that share
# relative difference of losses over the recorded steps
RECORDED = {"fp32": 1e-3, "tf32": 1e-3, "bf16": 2e-2}
STEPS = 20


class Refused(UserError):
    """A check failed: no ratio is printed."""


@dataclass
class Probe:
    """Losses of one step, and the gradients of G."""

    losses: dict[str, float]
    gradients: dict[str, Tensor]


@dataclass
class Agreements:
    """What was compared, and how close it was; `of` must be asked before a ratio is formed.

    Attributes:
        found: contestant -> what was measured.
    """

    loss_tolerance: float = LOSS
    found: dict[str, dict[str, float | bool]] = field(default_factory=dict)

    def require(self, *names: str) -> None:
        """Raises Refused unless each of these was checked."""
        missing = [name for name in names if name not in self.found]
        if missing:
            raise Refused(f"{missing[0]} was not compared with the reference: no ratio is printed")

    def compare(self, name: str, reference: Probe, probe: Probe, precision: str) -> None:
        """Note how far a step is from the reference; raises Refused when it is too far."""
        found = measure(reference, probe)
        if precision == "fp32":
            self.check(name, "a loss", found["loss"], self.loss_tolerance)

        if not found["cosine"] > COSINE[precision]:
            raise Refused(
                f"{name}: the cosine between G's gradient and the reference's is "
                f"{found['cosine']:.5f}, above {COSINE[precision]} is asked for: no ratio is printed"
            )
        self.found[name] = self.found.get(name, {}) | found

    def compare_in_double(self, name: str, reference: Probe, probe: Probe) -> None:
        """The same in float64; raises Refused unless the two are the same function."""
        found = measure(reference, probe)
        self.check(name, "in float64 a loss", found["loss"], DOUBLE_LOSS)
        self.check(name, "in float64 a gradient of G", found["gradient"], DOUBLE_GRADIENT)

        both = {"double_loss": found["loss"], "double_gradient": found["gradient"]}
        self.found[name] = self.found.get(name, {}) | both

    def check(self, name: str, what: str, difference: float, tolerance: float) -> None:
        """Raises Refused when a difference (NaN too) is beyond the tolerance."""
        if not difference <= tolerance:
            raise Refused(
                f"{name}: {what} differs from the reference by {difference:.2g}, at most "
                f"{tolerance:.2g} is allowed: no ratio is printed"
            )


def measure(reference: Probe, probe: Probe) -> dict[str, float | bool]:
    """Largest relative difference of losses and of G's gradients, and the cosine between all gradients."""
    losses = []
    for key, value in reference.losses.items():
        size = max(abs(value), 1e-3)  # of terms that are not almost zero
        losses.append(abs(probe.losses[key] - value) / size)

    shared = [key for key in reference.gradients if key in probe.gradients]
    if not shared:
        raise Refused("the two steps share no gradient of G: no ratio is printed")
    a = [reference.gradients[key].double() for key in shared]
    b = [probe.gradients[key].double() for key in shared]

    # tensor by tensor
    norms = [float(x.norm()) for x in a]
    floor = FLOOR * max(norms)
    relative = []
    for x, y, norm in zip(a, b, norms, strict=True):
        relative.append(float((x - y).norm()) / max(norm, floor))

    # all in one row
    one = torch.cat([x.flatten() for x in a])
    other = torch.cat([x.flatten() for x in b])
    cosine = float(one @ other / (one.norm() * other.norm()))

    return {
        "loss": largest(losses),
        "gradient": largest(relative),
        "cosine": cosine,
        "compared_tensors": len(shared),
    }


def largest(values: Sequence[float]) -> float:
    """The largest of some values; NaN where one is NaN, which `max` may overlook."""
    if any(math.isnan(value) for value in values):
        return math.nan
    return max(values)


def take_probe(contestant: Contestant, ids: Sequence[Tensor]) -> Probe:
    """Losses and G's gradients of one step at fixed positions; no weight moves, since the learning rate is 0."""
    contestant.enter()
    with still(contestant.optimizers()), contestant.fixed_positions(ids):
        contestant.run_on(contestant.batches[0])

        named = contestant.networks()["G"].named_parameters()
        gradients = {key: p.grad.detach().clone() for key, p in named if p.grad is not None}
        losses = {key: float(value.detach()) for key, value in contestant.losses().items()}
    return Probe(losses, gradients)


def probe_in_double(contestant: Contestant, ids: Sequence[Tensor]) -> Probe:
    """`take_probe` in float64, on small crops."""
    with contestant.in_double(DOUBLE_SIDE, DOUBLE_PATCHES):
        return take_probe(contestant, ids)


def small_positions(ours: Ours) -> list[Tensor]:
    """Positions for `probe_in_double`."""
    with ours.in_double(DOUBLE_SIDE, DOUBLE_PATCHES):
        return ours.draw_positions(DOUBLE_PATCHES)


@contextlib.contextmanager
def still(optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[None]:
    """While entered learning rates are 0; afterwards they, and the optimisers' memories, are as in the beginning."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    rates = [float(group["lr"]) for group in groups]
    set_rates(groups, [0.0] * len(groups))

    try:
        yield
    finally:
        set_rates(groups, rates)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
            optimizer.state.clear()


def set_rates(groups: Sequence[dict], rates: Sequence[float]) -> None:
    """Learning rates, in place where a recorded step reads them from the device."""
    for group, rate in zip(groups, rates, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def copy_weights(source: Contestant, target: Contestant) -> None:
    """Give a contestant the weights of another; raises Refused when they do not fit."""
    for name, net in target.networks().items():
        try:
            net.load_state_dict(source.networks()[name].state_dict())
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            text = f"{target.name}: weights of net{name} do not fit: {reason}"
            raise Refused(text) from None


def compare_recorded(
    plain: Ours, recorded: Ours, ids: Sequence[Tensor], agreements: Agreements
) -> None:
    """The same steps one by one and recorded, at fixed positions and learning; raises Refused when losses part.

    cuDNN is held to one algorithm, so that the two can agree to the last bit.
    """
    flags = torch.backends.cudnn
    before = flags.benchmark, flags.deterministic
    flags.benchmark, flags.deterministic = False, True

    try:
        copy_weights(plain, recorded)
        histories = []
        for contestant, by_hand in ((plain, True), (recorded, False)):
            contestant.restart(plain=by_hand)
            contestant.enter()
            with contestant.fixed_positions(ids):
                histories.append([_step_losses(contestant, number) for number in range(STEPS)])
    finally:
        flags.benchmark, flags.deterministic = before

    differences = []
    for one, other in zip(*histories, strict=True):
        for key, value in one.items():
            differences.append(abs(other[key] - value) / max(abs(value), 1e-3))
    worst = largest(differences)

    name = f"{recorded.name}, {STEPS} recorded steps"
    agreements.check(name, "a loss", worst, RECORDED[recorded.precision])
    agreements.found[recorded.name] |= {
        "recorded_steps": STEPS,
        "recorded_loss": worst,
        "recorded_bits": worst == 0,
    }


def _step_losses(contestant: Ours, number: int) -> dict[str, float]:
    batch = contestant.batches[number % len(contestant.batches)]
    contestant.run_on(batch)
    return {key: float(value) for key, value in contestant.losses().items()}
