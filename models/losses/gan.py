"""Adversarial losses: what the discriminator and the generator minimise, and the gradient penalties."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.chain import differentiated_twice
from models.networks.passes import pass_each
from util.precision import full_precision


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
    "lsgan": Objective(_squared_error, lambda p: p.square().mean(), _squared_error),  # Mao et al. 2017
    "vanilla": _LOG_LOSS,  # Goodfellow et al. 2014, cross entropy with logits
    "nonsaturating": _LOG_LOSS,  # StyleGAN's name for the same losses
    "hinge": Objective(lambda p: F.relu(1 - p).mean(), lambda p: F.relu(1 + p).mean(), _minus_mean),  # Lim, Ye 2017
    # Arjovsky et al. 2017; not halved, so that the gradient penalty keeps its weight from Gulrajani et al. 2017.
    "wgangp": Objective(_minus_mean, torch.mean, _minus_mean, weight_D=1.0),
}


def discriminator_loss(pred_real: Tensor, pred_fake: Tensor, mode: str = "lsgan") -> tuple[Tensor, Tensor]:
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
    real, fake = objective.real(full_precision(pred_real)), objective.fake(full_precision(pred_fake))
    return objective.weight_D * real, objective.weight_D * fake


def discriminator_terms(netD: nn.Module, real: Tensor, fake: Tensor, mode: str = "lsgan") -> dict[str, Tensor]:
    """All that D minimises on images (B,C,H,W): `discriminator_loss` as D_real and D_fake, with wgangp D_gp too.

    No gradient reaches the images.
    """
    fake = fake.detach()
    D_real, D_fake = discriminator_loss(*pass_each(netD, real, fake), mode)
    terms = {"D_real": D_real, "D_fake": D_fake}
    return terms | ({"D_gp": gradient_penalty(netD, real, fake)} if mode == "wgangp" else {})


def generator_loss(pred_fake: Tensor, mode: str = "lsgan") -> Tensor:
    """G's loss on the scores (any shape) of its own images, a 0-d tensor; lsgan: mean (D(fake) - 1)^2.

    Raises:
        ValueError: unknown mode.
    """
    return _objective(mode).generator(full_precision(pred_fake))


def gradient_penalty(
    netD: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    centre: float = 1.0,
    weight: float = 10.0,
    eps: Tensor | None = None,
) -> Tensor:
    """WGAN-GP's penalty on the slope of D between real and fake images (Gulrajani et al. 2017, arXiv 1704.00028).

    weight * mean over images of (|| d sum D(x) / dx ||_2 - centre)^2,  x = eps * real + (1 - eps) * fake

    Only D learns from it: the images are detached. Its gradient is a second derivative of D.

    Args:
        real, fake: images (B,C,H,W).
        eps: (B,1,1,1) in [0,1]; drawn on the images' device when not given.

    Returns:
        0-d tensor.
    """
    if eps is None:
        eps = torch.rand(len(real), 1, 1, 1, device=real.device, dtype=real.dtype)
    slope = _slope(netD, torch.lerp(fake, real, eps))
    length = torch.linalg.vector_norm(slope.flatten(1), dim=1)  # (B,)
    return weight * (length - centre).square().mean()


def r1_penalty(netD: Callable[[Tensor], Tensor], real: Tensor, weight: float = 1.0) -> Tensor:
    """R1: keeps D flat on real images (Mescheder et al. 2018, arXiv 1801.04406, equation 9).

    0.5 * weight * mean over images of || d sum D(x) / dx ||_2^2,  x real

    The sum runs over all scores of an image, as in CUT's release. Only D learns from it. Its gradient is a second
    derivative of D.

    Args:
        real: images (B,C,H,W).

    Returns:
        0-d tensor.
    """
    return 0.5 * weight * _slope(netD, real).square().flatten(1).sum(1).mean()


def _slope(netD: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """d sum D(x) / dx at images (B,C,H,W), in float32 or wider: D can learn from it, the images cannot."""
    x = images.detach().requires_grad_()
    with differentiated_twice():
        (slope,) = torch.autograd.grad(netD(x).sum(), x, create_graph=True)
    return full_precision(slope)


def _objective(mode: str) -> Objective:
    if mode not in OBJECTIVES:
        raise ValueError(f"gan_mode {mode!r}: expected one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[mode]
