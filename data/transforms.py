"""What is cut from which image: the geometry of each --preprocess, and views turned into pixels."""

import math
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.image_file import read_image
from data.pixels import Levels
from util.errors import UserError

Size = tuple[int, int]  # width, height
Box = tuple[int, int, int, int]  # left, top, width, height


@dataclass(frozen=True, slots=True)
class Source:
    """An image after the steps that are the same in every epoch, so a key for caches.

    Args:
        path: the file.
        channels: 1 (luminance) or 3 (RGB).
        size: (width, height) after resizing.
        region: the part of the upright file to take, in its pixels; None for all of it.
        bilinear: resize with that filter instead of the bicubic one.
        kept: many samples in a row are cut from it, so that the file is decoded once.
        levels: of a grey file, the values that become black and white; None: all that it can hold.
    """

    path: str
    channels: int
    size: Size
    region: Box | None = None
    bilinear: bool = False
    kept: bool = False
    levels: Levels | None = None

    @property
    def bytes(self) -> int:
        """Of its pixels, decoded."""
        return self.channels * self.size[0] * self.size[1]


@dataclass(frozen=True, slots=True)
class View:
    """One sample of one domain: a box of the source, then possibly mirrored.

    A box that reaches beyond the right or bottom edge is filled by reflection.
    """

    source: Source
    box: Box
    flip: bool = False

    @property
    def content_size(self) -> tuple[int, int]:
        """(height, width) of the part that is image and not filling."""
        left, top, width, height = self.box
        full_width, full_height = self.source.size
        return min(height, full_height - top), min(width, full_width - left)


def resize(size: Size, load_size: int, crop_size: int) -> Size:
    """A square of load_size; the aspect ratio is not kept."""
    return load_size, load_size


def scale_width(size: Size, load_size: int, crop_size: int) -> Size:
    """Width load_size, height in proportion but at least crop_size."""
    return load_size, int(max(load_size * size[1] / size[0], crop_size))


def scale_shortside(size: Size, load_size: int, crop_size: int) -> Size:
    """Enlarged until the shorter side is load_size; larger images stay as they are."""
    scale = max(load_size / min(size), 1)
    return round(size[0] * scale), round(size[1] * scale)


def resize_shortside(size: Size, load_size: int, crop_size: int) -> Size:
    """Enlarged or reduced until the shorter side is load_size; the aspect ratio is kept."""
    scale = load_size / min(size)
    return round(size[0] * scale), round(size[1] * scale)


def keep(size: Size, load_size: int, crop_size: int) -> Size:
    """The size of the file."""
    return size


SCALERS = {
    "resize": resize,
    "scale_width": scale_width,
    "scale_shortside": scale_shortside,
    "resize_shortside": resize_shortside,
    "none": keep,
}
CUTTERS = ("crop", "trim")


def scaler_of(mode: str) -> str:
    """The word of a --preprocess that says how images are scaled; "none" where they keep their size."""
    scalers = [word for word in mode.split("_and_") if word in SCALERS]
    return scalers[0] if scalers else "none"


def cuts(mode: str) -> bool:
    """Whether a --preprocess takes a part of each image."""
    return any(word in CUTTERS for word in mode.split("_and_"))


def reduced_in_decay(options: Mapping[str, Any]) -> bool:
    """Whether a training with these options ends with images of crop_size instead of load_size."""
    return options.get("finetune_resize", False) and options.get("n_epochs_decay", 0) > 0


def scaled_as_trained(options: Mapping[str, Any]) -> dict[str, Any]:
    """How whole images are scaled as a run with these options scaled those of its last epochs, uncut.

    Where training resized to a square and cut, the square has the side of the cut, as in the tests of the papers.
    Training on parts of images at their own size keeps that size. Sides are rounded where training rounded them.
    """
    mode, crop_size = options["preprocess"], options["crop_size"]
    scaler = scaler_of(mode)
    if scaler == "none":
        return {"preprocess": "none"}

    to_crop_size = reduced_in_decay(options) or (scaler == "resize" and cuts(mode))
    side = crop_size if to_crop_size else options["load_size"]
    return {
        "preprocess": scaler,
        "load_size": side,
        "crop_size": crop_size,
        "rounded": not cuts(mode),
    }


ZOOM_RANGE = (0.8, 1.0)
LEAST_SIDE = 8  # pixels that every generator takes; at test smaller images are filled up
COARSE = 32  # multiples to which filling up would add more than a few pixels
KEPT_IMAGES = 2  # per process: one of each domain
MODES = (
    "resize_and_crop, resize, crop, scale_width, scale_width_and_crop, scale_shortside, "
    "scale_shortside_and_crop, resize_shortside, resize_shortside_and_crop, zoom_and_crop, trim, none"
)


def check_mode(mode: str) -> None:
    """Raise UserError for a --preprocess that is not known."""
    words = mode.split("_and_")
    scalers = [word for word in words if word in SCALERS]
    cutters = [word for word in words if word in CUTTERS]
    known = len(scalers) + len(cutters) + ("zoom" in words)
    if len(scalers) > 1 or len(cutters) > 1 or len(words) != known:
        raise UserError(f"--preprocess {mode}: no such mode; there are: {MODES}")


