"""CycleGAN: unpaired translation in both directions, held together by cycles (Zhu et al., ICCV 2017, arXiv 1703.10593).

    L_G = L_GAN(G_A, D_A) + L_GAN(G_B, D_B) + lambda_A |G_B(G_A(A)) - A| + lambda_B |G_A(G_B(B)) - B|
          + lambda_identity ( lambda_B |G_A(B) - B| + lambda_A |G_B(A) - A| )

G_A translates A into B and is judged by D_A among images of B; G_B and D_B the other way round. |.| is the mean
absolute difference. Names of networks, losses and pictures are those of the release.
"""

from argparse import Namespace

from torch import Tensor, nn

from data.image_folder import has_domains
from models.adversary import discriminator_terms
from models.base_model import BaseModel
from models.inference.modes import add_test_options, translate_each
from models.losses.gan import generator_loss
from models.networks.passes import pass_each
from util.errors import UserError
from util.hardware.runtime import Runtime
from util.parser import natural

OTHER = {"A": "B", "B": "A"}


class CycleGANModel(BaseModel):
    """Two-sided translation A <-> B with generators G_A, G_B and discriminators D_A, D_B."""

    TEST_ROLES = "AB"
    PRESETS = {
        "official": {
            "no_antialias": True,
            "no_antialias_up": True,
            "init_type": "normal",
            "n_epochs": 100,
            "n_epochs_decay": 100,
            "finetune_resize": False,
        },
        "shared": {},
    }

    @staticmethod
    def modify_commandline_options(parser, is_train: bool):
        """Flags of the method."""
        group = parser.group("cycle_gan")
        group.add("--lambda_A", 10.0, "weight of the cycle A -> B -> A")
        group.add("--lambda_B", 10.0, "weight of the cycle B -> A -> B")
        text = "weight of the identity terms, relative to the cycles; 0: none"
        group.add("--lambda_identity", 0.5, text)

        text = "earlier translated images that a discriminator is shown too; 0: none"
        group.add("--pool_size", 50, text, natural)
        add_test_options(group)
        return parser

    @staticmethod
    def check_options(opt: Namespace) -> None:
        """The identity terms need equal channels, the image pool images of one size."""
        if not opt.is_train:
            return

        if opt.lambda_identity and opt.input_nc != opt.output_nc:
            raise UserError(
                f"--lambda_identity {opt.lambda_identity} needs equal channels in both domains "
                f"(input_nc {opt.input_nc}, output_nc {opt.output_nc}): give --lambda_identity 0"
            )

        # The decay phase resizes to --crop_size; where a crop follows, the pool does not see it.
        uncropped = "resize" in opt.preprocess and "crop" not in opt.preprocess
        resized = uncropped and opt.load_size != opt.crop_size
        if opt.pool_size and resized and opt.finetune_resize and opt.n_epochs_decay:
            raise UserError(
                f"--preprocess {opt.preprocess} changes the size of images in the decay phase, but "
                "--pool_size keeps images of one size: give --finetune_resize false, or "
                "--pool_size 0"
            )

    def __init__(self, opt: Namespace, runtime: Runtime) -> None:
        super().__init__(opt, runtime)
        generator = self.new_generator(opt.input_nc, opt.output_nc)
        self.netG_A = self.add_network("G_A", generator, average=True)
        if self.is_train or has_both_sides(opt):
            generator = self.new_generator(opt.output_nc, opt.input_nc)
            self.netG_B = self.add_network("G_B", generator, average=True)
        if not self.is_train:
            return

        self.visual_names = ["real_A", "fake_B", "rec_A", "real_B", "fake_A", "rec_B"]
        if opt.lambda_identity > 0:
            self.visual_names.insert(3, "idt_B")
            self.visual_names.append("idt_A")

        self.netD_A = self.add_network("D_A", self.new_discriminator(opt.output_nc))
        self.netD_B = self.add_network("D_B", self.new_discriminator(opt.input_nc))
        self.pool_B = self.add_memory("pool_B", self.new_pool(opt.pool_size, opt.output_nc))
        self.pool_A = self.add_memory("pool_A", self.new_pool(opt.pool_size, opt.input_nc))
        self.add_optimizer("G", self.netG_A, self.netG_B)
        self.add_optimizer("D", self.netD_A, self.netD_B)

    def forward(self) -> None:
        """Both translations, both cycles and, for the identity terms, each generator on its own target domain."""
        if self.opt.lambda_identity > 0:
            self.fake_B, self.idt_A = pass_each(self.netG_A, self.real_A, self.real_B)
            self.fake_A, self.idt_B = pass_each(self.netG_B, self.real_B, self.real_A)
        else:
            self.fake_B, self.fake_A = self.netG_A(self.real_A), self.netG_B(self.real_B)

        self.rec_A, self.rec_B = self.netG_B(self.fake_B), self.netG_A(self.fake_A)

    def optimize_parameters(self) -> None:
        """G, then D on images of the same forward.

        G is judged by the old D, and D by images that the old G has made, so both gradients can be taken before
        either moves.
        """
        self.update_at_once(G=self.compute_G_loss, D=self.compute_D_loss)

    def compute_G_loss(self) -> dict[str, Tensor]:
        """Fool both discriminators, come back through both cycles, leave the target domain as it is."""
        opt = self.opt
        terms = {
            "G_A": generator_loss(self.netD_A(self.fake_B), opt.gan_mode),
            "cycle_A": opt.lambda_A * distance(self.rec_A, self.real_A),
            "G_B": generator_loss(self.netD_B(self.fake_A), opt.gan_mode),
            "cycle_B": opt.lambda_B * distance(self.rec_B, self.real_B),
        }

        if opt.lambda_identity > 0:
            terms["idt_A"] = opt.lambda_identity * opt.lambda_B * distance(self.idt_A, self.real_B)
            terms["idt_B"] = opt.lambda_identity * opt.lambda_A * distance(self.idt_B, self.real_A)
        return terms

    def compute_D_loss(self) -> dict[str, Tensor]:
        """Tell real images from translated ones, new or of the pool, in both domains."""
        terms = self.judge("D_A", self.netD_A, self.real_B, self.pool_B(self.fake_B))
        return terms | self.judge("D_B", self.netD_B, self.real_A, self.pool_A(self.fake_A))

    def judge(self, name: str, net: nn.Module, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """The terms of one discriminator."""
        terms = discriminator_terms(net, real, fake, self.opt.gan_mode)
        own = {name: terms["D_real"] + terms["D_fake"]}
        if "D_gp" in terms:
            own[f"{name}_gp"] = terms["D_gp"]
        return own

    def translate(self, real_A: Tensor) -> Tensor:
        """(B,C,H,W) in [-1,1] -> the same size in domain B."""
        return self.translate_with("G_A", real_A)

    def translate_with(self, name: str, images: Tensor) -> Tensor:
        """(B,C,H,W) through one of the generators as at test."""
        net = self.inference_net(name)
        return translate_each(net, images, self.opt.test_norm, self.opt.test_dropout)

    def show(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Images of either domain, their translations and, where both generators are there, the way back."""
        pictures = {}
        for role, other in OTHER.items():
            if role not in batch:
                continue

            real = batch[role]
            fake = self.translate_with(f"G_{role}", real)
            pictures |= {f"real_{role}": real, f"fake_{other}": fake}
            if f"G_{other}" in self.networks:
                pictures[f"rec_{role}"] = self.translate_with(f"G_{other}", fake)
        return pictures


def has_both_sides(opt: Namespace) -> bool:
    """Whether test.py reads images of both domains, not inputs alone."""
    if opt.dataset_mode == "unaligned":
        return has_domains(opt.dataroot)
    return opt.dataset_mode != "single"


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference (0-d) of images (B,C,H,W)."""
    return (a - b).abs().mean()
