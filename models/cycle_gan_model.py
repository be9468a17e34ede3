"""CycleGAN: unpaired translation in both directions, held together by cycles (Zhu et al., ICCV 2017, arXiv 1703.10593).

    L_G = L_GAN(G_A, D_A) + L_GAN(G_B, D_B) + lambda_A |G_B(G_A(A)) - A| + lambda_B |G_A(G_B(B)) - B|
          + lambda_identity ( lambda_B |G_A(B) - B| + lambda_A |G_B(A) - A| )

G_A translates A into B and is judged by D_A among images of B; G_B and D_B the other way round. |.| is the mean
absolute difference. Names of networks, losses and pictures are those of the release.
"""

from argparse import Namespace

from torch import Tensor

from models.inference.modes import add_test_options
from models.inference.styles import OTHER
from models.losses.gan import generator_loss
from models.losses.reconstruction import l1_distance
from models.two_sided import TwoSidedModel
from util.errors import UserError
from util.hardware.runtime import Runtime
from util.parser import natural


class CycleGANModel(TwoSidedModel):
    """Two-sided translation A <-> B with generators G_A, G_B and discriminators D_A, D_B."""

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
        """The identity terms need equal channels."""
        if not opt.is_train:
            return

        if opt.lambda_identity and opt.input_nc != opt.output_nc:
            raise UserError(
                f"--lambda_identity {opt.lambda_identity} needs equal channels in both domains "
                f"(input_nc {opt.input_nc}, output_nc {opt.output_nc}): give --lambda_identity 0"
            )

    def __init__(self, opt: Namespace, runtime: Runtime) -> None:
        identity = opt.lambda_identity > 0
        super().__init__(opt, runtime, identity=identity, pool_size=opt.pool_size)
        self.visual_names = ["real_A", "fake_B", "rec_A", *(["idt_B"] if identity else [])]
        self.visual_names += ["real_B", "fake_A", "rec_B", *(["idt_A"] if identity else [])]

    def forward(self) -> None:
        """Both translations, both cycles and, for the identity terms, each generator on its own target domain."""
        super().forward()
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
            "cycle_A": opt.lambda_A * l1_distance(self.rec_A, self.real_A),
            "G_B": generator_loss(self.netD_B(self.fake_A), opt.gan_mode),
            "cycle_B": opt.lambda_B * l1_distance(self.rec_B, self.real_B),
        }

        if self.identity:
            idt_A = l1_distance(self.idt_A, self.real_B)
            idt_B = l1_distance(self.idt_B, self.real_A)
            terms["idt_A"] = opt.lambda_identity * opt.lambda_B * idt_A
            terms["idt_B"] = opt.lambda_identity * opt.lambda_A * idt_B
        return terms

    def show_side(self, side: str, real: Tensor) -> dict[str, Tensor]:
        """Images of one domain, their translations and, where both generators are there, the way back."""
        pictures, other = super().show_side(side, real), OTHER[side]
        if f"G_{other}" in self.networks:
            pictures[f"rec_{side}"] = self.translate_with(f"G_{other}", pictures[f"fake_{other}"])
        return pictures
