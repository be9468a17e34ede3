"""The released PatchGCL step as a contestant, driven as its train.py drives it, with its own head or with ours."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.losses.graph_nce import multi_level_loss
from scripts.benchmarking.contest import Contestant
from scripts.benchmarking.ours import Ours
from scripts.benchmarking.release import Release


class Released(Contestant):
    """The released step, batch 1.

    Args:
        dense_head: our graph head in place of its own, the kernel-to-kernel baseline (B).
        tf32: let convolutions round to TF32 on a GPU, torch's default.
        bf16: run its step under autocast.
    """

    def __init__(
        self,
        name: str,
        release: Release,
        ours: Ours,
        dense_head: bool = False,
        tf32: bool = True,
        bf16: bool = False,
    ) -> None:
        on_gpu = release.settings.device.on_gpu
        precision = "tf32" if tf32 and on_gpu else "fp32"
        batches = [{**batch, "A_paths": "", "B_paths": ""} for batch in ours.batches]
        super().__init__(name, "bf16" if bf16 else precision, batches)
        self.release, self.tf32, self.bf16 = release, tf32, bf16
        self.model = release.model(ours)
        self.positions: list[Tensor] | None = None

        if dense_head:
            head = DenseHead(ours)
            adam = torch.optim.Adam(head.parameters(), lr=2e-4, betas=(0.5, 0.999))
            self.model.netF, self.model.optimizer_F = head, adam
        elif on_gpu:
            self.model.parallelize()  # as its train.py does

    def enter(self) -> None:
        if self.release.settings.device.on_gpu:
            torch.backends.cudnn.benchmark = True  # as it sets
            torch.backends.cudnn.allow_tf32 = self.tf32

    def run_on(self, batch: dict[str, Any]) -> None:
        self.model.set_input(batch)
        with self.cast():
            self.model.optimize_parameters()

    def networks(self) -> dict[str, nn.Module]:
        found = {"G": self.model.netG, "D": self.model.netD, "F": self.model.netF}
        return {name: getattr(net, "module", net) for name, net in found.items()}

    def frozen(self) -> list[nn.Module]:
        return [self.model.netPre, self.model.criterionGAN]

    def set_patches(self, count: int) -> int:
        before, self.model.opt.num_patches = self.model.opt.num_patches, count
        return before

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [self.model.optimizer_G, self.model.optimizer_D, self.model.optimizer_F]

    def losses(self) -> dict[str, Tensor]:
        model = self.model
        graph = model.opt.lambda_GNN * 0.5 * (model.loss_GNN + model.loss_GNN_Y)
        return {"D": model.loss_D, "G": model.loss_G, "GAN": model.loss_G_GAN, "GNN": graph}

    @contextlib.contextmanager
    def fixed_positions(self, ids: Sequence[Tensor]) -> Iterator[None]:
        order = [layer[0] for layer in ids] + [layer[1] for layer in ids]
        module, calls = self.release.head_module, 0

        class FixedDraws:
            """The module torch, whose randperm hands out the fixed places."""

            def __getattr__(self, name: str) -> Any:
                return getattr(torch, name)

            def randperm(self, *_: Any, **__: Any) -> Tensor:
                nonlocal calls
                calls += 1
                return order[(calls - 1) % len(order)]

        own = self.networks()["F"]
        if isinstance(own, DenseHead):
            own.ids = [[layer[:1] for layer in ids], [layer[1:2] for layer in ids]]
        module.torch = FixedDraws()

        try:
            yield
        finally:
            module.torch = torch
            if isinstance(own, DenseHead):
                own.ids = None

    def cast(self) -> contextlib.AbstractContextManager:
        device = self.release.settings.device.torch
        return torch.autocast(device.type, torch.bfloat16, enabled=self.bf16)

    def load(self) -> None:
        self.model.set_input(self.batches[0])

    def forward(self) -> Tensor:
        self.model.forward()
        return self.model.fake

    def real(self) -> Tensor:
        return self.model.real

    def d_loss(self) -> Tensor:
        self.model.set_requires_grad(self.model.netD, True)
        return self.model.compute_D_loss()

    def fool_loss(self, fake_B: Tensor) -> Tensor:
        self.model.set_requires_grad(self.model.netD, False)
        return self.model.criterionGAN(self.model.netD(fake_B), True).mean()

    def features(self, outputs: Tensor, inputs: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        model, found = self.model, []
        for images in (outputs[:1], inputs[:1], outputs[1:], inputs[1:]):
            shown = model.normalization((images + 1) * 0.5)
            found.append(model.netPre(shown, model.attn_layers, encode_only=True))

        # A and B of each layer in one batch
        out_A, in_A, out_B, in_B = found
        feats_out = [torch.cat(pair) for pair in zip(out_A, out_B, strict=True)]
        feats_in = [torch.cat(pair) for pair in zip(in_A, in_B, strict=True)]
        return feats_out, feats_in

    def head_losses(self, feats_out: list[Tensor], feats_in: list[Tensor]) -> Tensor:
        """Its head takes one pair of images at a time."""
        losses = []
        for row in range(len(feats_in[0])):
            one = slice(row, row + 1)
            outputs, inputs = [f[one] for f in feats_out], [f[one] for f in feats_in]
            losses.append(self.model.netF(outputs, inputs, self.model.opt.num_patches))
        return torch.stack(losses)


class DenseHead(nn.Module):
    """Our graph head behind the released head's interface; `ids` fixes positions, call by call."""

    def __init__(self, ours: Ours) -> None:
        super().__init__()
        self.head = ours.model.new_head().to(ours.runtime.device)
        self.head.load_state_dict(ours.model.netF.state_dict())

        opt = ours.opt
        self.terms = {"temperature": opt.nce_T, "symmetric": opt.symmetric_nce}
        self.terms |= {"ratio": opt.pooling_ratio, "average": opt.average_levels}
        self.ids: list[list[Tensor]] | None = None
        self.calls = 0

    def forward(self, feats_out: list[Tensor], feats_in: list[Tensor], count: int) -> Tensor:
        """Lists of (1,C,H,W) -> a 0-d loss."""
        ids = self.ids[self.calls % 2] if self.ids is not None else None
        self.calls += 1

        layers = self.head(feats_out, feats_in, ids)
        losses = [multi_level_loss(levels, **self.terms) for levels in layers]
        return torch.stack(losses).mean()

    def load_state_dict(
        self, state: dict[str, Tensor], strict: bool = True, assign: bool = False
    ) -> Any:
        """Weights under the released names."""
        return self.head.load_state_dict(state, strict, assign)
