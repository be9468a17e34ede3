"""Gram matrices: which features occur together in an image, wherever they are.

Shape legend: B images, C channels, H and W the sides of a map.
"""

import torch
from torch import Tensor

from util.hardware.precision import full_precision


def gram_matrix(feat_BCHW: Tensor) -> Tensor:
    """Mean products of two channels over all positions (Gatys et al. 2016): (B,C,C), float32.

    G_ij = 1 / HW * sum_p f_ip f_jp
    """
    with torch.autocast(feat_BCHW.device.type, enabled=False):
        feat_BCN = full_precision(feat_BCHW).flatten(2)
        return feat_BCN @ feat_BCN.transpose(1, 2) / feat_BCN.shape[2]


def gram_loss(feat_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """Squared difference of two maps' Gram matrices, relative to the target's: per image, (B,).

        loss = sum_ij (G_ij - T_ij)^2 / sum_ij T_ij^2

    Relative, so that layers whose features are large do not outweigh the others.
    """
    gram_BCC, target_BCC = gram_matrix(feat_BCHW), gram_matrix(target_BCHW.detach())
    error_B = (gram_BCC - target_BCC).square().sum((1, 2))
    return error_B / target_BCC.square().sum((1, 2)).clamp(min=1e-12)
