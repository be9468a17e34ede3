"""Learning-rate policies, moved on once per epoch, or once per step where they count steps."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

POLICIES = ("linear", "step", "plateau", "cosine", "halving")
BY_STEP = ("halving",)  # those that count steps, not epochs


def create_scheduler(
    optimizer: Optimizer,
    policy: str,
    n_epochs: int,
    n_epochs_decay: int,
    lr_decay_iters: int,
    epoch_count: int = 1,
) -> LRScheduler | ReduceLROnPlateau:
    """The scheduler of a policy.

    linear: constant for `n_epochs`, then down to (almost) zero over `n_epochs_decay` (CycleGAN,
        appendix 7.1);
    step: x0.1 every `lr_decay_iters` epochs; cosine: half a cosine over all epochs;
    plateau: x0.2 after 5 epochs without a gain of 1 % in the value passed to `step`;
    halving: x0.5 every `lr_decay_iters` steps (MUNIT).
    `epoch_count` is the number of the first epoch.
    """
    if policy == "plateau":
        return ReduceLROnPlateau(optimizer, factor=0.2, threshold=0.01, patience=5)

    # Each gives the factor of the learning rate after so many epochs, halving after so many steps.
    def linear(done: int) -> float:
        return 1 - max(0, done + epoch_count - n_epochs) / (n_epochs_decay + 1)

    def step(done: int) -> float:
        return 0.1 ** ((done + epoch_count - 1) // lr_decay_iters)

    def cosine(done: int) -> float:
        total = n_epochs + n_epochs_decay
        share = min(done + epoch_count - 1, total) / total
        return 0.5 * (1 + math.cos(math.pi * share))

    def halving(done: int) -> float:
        return 0.5 ** (done // lr_decay_iters)

    factors = {"linear": linear, "step": step, "cosine": cosine, "halving": halving}
    return LambdaLR(optimizer, factors[policy])


def rate_now(
    scheduler: LRScheduler | ReduceLROnPlateau, group: dict[str, Any], initial_lr: float
) -> float:
    """The learning rate that a schedule gives at the place to which it was loaded.

    Plateau depends on the losses so far: what it has made of the saved initial rate is kept as a factor.

    Args:
        scheduler: loaded from a saved state.
        group: of the optimiser, loaded with it.
        initial_lr: that of the run as it goes on.
    """
    if isinstance(scheduler, LambdaLR):
        return initial_lr * scheduler.lr_lambdas[0](scheduler.last_epoch)
    return float(group["lr"]) * (initial_lr / group["initial_lr"])
