"""Self-similarity of feature maps: how alike a place is to the places around it, compared between two images.

Zheng, Cham, Cai: The Spatially-Correlative Loss for Various Image Translation Tasks (CVPR 2021, arXiv 2104.00854).

Shape legend: B images, C channels of a feature map, P = H*W positions in it, N queries, K keys of a query.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from util.hardware.precision import full_precision

MODES = ("cos", "l1")
KEPT = 4  # one of so many entries of a similarity map is compared, the largest ones
SOFTNESS = 10.0  # what divides the product of two features before the tanh


def self_similarity(
    feat_BCHW: Tensor, ids_N: Tensor, window: int = 0, use_norm: bool = False
) -> Tensor:
    """How alike the features at chosen positions are to those around them.

        s_nk = tanh( f_n . f_k / (10 C) ),   or with `use_norm`   s_nk = f_n . f_k / ( |f_n| |f_k| )

    f are the features minus their mean over the map. The keys k of a query n are all positions of
    the map, or those of a square around n that is moved inside the map where n lies near a border.

    Args:
        ids_N: row-major positions of the queries, the same in all images.
        window: side of the square; a map that is not larger both ways is taken whole, as with 0.
        use_norm: take cosines.

    Returns:
        sim_BNK, in float32 or wider; K is window^2 or P, row-major.
    """
    channels, height, width = feat_BCHW.shape[1:]

    with torch.autocast(feat_BCHW.device.type, enabled=False):
        feat_BCHW = full_precision(feat_BCHW)
        centred_BCHW = feat_BCHW - feat_BCHW.mean((2, 3), keepdim=True)
        root = math.sqrt(channels)
        scaled_BCHW = F.normalize(centred_BCHW, dim=1) if use_norm else centred_BCHW / root

        # All products are cheaper than copies of all windows, which share most of their positions.
        keys_BCP = scaled_BCHW.flatten(2)
        queries_BNC = keys_BCP.index_select(2, ids_N).transpose(1, 2)
        sim_BNK = queries_BNC @ keys_BCP
        if 0 < window < min(height, width):
            inside_NK = window_positions(ids_N, height, width, window)
            sim_BNK = sim_BNK.gather(2, inside_NK.expand(len(sim_BNK), -1, -1))

        return sim_BNK if use_norm else torch.tanh(sim_BNK / SOFTNESS)


def window_positions(ids_N: Tensor, height: int, width: int, window: int) -> Tensor:
    """Row-major positions of the squares around positions of a map: ids_NK, K = window^2.

    A square starts window // 2 above and left of its position, or as near as the map allows.
    """
    steps = torch.arange(window, device=ids_N.device)
    top_N = (ids_N // width - window // 2).clamp(0, height - window)
    left_N = (ids_N % width - window // 2).clamp(0, width - window)

    rows_NW = top_N[:, None] + steps
    columns_NW = left_N[:, None] + steps
    return (rows_NW[:, :, None] * width + columns_NW[:, None, :]).flatten(1)


def spatial_loss(
    real_BNK: Tensor, fake_BNK: Tensor, mode: str = "cos", use_norm: bool = False
) -> Tensor:
    """How far the self-similarity of an output is from that of its input (FSeSim's loss of G).

        cos:  mean_n d( cos(r_n, f_n), 1 )
        l1:   mean_nk d( c r_nk, c f_nk ),  c = K / (K // 4)

    r_n and f_n are the rows of input and output, in which only the places with the largest f are
    kept: K // 4 + 1 of them, and ties with the last. The others are 0 in both. d is the smooth L1
    distance, with `use_norm` the plain one.

    Args:
        real_BNK: similarities of the input, `self_similarity` at the positions of the output's.
        fake_BNK: similarities of the output.
        mode: cos or l1.
        use_norm: as the similarities were made.

    Returns:
        loss_B, mean over the queries of each image, in float32 or wider.
    """
    keys = fake_BNK.shape[2]
    distance = F.l1_loss if use_norm else F.smooth_l1_loss

    with torch.autocast(fake_BNK.device.type, enabled=False):
        real_BNK, fake_BNK = full_precision(real_BNK), full_precision(fake_BNK)
        dropped_BNK = ~largest(fake_BNK)
        real_BNK = real_BNK.masked_fill(dropped_BNK, 0)
        fake_BNK = fake_BNK.masked_fill(dropped_BNK, 0)

        if mode == "cos":
            cosine_BN = F.cosine_similarity(real_BNK, fake_BNK, dim=2)
            return distance(cosine_BN, torch.ones_like(cosine_BN), reduction="none").mean(1)
        scale = keys / max(keys // KEPT, 1)
        return distance(scale * fake_BNK, scale * real_BNK, reduction="none").mean((1, 2))


def largest(sim_BNK: Tensor) -> Tensor:
    """Where a row reaches the value at place K // 4, from 0, of its descending order: (B,N,K)."""
    count = sim_BNK.shape[2] // KEPT + 1
    least_BN1 = sim_BNK.detach().topk(count, dim=2, sorted=False).values.amin(2, keepdim=True)
    return sim_BNK >= least_BN1


def spatial_contrast(
    src_BNK: Tensor, tgt_BNK: Tensor, other_BNK: Tensor, temperature: float = 0.07
) -> Tensor:
    """InfoNCE that makes self-similarities tell structure from appearance (LSeSim's loss of F).

        loss_b = mean_n - log softmax( [ s_n . t_m | s_n . o_m | t_n . o_m ]_m / T )  at s_n . t_n

    s and t are similarities of two images with the same structure, o of another one, as unit
    vectors over their keys. m runs over the queries of the same image.

    Args:
        src_BNK, tgt_BNK, other_BNK: similarities at the same positions; all of them learn.
        temperature: T.

    Returns:
        loss_B, mean over the queries of each image, in float32 or wider.
    """
    with torch.autocast(src_BNK.device.type, enabled=False):
        src_BNK, tgt_BNK, other_BNK = (
            F.normalize(full_precision(sim_BNK), dim=2) for sim_BNK in (src_BNK, tgt_BNK, other_BNK)
        )
        same_BNN = src_BNK @ tgt_BNK.transpose(1, 2) / temperature
        src_other_BNN = src_BNK @ other_BNK.transpose(1, 2) / temperature
        tgt_other_BNN = tgt_BNK @ other_BNK.transpose(1, 2) / temperature

        logits_BNM = torch.cat([same_BNN, src_other_BNN, tgt_other_BNN], dim=2)
        positive_BN = same_BNN.diagonal(dim1=1, dim2=2)
        return (logits_BNM.logsumexp(2) - positive_BN).mean(1)
