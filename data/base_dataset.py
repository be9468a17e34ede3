"""The contract of data sets: they say which views make up a sample; reading, caching and batching is done for them."""

from abc import ABC, abstractmethod
from argparse import Namespace
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from data.held_out import split_held_out
from data.image_file import find_bad_images, read_size
from data.image_folder import find_images
from data.result_names import unique_names
from data.transforms import (
    Preprocess,
    Size,
    Source,
    View,
    check_mode,
    cut_view,
    read_source,
    reduced_in_decay,
)
from util.errors import UserError
from util.run.same_data import data_print, file_sizes
from util.words import first_of

if TYPE_CHECKING:  # options imports this package
    from util.parser import OptionParser


@dataclass(frozen=True)
class Domain:
    """The images of one domain, the folder they were looked for in, and the channels that the networks expect."""

    paths: list[str]
    folder: str
    channels: int


class BaseDataset(ABC):
    """Samples as a pure function of (seed, epoch, index): a subclass implements `plan` and nothing else.

    Args:
        opt: the resolved options.
        roles: which domains are needed: "A" is the model's input domain, "B" its target. With --direction BtoA the
            input is read from the folders of domain B.

    Raises:
        UserError: missing, empty or (with --skip_bad_images) entirely unreadable folders; unknown --preprocess.

    Attributes:
        OWN_SIZE_AT_TEST: test.py keeps the size of images, however training has cut them.
        ONE_SIZE_A_SAMPLE: the images of a sample always have one size.
    """

    OWN_SIZE_AT_TEST = False
    ONE_SIZE_A_SAMPLE = False

    @staticmethod
    def modify_commandline_options(parser: "OptionParser", is_train: bool) -> "OptionParser":
        """Declare options of this data set."""
        if is_train:
            text = (
                "resize to crop_size instead of load_size in the decay phase (epoch > n_epochs), "
                "as CUT does"
            )
            parser.group("data").add("--finetune_resize", True, text)
        return parser

    @staticmethod
    def check_options(opt: Namespace) -> None:
        """Raise UserError for options that no images fit; none are looked for yet."""
        check_mode(opt.preprocess)

    def __init__(self, opt: Namespace, roles: str) -> None:
        self.opt = opt
        self.is_train = opt.is_train
        self.notes: list[str] = []  # what the user should be told once

        self.preprocess = Preprocess.of(opt)
        # of grey files: what is black and what is white
        self.levels = tuple(opt.value_range) if opt.value_range else None
        self.file_sizes: dict[str, Size] = {}
        self.domains = self._find_domains(roles)

    def letter(self, role: str) -> str:
        """The letter of a role's folder: with --direction BtoA the input comes from domain B."""
        if self.opt.direction == "AtoB":
            return role
        return {"A": "B", "B": "A"}[role]

    def find_files(self, role: str) -> tuple[str, list[str]]:
        """The folder that a role is read from, and its images."""
        opt = self.opt
        return find_images(opt.dataroot, opt.phase, self.letter(role), self.is_train, self.notes)

    def unlike_epochs(self) -> tuple[int, ...]:
        """Epochs that stand for all others as to the size of their images."""
        if self.is_train and reduced_in_decay(vars(self.opt)):
            return (1, self.opt.n_epochs + 1)
        return (1,)

    def describe_files(self) -> list[str]:
        """What a user should know of how files are read, a line each; their sizes are known."""
        return []

    def check_file(self, role: str, number: int) -> None:
        """Raise UserError where the header of an image tells that it does not fit; its size is known."""

    def part_size(self, role: str, path: str) -> Size:
        """Width and height of what a file holds of a role."""
        return self.file_size(path)

    def most_images(self, role: str) -> float:
        """How many images of a role are used at most."""
        return self.opt.max_dataset_size

    def partnered(self, domains: dict[str, Domain]) -> dict[str, Domain]:
        """The domains without images that lack a partner, where partners are needed."""
        return domains

    def _find_domains(self, roles: str) -> dict[str, Domain]:
        """The images of each role. Partners are looked for before any image is left out, and again after that."""
        domains = {}
        for role in roles:
            folder, paths = self.find_files(role)
            channels = self.opt.input_nc if role == "A" else self.opt.output_nc
            domains[role] = Domain(paths, folder, channels)
        domains = self.partnered(domains)

        for role, domain in domains.items():
            most = min(len(domain.paths), self.most_images(role))
            domains[role] = replace(domain, paths=domain.paths[:most])

        if self.opt.skip_bad_images:
            for role, domain in domains.items():
                domains[role] = replace(domain, paths=self._without_bad(domain.paths))
            domains = self.partnered(domains)

        for role, domain in domains.items():
            domains[role] = replace(domain, paths=self._of_split(domain.paths, domain.folder))
        return domains

    def _of_split(self, paths: list[str], folder: str) -> list[str]:
        """Training images without those to measure on (--eval_split holdout), or those alone."""
        held_out = getattr(self.opt, "held_out", 0)
        only_held_out = getattr(self.opt, "only_held_out", False)
        if not held_out or not (self.is_train or only_held_out):
            return paths
        limit = self.opt.max_dataset_size
        training, kept_out = split_held_out(paths, held_out, folder, limit)
        return kept_out if only_held_out else training

    def _without_bad(self, paths: list[str]) -> list[str]:
        bad = find_bad_images(paths, self.levels)
        if not bad:
            return paths

        shown = first_of(list(bad))
        if len(bad) == len(paths):
            raise UserError(f"none of the {len(paths)} images can be read: {shown}; replace them")

        note = f"left out {len(bad)} of {len(paths)} images that cannot be read: {shown}"
        self.notes.append(note)
        return [path for path in paths if path not in bad]

    @abstractmethod
    def plan(self, epoch: int, index: int) -> dict[str, View]:
        """The views of one sample, by role: a pure function of seed, epoch (from 1) and index."""

    def fingerprint(self) -> dict[str, str]:
        """What tells the images of each domain from others: their number, and a checksum of their names and sizes."""
        prints = {}
        for role, domain in self.domains.items():
            prints[role] = data_print(file_sizes(domain.paths, domain.folder))
        return prints

    def sample(self, index: int, epoch: int = 1) -> dict[str, Tensor]:
        """One sample, read here and now: images (C,H,W) in [-1,1] by role; the same on every machine.

        Raises:
            UserError: an image that cannot be read, or is too small for its crop.
        """
        plan = self.plan(epoch, index)
        pixels = {role: cut_view(read_source(view.source), view) for role, view in plan.items()}
        return {role: image.float() / 127.5 - 1 for role, image in pixels.items()}

    def result_names(self) -> list[str]:
        """What test.py calls the result of each sample: a relative path without suffix, by index.

        Samples that show only different pictures, such as those of either domain, may share a name.
        """
        names = []
        for domain in self.domains.values():
            names += unique_names(domain.paths, domain.folder)
        return names[: len(self)]

    def __len__(self) -> int:
        """Samples per epoch: the size of the larger domain."""
        return max(len(domain.paths) for domain in self.domains.values())

    def order(self, epoch: int) -> list[int]:
        """The indices of an epoch in the order of their use."""
        if not self.is_train or self.opt.serial_batches:
            return list(range(len(self)))

        rng = np.random.default_rng((self.opt.seed, epoch, 0))
        return rng.permutation(len(self)).tolist()

    def rng(self, epoch: int, index: int) -> np.random.Generator | None:
        """Random numbers of one sample; None outside training, where nothing is random."""
        if not self.is_train:
            return None
        return np.random.default_rng((self.opt.seed, epoch, index + 1))

    def load_size(self, epoch: int) -> int:
        """The size that images are resized to: in the decay phase of training it is crop_size (CUT)."""
        opt = self.opt
        in_decay = self.is_train and opt.finetune_resize and epoch > opt.n_epochs
        return opt.crop_size if in_decay else opt.load_size

    def view(self, role: str, number: int, epoch: int, rng: np.random.Generator | None) -> View:
        """A view of a domain's image `number` (counted round and round), cut at random with `rng`."""
        paths = self.domains[role].paths
        source = self.source(role, paths[number % len(paths)], epoch, rng)
        return self.preprocess.view(source, rng)

    def sources(self, epoch: int) -> list[Source]:
        """All that the samples of an epoch are cut from, for caches."""
        found = []
        for role, domain in self.domains.items():
            found += [self.source(role, path, epoch, None) for path in domain.paths]
        return found

    @property
    def cacheable(self) -> bool:
        """Whether each image is resized in the same way every time."""
        return not self.preprocess.zoom

    def file_size(self, path: str) -> Size:
        """Width and height of an image, read from its file once."""
        if path not in self.file_sizes:
            self.file_sizes[path] = read_size(path)
        return self.file_sizes[path]

    def source(self, role: str, path: str, epoch: int, rng: np.random.Generator | None) -> Source:
        """An image of a role, resized as in an epoch, with `rng` at random."""
        size = None
        if self.preprocess.needs_file_size:
            size = self.file_size(path)

        resized = self.preprocess.resized(size, self.load_size(epoch), rng)
        return Source(path, self.domains[role].channels, resized, levels=self.levels)
