"""STROTSS: style transfer by relaxed optimal transport and self-similarity (Kolkin, Salavon, Shakhnarovich; CVPR 2019).

    L = ( alpha * L_C + L_R + L_M + L_P / max(alpha, 1) ) / (alpha + 2)                            (arXiv 1904.12785)

is minimised by one picture, scale after scale, in test.py; there is nothing to train. The terms stand in
models/losses/optimal_transport.py: L_C keeps how the content's features lie among each other, L_R and L_M bring them
to those of the style, L_P brings colours to its palette. alpha is 16 content weights at the coarsest scale, and halves
from one scale to the next.
"""

from argparse import Namespace
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.base_model import BaseModel
from models.inference.laplacian import (
    enlarged,
    finest_band,
    fitted,
    long_sides,
    pyramid,
    reduced,
    synthesize,
)
from models.inference.regions import Regions, content_and_style, label_files, read_label_pair
from models.inference.style_target import StyleTarget
from models.networks.hypercolumns import Hypercolumns
from models.networks.vgg import LAYER_NAMES, describe_weights
from util.errors import UnfitImage, UserError
from util.hardware.runtime import Runtime
from util.parser import int_list, natural, positive_float, positive_int, switch

LEVELS = 5  # of the Laplacian pyramid that is optimised
RATE, LAST_RATE = 2e-3, 1e-3  # of RMSprop, and at the finest scale
TELL_EVERY = 10  # steps between two looks at the loss
STEP_COST = 50_000  # in pixels, of a step beside the picture's own: for the time left


class Scale(NamedTuple):
    """One scale of the optimisation; `before` and `share` are parts of the whole work, for the time left."""

    long_side: int
    alpha: float
    rate: float
    before: float
    share: float


