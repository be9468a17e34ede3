"""Crops of two single images, for translation learned from one image of each domain."""

from argparse import Namespace
from typing import TYPE_CHECKING

import numpy as np

from data.base_dataset import BaseDataset
from data.transforms import Source, View
from util.errors import UserError

if TYPE_CHECKING:  # options imports this package
    from util.parser import OptionParser

ZOOM_AND_PATCH = "zoom_and_patch"


class SingleImageDataset(BaseDataset):
    """Zoomed tiles of one image per domain (CUT, arXiv 2007.15651, section 4.3 and the released code).

    For each mini-batch width and height are zoomed by factors drawn from U(1 / random_scale_max, 1) each, to no less
    than crop_size. The zoomed image has a grid of tiles of crop_size, at a random offset for each sample. Sample i
    takes the tile number n_i modulo the number of tiles, where n is a permutation of the whole epoch, so that the
    crops of a mini-batch, which are each other's negatives, are mostly different ones. Each may be mirrored.

    At test each whole image of the input domain is one sample.

    Raises:
        UserError: a folder with more than one image, or options that contradict this.
    """

    @staticmethod
    def modify_commandline_options(parser: "OptionParser", is_train: bool) -> "OptionParser":
        from util.parser import positive_int

        if is_train:
            group = parser.group("data")
            text = "crops of the two images that make an epoch"
            group.add("--crops_per_epoch", 100_000, text, positive_int)
            group.add("--random_scale_max", 3.0, "sides are divided by up to this, at random")
            parser.set_defaults(preprocess=ZOOM_AND_PATCH)
        return parser

    @staticmethod
    def check_options(opt: Namespace) -> None:
        """In training there is one way to cut images."""
        if not opt.is_train:
            BaseDataset.check_options(opt)
        elif opt.preprocess != ZOOM_AND_PATCH:
            raise UserError(
                f"--preprocess {opt.preprocess}: --dataset_mode singleimage zooms and cuts "
                "by itself; leave it out"
            )

    def __init__(self, opt: Namespace) -> None:
        self.check_options(opt)
        if not opt.is_train:
            super().__init__(opt, roles="A")
            return

        if opt.random_scale_max < 1:
            raise UserError(
                f"--random_scale_max {opt.random_scale_max}: images are only made smaller; "
                "give 1 or more"
            )

        cropped = Namespace(**{**vars(opt), "preprocess": "crop"})
        super().__init__(cropped, roles="AB")
        for domain in self.domains.values():
            if len(domain.paths) > 1:
                raise UserError(
                    f"{domain.folder} holds {len(domain.paths)} images, --dataset_mode singleimage "
                    "learns from one: leave one there, or take the first with --max_dataset_size 1 "
                    "(several: --dataset_mode unaligned)"
                )
        self._numbers: dict[tuple[int, str], np.ndarray] = {}

    def plan(self, epoch: int, index: int) -> dict[str, View]:
        if not self.is_train:
            return {"A": self.view("A", index, epoch, None)}

        rng = self.rng(epoch, index)
        return {role: self._tile(role, epoch, index, rng) for role in self.domains}

    def __len__(self) -> int:
        """Crops per epoch; at test the number of images."""
        return self.opt.crops_per_epoch if self.is_train else super().__len__()

    def order(self, epoch: int) -> list[int]:
        """As they are numbered: those of a mini-batch share a zoom, and each number means another tile every epoch."""
        return list(range(len(self)))

    def unlike_epochs(self) -> tuple[int, ...]:
        """None in training: no zoom makes an image smaller than a tile."""
        return () if self.is_train else super().unlike_epochs()

    def load_size(self, epoch: int) -> int:
        """Images keep their own size before the zoom."""
        return self.opt.load_size

    @property
    def cacheable(self) -> bool:
        """Not in training, where each mini-batch has its own zoom; the decoded images are kept anyway."""
        return not self.is_train

    def _tile(self, role: str, epoch: int, index: int, rng: np.random.Generator) -> View:
        crop = self.opt.crop_size
        source = self._zoomed(role, epoch, index // self.opt.batch_size)

        # a grid of tiles, anywhere in the image
        width, height = source.size
        columns, rows = width // crop, height // crop
        left = int(rng.integers(width % crop + 1))
        top = int(rng.integers(height % crop + 1))

        number = self._number(role, epoch, index) % (columns * rows)
        column, row = divmod(number, rows)
        flip = self.preprocess.flip and bool(rng.random() < 0.5)
        return View(source, (left + column * crop, top + row * crop, crop, crop), flip)

    def _zoomed(self, role: str, epoch: int, batch: int) -> Source:
        """The image as the samples of a mini-batch see it."""
        opt, domain = self.opt, self.domains[role]
        path = domain.paths[0]
        rng = np.random.default_rng((opt.seed, epoch, 0, 1 + 2 * batch + "AB".index(role)))
        across, down = rng.uniform(1 / opt.random_scale_max, 1, size=2)

        width, height = self.file_size(path)
        width = max(opt.crop_size, round(width * across))
        height = max(opt.crop_size, round(height * down))
        return Source(
            path, domain.channels, (width, height), bilinear=True, kept=True, levels=self.levels
        )

    def _number(self, role: str, epoch: int, index: int) -> int:
        """A different number for each sample of an epoch."""
        if self.opt.serial_batches:
            return index

        if (epoch, role) not in self._numbers:
            # those of earlier epochs are not needed again
            for key in list(self._numbers):
                if key[0] != epoch:
                    del self._numbers[key]
            rng = np.random.default_rng((self.opt.seed, epoch, 0, 0, 1 + "AB".index(role)))
            self._numbers[epoch, role] = rng.permutation(len(self))

        return int(self._numbers[epoch, role][index])
