"""What methods share that translate both ways: two generators, two discriminators, and the game between them.

G_A translates A into B and is judged by D_A among images of B; G_B and D_B the other way round. A subclass says what
holds the two directions together: DCLGAN contrasts patches.
"""

from argparse import Namespace
from collections.abc import Sequence

from torch import Tensor, nn

from data.base_dataset import BaseDataset
from data.layout import has_domains
from models.adversary import check_sizes_for_penalty, check_sizes_for_pool, term_of_one
from models.base_model import BaseModel
from models.inference.modes import translate_each
from models.inference.styles import OTHER
from models.losses.gan import generator_loss
from models.networks.passes import pass_each
from util.hardware.runtime import Runtime

SIDES = ("A", "B")


class TwoSidedModel(BaseModel):
    """Translation A <-> B with generators G_A, G_B and discriminators D_A, D_B.

    A subclass declares the flags of `models.inference.modes.add_test_options`.

    Args:
        identity: whether each generator also reads its own target domain, which it should leave as it is.
        pool_size: earlier translated images that each discriminator is shown too; 0 for none.
        two_sided: False for G_A and D_A alone, without the way back or `identity`.

    Attributes:
        fake_B, fake_A: translations of real_A and real_B.
        idt_A, idt_B: with `identity`, what G_A makes of real_B and G_B of real_A.
    """

    TEST_ROLES = "AB"

    def __init__(
        self,
        opt: Namespace,
        runtime: Runtime,
        *,
        identity: bool = False,
        pool_size: int = 0,
        two_sided: bool = True,
    ) -> None:
        super().__init__(opt, runtime)
        self.identity, self.two_sided = identity, two_sided

        self.netG_A = self.add_network(
            "G_A", self.new_generator(opt.input_nc, opt.output_nc), average=True
        )
        if two_sided and (self.is_train or has_both_sides(opt)):
            self.netG_B = self.add_network(
                "G_B", self.new_generator(opt.output_nc, opt.input_nc), average=True
            )
        if not self.is_train:
            return

        self.visual_names = ["real_A", "fake_B", *(["idt_B"] if identity else [])]
        self.visual_names += ["real_B", *(["fake_A"] if two_sided else [])]
        self.visual_names += ["idt_A"] if identity else []

        self.netD_A = self.add_network("D_A", self.new_discriminator(opt.output_nc))
        self.pool_B = self.add_memory("pool_B", self.new_pool(pool_size, opt.output_nc))
        generators, discriminators = [self.netG_A], [self.netD_A]

        if two_sided:
            self.netD_B = self.add_network("D_B", self.new_discriminator(opt.input_nc))
            self.pool_A = self.add_memory("pool_A", self.new_pool(pool_size, opt.input_nc))
            generators.append(self.netG_B)
            discriminators.append(self.netD_B)

        self.add_optimizer("G", *generators)
        self.add_optimizer("D", *discriminators)

    def check_data(self, dataset: BaseDataset) -> None:
        """A gradient penalty lies between images of equal size, and a pool keeps such."""
        super().check_data(dataset)
        if self.pool_B.size:
            check_sizes_for_pool(dataset, "AB" if self.two_sided else "A")
        if self.opt.gan_mode == "wgangp":
            check_sizes_for_penalty(dataset, "--gan_mode wgangp", "another --gan_mode")

    def forward(self) -> None:
        """The translations and, with `identity`, each generator on its own target domain."""
        if self.identity:
            self.fake_B, self.idt_A = self.generate("A", self.real_A, self.real_B)
            self.fake_A, self.idt_B = self.generate("B", self.real_B, self.real_A)
            return

        (self.fake_B,) = self.generate("A", self.real_A)
        if self.two_sided:
            (self.fake_A,) = self.generate("B", self.real_B)

    def generate(self, side: str, *batches: Tensor) -> Sequence[Tensor]:
        """The passes of a side's generator in `forward`; a method overrides it to keep features."""
        return pass_each(self.networks[f"G_{side}"], *batches)

    def adversarial_terms(self, weight: float = 1.0) -> dict[str, Tensor]:
        """What the generators minimise in the game, G_A and G_B; nothing with weight 0."""
        if not weight:
            return {}
        mode = self.opt.gan_mode
        terms = {"G_A": weight * generator_loss(self.netD_A(self.fake_B), mode)}
        if self.two_sided:
            terms["G_B"] = weight * generator_loss(self.netD_B(self.fake_A), mode)
        return terms

    def compute_D_loss(self) -> dict[str, Tensor]:
        """Tell real images from translated ones, new or of the pool, in each domain that is judged."""
        mode, log = self.opt.gan_mode, self.log
        fake_B = self.pool_B(self.fake_B)
        terms = term_of_one("D_A", self.netD_A, self.real_B, fake_B, mode, log)
        if self.two_sided:
            fake_A = self.pool_A(self.fake_A)
            terms |= term_of_one("D_B", self.netD_B, self.real_A, fake_A, mode, log)
        return terms

    def translate(self, real_A: Tensor) -> Tensor:
        """(B,C,H,W) in [-1,1] -> the same size in domain B."""
        return self.translate_with("G_A", real_A)

    def translating_parts(self) -> list[nn.Module]:
        """The generator of A -> B alone."""
        return [self.inference_net("G_A")]

    def translate_with(self, name: str, images: Tensor) -> Tensor:
        """(B,C,H,W) through one of the generators as at test."""
        return translate_each(
            self.inference_net(name), images, self.opt.test_norm, self.opt.test_dropout
        )

    def show(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Images of either domain, and their translations where the generator is there."""
        pictures = {}
        for side in SIDES:
            if side in batch:
                pictures |= self.show_side(side, batch[side])
        return pictures

    def show_side(self, side: str, real: Tensor) -> dict[str, Tensor]:
        """The pictures of images (B,C,H,W) of one domain; a method adds its own."""
        pictures = {f"real_{side}": real}
        if f"G_{side}" in self.networks:
            pictures[f"fake_{OTHER[side]}"] = self.translate_with(f"G_{side}", real)
        return pictures


def has_both_sides(opt: Namespace) -> bool:
    """Whether test.py reads images of both domains, not inputs alone."""
    if opt.dataset_mode == "unaligned":
        return has_domains(opt.dataroot)
    return opt.dataset_mode != "single"
