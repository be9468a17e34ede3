"""Pairs of images of the same scene: side by side in one file, or two folders with equal names."""

import os
from argparse import Namespace
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from data.base_dataset import BaseDataset, Domain
from data.image_folder import check_dataroot, list_images, no_folder
from data.layout import explain_layout, folder_names, means_phases, phase_folder
from data.transforms import Box, Size, Source, View
from util.errors import UserError
from util.words import counted

if TYPE_CHECKING:  # options imports this package
    from util.parser import OptionParser

PAIRS = ("auto", "halves", "folders")


class AlignedDataset(BaseDataset):
    """A pair is cut at the same place and mirrored together (pix2pix, section 3.3); pairs come in random order.

    DATAROOT/<phase> holds files with A on the left and B on the right. Where there is no such folder, DATAROOT/<phase>A
    and <phase>B hold the two under equal names. How the pairs of a run lie is part of its record. At test, DATAROOT/val
    stands in for a missing DATAROOT/test; what does not lie like pairs, such as one image or a folder of images, is
    translated whole: a photograph is halved only where --pairs halves says that it holds two. A folder with images of
    other phases is no folder of images, so those of training are never taken for those of the test.
    """

    ONE_SIZE_A_SAMPLE = True

    @staticmethod
    def modify_commandline_options(parser: "OptionParser", is_train: bool) -> "OptionParser":
        """How pairs lie."""
        BaseDataset.modify_commandline_options(parser, is_train)
        text = (
            "how pairs lie: as halves of a file, A on the left, or under equal names in two folders; "
            "auto: as the folders say"
        )
        parser.group("data").add("--pairs", "auto", text, choices=PAIRS)
        return parser

    def __init__(self, opt: Namespace) -> None:
        self.kind, self.together = self._how_pairs_lie(opt)
        if opt.is_train:
            opt.pairs = self.kind  # for the record
        super().__init__(opt, roles="A" if self.kind == "none" else "AB")
        self.notes = list(dict.fromkeys(self.notes))  # both roles read the same files

    def plan(self, epoch: int, index: int) -> dict[str, View]:
        rng = self.rng(epoch, index)
        view_A = self.view("A", index, epoch, rng)
        if "B" not in self.domains:
            return {"A": view_A}

        source_A = view_A.source
        paths = self.domains["B"].paths
        source_B = self.source("B", paths[index % len(paths)], epoch, None)
        self._check_pair(source_A.path, source_B.path)

        # the same cut, also where a size was drawn at random
        source_B = replace(source_B, size=source_A.size)
        return {"A": view_A, "B": replace(view_A, source=source_B)}

    def find_files(self, role: str) -> tuple[str, list[str]]:
        if not self.together:
            return super().find_files(role)

        if os.path.isfile(self.together):
            return os.path.dirname(self.together), [self.together]
        return self.together, list_images(self.together, self.notes)

    @staticmethod
    def _how_pairs_lie(opt: Namespace) -> tuple[str, str | None]:
        """(halves, folders or none; where the files lie if that is one folder or one file).

        Raises:
            UserError: nothing there lies like pairs, in training, or where --pairs asks for them.
        """
        root, phase = opt.dataroot, opt.phase
        check_dataroot(root, phase, opt.is_train)
        folder = phase_folder(root, phase)
        domains = [letter for letter in "AB" if phase_folder(root, phase, letter)]
        there = {"halves": folder is not None, "folders": len(domains) == 2}

        # the flag says how they lie, else the run's record, else the folders
        asked = None if opt.pairs == "auto" else opt.pairs
        of_run = getattr(opt, "trained_pairs", None)
        kind = asked or next((kind for kind in (of_run, *there) if there.get(kind)), None)

        if kind == "folders" and there["folders"]:
            return "folders", None
        if kind == "halves" and folder:
            if of_run == "folders" and not asked:
                return "none", folder
            if "halves" not in (asked, of_run):
                check_holds_files(folder, phase)
            return "halves", folder

        # test.py takes any images; a run learns from pairs and measures itself on them
        measures_itself = getattr(opt, "only_held_out", None) is not None
        if not opt.is_train and not measures_itself:
            plain = os.path.isfile(root) or not (domains or means_phases(root))
            if kind == "halves" and plain:
                return "halves", root
            if kind is None and (plain or domains):
                return "none", None
        raise missing_pairs(root, phase, kind, domains)

    def describe_files(self) -> list[str]:
        """How pairs lie."""
        if self.kind == "none":
            return [
                "each file is one image, translated whole (--pairs halves: A and B side by side)"
            ]
        if self.kind == "folders":
            folders = " and ".join(domain.folder for domain in self.domains.values())
            return [f"pairs are the files of equal names in {folders}"]

        sizes = set()
        for path in self.domains["A"].paths:
            width, height = self._part("A", path)[0]
            sizes.add(f"{width} x {height}")
        size = sizes.pop() if len(sizes) == 1 else "equal"
        return [f"each file is cut into two {size} halves, A on the left, B on the right"]

    def check_file(self, role: str, number: int) -> None:
        """Raise UserError for a width that cannot be halved, and for images of a pair that differ in size."""
        path = self.domains[role].paths[number]
        self._part(role, path)
        if role == "B":
            self._check_pair(self.domains["A"].paths[number], path)

    def part_size(self, role: str, path: str) -> Size:
        return self._part(role, path)[0]

    def _check_pair(self, path_A: str, path_B: str) -> None:
        """Raise UserError where the images of a pair differ in size."""
        size_A, _ = self._part("A", path_A)
        size_B, _ = self._part("B", path_B)
        if size_A != size_B:
            raise UserError(
                f"{path_A} is {size_A[0]} x {size_A[1]}, {path_B} {size_B[0]} x {size_B[1]}: "
                "the images of a pair have one size"
            )

    def partnered(self, domains: dict[str, Domain]) -> dict[str, Domain]:
        """The two domains reduced to what both have; a lack is an error unless unreadable images are left out."""
        if self.kind != "folders":
            return domains
        files = {role: self._by_name(domain) for role, domain in domains.items()}
        alone = sorted(files["A"].keys() ^ files["B"].keys())
        both = [name for name in files["A"] if name in files["B"]]

        shown = ", ".join(alone[:3])
        text = f"{counted(len(alone), 'image')} without a partner of the same name in the other folder: {shown}"
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
        if self.kind != "halves":
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

    def source(self, role: str, path: str, epoch: int, rng: np.random.Generator | None) -> Source:
        size, region = self._part(role, path)
        resized = self.preprocess.resized(size, self.load_size(epoch), rng)
        return Source(path, self.domains[role].channels, resized, region, levels=self.levels)


