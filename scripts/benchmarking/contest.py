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
        where = [
            "--dataroot",
            data,
            "--name",
            "benchmark",
            "--gpu_ids",
            self.device.gpu_ids,
            "--display_id",
            "0",
        ]
        sizes = [
            "--crop_size",
            self.size,
            "--load_size",
            self.size * 286 // 256,
            "--batch_size",
            batch,
        ]
        method = [
            "--preset",
            self.preset,
            "--nonzero_th",
            self.nonzero_th,
            "--vgg_weights",
            self.vgg_weights,
        ]
        return [str(a) for a in [*where, *sizes, *method, "--seed", self.seed, *self.flags, *more]]

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
        crop = (..., slice(side), slice(side))
        self.batches = [
            {k: v[crop].double() if isinstance(v, Tensor) else v for k, v in b.items()}
            for b in batches
        ]
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

    def clear(self) -> None:
        """Let go of all gradients."""
        for optimizer in self.optimizers():
            optimizer.zero_grad(set_to_none=True)

    def with_gradients(self) -> None:
        """See to it that the optimisers have gradients, those of a real step."""
        if any(all(p.grad is None for p in net.parameters()) for net in self.networks().values()):
            self.run_on(self.batches[0])

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

        return [
            Part("G forward", lambda: None, forward),
            Part("D step without optimiser", fakes, d_step),
            Part("D within G's step", fakes, d_in_g),
            Part("VGG forward and backward", fakes, vgg),
            Part("graph head forward and backward", leaves, head),
            Part("G backward", forward, lambda both: both.backward(torch.ones_like(both))),
            Part(
                "optimisers",
                self.with_gradients,
                lambda _: [optimizer.step() for optimizer in self.optimizers()],
            ),
        ]
