"""Large images translated tile by tile, with the result of the whole image."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from util.errors import UserError

Span = tuple[int, int]  # first row or column, and the one after the last


def translate_in_tiles(net: nn.Module, images: Tensor, tile: int) -> Tensor:
    """What `translate_each` gives for (B,C,H,W), up to rounding, in the memory that one tile needs.

    Each tile is computed from all the input that it depends on, so no seams need to be hidden. That takes a network
    whose output depends on a neighbourhood only, and that says which: `net.reads(first, last)`, as StyleGAN2Generator
    has it. Instance normalisation depends on the whole image. Noise is drawn once for the whole image, as `net` does.

    Args:
        tile: side of the tiles, in pixels; rounded up to a multiple of what the network halves.

    Raises:
        UserError: a network that cannot be computed in tiles.
    """
    if not hasattr(net, "reads"):
        raise UserError(
            "--tile gives the result of the whole image only with --netG stylegan2 or smallstylegan2: this generator "
            "normalises over the whole image, so tiles would differ in colour; leave --tile out"
        )
    step = 2**net.halvings
    tile = -(-tile // step) * step
    return torch.cat([translate_one(net, image, tile) for image in images.split(1)])


def translate_one(net: nn.Module, image: Tensor, tile: int) -> Tensor:
    """One image (1,C,H,W) in tiles whose side is a multiple of what the network halves."""
    noise = net.draw_noise(image)
    height, width = image.shape[2:]
    rows = []
    for top, bottom in spans(height, tile):
        columns = []
        for left, right in spans(width, tile):
            (y0, y1), (x0, x1) = read(net, (top, bottom), height), read(net, (left, right), width)
            parts = [
                cut(source, (y0, y1), (x0, x1), height // source.shape[2])
                for source in (image, *noise)
            ]
            out = net(parts[0], parts[1:])
            columns.append(out[:, :, top - y0 : bottom - y0, left - x0 : right - x0].clone())
        rows.append(torch.cat(columns, 3))
    return torch.cat(rows, 2)


def spans(length: int, tile: int) -> Iterator[Span]:
    """0..length in parts of `tile`, the last one shorter."""
    return ((first, min(first + tile, length)) for first in range(0, length, tile))


def read(net: nn.Module, span: Span, length: int) -> Span:
    """The input that an output span depends on, widened to where the network's halved maps have whole pixels."""
    step = 2**net.halvings
    first, last = net.reads(span[0], span[1] - 1)
    return max(0, first // step * step), min(length, (last // step + 1) * step)


def cut(image: Tensor, rows: Span, columns: Span, scale: int) -> Tensor:
    """A part of (B,C,H,W) whose rows and columns are given in pixels `scale` times as small as its own."""
    top, bottom, left, right = (edge // scale for edge in (*rows, *columns))
    return image[:, :, top:bottom, left:right]
