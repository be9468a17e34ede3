"""Adversarial losses: what discriminator and generator minimise, as functions of the scores that D gives."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from util.hardware.precision import full_precision


class Objective(NamedTuple):
    """One adversarial game: mean losses of D on real and on fake predictions, of G on fake ones, and D's weight.

    `line`: the score above which D takes an image for real; None where only differences of scores mean something.
    """

    real: Callable[[Tensor], Tensor]
    fake: Callable[[Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]
    weight_D: float = 0.5
    line: float | None = 0.0


def _squared_error(prediction: Tensor) -> Tensor:
    return (prediction - 1).square().mean()


def _log_loss_real(prediction: Tensor) -> Tensor:
    return F.softplus(-prediction).mean()  # -log sigmoid(p)


def _log_loss_fake(prediction: Tensor) -> Tensor:
    return F.softplus(prediction).mean()  # -log(1 - sigmoid(p))


def _hinge_loss_real(prediction: Tensor) -> Tensor:
    return F.relu(1 - prediction).mean()


def _hinge_loss_fake(prediction: Tensor) -> Tensor:
    return F.relu(1 + prediction).mean()


def _mean_square(prediction: Tensor) -> Tensor:
    return prediction.square().mean()


def _minus_mean(prediction: Tensor) -> Tensor:
    return -prediction.mean()


_LOG_LOSS = Objective(_log_loss_real, _log_loss_fake, _log_loss_real)

OBJECTIVES = {
    # Mao et al. 2017
    "lsgan": Objective(_squared_error, _mean_square, _squared_error, line=0.5),
    # Goodfellow et al. 2014, cross entropy with logits
    "vanilla": _LOG_LOSS,
    # StyleGAN's name for the same losses
    "nonsaturating": _LOG_LOSS,
    # Lim, Ye 2017
    "hinge": Objective(_hinge_loss_real, _hinge_loss_fake, _minus_mean),
    # Arjovsky et al. 2017; not halved, so that the penalty keeps its weight from Gulrajani et al. 2017
    "wgangp": Objective(_minus_mean, torch.mean, _minus_mean, weight_D=1.0, line=None),
    # DCLGAN's release: G has a hinge too, and learns nothing from scores above 1.
    "hinge_both": Objective(_hinge_loss_real, _hinge_loss_fake, _hinge_loss_real),
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
    real = objective.real(full_precision(pred_real))
    fake = objective.fake(full_precision(pred_fake))
    return objective.weight_D * real, objective.weight_D * fake


def accuracy(pred_real: Tensor, pred_fake: Tensor, mode: str = "lsgan") -> Tensor | None:
    """The share of scores, of any shape, on the right side of the line between real and fake: 1 where D errs nowhere.

    Returns:
        0-d tensor without gradient; None where the objective has no such line.

    Raises:
        ValueError: unknown mode.
    """
    line = _objective(mode).line
    if line is None:
        return None
    right = (pred_real.detach() > line).float().mean() + (pred_fake.detach() <= line).float().mean()
    return right / 2


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
