"""Pairs of images of the same scene: side by side in one file, or two folders with equal names."""

import os
from argparse import Namespace
from dataclasses import replace

import numpy as np

from data.base_dataset import BaseDataset, Domain
from data.image_folder import folder_names, has_domains, list_images, phase_folder
from data.transforms import Box, Size, Source, View
from util.errors import UserError


class AlignedDataset(BaseDataset):
    """A pair is cut at the same place and mirrored together (pix2pix, section 3.3); pairs come in random order.

    DATAROOT/<phase> holds files with A on the left and B on the right. Where there is no such folder, DATAROOT/<phase>A
    and <phase>B hold the two under equal names. At test, DATAROOT/val stands in for a missing DATAROOT/test, and
    DATAROOT may also be one such file or a folder of them.
    """

    def __init__(self, opt: Namespace) -> None:
        self.together = self._folder_of_halves(opt)
        super().__init__(opt, roles="AB")
        self.notes = list(dict.fromkeys(self.notes))  # both roles read the same files
        if not self.together:
            self.domains = self._paired(self.domains)

    def plan(self, epoch: int, index: int) -> dict[str, View]:
        rng = self.rng(epoch, index)
        view_A = self.view("A", index, epoch, rng)
        paths = self.domains["B"].paths
        source_B = self._source("B", paths[index % len(paths)], epoch, None)
        if self._part("A", view_A.source.path)[0] != self._part("B", source_B.path)[0]:
            raise UserError(
                f"{view_A.source.path} and {source_B.path} differ in size; the images of a pair have one"
            )
        return {
            "A": view_A,
            "B": replace(view_A, source=replace(source_B, size=view_A.source.size)),
        }

    def find_files(self, role: str) -> tuple[str, list[str]]:
        if not self.together:
            return super().find_files(role)
        if os.path.isfile(self.together):
            return os.path.dirname(self.together), [self.together]
        return self.together, list_images(self.together)

    @staticmethod
    def _folder_of_halves(opt: Namespace) -> str | None:
        """Where the files with both halves are; None where the pairs are in two folders."""
        root, phase = opt.dataroot, opt.phase
        folder = phase_folder(root, phase)
        if folder:
            return folder
        if any(phase_folder(root, phase, letter) for letter in "AB"):
            return None
        if opt.is_train or not os.path.exists(root) or has_domains(root):
            raise UserError(
                f"--dataroot {root} has no folder {' or '.join(folder_names(phase))} with images that hold A and B "
                f"side by side (nor {phase}A and {phase}B with pairs under equal names)"
            )
        return root

    def _paired(self, domains: dict[str, Domain]) -> dict[str, Domain]:
        """The two domains reduced to what both have; a lack is an error unless unreadable images are left out."""
        names = {
            role: {
                os.path.splitext(os.path.relpath(path, domain.folder))[0]: path
                for path in domain.paths
            }
            for role, domain in domains.items()
        }
        for role, domain in domains.items():
            if len(names[role]) < len(domain.paths):
                raise UserError(
                    f"{domain.folder} holds two images whose names differ in the ending only; remove one"
                )
        alone = sorted(names["A"].keys() ^ names["B"].keys())
        both = [name for name in names["A"] if name in names["B"]]
        text = f"{len(alone)} images have no partner of the same name in the other folder: {', '.join(alone[:3])}"
        if not both or (alone and not self.opt.skip_bad_images):
            raise UserError(
                f"{domains['A'].folder}, {domains['B'].folder}: {text}; without pairs take unaligned"
            )
        self.notes += [f"left out: {text}"] if alone else []
        return {
            role: replace(domain, paths=[names[role][n] for n in both])
            for role, domain in domains.items()
        }

    def _part(self, role: str, path: str) -> tuple[Size, Box | None]:
        """Size of a role's image, and the part of the file that it is.

        Raises:
            UserError: a file whose width cannot be halved.
        """
        size = self.file_size(path)
        if not self.together:
            return size, None
        width, height = size
        if width % 2:
            raise UserError(
                f"{path} is {width} pixels wide, which is no two halves of equal width: --dataset_mode aligned takes "
                "files with A and B side by side"
            )
        left = 0 if self.letter(role) == "A" else width // 2
        return (width // 2, height), (left, 0, width // 2, height)

    def _source(self, role: str, path: str, epoch: int, rng: np.random.Generator | None) -> Source:
        size, region = self._part(role, path)
        resized = self.preprocess.resized(size, self.load_size(epoch), rng)
        return Source(path, self.domains[role].channels, resized, region)
