"""Adversarial losses: what discriminator and generator minimise, as functions of the scores that D gives."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from util.hardware.precision import full_precision


class Objective(NamedTuple):
    """One adversarial game: mean losses of D on real and on fake predictions, of G on fake ones, and D's weight."""

    real: Callable[[Tensor], Tensor]
    fake: Callable[[Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]
    weight_D: float = 0.5


def _squared_error(prediction: Tensor) -> Tensor:
    return (prediction - 1).square().mean()


def _log_loss_real(prediction: Tensor) -> Tensor:
    return F.softplus(-prediction).mean()  # -log sigmoid(p)


def _log_loss_fake(prediction: Tensor) -> Tensor:
    return F.softplus(prediction).mean()  # -log(1 - sigmoid(p))


def _minus_mean(prediction: Tensor) -> Tensor:
    return -prediction.mean()


_LOG_LOSS = Objective(_log_loss_real, _log_loss_fake, _log_loss_real)

OBJECTIVES = {
    "lsgan": Objective(
        _squared_error, lambda p: p.square().mean(), _squared_error
    ),  # Mao et al. 2017
    "vanilla": _LOG_LOSS,  # Goodfellow et al. 2014, cross entropy with logits
    "nonsaturating": _LOG_LOSS,  # StyleGAN's name for the same losses
    "hinge": Objective(
        lambda p: F.relu(1 - p).mean(), lambda p: F.relu(1 + p).mean(), _minus_mean
    ),  # Lim, Ye 2017
    # Arjovsky et al. 2017; not halved, so that the gradient penalty keeps its weight from Gulrajani et al. 2017.
    "wgangp": Objective(_minus_mean, torch.mean, _minus_mean, weight_D=1.0),
}


def discriminator_loss(
    pred_real: Tensor, pred_fake: Tensor, mode: str = "lsgan"
) -> tuple[Tensor, Tensor]:
    """D's loss on real and on fake images, whose sum it minimises; real images have target 1, fake ones 0.

    As in CUT each term counts one half (but for wgangp); lsgan: 0.5 * mean (D(real) - 1)^2, 0.5 * mean D(fake)^2.

    Args:
        pred_real, pred_fake: scores of any shape, without a sigmoid; `pred_fake` of detached images.
        mode: a key of `OBJECTIVES`.

    Returns:
        Two 0-d tensors, float32 also for lower precision scores.

    Raises:
        ValueError: unknown mode.
    """
    objective = _objective(mode)
    real, fake = (
        objective.real(full_precision(pred_real)),
        objective.fake(full_precision(pred_fake)),
    )
    return objective.weight_D * real, objective.weight_D * fake


def generator_loss(pred_fake: Tensor, mode: str = "lsgan") -> Tensor:
    """G's loss on the scores (any shape) of its own images, a 0-d tensor; lsgan: mean (D(fake) - 1)^2.

    Raises:
        ValueError: unknown mode.
    """
    return _objective(mode).generator(full_precision(pred_fake))


def _objective(mode: str) -> Objective:
    if mode not in OBJECTIVES:
        raise ValueError(f"gan_mode {mode!r}: expected one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[mode]
