"""Photographs of any folder, for methods that learn from images alone; at test contents with styles."""

import math
import os
from argparse import Namespace

from data.base_dataset import BaseDataset
from data.content_style_dataset import ContentStyleDataset
from data.image_folder import find_images, list_images
from data.layout import has_domains, phase_folder
from data.transforms import View
from util.errors import UserError


class PhotographsDataset(ContentStyleDataset):
    """In training each sample is one photograph, of role A; an epoch shows each once.

    --dataroot is a folder of photographs, nested or not, or one with trainA and trainB, whose images are taken
    together. At test samples are those of --dataset_mode content_style, each at its own size: what is learned here has
    seen parts of photographs of any scale.
    """

    OWN_SIZE_AT_TEST = True

    @staticmethod
    def modify_commandline_options(parser, is_train: bool):
        """How images are read: flags of training, or of contents and styles."""
        own = BaseDataset if is_train else ContentStyleDataset
        return own.modify_commandline_options(parser, is_train)

    def __init__(self, opt: Namespace) -> None:
        if opt.is_train:
            BaseDataset.__init__(self, opt, roles="A")
        else:
            super().__init__(opt)

    def find_files(self, role: str) -> tuple[str, list[str]]:
        opt = self.opt
        if not self.is_train:
            return super().find_files(role)
        if not os.path.isdir(opt.dataroot):
            raise UserError(f"--dataroot {opt.dataroot} is no folder; give one with photographs")
        if not has_domains(opt.dataroot):
            return opt.dataroot, self._first_of(list_images(opt.dataroot, self.notes))

        there = [letter for letter in "AB" if phase_folder(opt.dataroot, opt.phase, letter)]
        paths = []
        for letter in there or "A":  # without either, find_images says what was looked for
            _, images = find_images(opt.dataroot, opt.phase, letter, True, self.notes)
            paths += self._first_of(images)
        return opt.dataroot, paths

    def _first_of(self, paths: list[str]) -> list[str]:
        """As many images of a domain as --max_dataset_size allows."""
        return paths[: min(len(paths), self.opt.max_dataset_size)]

    def most_images(self, role: str) -> float:
        """In training all: each domain was cut before the two were joined."""
        return math.inf if self.is_train else super().most_images(role)

    def plan(self, epoch: int, index: int) -> dict[str, View]:
        if not self.is_train:
            return super().plan(epoch, index)
        return {"A": self.view("A", index, epoch, self.rng(epoch, index))}

    def __len__(self) -> int:
        """Photographs; at test pairs."""
        return BaseDataset.__len__(self) if self.is_train else super().__len__()

    def result_names(self) -> list[str]:
        return BaseDataset.result_names(self) if self.is_train else super().result_names()
