"""LPIPS (Zhang et al., arXiv 1801.03924) on VGG16, with weights that the user gives.

    d(x, y) = sum over layers of mean over positions of sum over channels of w_c (f_x - f_y)^2,
    f = features of relu1_2, relu2_2, relu3_3, relu4_3, relu5_3, each of length 1 at every position

w are the published linear layers (`lin0.model.1.weight` and so on; `vgg.pth` of version 0.1), never negative. The
normalisation of inputs is that of ImageNet, which VGG16Features applies.
"""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from util.errors import UserError
from util.run.weights import read_file

LAYERS = (1, 3, 6, 9, 12)  # of VGG16, as VGG16Features counts them
WIDTHS = (64, 128, 256, 512, 512)
LEAST = 1e-10  # of a feature's length


def lpips(fake: Sequence[Tensor], truth: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Feature maps (B,C,H,W) of pictures and of their truths, weights (C,) per layer -> (B,)."""
    total = fake[0].new_zeros(len(fake[0]))
    for one, other, weight in zip(fake, truth, weights, strict=True):
        squared_BCHW = (_unit(one) - _unit(other)).square()
        total = total + (squared_BCHW * weight[:, None, None]).sum(1).mean((1, 2))
    return total


def _unit(feat_BCHW: Tensor) -> Tensor:
    return feat_BCHW / (feat_BCHW.square().sum(1, keepdim=True).sqrt() + LEAST)


def read_lpips(path: Path) -> list[Tensor]:
    """The five vectors of weights; raises UserError where the file holds others."""
    state = read_file(path)
    found = []
    for number, width in enumerate(WIDTHS):
        key = f"lin{number}.model.1.weight"
        value = state.get(key) if isinstance(state, dict) else None
        if not isinstance(value, Tensor) or value.numel() != width:
            raise UserError(
                f"--lpips {path}: {key} with {width} numbers is missing; "
                "expected the linear layers of LPIPS for VGG16 (vgg.pth of version 0.1)"
            )
        found.append(value.flatten().float())
    return found
