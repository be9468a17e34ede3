"""What keeps contents and attributes of DRIT apart, and its attributes a code that can be drawn.

Shape legend: B images, Z length of an attribute vector.
"""

import torch.nn.functional as F
from torch import Tensor

from util.hardware.precision import full_precision


def normal_divergence(mean_BZ: Tensor, log_variance_BZ: Tensor) -> Tensor:
    """KL divergence of N(mean, variance) from N(0, I), a mean over images: 0-d.

    KL = 1/2 sum_z ( mean_z^2 + variance_z - log variance_z - 1 ),  over the numbers z of an image
    """
    mean, log_variance = full_precision(mean_BZ), full_precision(log_variance_BZ)
    divergence_BZ = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1)
    return divergence_BZ.sum(1).mean()


def content_discriminator_loss(scores_A: Tensor, scores_B: Tensor) -> Tensor:
    """What the judge of contents minimises, 0-d: cross entropy, target 0 for A and 1 for B."""
    of_A = F.softplus(full_precision(scores_A)).mean()  # -log(1 - sigmoid(s))
    of_B = F.softplus(-full_precision(scores_B)).mean()  # -log sigmoid(s)
    return of_A + of_B


def content_confusion_loss(scores: Tensor) -> Tensor:
    """What the encoder of contents minimises, 0-d: cross entropy with target 1/2.

    It is least where the judge cannot tell.
    """
    scores = full_precision(scores)
    return (F.softplus(scores) - 0.5 * scores).mean()


def mode_seeking_loss(
    image_1: Tensor, image_2: Tensor, code_1_BZ: Tensor, code_2_BZ: Tensor, eps: float = 1e-5
) -> Tensor:
    """Two codes should make two images (Mao et al. 2019, arXiv 1903.05628).

    loss_b = 1 / ( d(image_1, image_2) / d(code_1, code_2) + eps ),  d the mean absolute difference

    Taken for each image by itself, so that a batch is the mean of its images.

    Args:
        image_1, image_2: (B,C,H,W), of the same contents with either code.

    Returns:
        0-d tensor, the mean over images, in float32 or wider.
    """
    apart_B = (full_precision(image_1) - full_precision(image_2)).abs().flatten(1).mean(1)
    codes_apart_B = (full_precision(code_1_BZ) - full_precision(code_2_BZ)).abs().mean(1)
    return (1 / (apart_B / codes_apart_B + eps)).mean()
