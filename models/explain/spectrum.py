"""Leading eigenvectors of a symmetric operator that is known by its products alone, and spectral clusters.

Shape legend: N nodes, S directions of the search space, L vectors wanted, R restarts, k clusters.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from models.networks.adjacency import unit

EXACT = 256  # so many nodes are solved whole
SPARE = 4  # directions searched beyond those wanted: close eigenvalues converge together
STEPS = 80
SEARCH_SPACE = 16  # directions are thrown away when there are so many times those of a step


def leading_eigenpairs(
    product: Callable[[Tensor], Tensor], like_N: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """The `count` largest eigenvalues and their unit eigenvectors, by a block Krylov method with restarts.

    Each step adds the residuals of the best vectors so far to the search space, solves the problem within it
    (Rayleigh-Ritz) and stops where all residuals are below the square root of the machine precision; eigenvalues are
    then exact up to rounding. A graph of up to EXACT nodes is solved whole. The first directions are the same in
    every run. A vector's largest entry is positive.

    Args:
        product: x_NL -> A x, A symmetric.
        like_N: a tensor with the problem's size, type and device.

    Returns:
        values_L, the largest first, and vectors_NL.
    """
    nodes = len(like_N)
    count = min(count, nodes)
    if nodes <= EXACT:
        whole_NN = product(torch.eye(nodes, dtype=like_N.dtype, device=like_N.device))
        values, vectors = torch.linalg.eigh((whole_NN + whole_NN.T) / 2)
        return values.flip(0)[:count], _signed(vectors.flip(1)[:, :count])

    block = count + SPARE
    space_NS = torch.linalg.qr(_noise(nodes, block).to(like_N)).Q
    image_NS = product(space_NS)
    enough = torch.finfo(like_N.dtype).eps ** 0.5

    for _ in range(STEPS):
        # the best vectors within the space (Rayleigh-Ritz)
        inner = space_NS.T @ image_NS
        values, mix = torch.linalg.eigh((inner + inner.T) / 2)
        values, mix = values.flip(0)[:block], mix.flip(1)[:, :block]
        best_NL, best_image_NL = space_NS @ mix, image_NS @ mix

        residual_NL = best_image_NL - values * best_NL
        if torch.linalg.vector_norm(residual_NL[:, :count], dim=0).max() < enough:
            break

        # a larger space, or a new start from the best vectors
        if space_NS.shape[1] >= min(SEARCH_SPACE * block, nodes - block):
            space_NS, image_NS = best_NL, best_image_NL
        fresh_NL = _orthonormal(residual_NL, space_NS)
        space_NS = torch.cat([space_NS, fresh_NL], dim=1)
        image_NS = torch.cat([image_NS, product(fresh_NL)], dim=1)

    return values[:count], _signed(best_NL[:, :count])


def _orthonormal(new_NL: Tensor, space_NS: Tensor) -> Tensor:
    """Unit vectors at right angles to each other and to the space; three rounds, as residuals may be mere rounding."""
    for _ in range(3):
        inside_NL = space_NS @ (space_NS.T @ new_NL)
        new_NL = torch.linalg.qr(new_NL - inside_NL).Q
    return new_NL


def _noise(*shape: int) -> Tensor:
    """The same numbers every time, without a touch on the run's own random numbers."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator)


def _signed(vectors_NL: Tensor) -> Tensor:
    largest = vectors_NL.gather(0, vectors_NL.abs().argmax(0, keepdim=True))
    sign = torch.where(largest < 0, -1.0, 1.0)
    return vectors_NL * sign.to(vectors_NL)


def spectral_clusters(vectors_NL: Tensor, restarts: int = 8, rounds: int = 50) -> Tensor:
    """As many clusters as vectors: k-means on the rows at unit length (Ng, Jordan, Weiss 2001), labels_N.

    The best of several starts by k-means++ (Arthur and Vassilvitskii 2007). Labels are sorted by size, 0 the largest.
    """
    rows_RNL = unit(vectors_NL).expand(restarts, -1, -1)
    nodes, clusters = vectors_NL.shape

    # Starts: each centre is a node, drawn with the squared distance to the centres before it as its weight.
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(clusters, restarts, 1, generator=generator).to(vectors_NL)
    distance_RN = torch.ones_like(rows_RNL[:, :, 0])
    centres_RkL = rows_RNL[:, :0]
    for draw_R1 in draws:
        weight_RN = distance_RN.cumsum(1)
        index_R = torch.searchsorted(weight_RN, draw_R1 * weight_RN[:, -1:]).clamp(max=nodes - 1)
        new_R1L = rows_RNL.gather(1, index_R[:, :, None].expand(-1, -1, clusters))
        centres_RkL = torch.cat([centres_RkL, new_R1L], dim=1)
        distance_RN = torch.cdist(rows_RNL, centres_RkL).square().amin(2)

    # Rounds: each centre becomes the mean of its members; one without members stays.
    for _ in range(rounds):
        label_RN = torch.cdist(rows_RNL, centres_RkL).argmin(2)
        member_RNk = torch.nn.functional.one_hot(label_RN, clusters).to(rows_RNL.dtype)
        size_Rk1 = member_RNk.sum(1)[:, :, None]
        mean_RkL = member_RNk.transpose(1, 2) @ rows_RNL / size_Rk1.clamp(min=1)
        centres_RkL = torch.where(size_Rk1 > 0, mean_RkL, centres_RkL)

    spread_RNk = torch.cdist(rows_RNL, centres_RkL)
    best = spread_RNk.amin(2).square().sum(1).argmin()
    label_N = spread_RNk[best].argmin(1)

    by_size_k = torch.bincount(label_N, minlength=clusters).argsort(descending=True, stable=True)
    return by_size_k.argsort()[label_N]
