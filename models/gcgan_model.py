"""GcGAN: translation that commutes with turning the image (Fu, Gong, Wang, Batmanghelich, Zhang, Tao; CVPR 2019).

arXiv 1809.05852. With f a quarter turn clockwise, or a flip upside down, y = G(A) and y' = G'(f(A)):

    L_G = lambda_G ( L_GAN(G, D) + L_GAN(G', D') )
          + lambda_AB lambda_gc ( | y - sg(f^-1(y')) | + | y' - sg(f(y)) | )
          + lambda_AB identity ( | G(B) - B | + | G'(f(B)) - f(B) | )

D judges y among images of B, D' judges y' among turned images of B. sg stops the gradient; |.| is the mean absolute
difference. G' is G itself, or with --two_generators a network of its own. Written from the formulas alone.
"""

from argparse import Namespace

from torch import Tensor

from models.adversary import term_of_one
from models.idle import Idle
from models.losses.gan import generator_loss
from models.losses.geometry import GEOMETRIES, consistency_loss
from models.losses.reconstruction import l1_distance
from models.networks.passes import pass_each
from models.one_sided import OneSidedModel, check_equal_channels
from models.step.training_step import Move
from util.hardware.runtime import Runtime
from util.parser import natural, weight

OFFICIAL = {
    "no_antialias": True,
    "no_antialias_up": True,
    "n_epochs": 100,
    "n_epochs_decay": 100,
    "finetune_resize": False,
    "load_size": 288,
    "batch_size": 8,
}


class GcGANModel(OneSidedModel):
    """One-sided translation A -> B with generators G and, perhaps, G_gc, and discriminators D and D_gc.

    Pictures: turned_A and turned_B are f(A) and f(B); fake_turned is y', idt_turned is G'(f(B)).
    """

    JOINS_DOMAINS = False  # passes of unequal images stay apart, see `pass_each`
    PRESETS = {
        "official": OFFICIAL,
        "cross": {**OFFICIAL, "two_generators": True},
        "shared": {},  # the common networks, schedule and batch
    }

    @staticmethod
    def modify_commandline_options(parser, is_train: bool):
        """Flags of the method."""
        text = "turned images have a generator of their own, G_gc"
        parser.group("architecture").add("--two_generators", False, text)

        group = parser.group("gcgan")
        text = "what an image goes through: a quarter turn clockwise, or upside down"
        group.add("--geometry", "rotation", text, choices=tuple(GEOMETRIES))
        group.add("--lambda_GAN", 1.0, "weight of both adversarial losses")
        parser.alias("--lambda_G", "lambda_GAN")
        group.add("--lambda_AB", 10.0, "factor of the consistency and identity terms")
        group.add("--lambda_gc", 2.0, "weight of the consistency, times lambda_AB")
        text = "weight of the identity terms, times lambda_AB; 0: none"
        group.add("--identity", 0.5, text, type=weight)
        text = "earlier translated images that a discriminator is shown too; 0: none"
        group.add("--pool_size", 50, text, type=natural)
        return parser

    @staticmethod
    def check_options(opt: Namespace) -> None:
        """Identity terms need equal channels."""
        if not opt.is_train:
            return
        if has_identity(opt):
            check_equal_channels(opt, f"--identity {opt.identity} needs", "give --identity 0")

    @classmethod
    def idle(cls, opt: Namespace) -> list[Idle]:
        """What is weighed by --lambda_AB."""
        found = super().idle(opt)
        if not opt.lambda_AB:
            found.append(Idle(("lambda_gc", "identity"), ("lambda_AB",)))
        return found

    def __init__(self, opt: Namespace, runtime: Runtime) -> None:
        super().__init__(opt, runtime, identity=has_identity(opt), pool_size=opt.pool_size)
        if not self.is_train:
            return
        self.geometry = GEOMETRIES[opt.geometry]
        self.visual_names += ["turned_A", "fake_turned", "turned_B"]
        self.visual_names += ["idt_turned"] if has_identity(opt) else []

        if opt.two_generators:
            net = self.new_generator(opt.input_nc, opt.output_nc)
            self.netG_gc = self.add_network("G_gc", net)
            self.add_optimizer("G_gc", self.netG_gc)
            self.players.append("G_gc")

        self.netD_gc = self.add_network("D_gc", self.new_discriminator(opt.output_nc))
        self.pool_gc = self.add_memory("pool_gc", self.new_pool(opt.pool_size, opt.output_nc))
        self.add_optimizer("D_gc", self.netD_gc)

    def forward(self) -> None:
        """Translate A upright and turned and, for the identity terms, B in the same way."""
        self.turned_A = self.geometry.apply(self.real_A)
        self.turned_B = self.geometry.apply(self.real_B)
        identity = has_identity(self.opt)
        upright = [self.real_A, *([self.real_B] if identity else [])]
        turned = [self.turned_A, *([self.turned_B] if identity else [])]

        if self.opt.two_generators:
            made = pass_each(self.netG, *upright)
            made_turned = pass_each(self.netG_gc, *turned)
        else:
            both = pass_each(self.netG, *upright, *turned)
            made, made_turned = both[: len(upright)], both[len(upright) :]

        self.fake_B, self.fake_turned = made[0], made_turned[0]
        if identity:
            self.idt_B, self.idt_turned = made[1], made_turned[1]

    def optimize_parameters(self) -> None:
        """The generators, then both discriminators on images of the same forward.

        Neither gradient depends on the other's move, so both are taken first.
        """
        self.update_at_once(
            Move(self.players, self.compute_G_loss), Move(("D", "D_gc"), self.compute_D_loss)
        )

    def compute_G_loss(self) -> dict[str, Tensor]:
        """Fool both discriminators, agree with the turned translation, leave B as it is."""
        opt, terms = self.opt, self.adversarial_terms()
        if opt.lambda_GAN:
            fooled = generator_loss(self.netD_gc(self.fake_turned), opt.gan_mode)
            terms["G_gc"] = opt.lambda_GAN * fooled

        factor = opt.lambda_AB * opt.lambda_gc
        terms["gc"] = factor * consistency_loss(self.fake_B, self.fake_turned, self.geometry)

        if has_identity(opt):
            factor = opt.lambda_AB * opt.identity
            terms["idt"] = factor * l1_distance(self.idt_B, self.real_B)
            terms["idt_gc"] = factor * l1_distance(self.idt_turned, self.turned_B)
        return terms

    def compute_D_loss(self) -> dict[str, Tensor]:
        """Tell real images from translated ones, new or of the pool, upright and turned."""
        mode, upright, turned = self.opt.gan_mode, self.pool_B(self.fake_B), self.fake_turned
        return {
            **term_of_one("D_B", self.netD, self.real_B, upright, mode, self.log),
            **term_of_one(
                "D_gc", self.netD_gc, self.turned_B, self.pool_gc(turned), mode, self.log
            ),
        }


def has_identity(opt: Namespace) -> bool:
    """Whether the generators also read B, to leave it as it is."""
    return bool(opt.lambda_AB * opt.identity)
