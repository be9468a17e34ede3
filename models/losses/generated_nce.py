"""PatchNCE against generated negatives (NEGCUT), and what keeps these unlike each other.

Shape legend: B images, N patches sampled per image, M generated negatives, D embedding width.
"""

import torch
from torch import Tensor

from util.hardware.precision import full_precision


def generated_nce_loss(
    query_BND: Tensor, key_BND: Tensor, negative_BMD: Tensor, temperature: float = 0.07
) -> Tensor:
    """InfoNCE whose negatives are generated ones instead of the image's other patches (NEGCUT, ICCV 2021).

        loss_b = mean_i log( exp(q_i . k_i / T) + sum_m exp(q_i . n_m / T) ) - q_i . k_i / T

    Args:
        query_BND: unit vectors of the output's patches; they learn.
        key_BND: unit vectors of the input's patches at the same places; detached here.
        negative_BMD: unit vectors made for the same image; gradients flow into them.
        temperature: T.

    Returns:
        loss_B, mean over the patches of each image, in float32 or wider.
    """
    with torch.autocast(query_BND.device.type, enabled=False):
        query, key = full_precision(query_BND), full_precision(key_BND.detach())
        negative = full_precision(negative_BMD)

        positive_BN = (query * key).sum(2) / temperature
        repelled_BN = (query @ negative.transpose(1, 2) / temperature).logsumexp(2)
        return (torch.logaddexp(positive_BN, repelled_BN) - positive_BN).mean(1)


def spread(negative_BMD: Tensor) -> Tensor:
    """How far the first half of an image's negatives lies from the second, by pairs: mean |n_m - n_(m + M/2)|, (B,).

    Raises:
        ValueError: the number of negatives is odd.
    """
    if negative_BMD.shape[1] % 2:
        raise ValueError(
            f"{negative_BMD.shape[1]} negatives cannot be paired: expected an even number"
        )
    with torch.autocast(negative_BMD.device.type, enabled=False):
        first, second = full_precision(negative_BMD).chunk(2, dim=1)
        return (first - second).abs().mean((1, 2))
