"""What methods share that translate one way: a generator and a discriminator, and the game between them.

A subclass says how content is kept: CUT by patches, PatchGCL by patch graphs.
"""

from argparse import Namespace

import torch
from torch import Tensor

from data.base_dataset import BaseDataset
from data.inspection import check_one_size
from models.adversary import (
    check_sizes_for_penalty,
    check_sizes_for_pool,
    discriminator_terms,
)
from models.base_model import BaseModel
from models.idle import Idle
from models.inference.modes import translate_each
from models.losses.gan import generator_loss
from util.errors import UserError
from util.hardware.runtime import Runtime


class OneSidedModel(BaseModel):
    """G translates A into B; D tells translated images from real ones of B.

    Args:
        identity: whether G translates B too, in the same pass, so that B can be kept as it is.
        pool_size: earlier translated images that D is shown too; 0 for none.

    Attributes:
        JOINS_DOMAINS: whether `forward` reads A and B as one batch, with `identity`.
        domains: that G translates, 2 with `identity`.
        real, fake: images and what G has made of them, (domains * B, C, H, W); fake_B, idt_B are the parts of `fake`.
        read: what G has read, of the same shape: `real`, unless a method's `generate` mirrors it.
        players: who moves with G.
    """

    JOINS_DOMAINS = True

    def __init__(
        self, opt: Namespace, runtime: Runtime, *, identity: bool = False, pool_size: int = 0
    ) -> None:
        super().__init__(opt, runtime)
        self.domains = 2 if identity else 1
        self.players = ["G"]

        generator = self.new_generator(opt.input_nc, opt.output_nc)
        self.netG = self.add_network("G", generator, average=True)
        if not self.is_train:
            return

        self.visual_names = ["real_A", "fake_B", "real_B"]
        if identity:
            self.visual_names.append("idt_B")

        self.netD = self.add_network("D", self.new_discriminator(opt.output_nc))
        self.pool_B = self.add_memory("pool_B", self.new_pool(pool_size, opt.output_nc))
        self.add_optimizer("D", self.netD)
        self.add_optimizer("G", self.netG)

    def check_data(self, dataset: BaseDataset) -> None:
        """A and B that pass together have one size, and so have those of a gradient penalty, or of a pool."""
        super().check_data(dataset)
        if self.pool_B.size:
            check_sizes_for_pool(dataset, "A")
        if self.opt.gan_mode == "wgangp":
            check_sizes_for_penalty(dataset, "--gan_mode wgangp", "another --gan_mode")

        if self.domains == 2 and self.JOINS_DOMAINS:
            flags = [flag for flag in ("nce_idt", "gnn_idt") if getattr(self.opt, flag, False)]
            remedy = f", or --{flags[0]} false" if flags else ""
            check_one_size(
                dataset, "this method translates A and B in one pass, which takes", remedy
            )

    def forward(self) -> None:
        """Translate A and, with `identity`, B, in one pass of G."""
        both = self.domains == 2
        self.real = torch.cat([self.real_A, self.real_B]) if both else self.real_A
        self.read = self.real
        self.fake = self.generate(self.real)

        if both:
            self.fake_B, self.idt_B = self.fake.chunk(2)
        else:
            self.fake_B = self.fake

    def generate(self, real: Tensor) -> Tensor:
        """G's pass in `forward`; a method overrides it to keep features, or to mirror images, which go into `read`."""
        return self.netG(real)

    def optimize_parameters(self) -> None:
        """First D, then G and its helpers together."""
        self.update("D", loss=self.compute_D_loss)
        self.update(*self.players, loss=self.compute_G_loss)

    def compute_D_loss(self) -> dict[str, Tensor]:
        """Tell translated images, new or of the pool, from real ones."""
        return self.discriminate(self.pool_B(self.fake_B))

    def discriminate(self, fake: Tensor) -> dict[str, Tensor]:
        """Terms of D's loss on translated images (B,C,H,W); a method that compares them with real ones adds its own."""
        return discriminator_terms(self.netD, self.real_B, fake, self.opt.gan_mode, self.log)

    def compute_G_loss(self) -> dict[str, Tensor]:
        """Fool D; a method adds how content is kept."""
        return self.adversarial_terms()

    def adversarial_terms(self) -> dict[str, Tensor]:
        """G's part of the game; nothing with --lambda_GAN 0. A method without that flag has the weight 1."""
        weight = getattr(self.opt, "lambda_GAN", 1.0)
        if not weight:
            return {}

        pred_fake = self.netD(self.fake_B)
        return {"G_GAN": weight * generator_loss(pred_fake, self.opt.gan_mode)}

    def translate(self, real_A: Tensor) -> Tensor:
        """(B,C,H,W) in [-1,1] -> the same size in domain B."""
        return translate_each(self.inference_net("G"), real_A)


# options of a contrast of patches: without it they change nothing
OF_CONTRAST = (
    *("netF", "netF_nc", "nce_layers", "nce_T"),
    *("num_patches", "nce_includes_all_negatives_from_minibatch"),
)


def idle_in_contrast(opt: Namespace) -> list[Idle]:
    """What a contrast of patches leaves without effect, in the methods that have these flags."""
    found = []
    if opt.netF == "sample":
        found.append(Idle(("netF_nc",), ("netF",)))
    if opt.is_train and opt.batch_size == 1:
        found.append(Idle(("nce_includes_all_negatives_from_minibatch",), ("batch_size",)))
    return found


def check_equal_channels(opt: Namespace, why: str, remedy: str) -> None:
    """Raise UserError where both domains differ in channels; `why` they must not, `remedy` in the imperative."""
    if opt.input_nc != opt.output_nc:
        channels = f"input_nc {opt.input_nc}, output_nc {opt.output_nc}"
        raise UserError(f"{why} equal channels in both domains ({channels}): {remedy}")


def check_negatives(opt: Namespace, images: int) -> None:
    """Raise UserError where a patch has no other one to differ from; `images` of a domain share a process."""
    across_batch = opt.nce_includes_all_negatives_from_minibatch
    if opt.num_patches != 1 or (across_batch and images > 1):
        return

    why, missing = "each process has one image", []
    if not across_batch:
        why = "patches are compared within an image"
        missing.append("--nce_includes_all_negatives_from_minibatch")
    if images == 1:
        missing.append("a --batch_size of at least 2 per process")

    raise UserError(
        f"--num_patches 1 leaves a patch nothing to differ from, as {why}: "
        f"give more, or {' and '.join(missing)}"
    )


def check_weights(opt: Namespace, *names: str) -> None:
    """Raise UserError where the weights of all losses of G, of these names, are 0."""
    if not any(getattr(opt, name) for name in names):
        given = " ".join(f"--{name} {getattr(opt, name)}" for name in names)
        raise UserError(f"{given} leaves nothing to learn from: make one of them positive")
