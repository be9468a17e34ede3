"""The patch head F of CUT: random positions of feature maps, a small network for each layer, unit length.

Shape legend: B images, N sampled patches, C channels of a feature map, D embedding width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.networks.adjacency import sample_positions
from util.hardware.precision import full_precision
from util.registry import find_by_name

# values of --netF -> whether a network follows the sampling
KINDS = {"mlp_sample": True, "sample": False}


class PatchSampler(nn.Module):
    """Samples patches of feature maps and embeds them (CUT, arXiv 2007.15651, section 3.2).

    mlp_i of layer i: linear C -> D, ReLU, linear D -> D; then x / (|x| + 1e-7). State-dict keys are those of the
    release (`mlp_0.0.weight`, ...).

    Args:
        channels: C of each feature map, in the order of `forward`.
        width: D; with kind "sample" a patch keeps its C channels.
        kind: "mlp_sample", or "sample" for no network.

    Raises:
        UserError: unknown kind.
    """

    def __init__(self, channels: Sequence[int], width: int = 256, kind: str = "mlp_sample") -> None:
        super().__init__()
        self.embeds = find_by_name(KINDS, kind, "--netF")
        for i, count in enumerate(channels if self.embeds else ()):
            mlp = nn.Sequential(nn.Linear(count, width), nn.ReLU(), nn.Linear(width, width))
            self.add_module(f"mlp_{i}", mlp)

    def forward(
        self, feats: Sequence[Tensor], num_patches: int = 256, ids: Sequence[Tensor] | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Feature maps (B,C,H,W) -> per layer the embedded patches (B,N,D), and their positions (N,).

        Positions are row-major and without repetition, one set for all images of the batch; N is `num_patches`, or
        H*W where that is less or `num_patches` is 0. Computed in float32 at least, whatever autocast says.

        Args:
            feats: one map per layer, in the order of `channels`.
            num_patches: positions drawn per layer on the device.
            ids: positions to use instead, as an earlier call returned them.
        """
        if ids is None:
            ids = [self.draw(feat, num_patches) for feat in feats]

        patches = []
        for i, (feat_BCHW, ids_N) in enumerate(zip(feats, ids, strict=True)):
            with torch.autocast(feat_BCHW.device.type, enabled=False):
                # Picked along the last axis, so that the gradient has the layout of the map:
                # torch 2.15 on a CPU gives wrong gradients of batch norm, at batch size 1, for one
                # that picking rows of channels leaves.
                picked_BCN = feat_BCHW.flatten(2).index_select(2, ids_N)
                x_BND = full_precision(picked_BCN).transpose(1, 2)
                if self.embeds:
                    x_BND = self.get_submodule(f"mlp_{i}")(x_BND)

                patches.append(to_unit_length(x_BND))
        return patches, list(ids)

    @staticmethod
    def draw(feat_BCHW: Tensor, num_patches: int) -> Tensor:
        """Positions of one layer, drawn on its device: ids_N."""
        height, width = feat_BCHW.shape[2:]
        positions = height * width
        return sample_positions(1, positions, num_patches or positions, feat_BCHW.device)[0]


def to_unit_length(x_BND: Tensor) -> Tensor:
    """Vectors divided by their length, x / (|x| + 1e-7); zeros stay zeros."""
    return x_BND / (torch.linalg.vector_norm(x_BND, dim=2, keepdim=True) + 1e-7)


def mirrored(ids_N: Tensor, width: int) -> Tensor:
    """Where row-major positions lie after a horizontal flip of a map of this width.

    Reading a flipped map there is reading the map flipped back, without a copy of it.
    """
    column_N = ids_N % width
    return ids_N + (width - 1 - 2 * column_N)
