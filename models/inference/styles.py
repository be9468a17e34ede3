"""One image, many translations: styles drawn at random, or read from reference images of the target domain."""

from argparse import Namespace
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.image_folder import find_styles
from data.layout import phase_folder
from data.namesakes import Namesakes
from data.single_dataset import SingleDataset
from util.errors import UserError
from util.parser import positive_int

OTHER = {"A": "B", "B": "A"}


def add_style_options(parser) -> None:
    """Flags of test.py for methods that translate with a style."""
    group = parser.group("results")
    text = (
        "pictures per input, each in another style drawn from --seed, the same ones for all inputs"
    )
    group.add("--num_styles", 1, text, type=positive_int)
    text = "take styles from this image, or from each image of this folder, instead of drawing them"
    group.add("--style", None, text, metavar="IMAGE|FOLDER")
    text = "for each input only the style of the image of its name, where truth and style are known"
    group.add("--style_by_name", False, text)
    text = "instead of the styles, N pictures on the way from the first of them to the second"
    group.add("--interpolate_styles", None, text, type=positive_int, metavar="N")


def check_style_options(opt: Namespace) -> None:
    """Raise UserError where flags of styles do not go together."""
    if opt.style_by_name and not opt.style:
        raise UserError("--style_by_name takes styles from a folder: give --style FOLDER")
    if opt.style_by_name and opt.interpolate_styles:
        raise UserError(
            "--style_by_name gives each input one style, --interpolate_styles needs two: leave one out"
        )


class ManyStyles:
    """For a method whose translation takes a style; stands before BaseModel in the list of bases.

    The method implements `draw_styles`, `encode_styles` and `translate_with`. Pictures of test.py are named fake_B,
    fake_B_2, fake_B_3 and so on, one per style.
    """

    opt: Namespace
    device: torch.device

    def draw_styles(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, ...) random styles, from numbers of a generator on the CPU."""
        raise NotImplementedError

    def encode_styles(self, role: str, images: Tensor) -> Tensor:
        """(B,C,H,W) images of a domain -> (B, ...) their styles."""
        raise NotImplementedError

    def translate_with(self, role: str, images: Tensor, styles: Tensor) -> Tensor:
        """(B,C,H,W) images of domain `role` -> the same size in the other domain; `styles` has one per image."""
        raise NotImplementedError

    def translate(self, real_A: Tensor, style: Tensor | None = None) -> Tensor:
        """(B,C,H,W) in [-1,1] -> the same size in domain B, in one style (...), without it the first that is drawn."""
        if style is None:
            style = self.drawn_styles[0]
        return self.translate_with("A", real_A, style.expand(len(real_A), *style.shape))

    @cached_property
    def drawn_styles(self) -> Tensor:
        """The styles of --seed, the same on every machine."""
        generator = torch.Generator().manual_seed(self.opt.seed)
        count = getattr(self.opt, "num_styles", 1)
        if getattr(self.opt, "interpolate_styles", None):
            count = max(count, 2)
        return self.draw_styles(count, generator).to(self.device)

    @cached_property
    def references(self) -> "References":
        """The images that --style names, which are of domain B."""
        return References(style_options(self.opt))

    @cached_property
    def reference_styles(self) -> Tensor:
        """The styles of the references, in their order."""
        references, styles = self.references, []
        for index in range(len(references)):
            image = references.sample(index)["A"][None].to(self.device)
            styles.append(self.encode_styles("B", image))
        return torch.cat(styles)

    @cached_property
    def namesakes(self) -> Namesakes:
        """The references, by the names of inputs."""
        references = self.references.domains["A"]
        return Namesakes(references.paths, references.folder)

    def styles_by_name(self, paths: Sequence[str]) -> Tensor:
        """The style of the reference that is called as each input: (inputs, ...).

        Raises:
            UserError: there is none, or there are several.
        """
        opt = self.opt
        source, _ = opt.direction.split("to")
        folder = phase_folder(opt.dataroot, opt.phase, source) or opt.dataroot

        places = []
        for path in paths:
            place = self.namesakes.find(path, folder, "--style_by_name", "image")
            if place is None:
                raise UserError(
                    f"--style_by_name: {opt.style} has no image called {Path(path).stem}; give a folder with "
                    "one for each input"
                )
            places.append(place)
        return self.reference_styles[places]

    def styles_for(self, role: str) -> Tensor:
        """The styles in which images of a domain are translated: references are of domain B, so for A alone.

        Raises:
            UserError: --interpolate_styles between fewer than two.
        """
        from_references = role == "A" and self.opt.style
        styles = self.reference_styles if from_references else self.drawn_styles

        steps = self.opt.interpolate_styles
        return on_the_way(styles, steps) if steps else styles

    def show(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Images of either domain, and their translations in all styles."""
        pictures = {}
        for role in ("A", "B"):
            if role not in batch:
                continue

            images = batch[role]
            pictures[f"real_{role}"] = images
            if role == "A" and self.opt.style_by_name:
                styles = self.styles_by_name(batch["A_paths"])
                pictures["fake_B"] = self.translate_with("A", images, styles)
                continue

            for number, style in enumerate(self.styles_for(role), 1):
                label = f"fake_{OTHER[role]}" + (f"_{number}" if number > 1 else "")
                styles = style.expand(len(images), *style.shape)
                pictures[label] = self.translate_with(role, images, styles)
        return pictures


def on_the_way(styles: Tensor, steps: int) -> Tensor:
    """(N, ...) styles -> (steps, ...) in equal parts from the first to the second, both included."""
    if len(styles) < 2:
        raise UserError(
            f"--interpolate_styles {steps} needs two styles, --style gives one: name a folder with two images"
        )
    first, second = styles[:2]
    shares = torch.linspace(0, 1, steps, device=styles.device)
    return torch.stack([torch.lerp(first, second, share) for share in shares])


class References(SingleDataset):
    """The images of --style, scaled as inputs are; they take the place of the input domain, role A."""

    def find_files(self, role: str) -> tuple[str, list[str]]:
        target = OTHER[self.letter(role)]
        return find_styles(self.opt.style, self.opt.phase, target, self.notes)


def style_options(opt: Namespace) -> Namespace:
    """Options under which images of the target domain are read as those of the input domain are."""
    changes = {"input_nc": opt.output_nc, "max_dataset_size": float("inf")}
    return Namespace(**vars(opt) | changes)
