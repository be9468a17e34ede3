"""Distances between images or their halves, and how far translation changes them (DistanceGAN).

Shape legend: B images, P distances, N items, D numbers of an item.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from util.hardware.precision import full_precision

EXACT_BLOCK = 4096  # of so many grey levels float32 adds up every difference without rounding


def pair_distances(images: Tensor) -> Tensor:
    """Distance of each pair of images i < j in a batch: mean |x_i - x_j| over channels and pixels.

    Args:
        images: (B,C,H,W), at least two.

    Returns:
        distance_P with P = B (B - 1) / 2, i by i, in float32 or wider.

    Raises:
        ValueError: a single image, which has no pair.
    """
    if len(images) < 2:
        raise ValueError("pair_distances takes at least two images, got 1")

    images = full_precision(images)
    rows = []
    for i in range(len(images) - 1):
        difference = images[i + 1 :] - images[i]
        rows.append(difference.abs().flatten(1).mean(1))
    return torch.cat(rows)


def half_distances(images: Tensor) -> Tensor:
    """Distance of each image's upper half from its lower one: mean |upper - lower|.

    Args:
        images: (B,C,H,W), H at least 2; of an odd H the middle row is in neither half.

    Returns:
        distance_B, in float32 or wider.
    """
    images = full_precision(images)
    half = images.shape[2] // 2
    upper, lower = images[:, :, :half], images[:, :, images.shape[2] - half :]
    return (upper - lower).abs().flatten(1).mean(1)


def standardized(distance_P: Tensor, moments_2: Tensor) -> Tensor:
    """Distances of a domain in its own units, (d - mean) / deviation; `moments_2` is the two."""
    return (distance_P - moments_2[0]) / moments_2[1]


def distance_loss(
    real_P: Tensor, fake_P: Tensor, moments_real_2: Tensor, moments_fake_2: Tensor
) -> Tensor:
    """How far translation changes distances, each in the units of its domain (arXiv 1706.00826).

    mean_P | (d_real - mean_real) / dev_real - (d_fake - mean_fake) / dev_fake |

    Args:
        real_P: distances between images.
        fake_P: those between their translations, in the same order.
        moments_real_2, moments_fake_2: mean and deviation of distances in the domain of either.

    Returns:
        0-d tensor.
    """
    before, after = standardized(real_P, moments_real_2), standardized(fake_P, moments_fake_2)
    return (before - after).abs().mean()


def all_pair_distances(levels_ND: Tensor, device: torch.device | None = None) -> Tensor:
    """Distances mean |x_i - x_j| of all pairs of items i < j, the same bits on every machine.

    Grey levels are whole numbers, and so are their differences: sums of `EXACT_BLOCK` of them are
    exact in float32 in any order, and sums of those in float64.

    Args:
        levels_ND: uint8, at least two items of equal size.
        device: where it is computed, block by block; where the levels are when not given.

    Returns:
        distance_P with P = N (N - 1) / 2, i by i, in grey levels, float64.
    """
    totals_P = torch.zeros((), dtype=torch.float64, device=device or levels_ND.device)
    for block in levels_ND.split(EXACT_BLOCK, dim=1):
        totals_P = totals_P + F.pdist(block.to(device).float(), p=1).double()
    return totals_P / levels_ND.shape[1]


def moments(distance_P: Tensor) -> Tensor:
    """(P,) -> (2,), in float64: mean, and the root of the mean squared difference from it."""
    distance_P = distance_P.double()
    mean = distance_P.mean()
    return torch.stack([mean, (distance_P - mean).square().mean().sqrt()])
