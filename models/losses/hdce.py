"""Decoupled contrast with hard negatives (hDCE): patches that resemble each other in the input repel more.

Shape legend: B images, N patches sampled per image, D embedding width, G groups of M patches that repel each other: the
images with their patches, or the whole batch as one group.
"""

import torch
from torch import Tensor

from models.losses.patch_nce import MASKED_COSINE
from models.networks.patch_sampler import to_unit_length
from util.hardware.precision import full_precision


def hdce_loss(
    query_BND: Tensor,
    key_BND: Tensor,
    gamma: float | Tensor,
    temperature: float = 0.07,
    across_batch: bool = False,
) -> Tensor:
    """Contrast without the positive in the denominator, negatives weighted (Hneg-SRC, CVPR 2022, arXiv 2203.01532).

        loss_b = mean_i log( sum_{j != i} exp(w_ij q_i . k_j / T) + exp(-10 / T) ) - q_i . k_i / T

    with the weights of `hard_negative_weights`. As in the release a weight multiplies the cosine, not the exponential,
    and the positive's own place in the row holds -10. The release prints the cross entropy, whose denominator has the
    positive, beside the gradient of this loss; here the loss is what is minimised, and it may be negative.

    Args:
        query_BND: unit vectors of the output's patches; they learn.
        key_BND: unit vectors of the input's patches at the same places; detached here.
        gamma: of the weights, a number or a 0-d tensor; inf for weights of 1.
        temperature: T.
        across_batch: negatives from all B*N patches of the batch, as if of one image (single-image translation).

    Returns:
        loss_B, mean over the patches of each image, in float32 or wider.
    """
    batch, patches, width = query_BND.shape
    with torch.autocast(query_BND.device.type, enabled=False):
        query, key = full_precision(query_BND), full_precision(key_BND.detach())
        if across_batch:
            query, key = query.reshape(1, -1, width), key.reshape(1, -1, width)

        cosine_GMM = query @ key.transpose(1, 2)
        positive_GM = cosine_GMM.diagonal(dim1=1, dim2=2)
        weighted_GMM = cosine_GMM * hard_negative_weights(key, gamma)
        negative_GMM = weighted_GMM.masked_fill(itself(weighted_GMM), MASKED_COSINE)

        loss_GM = (negative_GMM / temperature).logsumexp(2) - positive_GM / temperature
        return loss_GM.reshape(batch, patches).mean(1)


def hard_negative_weights(key_GMD: Tensor, gamma: float | Tensor) -> Tensor:
    """How much each patch counts as a negative of another, by how much the input's patches are alike: weight_GMM.

        w_ij = exp(s_ij / gamma) / max_{j != i} exp(s_ij / gamma),  s_ij the cosine of k_i and k_j

    The hardest negative of a row has weight 1, the others at least exp(-2 / gamma). (The release writes the same as a
    softmax divided by its maximum.) What the diagonal holds has no meaning. No gradient.

    Args:
        key_GMD: vectors of the input's patches, of any length.
        gamma: the larger, the more alike the weights; a number or a 0-d tensor.
    """
    with torch.no_grad():
        key_GMD = to_unit_length(key_GMD)
        cosine_GMM = key_GMD @ key_GMD.transpose(1, 2)
        others_GMM = cosine_GMM.masked_fill(itself(cosine_GMM), MASKED_COSINE)
        return ((others_GMM - others_GMM.amax(2, keepdim=True)) / gamma).exp()


def itself(table_GMM: Tensor) -> Tensor:
    """Where a patch meets itself: boolean (M,M)."""
    return torch.eye(table_GMM.shape[2], dtype=torch.bool, device=table_GMM.device)
