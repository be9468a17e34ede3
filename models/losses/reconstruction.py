"""How far two tensors are apart that should be the same: images, contents, styles, deep features."""

from torch import Tensor

from util.hardware.precision import full_precision


def l1_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of two tensors of one shape: 0-d, in float32 or wider."""
    return (full_precision(a) - full_precision(b)).abs().mean()


def domain_invariant_distance(feat_BCHW: Tensor, target_BCHW: Tensor, eps: float = 1e-5) -> Tensor:
    """Mean squared difference of features after instance normalisation (MUNIT, section 5.1).

    It takes out mean and deviation of each map, which belong to the domain rather than the content.

    Returns:
        0-d tensor, in float32 or wider.
    """
    normal, normal_target = (
        _instance_normalized(full_precision(x), eps) for x in (feat_BCHW, target_BCHW)
    )
    return (normal - normal_target).square().mean()


def _instance_normalized(x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean((2, 3), keepdim=True)
    variance = centred.square().mean((2, 3), keepdim=True)
    return centred / (variance + eps).sqrt()
