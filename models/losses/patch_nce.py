"""PatchNCE: contrast of the patches of an output with those of its input image.

Shape legend: B images, N patches sampled per image, D embedding width.
"""

import torch
from torch import Tensor

from models.networks.adjacency import unit
from util.hardware.precision import full_precision

MASKED_COSINE = -10.0  # what the release writes over the positive in the row of negatives


def patch_nce_loss(
    query_BND: Tensor, key_BND: Tensor, temperature: float = 0.07, across_batch: bool = False
) -> Tensor:
    """InfoNCE that pulls each output patch to the input patch at the same place (CUT, arXiv 2007.15651, eqs 3, 4).

        loss_b = mean_i ( log( sum_j exp(q_i . k_j / T) + exp(-10 / T) ) - q_i . k_i / T ),  q queries, k keys

    j runs over the patches of the same image or, with `across_batch`, over those of all images. The paper has no
    exp(-10 / T). It is what is left of the positive in the release's row of negatives, which it sets to -10 before
    dividing by T; kept, so that both give the same number. It changes no digit at T = 0.07 and adds 4.5e-5 to the sum
    at T = 1.

    Args:
        query_BND: unit vectors of the output's patches; they learn.
        key_BND: unit vectors of the input's patches at the same places; detached here.
        temperature: T.
        across_batch: negatives from all B*N patches of the batch, as if of one image (single-image translation). With
            several processes each has its own batch.

    Returns:
        loss_B, mean over the patches of each image, in float32 or wider.
    """
    batch, patches, width = query_BND.shape
    with torch.autocast(query_BND.device.type, enabled=False):
        query, key = full_precision(query_BND), full_precision(key_BND.detach())
        if across_batch:
            query, key = query.reshape(1, -1, width), key.reshape(1, -1, width)

        logits = query @ key.transpose(1, 2) / temperature
        positive = logits.diagonal(dim1=1, dim2=2)
        masked = logits.new_full((), MASKED_COSINE / temperature)
        loss = torch.logaddexp(logits.logsumexp(2), masked) - positive
        return loss.reshape(batch, patches).mean(1)


def cosine_nce_loss(
    query_BND: Tensor, key_BND: Tensor, temperature: float = 0.07, across_batch: bool = True
) -> Tensor:
    """`patch_nce_loss` of cosines, with the patches of all images as negatives (DCLGAN, arXiv 2104.07689, eqs 3 to 5).

    The patch head divides by the length + 1e-7, which leaves short vectors shorter than 1: with the first weights of a
    run by up to half a per cent. A cosine takes no notice of that.

    Args:
        query_BND, key_BND: as for `patch_nce_loss`, of any length; one of length 0 has cosine 0 and gets no gradient.

    Returns:
        loss_B, as `patch_nce_loss`.
    """
    with torch.autocast(query_BND.device.type, enabled=False):
        query_BND, key_BND = unit(full_precision(query_BND)), unit(full_precision(key_BND))
    return patch_nce_loss(query_BND, key_BND, temperature, across_batch)