class Preprocess:
    """The geometry that --preprocess names: words joined by "_and_", applied in the order scale, zoom, crop or trim.

    Sides of finished images are multiples of a number. Training resizes whole images to them; a cut is one already. At
    test images are filled up, and what was filled is cut off again; `rounded` resizes there too.

    Args:
        mode: value of --preprocess.
        crop_size: side of the square that is cut out, in pixels.
        multiple: what sides of finished images are multiples of.
        is_train: whether images are to train on.
        no_flip: no mirroring.
        rounded: at test, resize to coarse multiples, as training has: an image that is filled up to twice its size
            is another one than the network knows.

    Raises:
        UserError: an unknown mode, or a crop_size that is no multiple.
    """

    def __init__(
        self,
        mode: str,
        crop_size: int,
        multiple: int,
        is_train: bool,
        no_flip: bool,
        rounded: bool = False,
    ) -> None:
        check_mode(mode)
        words = mode.split("_and_")
        self.scale = SCALERS[scaler_of(mode)]
        self.needs_file_size = self.scale is not resize
        self.zoom = "zoom" in words
        self.crop = "crop" in words
        self.trim = "trim" in words
        if cuts(mode) and crop_size % multiple:
            below = crop_size - crop_size % multiple
            remedy = f"{below} or {below + multiple}" if below else multiple
            raise UserError(
                f"--crop_size {crop_size} is not a multiple of {multiple}, "
                f"which the networks need; use {remedy}"
            )

        self.mode = mode
        self.crop_size = crop_size
        self.multiple = multiple
        self.is_train = is_train
        self.rounds = is_train or (rounded and multiple >= COARSE)
        self.flip = not no_flip

    @classmethod
    def of(cls, opt: Namespace) -> "Preprocess":
        """As the resolved options say."""
        rounded = getattr(opt, "rounded", False)
        return cls(
            opt.preprocess, opt.crop_size, opt.size_multiple, opt.is_train, opt.no_flip, rounded
        )

    def resized(self, size: Size | None, load_size: int, rng: np.random.Generator | None) -> Size:
        """Size after resizing a file of `size` (None will do without `needs_file_size`)."""
        width, height = self.scaled(size, load_size, rng)
        return self._rounded(width), self._rounded(height)

    def scaled(self, size: Size | None, load_size: int, rng: np.random.Generator | None) -> Size:
        """The same before sides are rounded to multiples."""
        width, height = self.scale(size, load_size, self.crop_size)

        if self.zoom:
            across, down = rng.uniform(*ZOOM_RANGE, size=2) if rng else (1, 1)
            width = max(self.crop_size, round(width * across))
            height = max(self.crop_size, round(height * down))
        return int(width), int(height)

    def view(self, source: Source, rng: np.random.Generator | None) -> View:
        """Choose the box to cut from a source, and whether to mirror it; random with `rng`, centred without.

        Raises:
            UserError: the image is smaller than its crop.
        """
        width, height = source.size
        if self.crop and min(width, height) < self.crop_size:
            raise UserError(
                f"{source.path}: {width}x{height} pixels after scaling are too few for --crop_size "
                f"{self.crop_size} with --preprocess {self.mode}; use --preprocess "
                "scale_shortside_and_crop or resize_and_crop with "
                f"--load_size >= {self.crop_size}"
            )
        if self.crop or self.trim:
            width, height = min(width, self.crop_size), min(height, self.crop_size)

        # where the part that is cut out may lie
        across, down = source.size[0] - width, source.size[1] - height
        if rng:
            left, top = int(rng.integers(across + 1)), int(rng.integers(down + 1))
        else:
            left, top = across // 2, down // 2

        # filled up beyond the edge until the networks can take it
        box = (left, top, self._filled_up(width), self._filled_up(height))
        flip = bool(rng and self.flip and rng.random() < 0.5)
        return View(source, box, flip)

    def _rounded(self, side: int) -> int:
        """A side as it is resized to: the nearest multiple, unless it is cut to one."""
        is_cut = self.crop or (self.trim and side >= self.crop_size)
        if not self.rounds or is_cut:
            return side
        return max(round(side / self.multiple), 1) * self.multiple

    def _filled_up(self, side: int) -> int:
        if self.multiple > 1 and not self.is_train:
            side = max(side, LEAST_SIDE)
        return math.ceil(side / self.multiple) * self.multiple


def read_source(source: Source) -> Tensor:
    """Decode and resize a source: uint8 (C, height, width). A kept one is shared, so it must not be written to."""
    if source.kept:
        return _kept_pixels(source)
    return _pixels(source, read_image(source.path, source.channels, source.levels))


_kept_image = lru_cache(KEPT_IMAGES)(read_image)


@lru_cache(KEPT_IMAGES)
def _kept_pixels(source: Source) -> Tensor:
    return _pixels(source, _kept_image(source.path, source.channels, source.levels))


def _pixels(source: Source, image: Image.Image) -> Tensor:
    if source.region is not None:
        left, top, width, height = source.region
        image = image.crop((left, top, left + width, top + height))

    if image.size != source.size:
        kernel = Image.Resampling.BILINEAR if source.bilinear else Image.Resampling.BICUBIC
        image = image.resize(source.size, kernel)

    array = np.array(image).reshape(image.height, image.width, source.channels)
    return torch.from_numpy(array).permute(2, 0, 1)


def cut_view(pixels: Tensor, view: View) -> Tensor:
    """Cut a view from the pixels (C, h, w) of its source: (C, H, W)."""
    left, top, width, height = view.box
    if view.content_size == (height, width):
        cut = pixels[:, top : top + height, left : left + width]
    else:
        rows = reflect(top + torch.arange(height), torch.tensor(pixels.shape[1]))
        columns = reflect(left + torch.arange(width), torch.tensor(pixels.shape[2]))
        cut = pixels[:, rows[:, None], columns]

    return cut.flip(2) if view.flip else cut.contiguous()


def reflect(position: Tensor, size: Tensor) -> Tensor:
    """Fold positions >= 0 into 0..size-1 by mirroring at the edges, the edge itself not repeated."""
    period = (2 * size - 2).clamp(min=1)
    folded = position % period
    return torch.minimum(folded, period - folded)
