"""F-LSeSim's losses on feature maps: the comparison of self-similarities, and the contrast that learns them.

Shape legend: B images, C channels of a feature map, N queries, K keys of a query.
"""

from torch import Tensor

from models.losses.self_similarity import (
    MODES,
    self_similarity,
    spatial_contrast,
    spatial_loss,
)
from scripts.checking.agreement import Compared, loss_and_gradients
from scripts.checking.export import Export


def spatial(export: Export) -> list[Compared]:
    """FSeSim's loss of G: fake_0, real_0 (1,C,H,W), ids_0, patch_size, use_norm, loss_mode; loss, grad_fake_0.

    ids_0 are row-major positions, use_norm 0 or 1, loss_mode cos or l1. The loss has no weight.
    """
    mode = export.text("loss_mode")
    if mode not in MODES:
        raise export.unusable(f"loss_mode is {mode}, not one of {', '.join(MODES)}")

    fake_BCHW, real_BCHW = read_maps(export, "fake_0", "real_0")
    fake_BNK, real_BNK = similarities(export, fake_BCHW, real_BCHW.detach())
    use_norm = bool(export.number("use_norm"))
    loss = spatial_loss(real_BNK, fake_BNK, mode, use_norm).mean()
    loss.backward()

    gradients = [(fake_BCHW.grad, export.tensor("grad_fake_0"))]
    return loss_and_gradients(loss, export.tensor("loss"), gradients)


def lsesim(export: Export) -> list[Compared]:
    """LSeSim's loss of F: src_0, tgt_0, oth_0 (B,C,H,W), ids_0, patch_size, use_norm, T; loss and all three gradients.

    The maps are those after the learned 1x1 convolutions, oth_0 as it is. The gradients are grad_src_0, grad_tgt_0 and
    grad_oth_0.
    """
    names = ("src_0", "tgt_0", "oth_0")
    maps = read_maps(export, *names)
    loss = spatial_contrast(*similarities(export, *maps), export.number("T")).mean()
    loss.backward()

    gradients = [
        (feat_BCHW.grad, export.tensor(f"grad_{name}"))
        for name, feat_BCHW in zip(names, maps, strict=True)
    ]
    return loss_and_gradients(loss, export.tensor("loss"), gradients)


def read_maps(export: Export, *names: str) -> list[Tensor]:
    """Feature maps (B,C,H,W) to be differentiated; raises UserError where their shapes differ."""
    maps = [export.learning(name, axes=4) for name in names]
    shapes = {tuple(feat_BCHW.shape) for feat_BCHW in maps}
    if len(shapes) > 1:
        raise export.unusable(f"{', '.join(names)} have unlike shapes, {sorted(shapes)}")
    return maps


def similarities(export: Export, *maps: Tensor) -> list[Tensor]:
    """The self-similarity of each map at the export's positions, (B,N,K)."""
    ids_N = export.tensor("ids_0").long().flatten()
    positions = maps[0].shape[2] * maps[0].shape[3]
    if not 0 <= ids_N.min() <= ids_N.max() < positions:
        raise export.unusable(f"ids_0 leaves the map, which has {positions} positions")

    window, use_norm = int(export.number("patch_size")), bool(export.number("use_norm"))
    return [self_similarity(feat_BCHW, ids_N, window, use_norm) for feat_BCHW in maps]
