"""MUNIT: one image, many translations (Huang, Liu, Belongie, Kautz; ECCV 2018, arXiv 1804.04732).

An image x is content c and style s: (c, s) = E(x), x = G(c, s), one E and G per domain. A becomes B with its own
content and a style of B, which is drawn from N(0, I) or read from an image of B:

    x_AB = G_B(c_A, s_B),  s_B ~ N(0, I)

    L_G = gan_w       * ( GAN(x_AB, D_B) + GAN(x_BA, D_A) )
        + recon_x_w   * ( |G_A(c_A, s_A) - A| + |G_B(c_B, s_B') - B| )      s_A, s_B' read from A, B
        + recon_c_w   * ( |c(x_AB) - c_A| + |c(x_BA) - c_B| )
        + recon_s_w   * ( |s(x_AB) - s_B| + |s(x_BA) - s_A'| )              s_B, s_A' drawn
        + recon_x_cyc_w * ( |G_A(c(x_AB), s_A) - A| + |G_B(c(x_BA), s_B') - B| )
        + vgg_w       * ( VGG(x_AB, A) + VGG(x_BA, B) )
    L_D = sum over sizes of mean (D(real) - 1)^2 + mean D(fake)^2           for D_A and D_B

|.| is the mean absolute difference. Nothing that is recovered is detached, so encoders learn from both sides of a bar.
"""

from argparse import Namespace

import torch
from torch import Tensor, nn

from models.disentangled import DisentangledModel
from models.idle import Idle
from models.inference.styles import OTHER
from models.losses.reconstruction import domain_invariant_distance, l1_distance
from models.networks.munit_autoencoder import MunitAutoencoder
from models.networks.vgg import LAYER_NAMES, VGG16Features, describe_frozen
from util.hardware.runtime import Runtime
from util.parser import positive_int, weight

RELU5_3 = LAYER_NAMES.index("relu5_3")
ITERATIONS = {  # a run ends by its steps, so there are more epochs than any data set needs
    "lr": 0.0001,
    "lr_policy": "halving",
    "lr_decay_iters": 100_000,
    "max_steps": 1_000_000,
    "n_epochs": 1_000_000,
    "n_epochs_decay": 0,
    "load_size": 256,
    "preprocess": "resize_shortside_and_crop",
    "finetune_resize": False,
}


