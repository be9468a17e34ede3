"""What a discriminator minimises: its losses on real and translated images, and the penalties on its slope.

The losses themselves are functions of scores, in models/losses/gan.py; here the network is called.
"""

from argparse import Namespace
from collections.abc import Callable

import torch
from torch import Tensor, nn

from data.base_dataset import BaseDataset
from data.inspection import check_one_size, sizes_in_steps
from data.transforms import Size, reduced_in_decay
from models.losses.gan import accuracy, discriminator_loss
from models.networks.chain import differentiated_twice
from models.networks.passes import pass_each
from util.errors import UserError
from util.hardware.precision import full_precision

Log = Callable[[str, Tensor], None]  # notes a 0-d tensor under a name, for people to see


def discriminator_terms(
    netD: nn.Module,
    real: Tensor,
    fake: Tensor,
    mode: str = "lsgan",
    log: Log | None = None,
    name: str = "D",
) -> dict[str, Tensor]:
    """All that D minimises on images (B,C,H,W): `discriminator_loss` as D_real and D_fake, with wgangp D_gp too.

    No gradient reaches the images. `log` is given the share of scores that are right, as <name>_accuracy, where the
    objective draws a line.
    """
    fake = fake.detach()
    pred_real, pred_fake = pass_each(netD, real, fake)
    right = accuracy(pred_real, pred_fake, mode)
    if log is not None and right is not None:
        log(f"{name}_accuracy", right)
    D_real, D_fake = discriminator_loss(pred_real, pred_fake, mode)

    terms = {"D_real": D_real, "D_fake": D_fake}
    if mode == "wgangp":
        terms["D_gp"] = gradient_penalty(netD, real, fake)
    return terms


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
    real, fake = full_precision(real), full_precision(fake)  # autocast leaves half precision
    if eps is None:
        eps = torch.rand(len(real), 1, 1, 1, device=real.device, dtype=real.dtype)

    slope = _slope(netD, torch.lerp(fake, real, eps))
    length = torch.linalg.vector_norm(slope.flatten(1), dim=1)  # (B,)
    return weight * (length - centre).square().mean()


def check_sizes_for_penalty(dataset: BaseDataset, flag: str, remedy: str) -> None:
    """Raise UserError where `gradient_penalty` would mix images of A and B that differ in size.

    Args:
        flag: what asks for the penalty, as it is typed.
        remedy: the same for a run without it.
    """
    why = f"{flag} has a gradient penalty between images of A and B, which takes"
    check_one_size(dataset, why, f", or give {remedy}")


def check_sizes_for_pool(dataset: BaseDataset, roles: str) -> None:
    """Raise UserError where translations of the images of a role, which a pool keeps, would differ in size.

    They may do so in one epoch, or from one to another: the decay phase scales to another size.
    """
    epochs = dataset.unlike_epochs()
    if not reduced_in_decay(vars(dataset.opt)):
        epochs = epochs[:1]

    for role in roles:
        known: tuple[Size, str] | None = None
        for epoch in epochs:
            for size, path in sizes_in_steps(dataset, role, epoch).items():
                known = known or (size, path)
                if size != known[0] and dataset.cacheable:
                    raise unlike_in_pool(dataset.opt, known, (size, path), epoch)


def unlike_in_pool(
    opt: Namespace, one: tuple[Size, str], other: tuple[Size, str], epoch: int
) -> UserError:
    """What to raise where an image, ((width, height), path), differs in an epoch from one that was kept before."""
    remedies = ["give --pool_size 0", "a --preprocess that crops"]
    since = ""
    if epoch > opt.n_epochs:
        since = f" from epoch {epoch} on"
        remedies.insert(1, "--finetune_resize false")

    (width, height), path = one
    (other_width, other_height), second = other
    return UserError(
        f"--pool_size {opt.pool_size} keeps images of one size, but {path} is {width}x{height} and {second} "
        f"{other_width}x{other_height}{since}: {', or '.join(remedies)}"
    )


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
    slope = _slope(netD, real)
    squared_length = slope.square().flatten(1).sum(1)  # (B,)
    return 0.5 * weight * squared_length.mean()


def _slope(netD: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """d sum D(x) / dx at images (B,C,H,W), in float32 or wider: D can learn from it, the images cannot."""
    x = images.detach().requires_grad_()
    with differentiated_twice():
        score = netD(x).sum()
        (slope,) = torch.autograd.grad(score, x, create_graph=True)
    return full_precision(slope)


def term_of_one(
    name: str,
    netD: nn.Module,
    real: Tensor,
    fake: Tensor,
    mode: str = "lsgan",
    log: Log | None = None,
) -> dict[str, Tensor]:
    """`discriminator_terms` of one of several discriminators: `name`, with wgangp <name>_gp too."""
    terms = discriminator_terms(netD, real, fake, mode, log, name)
    penalty = {f"{name}_gp": terms["D_gp"]} if "D_gp" in terms else {}
    return {name: terms["D_real"] + terms["D_fake"]} | penalty
