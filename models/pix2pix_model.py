"""pix2pix: translation learned from pairs (Isola et al., CVPR 2017, arXiv 1611.07004).

    L_G = L_GAN(D(A, G(A))) + lambda_L1 |G(A) - B|

D judges an image together with the input, as one stack of channels. The generator is a U-Net whose dropout, active at
test too, takes the place of noise.
"""

from argparse import Namespace

import torch
from torch import Tensor

from models.adversary import discriminator_terms
from models.base_model import BaseModel
from models.inference.modes import add_test_options, translate_each
from models.losses.gan import generator_loss
from util.errors import UserError
from util.hardware.runtime import Runtime


class Pix2PixModel(BaseModel):
    """Translation A -> B with generator G and a discriminator D of pairs."""

    PRESETS = {
        "official": {
            "netG": "unet_256",
            "normG": "batch",
            "normD": "batch",
            "no_dropout": False,
            "no_antialias": True,
            "no_antialias_up": True,
            "gan_mode": "vanilla",
            "init_type": "normal",
            "n_epochs": 100,
            "n_epochs_decay": 100,
            "finetune_resize": False,
        },
        "shared": {},
    }

    @staticmethod
    def modify_commandline_options(parser, is_train: bool):
        """Flags of the method; images come in pairs."""
        parser.set_defaults(dataset_mode="aligned")
        group = parser.group("pix2pix")
        group.add("--lambda_L1", 100.0, "weight of the distance to the paired image")
        add_test_options(group)
        return parser

    @staticmethod
    def check_options(opt: Namespace) -> None:
        """Training needs pairs."""
        if opt.is_train and opt.dataset_mode != "aligned":
            raise UserError(
                f"--model pix2pix learns from pairs, which --dataset_mode {opt.dataset_mode} has not: "
                "take aligned"
            )

    def __init__(self, opt: Namespace, runtime: Runtime) -> None:
        super().__init__(opt, runtime)
        generator = self.new_generator(opt.input_nc, opt.output_nc)
        self.netG = self.add_network("G", generator, average=True)
        if not self.is_train:
            return

        self.visual_names = ["real_A", "fake_B", "real_B"]
        self.netD = self.add_network("D", self.new_discriminator(opt.input_nc + opt.output_nc))
        self.add_optimizer("D", self.netD)
        self.add_optimizer("G", self.netG)

    def forward(self) -> None:
        """Translate A."""
        self.fake_B = self.netG(self.real_A)

    def optimize_parameters(self) -> None:
        """First D, then G."""
        self.update("D", loss=self.compute_D_loss)
        self.update("G", loss=self.compute_G_loss)

    def compute_D_loss(self) -> dict[str, Tensor]:
        """Tell pairs with a translated image from real pairs."""
        real = torch.cat([self.real_A, self.real_B], 1)
        fake = torch.cat([self.real_A, self.fake_B], 1)
        return discriminator_terms(self.netD, real, fake, self.opt.gan_mode, self.log)

    def compute_G_loss(self) -> dict[str, Tensor]:
        """Fool D, and come close to the paired image."""
        pred = self.netD(torch.cat([self.real_A, self.fake_B], 1))
        distance = (self.fake_B - self.real_B).abs().mean()

        return {
            "G_GAN": generator_loss(pred, self.opt.gan_mode),
            "G_L1": self.opt.lambda_L1 * distance,
        }

    def translate(self, real_A: Tensor) -> Tensor:
        """(B,C,H,W) in [-1,1] -> the same size in domain B, each image by itself."""
        net = self.inference_net("G")
        return translate_each(net, real_A, self.opt.test_norm, self.opt.test_dropout)

    def show(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Input and output, and the paired image where the data set has it."""
        pictures = super().show(batch)
        if "B" in batch:
            pictures["real_B"] = batch["B"]
        return pictures
