"""Adversarial losses of a discriminator that judges at several sizes: sums over the sizes, nothing halved."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.losses.gan import OBJECTIVES, accuracy
from util.hardware.precision import full_precision


def multiscale_discriminator_loss(
    real: Sequence[Tensor], fake: Sequence[Tensor], mode: str = "lsgan"
) -> Tensor:
    """What D minimises: its mean losses on real scores, target 1, and fake ones, target 0.

    Summed over sizes; lsgan: sum_k mean (D_k(real) - 1)^2 + mean D_k(fake)^2. No term is halved, as
    those of `discriminator_loss` are.

    Args:
        real, fake: scores of each size, of any shape and without a sigmoid.
        mode: a key of `OBJECTIVES`.

    Returns:
        0-d tensor, float32 also for lower precision scores.
    """
    objective = OBJECTIVES[mode]
    losses = [objective.real(full_precision(scores)) for scores in real]
    losses += [objective.fake(full_precision(scores)) for scores in fake]
    return torch.stack(losses).sum()


def multiscale_accuracy(
    real: Sequence[Tensor], fake: Sequence[Tensor], mode: str = "lsgan"
) -> Tensor | None:
    """`accuracy` over the scores of all sizes, each score counting once; None where the objective has no line."""
    together = [torch.cat([part.detach().flatten() for part in scores]) for scores in (real, fake)]
    return accuracy(*together, mode)


def multiscale_generator_loss(fake: Sequence[Tensor], mode: str = "lsgan") -> Tensor:
    """What G minimises on the scores of its own images, summed over sizes: a 0-d tensor."""
    objective = OBJECTIVES[mode]
    losses = [objective.generator(full_precision(scores)) for scores in fake]
    return torch.stack(losses).sum()
