"""Two images in one sample, a content and a style, for methods that give one picture the look of another."""

import math
from argparse import Namespace
from itertools import product

from data.base_dataset import BaseDataset
from data.image_folder import check_dataroot, find_styles
from data.label_maps import label_files
from data.layout import has_domains
from data.namesakes import Namesakes
from data.result_names import fitted, unique_names
from data.transforms import View
from util.errors import UserError

PAIRINGS = ("order", "name", "each")


class ContentStyleDataset(BaseDataset):
    """Contents are the images of domain A, styles those of domain B, or of --style.

    --pair_by order takes the first style for the first content and goes round; name takes the style of the same file
    name; each joins every content with every style. Both keep their own sizes. --max_dataset_size and --num_test count
    contents: those that are translated.

    Raises:
        UserError: no styles, or a content without a style of its name, or with several.
    """

    @staticmethod
    def modify_commandline_options(parser, is_train: bool):
        """Which style goes with which content."""
        group = parser.group("data")
        text = "an image, or a folder of images, whose look the contents take; default: domain B"
        if "style" not in parser.declared():  # a method may have it for its own use of references
            group.add("--style", None, text, metavar="IMAGE|FOLDER")
        text = "the style of a content: by order, by equal file name, or each with each"
        group.add("--pair_by", "order", text, choices=PAIRINGS)
        text = "label maps of the contents, a picture or a folder with their names: a colour is a region"
        group.add("--content_labels", None, text, metavar="IMAGE|FOLDER")
        text = "label maps of the styles: regions take the look of those of their colour"
        group.add("--style_labels", None, text, metavar="IMAGE|FOLDER")
        return parser

    def __init__(self, opt: Namespace) -> None:
        if opt.is_train:
            raise UserError(
                "--dataset_mode content_style pairs images for test.py; train with another one"
            )
        check_dataroot(opt.dataroot, opt.phase, is_train=False)
        if not opt.style and not has_domains(opt.dataroot):
            raise UserError(
                f"--dataroot {opt.dataroot} has no domain B to take styles from: "
                "name an image or a folder with --style"
            )
        self._check_labels(opt)

        super().__init__(opt, roles="AB")
        self.pairs = self._pair(opt.pair_by)
        self._find_labels(opt)

    @staticmethod
    def _check_labels(opt: Namespace) -> None:
        """Label maps come for both, and lie on whole pictures."""
        if (opt.content_labels is None) != (opt.style_labels is None):
            raise UserError("--content_labels and --style_labels go together: give both or neither")
        cut = {"crop", "trim", "zoom"} & set(opt.preprocess.split("_"))
        if opt.content_labels and cut:
            raise UserError(
                f"--preprocess {opt.preprocess} would cut pictures but not their label maps; give --preprocess none"
            )

    def _find_labels(self, opt: Namespace) -> None:
        """Raise UserError for a picture without its label map: before the first is translated, which may take hours."""
        contents, styles = zip(*self.pairs, strict=True)
        flags = {"content_labels": ("A", contents), "style_labels": ("B", styles)}
        for name, (role, numbers) in flags.items():
            where = getattr(opt, name)
            if where:
                paths = self.domains[role].paths
                label_files(where, [paths[n] for n in dict.fromkeys(numbers)], f"--{name}")

    def find_files(self, role: str) -> tuple[str, list[str]]:
        style = self.opt.style
        if role == "A" or not style:
            return super().find_files(role)
        return find_styles(style, self.opt.phase, self.letter(role), self.notes)

    def most_images(self, role: str) -> float:
        return super().most_images(role) if role == "A" else math.inf

    def plan(self, epoch: int, index: int) -> dict[str, View]:
        content, style = self.pairs[index]
        return {"A": self.view("A", content, epoch, None), "B": self.view("B", style, epoch, None)}

    def __len__(self) -> int:
        """Pairs."""
        return len(self.pairs)

    def result_names(self) -> list[str]:
        """The content's name; with --pair_by each that of the style too."""
        A, B = self.domains["A"], self.domains["B"]
        contents = unique_names(A.paths, A.folder)
        styles = unique_names(B.paths, B.folder)

        if self.opt.pair_by != "each":
            return [contents[content] for content, _ in self.pairs]
        return [fitted(f"{contents[content]}__{styles[style]}") for content, style in self.pairs]

    def _pair(self, pair_by: str) -> list[tuple[int, int]]:
        """(number of the content, number of its style) of each sample."""
        contents, styles = self.domains["A"].paths, self.domains["B"].paths
        if pair_by == "order":
            return [(number, number % len(styles)) for number in range(len(contents))]
        if pair_by == "each":
            return list(product(range(len(contents)), range(len(styles))))

        return self._pairs_by_name()

    def _pairs_by_name(self) -> list[tuple[int, int]]:
        """Each content with the style at its place below the folder, or with the only style of its name."""
        A, B = self.domains["A"], self.domains["B"]
        known = Namesakes(B.paths, B.folder)
        styles = [known.find(path, A.folder, "--pair_by name", "style") for path in A.paths]

        alone = [path for path, style in zip(A.paths, styles, strict=True) if style is None]
        if alone:
            raise UserError(
                f"--pair_by name: {alone[0]} has no style of its name in {B.folder} "
                f"(nor have {len(alone) - 1} others); give --pair_by order or each"
            )
        return list(enumerate(styles))
