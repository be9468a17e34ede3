"""Which parts of a content and of its style belong together, by label maps (--content_labels, --style_labels)."""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data.label_maps import LARGEST_RATIO, LEAST_PIXELS, common_labels, label_file, read_labels
from util.errors import UnfitImage, UserError

Masks = list[tuple[Tensor, Tensor]]  # (H,W) of a content and of a style


class Regions:
    """Regions of equal label, as masks of any size.

    Args:
        content_HW, style_HW: whole numbers, equal where regions belong together.

    Raises:
        UnfitImage: the maps have no label in common.
    """

    def __init__(self, content_HW: Tensor, style_HW: Tensor) -> None:
        self.maps = content_HW, style_HW
        self.labels = common_labels(content_HW, style_HW)
        if not self.labels:
            raise UnfitImage(
                "--content_labels and --style_labels have no colour in common that covers more than "
                f"{LEAST_PIXELS} pixels of both, and in neither {LARGEST_RATIO} times as many as in the other; "
                "give equal regions equal colours, in PNG files (JPEG changes them)"
            )

    def masks(self, content_size: torch.Size, style_size: torch.Size, least: int = 2) -> Masks:
        """The regions at these sizes (height, width), without those below `least` positions."""
        content_HW, style_HW = (
            resized(labels, size)
            for labels, size in zip(self.maps, (content_size, style_size), strict=True)
        )
        found = []
        for label in self.labels:
            pair = content_HW == label, style_HW == label
            if min(int(mask.sum()) for mask in pair) >= least:
                found.append(pair)
        return found


def content_and_style(opt: Namespace, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """The contents (A) and the styles (B) of a batch, (B,3,H,W) each; raises UserError without styles."""
    if not {"A", "B"} <= batch.keys():
        raise UserError(
            f"--dataset_mode {opt.dataset_mode} gives no style beside each content, which --model {opt.model} "
            "needs: leave the flag out, or give content_style"
        )
    return batch["A"], batch["B"]


def read_label_pair(
    opt: Namespace, batch: Mapping[str, Any], place: int
) -> tuple[Tensor, Tensor] | None:
    """The label maps of a sample, (H,W) each, at the sizes of its images; None without any."""
    files = label_files(opt, batch, place)
    if not files:
        return None
    images = batch["A"], batch["B"]
    content, style = (
        read_labels(file, (image.shape[3], image.shape[2])).to(image.device)
        for file, image in zip(files, images, strict=True)
    )
    return content, style


def label_files(opt: Namespace, batch: Mapping[str, Any], place: int) -> list[str]:
    """The files of a sample's label maps, if any; raises UserError where one is missing."""
    if not getattr(opt, "content_labels", None):
        return []
    return [
        label_file(opt.content_labels, batch["A_paths"][place], "--content_labels"),
        label_file(opt.style_labels, batch["B_paths"][place], "--style_labels"),
    ]


def resized(labels_HW: Tensor, size: torch.Size) -> Tensor:
    """A label map at another size (height, width): each pixel has the label of the nearest one."""
    exact = labels_HW.double()[None, None]
    return F.interpolate(exact, size=tuple(size), mode="nearest-exact")[0, 0].long()
