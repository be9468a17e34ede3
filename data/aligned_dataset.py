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
        source_A = view_A.source

        paths = self.domains["B"].paths
        source_B = self._source("B", paths[index % len(paths)], epoch, None)

        size_A, _ = self._part("A", source_A.path)
        size_B, _ = self._part("B", source_B.path)
        if size_A != size_B:
            raise UserError(
                f"{source_A.path} and {source_B.path} differ in size; the images of a pair have one"
            )

        # the same cut, also where a size was drawn at random
        source_B = replace(source_B, size=source_A.size)
        return {"A": view_A, "B": replace(view_A, source=source_B)}

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
            tried = " or ".join(folder_names(phase))
            raise UserError(
                f"--dataroot {root} has no folder {tried} with images that hold A and B "
                f"side by side (nor {phase}A and {phase}B with pairs under equal names)"
            )
        return root

    def _paired(self, domains: dict[str, Domain]) -> dict[str, Domain]:
        """The two domains reduced to what both have; a lack is an error unless unreadable images are left out."""
        files = {role: self._by_name(domain) for role, domain in domains.items()}
        alone = sorted(files["A"].keys() ^ files["B"].keys())
        both = [name for name in files["A"] if name in files["B"]]

        shown = ", ".join(alone[:3])
        text = f"{len(alone)} images have no partner of the same name in the other folder: {shown}"
        if not both or (alone and not self.opt.skip_bad_images):
            folders = f"{domains['A'].folder}, {domains['B'].folder}"
            raise UserError(f"{folders}: {text}; without pairs take unaligned")
        if alone:
            self.notes.append(f"left out: {text}")

        paired = {}
        for role, domain in domains.items():
            paths = [files[role][name] for name in both]
            paired[role] = replace(domain, paths=paths)
        return paired

    @staticmethod
    def _by_name(domain: Domain) -> dict[str, str]:
        """A domain's paths by their place below its folder, without the ending.

        Raises:
            UserError: two of them have the same.
        """
        files = {}
        for path in domain.paths:
            name, _ = os.path.splitext(os.path.relpath(path, domain.folder))
            files[name] = path

        if len(files) < len(domain.paths):
            raise UserError(
                f"{domain.folder} holds two images whose names differ in the ending only; "
                "remove one"
            )
        return files

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
                f"{path} is {width} pixels wide, which is no two halves of equal width: "
                "--dataset_mode aligned takes files with A and B side by side"
            )

        half = width // 2
        left = 0 if self.letter(role) == "A" else half
        return (half, height), (left, 0, half, height)

    def _source(self, role: str, path: str, epoch: int, rng: np.random.Generator | None) -> Source:
        size, region = self._part(role, path)
        resized = self.preprocess.resized(size, self.load_size(epoch), rng)
        return Source(path, self.domains[role].channels, resized, region)
