"""The training step of this project as a contestant, built through its own options, runtime and step."""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import models.networks.graph as graph
from models import create_model
from models.losses.gan import generator_loss
from models.step.runners import PlainStep, create_step
from options import TestOptions, TrainOptions, parse
from scripts.benchmarking.contest import Contestant, Settings
from util.errors import UserError
from util.hardware.runtime import Runtime

FP32 = "--amp off --tf32 false --channels_last off --compile off --cuda_graph off"
BF16 = "--amp bf16 --channels_last on --compile off --cuda_graph off"
LADDER = {  # variant -> flags of train.py, of which the last counts; each line of a GPU's ladder adds one lever
    "fp32": FP32,
    "tf32": f"{FP32} --tf32 true",
    "nhwc": f"{FP32} --tf32 true --channels_last on",
    "bf16": f"{BF16} --channels_last off",
    "bf16+nhwc": BF16,
    "bf16+nhwc+graph": f"{BF16} --cuda_graph on",
    "bf16+nhwc+compile": f"{BF16} --compile on",
    "bf16+nhwc+compile+graph": f"{BF16} --compile on --cuda_graph on",
    "bf16+nhwc+compile+graph+overlap": f"{BF16} --compile on --cuda_graph on --overlap true",
    "compile": f"{FP32} --compile on",
    "control": FP32,  # the first once more: what differs by chance alone
}
ON_GPU = ("fp32", "control", "tf32", "bf16", "bf16+nhwc")
ON_GPU += ("bf16+nhwc+graph", "bf16+nhwc+compile", "bf16+nhwc+compile+graph")
ON_GPU += ("bf16+nhwc+compile+graph+overlap",)
ON_CPU = ("fp32", "nhwc")


class Ours(Contestant):
    """A variant of this project's step.

    Raises:
        UserError: flags that do not fit; when it runs: compiling or recording failed, which `notes` says.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        batch: int = 1,
        flags: str | None = None,
        data: str = "synthetic",
    ) -> None:
        chosen = (LADDER[name] if flags is None else flags).split()
        self.opt = parse(TrainOptions(), settings.arguments(batch, *chosen, data=data))
        self.runtime = Runtime.from_options(self.opt)

        precision = "tf32" if settings.device.on_gpu and self.opt.tf32 else "fp32"
        if self.runtime.amp_dtype:
            precision = "bf16"
        batches = []
        for pictures in settings.pictures(batch):
            batches.append({role: self.runtime.images(x) for role, x in pictures.items()})
        super().__init__(name, precision, batches)

        self.model = create_model(self.opt, self.runtime)
        self.restart()

    def restart(self, plain: bool = False) -> None:
        """Forget what was recorded; `plain` steps are run by Python whatever the flags say."""
        self.forget()
        if plain:
            self.stepper = PlainStep(self.model)
        else:
            self.stepper = create_step(self.model, self.runtime, self.notes.append)

    def enter(self) -> None:
        if self.runtime.device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = self.opt.tf32

    def run_on(self, batch: dict[str, Any]) -> None:
        self.stepper(batch)
        if self.notes:
            raise UserError(f"{self.name}: {self.notes[-1]}")

    def networks(self) -> dict[str, nn.Module]:
        return self.model.networks

    def frozen(self) -> list[nn.Module]:
        return [self.model.vgg]

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return list(self.model.optimizers.values())

    def losses(self) -> dict[str, Tensor]:
        found = self.model.losses
        return {
            "D": found["D"],
            "G": found["G"],
            "GAN": found["G_GAN"],
            "GNN": found["GNN"] + found["GNN_Y"],
        }

    def density(self) -> float:
        """Share of pairs of nodes that were edges in the last step."""
        layers = [self.model.losses[f"density_{name}"] for name in self.model.layer_names()]
        return float(sum(layers)) / len(layers)

    @contextlib.contextmanager
    def fixed_positions(self, ids: Sequence[Tensor]) -> Iterator[None]:
        original, calls = graph.sample_positions, 0

        def fixed(batch: int, positions: int, count: int, device: torch.device) -> Tensor:
            nonlocal calls
            calls += 1
            return ids[(calls - 1) % len(ids)]

        graph.sample_positions = fixed
        try:
            yield
        finally:
            graph.sample_positions = original

    def draw_positions(self, count: int | None = None) -> list[Tensor]:
        """Places to fix, as the model would draw them for a batch."""
        self.load()
        with torch.no_grad():
            maps = self.model.features(self.real())

        ids, count = [], count or self.opt.num_patches
        for feat in maps:
            batch, _, height, width = feat.shape
            drawn = graph.sample_positions(batch, height * width, count, feat.device)
            ids.append(drawn.clone())
        return ids

    def cast(self) -> contextlib.AbstractContextManager:
        return self.runtime.autocast()

    def load(self) -> None:
        self.model.set_input(self.batches[0])
        self.model.load(self.batches[0])

    def forward(self) -> Tensor:
        with self.features_as(lambda images: []):  # VGG16 is a part of its own
            self.model.forward()
        return torch.cat([self.model.fake_B, self.model.idt_B])

    def real(self) -> Tensor:
        return torch.cat([self.model.real_A, self.model.real_B])

    def d_loss(self) -> Tensor:
        return sum(self.model.compute_D_loss().values())

    def fool_loss(self, fake_B: Tensor) -> Tensor:
        return generator_loss(self.model.netD(fake_B), self.opt.gan_mode)

    def features(self, outputs: Tensor, inputs: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        with torch.no_grad():
            feats_in = self.model.features(inputs)
        return self.model.features(outputs), feats_in

    def head_losses(self, feats_out: list[Tensor], feats_in: list[Tensor]) -> Tensor:
        with self.features_as(lambda maps: maps):
            return self.model.graph_loss(feats_out, feats_in)

    @contextlib.contextmanager
    def features_as(self, function: Callable[[Any], Any]) -> Iterator[None]:
        """Let the model take another function for VGG16."""
        self.model.features = function  # an attribute hides the method
        try:
            yield
        finally:
            del self.model.features


def create_translator(settings: Settings, variant: str, batch: int) -> tuple[Any, Tensor]:
    """A model as test.py builds it, and a batch of pictures on its device."""
    flags = re.sub(r"--(cuda_graph|overlap) \w+", "", LADDER[variant]).split()
    where = ["--dataroot", "synthetic", "--checkpoints_dir", "no-such-folder"]
    device = ["--gpu_ids", settings.device.gpu_ids]
    opt = parse(TestOptions(), [*where, *device, *settings.flags, *flags])

    runtime = Runtime.from_options(opt)
    images = runtime.images(settings.pictures(batch)[0]["A"])
    return create_model(opt, runtime), images
