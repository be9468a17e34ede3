"""STROTSS' loss: where features of an output lie beside those of a style, and how they are arranged among themselves.

Shape legend: N positions of the output, M of the style, C channels of a feature; the first 3 channels are its colour.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from util.hardware.precision import full_precision

Distances = Callable[[Tensor, Tensor], Tensor]  # (N,C), (M,C) -> of every pair, (N,M)


def cosine_distances(x_NC: Tensor, y_MC: Tensor) -> Tensor:
    """1 - cosine of every pair, (N,M)."""
    return 1 - F.normalize(x_NC, dim=1) @ F.normalize(y_MC, dim=1).T


def colour_distances(x_N3: Tensor, y_M3: Tensor) -> Tensor:
    """Cosine distance and Euclidean distance, added up, of every pair, (N,M)."""
    exact = "donot_use_mm_for_euclid_dist"
    return cosine_distances(x_N3, y_M3) + torch.cdist(x_N3, y_M3, compute_mode=exact)


def relaxed_emd(x_NC: Tensor, y_MC: Tensor, distances: Distances = cosine_distances) -> Tensor:
    """Relaxed earth mover's distance of two sets of vectors (Kusner et al. 2015): a 0-d tensor.

    max( 1/N sum_i min_j D_ij,  1/M sum_j min_i D_ij )
    """
    distance_NM = distances(x_NC, y_MC)
    return torch.maximum(distance_NM.amin(1).mean(), distance_NM.amin(0).mean())


def self_similarity_loss(x_NC: Tensor, content_NC: Tensor) -> Tensor:
    """How differently two sets of features are arranged among themselves: a 0-d tensor.

        1/N sum_ij | X_ij / sum_i X_ij - Y_ij / sum_i Y_ij |

    X and Y are the cosine distances within x and within the content.
    """
    shares = []
    for feat_NC in (x_NC, content_NC):
        distance_NN = cosine_distances(feat_NC, feat_NC)
        shares.append(distance_NN / distance_NN.sum(0, keepdim=True).clamp(min=1e-8))
    return (shares[0] - shares[1]).abs().sum() / len(x_NC)


class Moments(NamedTuple):
    """Mean and covariance of a set of features."""

    mean_C: Tensor
    covariance_CC: Tensor


def moments(feat_NC: Tensor) -> Moments:
    """Over the N features, the covariance divided by N - 1."""
    mean_C = feat_NC.mean(0)
    centred_NC = feat_NC - mean_C
    return Moments(mean_C, centred_NC.T @ centred_NC / max(len(feat_NC) - 1, 1))


def moment_loss(x: Moments, y: Moments) -> Tensor:
    """Mean absolute difference of means, plus that of covariances: a 0-d tensor."""
    mean = (x.mean_C - y.mean_C).abs().mean()
    return mean + (x.covariance_CC - y.covariance_CC).abs().mean()


def decorrelated(colour_N3: Tensor) -> Tensor:
    """Colours as brightness and two opponents, an orthonormal basis: (N,3).

    STROTSS compares colours after a fixed decorrelating matrix. Between orthonormal ones no
    distance here differs.
    """
    red, green, blue = colour_N3.unbind(1)
    grey = (red + green + blue) / 3**0.5
    return torch.stack([grey, (red - green) / 2**0.5, (red + green - 2 * blue) / 6**0.5], dim=1)


class StyleSample(NamedTuple):
    """What is known of a style: features at random positions, and their moments."""

    feat_MC: Tensor
    moments: Moments


def strotss_terms(
    x_NC: Tensor, content_NC: Tensor, style: StyleSample, alpha: float
) -> dict[str, Tensor]:
    """The loss of an output's features (STROTSS, arXiv 1904.12785): weighted terms, 0-d each.

        L = ( alpha * L_C + L_R + L_M + L_P / max(alpha, 1) ) / (alpha + 2)

    L_C is self-similarity with the content, L_R relaxed EMD to the style, L_M moments, L_P relaxed
    EMD of colours.

    Args:
        x_NC, content_NC: features of output and content at the same positions.
        style: of the style.
        alpha: weight of the content.
    """
    with torch.autocast(x_NC.device.type, enabled=False):
        x_NC, content_NC = full_precision(x_NC), full_precision(content_NC)
        feat_MC = style.feat_MC
        colours = decorrelated(x_NC[:, :3]), decorrelated(feat_MC[:, :3])
        palette = relaxed_emd(*colours, colour_distances)
        terms = {
            "content": alpha * self_similarity_loss(x_NC, content_NC),
            "transport": relaxed_emd(x_NC, feat_MC),
            "moments": moment_loss(moments(x_NC), style.moments),
            "palette": palette / max(alpha, 1),
        }
        return {name: term / (alpha + 2) for name, term in terms.items()}
