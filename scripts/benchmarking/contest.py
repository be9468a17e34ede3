"""What is compared: contestants that take a training step, their shared settings, and the parts of a step."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scripts.benchmarking.device import Device

PICTURES = 4  # different batches that the steps go round


@dataclass(frozen=True)
class Settings:
    """What all contestants share.

    Attributes:
        flags: further flags of train.py, for networks smaller than the paper's say.
    """

    device: Device
    size: int = 256
    preset: str = "official"
    nonzero_th: float = 0.1
    vgg_weights: str = "random"
    flags: tuple[str, ...] = ()
    seed: int = 0

    def arguments(self, batch: int, *more: str, data: str = "synthetic") -> list[str]:
        """A command line of train.py."""
        values = {
            "--dataroot": data,
            "--name": "benchmark",
            "--gpu_ids": self.device.gpu_ids,
            "--display_id": 0,
            "--crop_size": self.size,
            "--load_size": self.size * 286 // 256,
            "--batch_size": batch,
            "--preset": self.preset,
            "--nonzero_th": self.nonzero_th,
            "--vgg_weights": self.vgg_weights,
            "--seed": self.seed,
        }

        line = []
        for flag, value in values.items():
            line += [flag, str(value)]
        return [*line, *self.flags, *more]

    def pictures(self, batch: int) -> list[dict[str, Tensor]]:
        """Smooth random uint8 pictures A and B (B,3,H,W) on the host, a few different batches."""
        generator = torch.Generator().manual_seed(self.seed)
        coarse = torch.rand(PICTURES * 2 * batch, 3, 12, 12, generator=generator)
        fine = F.interpolate(coarse, size=(self.size, self.size), mode="bicubic").clamp(0, 1)
        grain = 0.06 * torch.randn(fine.shape, generator=generator)

        pixels = ((fine + grain).clamp(0, 1) * 255).byte().split(batch)
        return [{"A": a, "B": b} for a, b in zip(pixels[::2], pixels[1::2], strict=True)]


@dataclass
class Part:
    """One part of a step: `prepare` makes what `work` takes, and is neither timed nor counted."""

    name: str
    prepare: Callable[[], Any]
    work: Callable[[Any], Any]


@dataclass
class Contestant:
    """A training step to be compared: `Ours` or `Released`.

    Attributes:
        precision: what convolutions compute in: fp32, tf32 or bf16.
        model: whose step it is; a subclass sets it.
    """

    name: str
    precision: str
    batches: list[dict[str, Any]]
    turn: int = 0
    notes: list[str] = field(default_factory=list)

    def step(self) -> None:
        """One training step on the next batch."""
        self.run_on(self.batches[self.turn % len(self.batches)])
        self.turn += 1

    def enter(self) -> None:
        """Set what is global: called before each series of steps."""

    def step_alone(self) -> None:
        """A step that first sets what is global, for contestants that take turns."""
        self.enter()
        self.step()

    def run_on(self, batch: dict[str, Any]) -> None:
        """One training step."""
        raise NotImplementedError

    def networks(self) -> dict[str, nn.Module]:
        """G, D and F."""
        raise NotImplementedError

    def frozen(self) -> list[nn.Module]:
        """VGG16, and whatever else a step computes with."""
        raise NotImplementedError

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """All of them."""
        raise NotImplementedError

    def losses(self) -> dict[str, Tensor]:
        """D, G and its terms GAN and GNN, of the last step."""
        raise NotImplementedError

    def fixed_positions(self, ids: Sequence[Tensor]) -> contextlib.AbstractContextManager:
        """While entered, patches are sampled at these places: per layer ids (2B,N), first A's, then B's."""
        raise NotImplementedError

    @contextlib.contextmanager
    def in_double(self, side: int, patches: int) -> Iterator[None]:
        """While entered, networks and batches are float64, on crops of this side with so many patches each."""
        modules, batches = [*self.networks().values(), *self.frozen()], self.batches
        for module in modules:
            module.double()
        self.batches = [_cropped_in_double(batch, side) for batch in batches]
        before = self.set_patches(patches)

        try:
            yield
        finally:
            self.set_patches(before)
            self.batches = batches
            for module in modules:
                module.float()

    def set_patches(self, count: int) -> int:
        """Expect so many patches at fixed positions; returns the earlier number."""
        return count

    def cast(self) -> contextlib.AbstractContextManager:
        """The precision that the step's forward passes run in."""
        raise NotImplementedError

    def load(self) -> None:
        """Take the first batch."""
        raise NotImplementedError

    def forward(self) -> Tensor:
        """G on both images of the batch that was taken: (2B,3,H,W)."""
        raise NotImplementedError

    def real(self) -> Tensor:
        """What `forward` translates: (2B,3,H,W)."""
        raise NotImplementedError

    def d_loss(self) -> Tensor:
        """D's loss after `forward`."""
        raise NotImplementedError

    def fool_loss(self, fake_B: Tensor) -> Tensor:
        """G's adversarial loss."""
        raise NotImplementedError

    def features(self, outputs: Tensor, inputs: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """VGG16's feature maps of G's outputs and inputs, as the step takes them."""
        raise NotImplementedError

    def head_losses(self, feats_out: list[Tensor], feats_in: list[Tensor]) -> Tensor:
        """The graph head and its losses on feature maps: one value for each pair of images."""
        raise NotImplementedError

    def forget(self) -> None:
        """Let go of what the last step computed, and so of its autograd graph.

        As long as it lives, later backward passes add to weights on the stream that it was made on, which a recording
        on another one does not allow.
        """
        for name, value in list(vars(self.model).items()):
            if isinstance(value, Tensor) and value.requires_grad:
                delattr(self.model, name)

    def clear(self) -> None:
        """Let go of all gradients."""
        for optimizer in self.optimizers():
            optimizer.zero_grad(set_to_none=True)

    def with_gradients(self) -> None:
        """See to it that the optimisers have gradients, those of a real step."""
        for net in self.networks().values():
            if all(weight.grad is None for weight in net.parameters()):
                self.run_on(self.batches[0])
                return

    def parts(self) -> list["Part"]:
        """The step taken apart."""
        self.load()

        def forward(_: Any = None) -> Tensor:
            self.clear()
            with self.cast():
                return self.forward()

        def fakes() -> Tensor:
            with torch.no_grad():
                both = forward()
            return both.detach().requires_grad_()

        def d_step(_: Tensor) -> None:
            with self.cast():
                loss = self.d_loss()
            loss.backward()

        def d_in_g(both: Tensor) -> None:
            with self.cast():
                loss = self.fool_loss(both[: len(both) // 2])
            torch.autograd.grad(loss, both)

        def vgg(both: Tensor) -> None:
            with self.cast():
                feats = self.features(both, self.real())[0]
            torch.autograd.backward(feats, [torch.ones_like(f) for f in feats])

        def leaves() -> tuple[list[Tensor], list[Tensor]]:
            both = fakes()
            with torch.no_grad(), self.cast():
                feats_out, feats_in = self.features(both, self.real())
            return [f.requires_grad_() for f in feats_out], feats_in

        def head(feats: tuple[list[Tensor], list[Tensor]]) -> None:
            with self.cast():
                loss = self.head_losses(*feats).mean()
            loss.backward()

        def backward(both: Tensor) -> None:
            both.backward(torch.ones_like(both), retain_graph=True)  # a recording reads it again

        def move(_: None) -> None:
            for optimizer in self.optimizers():
                optimizer.step()

        return [
            Part("G forward", lambda: None, forward),
            Part("D step without optimiser", fakes, d_step),
            Part("D within G's step", fakes, d_in_g),
            Part("VGG forward and backward", fakes, vgg),
            Part("graph head forward and backward", leaves, head),
            Part("G backward", forward, backward),
            Part("optimisers", self.with_gradients, move),
        ]


def _cropped_in_double(batch: dict[str, Any], side: int) -> dict[str, Any]:
    """The tensors of a batch in float64, cut to this side; the rest as it is."""
    cropped = dict(batch)
    for key, entry in batch.items():
        if isinstance(entry, Tensor):
            cropped[key] = entry[..., :side, :side].double()
    return cropped