def missing_pairs(root: str, phase: str, kind: str | None, domains: list[str]) -> UserError:
    """What to raise for a data root without pairs.

    Args:
        root: which exists.
        phase: whose pairs are wanted.
        kind: how they should lie, halves or folders; None for either.
        domains: letters of the domains that have a folder.
    """
    if kind == "folders" or (kind is None and domains):
        lacking = next(letter for letter in "AB" if letter not in domains)
        return no_folder(root, phase, lacking, is_train=True)

    tried = " or ".join(folder_names(phase))
    text = f"--dataroot {root} has no folder {tried} with images that hold A and B side by side"
    if kind is None:
        text += f" (nor {phase}A and {phase}B with pairs under equal names)"
    reason = explain_layout(root, phase, "").removesuffix("; ")
    return UserError(f"{text}; {reason}" if reason else text)


def check_holds_files(folder: str, phase: str) -> None:
    """Raise UserError for a folder that holds folders instead of files with two halves."""
    with os.scandir(folder) as entries:
        inside = [entry for entry in entries if not entry.name.startswith(".")]
    folders = sorted(entry.name for entry in inside if entry.is_dir())
    if folders and len(folders) == len(inside):
        raise UserError(
            f"{folder} holds only folders ({', '.join(folders[:3])}): pairs lie in it as files with A on the "
            f"left and B on the right, or under equal names in {phase}A and {phase}B beside it; "
            "where the files in these folders do hold two halves, add --pairs halves"
        )
