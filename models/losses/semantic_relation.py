"""Semantic relation consistency (SRC): the patches of an output resemble each other as those of its input do.

Shape legend: B images, N patches sampled per image, D embedding width, G groups of M patches that are related: the
images with their patches, or the whole batch as one group.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from models.networks.patch_sampler import to_unit_length
from util.hardware.precision import full_precision


def semantic_relation_loss(
    query_BND: Tensor, key_BND: Tensor, across_batch: bool = False
) -> Tensor:
    """Jensen-Shannon divergence of two tables of relations (Hneg-SRC, CVPR 2022, arXiv 2203.01532).

        P = softmax_j(q_i . q_j),  R = softmax_j(k_i . k_j),  M = (P + R) / 2
        loss = sum_ij ( P_ij log(P_ij / M_ij) + R_ij log(R_ij / M_ij) ) / 2,  natural logarithms

    A patch is related to itself too, and nothing is divided by a temperature. The sum runs over the whole table, as in
    the release: it grows with the number of patches, at most N log 2. The release takes the softmax down the columns,
    which gives the same sum, since cosines are symmetric. Like it this brings vectors to unit length once more.

    Args:
        query_BND: vectors of the output's patches, of any length; they learn.
        key_BND: vectors of the input's patches at the same places; detached here.
        across_batch: one table over all B*N patches of the batch (single-image translation).

    Returns:
        loss_G: one per image, or a single one with `across_batch`; float32 or wider.
    """
    with torch.autocast(query_BND.device.type, enabled=False):
        log_P = _log_relations(query_BND, across_batch)
        log_R = _log_relations(key_BND.detach(), across_batch)
        log_M = torch.logaddexp(log_P, log_R) - math.log(2)

        divergence = log_P.exp() * (log_P - log_M) + log_R.exp() * (log_R - log_M)
        return 0.5 * divergence.sum((1, 2))


def _log_relations(x_BND: Tensor, across_batch: bool) -> Tensor:
    """Logarithm of how much each patch is related to each: (G,M,M), rows of probabilities."""
    x_BND = to_unit_length(full_precision(x_BND))
    x_GMD = x_BND.reshape(1, -1, x_BND.shape[2]) if across_batch else x_BND
    return F.log_softmax(x_GMD @ x_GMD.transpose(1, 2), dim=2)
