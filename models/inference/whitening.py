"""Whitening and colouring: a content's features take the mean and covariance of a style's.

Shape legend: B images, C channels, N positions of the content, M of the style.
"""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from util.errors import UserError

RIDGE = 1.0  # added to the diagonal of covariances, of features whose mean activation is about 1
TINY = 1e-10  # eigenvalues below this part of the largest are no directions


def whiten_and_colour(content_BCN: Tensor, style_BCM: Tensor, ridge: float = RIDGE) -> Tensor:
    """The whitening and colouring transform (Li et al. 2017, arXiv 1705.08086), in float64.

        y = K_s^(1/2) K_c^(-1/2) (x - mean_c) + mean_s,   K = covariance + ridge * I

    With ridge 0 the result has the style's mean and covariance, as far as the content has as many
    directions. The ridge keeps channels quiet that are all but dead in the content. It is added on
    both sides, so that an image which is its own style comes out as it was.

    Returns:
        (B,C,N), of the content's type.
    """
    content, style = content_BCN.double(), style_BCM.double()
    mean_c, mean_s = content.mean(2, keepdim=True), style.mean(2, keepdim=True)
    whitening = power(covariance(content) + ridge * _identity(content), -0.5)
    colouring = power(covariance(style) + ridge * _identity(style), 0.5)
    return (colouring @ (whitening @ (content - mean_c)) + mean_s).to(content_BCN.dtype)


def covariance(feat_BCN: Tensor) -> Tensor:
    """Over the N positions, divided by N - 1: (B,C,C)."""
    centred = feat_BCN - feat_BCN.mean(2, keepdim=True)
    return centred @ centred.transpose(1, 2) / max(feat_BCN.shape[2] - 1, 1)


def power(matrix_BCC: Tensor, exponent: float) -> Tensor:
    """A power of symmetric matrices without negative eigenvalues; what is 0 stays 0."""
    values_BC, vectors_BCC = decompose(matrix_BCC)
    floor = values_BC.amax(1, keepdim=True) * TINY
    alive = values_BC > floor
    powers_BC = torch.where(alive, values_BC.clamp(min=1e-300) ** exponent, 0.0)
    return vectors_BCC * powers_BC[:, None, :] @ vectors_BCC.transpose(1, 2)


def decompose(matrix_BCC: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (B,C) and eigenvectors (B,C,C), in columns.

    Where eigenvalues do not converge, singular values take their place, with a warning.

    Raises:
        UserError: numbers that are not finite, which no decomposition can take.
    """
    if not torch.isfinite(matrix_BCC).all():
        raise UserError(
            "features of a picture are not finite, so they have no covariance: check the weights "
            "(--vgg_weights, the decoder's), or give --amp off"
        )
    try:
        return torch.linalg.eigh(matrix_BCC)
    except torch.linalg.LinAlgError as error:
        warnings.warn(
            f"the eigenvalues of a covariance did not converge ({error}): "
            "singular values are used instead",
            stacklevel=2,
        )
        vectors_BCC, values_BC, _ = torch.linalg.svd(matrix_BCC)
        return values_BC, vectors_BCC


def transfer(
    content_BCHW: Tensor,
    style_BCHW: Tensor,
    alpha: float = 1.0,
    regions: Sequence[tuple[Tensor, Tensor]] | None = None,
) -> Tensor:
    """A content's feature map in the style of another: whitened and coloured, bounded, and blended.

    Args:
        content_BCHW, style_BCHW: of any sizes.
        alpha: the part of the style, 0 to 1; the rest is the content as it was.
        regions: pairs of masks, (H,W) of the content and of the style; each is transferred by
            itself, and what lies in none stays. Without them all is one region.

    Returns:
        The content's shape, within the range of values that the content has in each image.
    """
    content_BCN, style_BCM = content_BCHW.flatten(2), style_BCHW.flatten(2)
    if regions is None:
        styled_BCN = whiten_and_colour(content_BCN, style_BCM)
    else:
        styled_BCN = content_BCN.clone()
        for content_HW, style_HW in regions:
            inside, outside = content_HW.flatten(), style_HW.flatten()
            part = whiten_and_colour(content_BCN[:, :, inside], style_BCM[:, :, outside])
            styled_BCN[:, :, inside] = part

    low, high = (bound(content_BCN, (1, 2), keepdim=True) for bound in (torch.amin, torch.amax))
    styled_BCN = torch.clamp(styled_BCN, low, high)
    return (alpha * styled_BCN + (1 - alpha) * content_BCN).view_as(content_BCHW)


def _identity(feat_BCN: Tensor) -> Tensor:
    return torch.eye(feat_BCN.shape[1], dtype=feat_BCN.dtype, device=feat_BCN.device)