class MUNITModel(DisentangledModel):
    """Multi-modal translation A <-> B with auto-encoders G_A, G_B and discriminators D_A, D_B.

    A letter names the domain of a network: G_A holds E and G of domain A, D_A judges images of A.
    """

    PRESETS = {
        "official": {"init_type": "kaiming", **ITERATIONS},
        "edges": {"init_type": "kaiming", **ITERATIONS, "recon_x_cyc_w": 0.0},
        "shared": {"init_type": "kaiming"},
    }

    @staticmethod
    def modify_commandline_options(parser, is_train: bool):
        """Flags of the method; weights have the names of the release's configuration files."""
        MUNITModel.add_common_options(parser, "munit", is_train)
        net = parser.group("architecture")
        text = "width of the network between a style and the decoder"
        net.add("--mlp_dim", 256, text, type=positive_int)

        weights = {
            "gan_w": (1.0, "weight of the adversarial loss"),
            "recon_x_w": (10.0, "weight of an image put together again"),
            "recon_s_w": (1.0, "weight of a drawn style read back from the translation"),
            "recon_c_w": (1.0, "weight of the content read back from the translation"),
            "recon_x_cyc_w": (10.0, "weight of the cycle A -> B -> A; 0: none"),
            "vgg_w": (0.0, "weight of the distance in VGG16's relu5_3; 0: none"),
        }
        group = parser.group("munit")
        for name, (default, text) in weights.items():
            group.add(f"--{name}", default, text, weight)

        text = "of the frozen VGG16 for --vgg_w: imagenet, random (demos, tests) or a file"
        group.add("--vgg_weights", "imagenet", text)
        return parser

    @classmethod
    def idle(cls, opt: Namespace) -> list[Idle]:
        """VGG16, where nothing is compared in it."""
        found = super().idle(opt)
        if not opt.vgg_w:
            found.append(Idle(("vgg_weights",), ("vgg_w",)))
        return found

    def __init__(self, opt: Namespace, runtime: Runtime) -> None:
        super().__init__(opt, runtime)
        self.netG_A = self.add_network("G_A", self.new_autoencoder(opt.input_nc), average=True)
        self.netG_B = self.add_network("G_B", self.new_autoencoder(opt.output_nc), average=True)
        if not self.is_train:
            return

        cycle = opt.recon_x_cyc_w > 0
        self.visual_names = ["real_A", "fake_B", "rec_A", *(["cyc_A"] if cycle else [])]
        self.visual_names += ["real_B", "fake_A", "rec_B", *(["cyc_B"] if cycle else [])]

        self.netD_A = self.add_network("D_A", self.new_multiscale_discriminator(opt.input_nc))
        self.netD_B = self.add_network("D_B", self.new_multiscale_discriminator(opt.output_nc))
        if opt.vgg_w:
            self.vgg = runtime.place(VGG16Features([RELU5_3], opt.vgg_weights, runtime.amp_dtype))

        self.add_optimizer("G", self.netG_A, self.netG_B, weight_decay=opt.weight_decay)
        self.add_optimizer("D", self.netD_A, self.netD_B, weight_decay=opt.weight_decay)

    def new_autoencoder(self, channels: int) -> nn.Module:
        """An auto-encoder of images with `channels`, initialised."""
        opt = self.opt
        net = MunitAutoencoder(channels, opt.ngf, opt.style_dim, opt.mlp_dim)
        return self.initialized(net)

    def forward(self) -> None:
        """Take images apart, put them together again, translate them, and take those apart."""
        net_A, net_B = self.netG_A, self.netG_B
        self.content_A, self.style_A = net_A.encode(self.real_A)
        self.content_B, self.style_B = net_B.encode(self.real_B)
        self.rec_A = net_A.decode(self.content_A, self.style_A)
        self.rec_B = net_B.decode(self.content_B, self.style_B)

        # there
        self.drawn_A, self.drawn_B = self.random_styles(), self.random_styles()
        self.fake_A = net_A.decode(self.content_B, self.drawn_A)
        self.fake_B = net_B.decode(self.content_A, self.drawn_B)

        # and back
        self.content_B_again, self.drawn_A_again = net_A.encode(self.fake_A)
        self.content_A_again, self.drawn_B_again = net_B.encode(self.fake_B)
        if self.opt.recon_x_cyc_w:
            self.cyc_A = net_A.decode(self.content_A_again, self.style_A)
            self.cyc_B = net_B.decode(self.content_B_again, self.style_B)

    def random_styles(self) -> Tensor:
        """A style (B, style_dim) for each image of the batch, drawn on the device."""
        return torch.randn(len(self.real_A), self.opt.style_dim, device=self.device)

    def optimize_parameters(self) -> None:
        """First D, then G, each with styles of its own."""
        self.update("D", loss=self.compute_D_loss)
        self.update("G", loss=self.compute_G_loss)

    def compute_D_loss(self) -> dict[str, Tensor]:
        """Tell real images from translations in styles that are drawn for this."""
        with torch.no_grad():
            fake_A = self.netG_A.decode(self.content_B, self.random_styles())
            fake_B = self.netG_B.decode(self.content_A, self.random_styles())

        return {
            "D_A": self.opt.gan_w * self.judge("D_A", self.real_A, fake_A),
            "D_B": self.opt.gan_w * self.judge("D_B", self.real_B, fake_B),
        }

    def compute_G_loss(self) -> dict[str, Tensor]:
        """Fool both discriminators, and lose neither image nor content nor style on the way."""
        opt = self.opt
        terms = {
            "G_A": opt.gan_w * self.fool(self.netD_A, self.fake_A),
            "G_B": opt.gan_w * self.fool(self.netD_B, self.fake_B),
            "rec_A": opt.recon_x_w * l1_distance(self.rec_A, self.real_A),
            "rec_B": opt.recon_x_w * l1_distance(self.rec_B, self.real_B),
            "style_A": opt.recon_s_w * l1_distance(self.drawn_A_again, self.drawn_A),
            "style_B": opt.recon_s_w * l1_distance(self.drawn_B_again, self.drawn_B),
            "content_A": opt.recon_c_w * l1_distance(self.content_A_again, self.content_A),
            "content_B": opt.recon_c_w * l1_distance(self.content_B_again, self.content_B),
        }

        if opt.recon_x_cyc_w:
            terms["cycle_A"] = opt.recon_x_cyc_w * l1_distance(self.cyc_A, self.real_A)
            terms["cycle_B"] = opt.recon_x_cyc_w * l1_distance(self.cyc_B, self.real_B)
        if opt.vgg_w:
            terms["vgg_A"] = opt.vgg_w * self.vgg_distance(self.fake_A, self.real_B)
            terms["vgg_B"] = opt.vgg_w * self.vgg_distance(self.fake_B, self.real_A)
        return terms

    def vgg_distance(self, fake: Tensor, real: Tensor) -> Tensor:
        """How far a translation is from its input in what VGG16 sees, whatever the domain; 0-d."""
        with torch.no_grad():
            (target,) = self.vgg(real)
        (feature,) = self.vgg(fake)
        return domain_invariant_distance(feature, target)

    def encode_styles(self, role: str, images: Tensor) -> Tensor:
        """(B,C,H,W) images of a domain -> (B, style_dim)."""
        return self.inference_net(f"G_{role}").encode_style(images)

    def translate_with(self, role: str, images: Tensor, styles: Tensor) -> Tensor:
        """(B,C,H,W) images of domain `role` -> the same size in the other, in styles (B, style_dim)."""
        content = self.inference_net(f"G_{role}").encode_content(images)
        return self.inference_net(f"G_{OTHER[role]}").decode(content, styles)

    def translating_parts(self) -> list[nn.Module]:
        """A's encoder of contents, and what makes an image of B out of a content and a style."""
        net_A, net_B = self.inference_net("G_A"), self.inference_net("G_B")
        return [net_A.content_encoder, net_B.mlp, net_B.decoder]

    def describe(self) -> str:
        """The networks, and whether VGG16 knows anything."""
        if not self.is_train or not self.opt.vgg_w:
            return super().describe()
        vgg = describe_frozen(self.opt.vgg_weights, [RELU5_3])
        return f"{super().describe()}\n{vgg}"
