"""Whether a translation keeps the content of its input: edges, and the self-similarity of deep features.

    edges(x, y)           = sum m_x m_y / sqrt(sum m_x^2 sum m_y^2),  m = length of the Sobel gradient of the luminance
    self-similarity(x, y) = mean over layers of the root mean square of S_x - S_y,
                            S = cosine similarities between all positions of a layer, features centred over positions

Edges are 1 for the same edges at any contrast. The self-similarity distance is 0 for the same structure in any
appearance that the encoder tells apart (as in LSeSim, arXiv 2104.00854, and Splice, arXiv 2201.00424) and at most 2.
A method that trains on an encoder's features is favoured by a judge that uses the same ones.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from util.metrics.measures import measure

LUMINANCE = np.array([0.299, 0.587, 0.114])
LARGEST_MAP = 32  # positions along a side; larger maps are averaged down


@measure("pairs", "edges", "high")
def edges(fake: np.ndarray, source: np.ndarray) -> float:
    """Agreement of the edges of two pictures (H,W,3) in [0,1]; two pictures without any edge agree."""
    one, other = gradient_length(fake), gradient_length(source)
    scale = np.sqrt(np.square(one).sum() * np.square(other).sum())
    if scale == 0:
        return float(not one.any() and not other.any())
    return float((one * other).sum() / scale)


def gradient_length(picture: np.ndarray) -> np.ndarray:
    """(H,W,3) -> (H,W) length of the Sobel gradient of the luminance; beyond the border the picture is mirrored."""
    grey = np.pad(picture @ LUMINANCE, 1, mode="symmetric")
    down = grey[2:] - grey[:-2]
    across = grey[:, 2:] - grey[:, :-2]
    vertical = down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]
    horizontal = across[:-2] + 2 * across[1:-1] + across[2:]
    return np.hypot(vertical, horizontal)


def self_similarity_distance(fake: Sequence[Tensor], source: Sequence[Tensor]) -> Tensor:
    """Feature maps of pictures and of their inputs, (B,C,H,W) per layer -> (B,)."""
    layers = []
    for one, other in zip(fake, source, strict=True):
        difference_BNN = similarities(one) - similarities(other)
        layers.append(difference_BNN.square().mean((1, 2)).sqrt())
    return torch.stack(layers).mean(0)


def similarities(feat_BCHW: Tensor) -> Tensor:
    """(B,C,H,W) -> (B,N,N) cosine similarities between positions, at most LARGEST_MAP along a side."""
    height, width = feat_BCHW.shape[2:]
    size = min(height, LARGEST_MAP), min(width, LARGEST_MAP)
    if size != (height, width):
        feat_BCHW = F.adaptive_avg_pool2d(feat_BCHW, size)

    feat_BCN = feat_BCHW.flatten(2)
    feat_BCN = F.normalize(feat_BCN - feat_BCN.mean(2, keepdim=True), dim=1)
    return feat_BCN.transpose(1, 2) @ feat_BCN
