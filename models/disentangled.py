"""What methods share that take an image apart into content and style: MUNIT and DRIT.

Their encoders are the method, so the common generators of --netG do not apply; nor do the common discriminators, as
both judge at several sizes.
"""

from argparse import Namespace

import torch
from torch import Tensor, nn

from models.base_model import BaseModel
from models.idle import OF_COMMON_NETWORKS, Idle, idle_in_training
from models.inference.styles import ManyStyles, add_style_options, check_style_options
from models.losses.multiscale_gan import (
    multiscale_accuracy,
    multiscale_discriminator_loss,
    multiscale_generator_loss,
)
from models.networks.init import initialize_weights
from models.networks.multiscale_discriminator import MultiScaleDiscriminator
from models.networks.passes import pass_each
from util.errors import UserError
from util.parser import positive_int, weight


class DisentangledModel(ManyStyles, BaseModel):
    """Translation in both directions, of each image in as many styles as one likes.

    A discriminator with the letter of a domain judges images of that domain.

    Attributes:
        SLOPE: of the discriminators' LeakyReLUs.
    """

    TEST_ROLES = "AB"
    SIZE_MULTIPLE = 4  # contents are halved twice, whatever --netG says
    SLOPE = 0.2

    @staticmethod
    def add_common_options(parser, title: str, is_train: bool) -> None:
        """Flags of both methods; `title` is the method's group."""
        net = parser.group("architecture")
        net.add("--style_dim", 8, "length of a style", positive_int)
        text = "sizes at which discriminators judge, each half the one before"
        net.add("--num_scales_D", 3, text, positive_int)

        text = "L2 term of all optimisers, added to gradients"
        parser.group(title).add("--weight_decay", 0.0001, text, weight)

        if not is_train:
            add_style_options(parser)

    @staticmethod
    def check_options(opt: Namespace) -> None:
        """What does not go with encoders and discriminators of the method's own."""
        for flag, value in (("netG", opt.netG), ("netD", opt.netD)):
            if value.startswith(("unet", "stylegan2", "smallstylegan2", "tilestylegan2", "pixel")):
                raise UserError(
                    f"--{flag} {value}: --model {opt.model} has networks of its own; leave it out"
                )

        if not opt.is_train:
            check_style_options(opt)
        if opt.is_train and opt.gan_mode == "wgangp":
            raise UserError(
                f"--gan_mode wgangp: --model {opt.model} has no gradient penalty; give lsgan, vanilla or hinge"
            )

    @classmethod
    def idle(cls, opt: Namespace) -> list[Idle]:
        """The flags of the common networks."""
        return [Idle(OF_COMMON_NETWORKS, ("model",), for_good=True), *idle_in_training(opt)]

    def new_multiscale_discriminator(self, channels: int) -> nn.Module:
        """A discriminator of images with `channels`; its first weights are N(0, --init_gain)."""
        opt = self.opt
        net = MultiScaleDiscriminator(
            channels, opt.ndf, n_scales=opt.num_scales_D, slope=self.SLOPE
        )
        initialize_weights(net, "normal", opt.init_gain)
        return net

    def judge(self, name: str, real: Tensor, *fakes: Tensor) -> Tensor:
        """What the discriminator of this name minimises on images (B,C,H,W), which get no gradient; 0-d.

        Where there are several translations, that is the sum over them. The share of scores that are right is logged.
        """
        netD, mode = self.networks[name], self.opt.gan_mode
        losses, shares = [], []
        for fake in fakes:
            scores = pass_each(netD, real, fake.detach())
            losses.append(multiscale_discriminator_loss(*scores, mode))
            shares.append(multiscale_accuracy(*scores, mode))

        self.log(f"{name}_accuracy", torch.stack(shares).mean())
        return torch.stack(losses).sum()

    def fool(self, netD: nn.Module, fake: Tensor) -> Tensor:
        """What images (B,C,H,W) minimise so that a discriminator takes them for real; 0-d."""
        return multiscale_generator_loss(netD(fake), self.opt.gan_mode)

    def describe(self) -> str:
        """The networks, and which flags do not shape them."""
        own = "networks of the method's own: --netG, --netD, norms and anti-aliasing do not apply"
        return f"{super().describe()}\n{own}"

    def draw_styles(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, style_dim) from N(0, I); the first are the same whatever their number."""
        size = self.opt.style_dim
        return torch.stack([torch.randn(size, generator=generator) for _ in range(count)])