class STROTSSModel(BaseModel):
    """One picture at a time: a content (A) in the look of a style (B)."""

    PRESETS = {
        "official": {},
        "shared": {},  # nothing to share: no generator, no discriminator, no schedule
    }
    TRAINABLE = False
    WITH_GRADIENTS = True
    COSTLY = True
    USES_RUN = False
    SIZE_MULTIPLE = 1

    @staticmethod
    def modify_commandline_options(parser, is_train: bool):
        """Flags of the method; the defaults are the release's values."""
        group = parser.group("strotss")
        group.add("--iterations", 250, "steps at each scale", positive_int)
        text = "content against style: alpha starts at 16 times this"
        group.add("--content_weight", 1.0, text, positive_float)
        text = "longer side of the result, whose halvings to 64 are the scales; 0: the content's"
        group.add("--long_side", 512, text, natural)
        text = "VGG16 layers of the features, 0 (relu1_1) to 12 (relu5_3), beside the colour"
        group.add("--vgg_layers", [0, 1, 2, 3, 4, 5, 6, 9, 12], text, int_list)
        text = "of the frozen VGG16: imagenet, random (demos, tests) or a file"
        group.add("--vgg_weights", "imagenet", text)
        text = "bring VGG16's layers to a mean of 1; auto: if they are far from torchvision's"
        group.add("--scale_features", "auto", text, switch)
        group.add("--positions", 1024, "positions of the output compared in a step", positive_int)
        text = "positions that stand for the style, drawn once per scale"
        group.add("--style_positions", 5000, text, positive_int)
        group.add("--save_scales", False, "show the result of each coarser scale too")

        parser.set_defaults(dataset_mode="content_style")
        return parser

    @staticmethod
    def check_options(opt: Namespace) -> None:
        """What cannot be done, or not in this way."""
        if opt.is_train:
            raise UserError(
                "--model strotss has nothing to train: "
                "run test.py --model strotss --dataroot DIR --name NAME"
            )

        if opt.batch_size != 1:
            raise UserError(
                f"--batch_size {opt.batch_size}: --model strotss makes one picture at a time"
            )
        if (opt.input_nc, opt.output_nc) != (3, 3):
            raise UserError(
                "--model strotss matches colours: leave --input_nc and --output_nc at 3"
            )
        if opt.positions < 2 or opt.style_positions < 2:
            raise UserError("--positions and --style_positions: a covariance takes at least 2")
        if opt.amp == "fp16":
            raise UserError(
                "--amp fp16: gradients of a picture's pixels vanish in it; give bf16 or off"
            )

    def __init__(self, opt: Namespace, runtime: Runtime) -> None:
        super().__init__(opt, runtime)
        features = Hypercolumns(opt.vgg_layers, opt.vgg_weights, opt.scale_features)
        self.features = runtime.place(features)
        self.curves: dict[int, list[float]] = {}  # loss of each step, by scale, of the last picture

    def facts(self) -> dict[str, str]:
        """Which VGG16 the features come from."""
        layers = ", ".join(LAYER_NAMES[index] for index in self.opt.vgg_layers)
        scale = "scaled to a mean activation of 1" if self.features.scaled else "not scaled"
        return {"VGG16": f"{describe_weights(self.opt.vgg_weights)}; {layers}; {scale}"}

    def forward(self) -> None:
        """Nothing: there is no training step."""

    def optimize_parameters(self) -> None:
        """Nothing."""

    def translate(self, real_A: Tensor) -> Tensor:
        """Not without a style: see `show`."""
        raise UserError(
            "--model strotss needs a style beside each content: --dataset_mode content_style"
        )

    def show(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The content, the style, and the content in the look of the style."""
        content, style = content_and_style(self.opt, batch)
        labels = read_label_pair(self.opt, batch, 0)
        regions = Regions(*(each.to("cpu") for each in labels)) if labels else None
        results = self.stylize(content / 2 + 0.5, style / 2 + 0.5, regions)

        pictures = {"real_A": content, "style": style}
        if self.opt.save_scales:
            for side, result in list(results.items())[:-1]:
                pictures[f"scale_{side}"] = result * 2 - 1
        pictures["fake_B"] = results[max(results)] * 2 - 1
        return pictures

    def explain(self, pictures: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The loss of each step at each scale, as arrays."""
        return {}, {f"loss_{side}": np.array(losses) for side, losses in self.curves.items()}

    def sources(self, batch: dict[str, Any], place: int) -> list[str]:
        """The images, and their label maps."""
        return [*super().sources(batch, place), *label_files(self.opt, batch, place)]

    # -- scale after scale -----------------------------------------------------------------------------------------

    def scales(self, content: Tensor, style: Tensor) -> list[Scale]:
        """From coarse to fine; those at which a picture is too small for VGG16 are left out.

        Raises:
            UnfitImage: all of them are.
        """
        opt, found = self.opt, []
        sides = long_sides(opt.long_side or max(content.shape[2:]))
        for side in sides:
            sizes = [fitted(image.shape[2:], side) for image in (content, style)]
            if min(map(min, sizes)) >= self.features.smallest:
                found.append(side)
        if not found:
            deepest = LAYER_NAMES[max(opt.vgg_layers)]
            raise UnfitImage(
                f"--long_side {sides[-1]}: content or style would be narrower than "
                f"{self.features.smallest} pixels, which {deepest} needs; "
                "give a larger one, or --vgg_layers that end earlier"
            )

        height, width = content.shape[2:]
        costs = [fitted((height, width), side) for side in found]
        costs = [rows * columns + STEP_COST for rows, columns in costs]
        scales = []
        for number, side in enumerate(found):
            alpha = 16 * opt.content_weight / 2**number
            rate = LAST_RATE if side == found[-1] else RATE
            before, share = sum(costs[:number]) / sum(costs), costs[number] / sum(costs)
            scales.append(Scale(side, alpha, rate, before, share))
        return scales

    def stylize(
        self, content: Tensor, style: Tensor, regions: Regions | None = None
    ) -> dict[int, Tensor]:
        """Images (1,3,h,w) in [0,1], of any sizes -> by long side, the results (1,3,H,W).

        Random positions come from --seed anew for each picture, whatever was made before.
        """
        opt, generator = self.opt, torch.Generator().manual_seed(self.opt.seed)
        self.curves = {}
        results: dict[int, Tensor] = {}
        earlier: Tensor | None = None
        scales = self.scales(content, style)
        for scale in scales:
            content_here, style_here = (
                reduced(image, fitted(image.shape[2:], scale.long_side))
                for image in (content, style)
            )
            picture = starting_picture(earlier, content_here, style_here, scale == scales[-1])
            target = StyleTarget(
                self.features,
                content_here,
                style_here,
                regions,
                opt.positions,
                opt.style_positions,
                generator,
            )
            earlier = results[scale.long_side] = self.optimize(picture, target, scale)
        return results

    def optimize(self, picture: Tensor, target: StyleTarget, scale: Scale) -> Tensor:
        """A picture (1,3,H,W) after all steps of a scale; its Laplacian pyramid is what moves."""
        bands = [band.detach().requires_grad_() for band in pyramid(picture, LEVELS)]
        optimizer = torch.optim.RMSprop(bands, lr=scale.rate)
        losses: list[Tensor] = []
        for step in range(1, self.opt.iterations + 1):
            loss = target.loss(synthesize(bands), scale.alpha)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

            losses.append(loss.detach())
            if step % TELL_EVERY == 0:
                part = scale.before + scale.share * step / self.opt.iterations
                figures = self.runtime.alone().mean({"loss": losses[-1]})
                self.tell(part, {"scale": scale.long_side, **figures})

        self.conclude(losses, scale)
        return synthesize(bands).detach().clamp(0, 1)

    def conclude(self, losses: Sequence[Tensor], scale: Scale) -> None:
        """Keep the losses of a scale, and tell where they began and ended."""
        read = self.runtime.alone().mean({str(step): loss for step, loss in enumerate(losses)})
        curve = self.curves[scale.long_side] = list(read.values())
        first, last = (sum(part) / len(part) for part in (curve[:TELL_EVERY], curve[-TELL_EVERY:]))
        figures = {f"loss_{side}": known[-1] for side, known in self.curves.items()}
        note = f"scale {scale.long_side}: loss {first:.4f} at first, {last:.4f} at last"
        self.tell(scale.before + scale.share, figures, note)


def starting_picture(
    earlier: Tensor | None, content: Tensor, style: Tensor, is_last: bool
) -> Tensor:
    """What a scale starts from, (1,3,H,W): the content's fine details on something smooth.

    That is the style's mean colour at first, later the result of the scale before. The last scale
    starts from that result alone.

    Args:
        earlier: the result of the scale before, if there is one.
        content, style: at this scale.
    """
    if earlier is None:
        return style.mean((2, 3), keepdim=True) + finest_band(content)
    smooth = enlarged(earlier, content.shape[2:])
    return smooth if is_last else smooth + finest_band(content)
