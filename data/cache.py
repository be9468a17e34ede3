"""Decoded images kept as bytes, in memory or on the device, so that an epoch decodes nothing."""

from collections.abc import Sequence

import torch
from torch import Tensor

from data.base_dataset import BaseDataset
from data.image_file import in_threads
from data.transforms import Source, View, read_source, reflect
from util.errors import UserError
from util.hardware.memory import GIB, free_memory
from util.words import counted

SHARE = 4  # --cache auto leaves all but this part of a GPU's free memory to training


def choose_cache(kind: str, dataset: BaseDataset, device: torch.device) -> str:
    """The --cache to use; auto: the device when training on a GPU with room for all images, else none."""
    if kind != "auto":
        return kind
    if device.type != "cuda" or not dataset.is_train or not dataset.cacheable:
        return "none"

    needed = sum(source.bytes for source in dataset.sources(epoch=1))
    return "device" if SHARE * needed <= free_memory(device) else "none"


class PixelCache:
    """All sources of an epoch in one flat uint8 buffer, image after image, channel after channel.

    Args:
        sources: what to hold.
        device: where.
        flag: value of --cache, for messages.

    Raises:
        UserError: not enough memory, or an unreadable image.
    """

    def __init__(self, sources: Sequence[Source], device: torch.device, flag: str) -> None:
        self._place = {source: place for place, source in enumerate(sources)}
        lengths = [source.bytes for source in sources]
        ends = torch.tensor(lengths).cumsum(0)
        total = int(ends[-1])
        check_memory(total, len(sources), device, flag)

        self._starts = (ends - torch.tensor(lengths)).tolist()
        self.buffer = torch.empty(total, dtype=torch.uint8, device=device)
        decoded = in_threads(read_source, sources)
        for start, length, pixels in zip(self._starts, lengths, decoded, strict=True):
            self.buffer[start : start + length].copy_(pixels.flatten())

        table = []
        for start, source in zip(self._starts, sources, strict=True):
            width, height = source.size
            table.append((start, height, width))
        self._table = torch.tensor(table).to(device)

    def describe(self) -> str:
        """How many images, in how much memory, where."""
        size = self.buffer.numel() / GIB
        return f"{counted(len(self._place), 'image')}, {size:.2f} GiB on {self.buffer.device}"

    def pixels(self, source: Source) -> Tensor:
        """One source, uint8 (C, height, width), without a copy."""
        width, height = source.size
        start = self._starts[self._place[source]]
        return self.buffer[start : start + source.bytes].view(source.channels, height, width)

    def plan(self, views: Sequence[View]) -> Tensor:
        """What `cut` needs to know of views of equal size: int64 (B, 4), image, left, top, mirrored; on the device."""
        rows = []
        for view in views:
            left, top, _, _ = view.box
            rows.append((self._place[view.source], left, top, view.flip))
        return torch.tensor(rows).to(self.buffer.device, non_blocking=True)

    def cut(self, plan: Tensor, size: tuple[int, int, int]) -> Tensor:
        """Views of one size (C, H, W), cut on the device: uint8 (B, C, H, W)."""
        return gather_views(self.buffer, self._table, plan, size)


def gather_views(
    buffer: Tensor, table: Tensor, plan: Tensor, shape: tuple[int, int, int]
) -> Tensor:
    """Cut, mirror and fill up a batch by index arithmetic; no wait for the device, so it can be part of a CUDA graph.

    Args:
        buffer: uint8 (bytes,), planar images one after another.
        table: int64 (images, 3): where each image starts, its height, its width.
        plan: int64 (B, 4): image, left, top, mirrored (0 or 1).
        shape: (C, H, W) of each result.

    Returns:
        uint8 (B, C, H, W)
    """
    channels, height, width = shape
    image, left, top, flip = plan.unsqueeze(2).unbind(1)  # (B, 1) each
    start, full_height, full_width = table[image].unbind(2)  # (B, 1) each

    across = torch.arange(width, device=plan.device)
    across = torch.where(flip > 0, width - 1 - across, across)  # (B, W)
    columns = reflect(left + across, full_width)
    rows = reflect(top + torch.arange(height, device=plan.device), full_height)  # (B, H)

    # where in the buffer each plane begins, then each line of a plane
    planes = start + torch.arange(channels, device=plan.device) * full_height * full_width  # (B, C)
    lines = planes[:, :, None] + (rows * full_width)[:, None, :]  # (B, C, H)
    return buffer[lines[:, :, :, None] + columns[:, None, None, :]]


def check_memory(needed: int, count: int, device: torch.device, flag: str) -> None:
    """Raise UserError when `needed` bytes for `count` images are not free on a device (where that can be asked)."""
    free = free_memory(device)
    if free is not None and needed > free:
        instead = "--cache ram or --cache none" if flag == "device" else "--cache none"
        raise UserError(
            f"--cache {flag} needs {needed / GIB:.2f} GiB for {counted(count, 'image')}, "
            f"but only {free / GIB:.2f} GiB are free on {device}; use {instead}"
        )
