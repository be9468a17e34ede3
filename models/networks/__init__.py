"""Things with weights, split by kind; none of them ever sees the options."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import nn

from models.networks.init import initialize_weights
from models.networks.patch_discriminator import NLayerDiscriminator, PixelDiscriminator
from models.networks.resnet_generator import ResnetGenerator
from models.networks.stylegan2 import (
    LAST_MAP,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
    TileStyleGAN2Discriminator,
    nearest_size,
)
from models.networks.unet_generator import UnetGenerator
from util.registry import find_by_name


class Generator(NamedTuple):
    """How a generator is made, and what the sides of its images must be multiples of.

    One that is `sized` takes the size of its training images, and has neither normalisation nor dropout to choose.
    """

    create: Callable[..., nn.Module]
    size_multiple: int
    sized: bool = False


def _unet(num_downs: int) -> Generator:
    """A U-Net with so many halvings; it has no anti-aliased form."""
    return Generator(
        lambda input_nc, output_nc, ngf, norm, use_dropout, antialias, antialias_up: UnetGenerator(
            input_nc, output_nc, ngf, num_downs, norm, use_dropout
        ),
        2**num_downs,
    )


GENERATORS = {
    "resnet_9blocks": Generator(partial(ResnetGenerator, n_blocks=9), 4),
    "resnet_6blocks": Generator(partial(ResnetGenerator, n_blocks=6), 4),
    "resnet_4blocks": Generator(partial(ResnetGenerator, n_blocks=4), 4),
    "unet_256": _unet(8),
    "unet_128": _unet(7),
    "stylegan2": Generator(StyleGAN2Generator, 4, sized=True),
    "smallstylegan2": Generator(partial(StyleGAN2Generator, n_blocks=2, inject_noise=False), 4, sized=True),
}

DISCRIMINATORS: dict[str, Callable[[int, int, int, str, bool, int], nn.Module]] = {
    "basic": lambda input_nc, ndf, n_layers, norm, antialias, _: NLayerDiscriminator(input_nc, ndf, 3, norm, antialias),
    "n_layers": lambda input_nc, ndf, n_layers, norm, antialias, _: NLayerDiscriminator(
        input_nc, ndf, n_layers, norm, antialias
    ),
    "pixel": lambda input_nc, ndf, n_layers, norm, antialias, _: PixelDiscriminator(input_nc, ndf, norm),
    "stylegan2": lambda input_nc, ndf, n_layers, norm, antialias, size: StyleGAN2Discriminator(input_nc, ndf, size),
    "tilestylegan2": lambda input_nc, ndf, n_layers, norm, antialias, _: TileStyleGAN2Discriminator(
        input_nc, ndf, LAST_MAP * 2**n_layers
    ),
}

__all__ = [
    "DISCRIMINATORS",
    "GENERATORS",
    "create_discriminator",
    "create_generator",
    "generator_size_multiple",
    "initialize_weights",
    "training_size",
]


def create_generator(
    netG: str, input_nc: int, output_nc: int, ngf: int = 64, norm: str = "instance", use_dropout: bool = False,
    antialias: bool = True, antialias_up: bool = True, size: int = 256, halvings: int = 1,
) -> nn.Module:  # fmt: skip
    """The generator with this name, as torch initialises it; its constructor explains the numbers.

    `size` and `halvings` are for StyleGAN2's generators, the numbers before for all others.
    Every generator has `encode(images, layers)` and `feature_channels(layers)`, for losses on its own features.
    Those without skips between encoder and decoder have `forward_with_features(images, layers)` too, for output and
    features from one pass.

    Raises:
        UserError: unknown name.
    """
    generator = find_by_name(GENERATORS, netG, "--netG")
    if generator.sized:
        return generator.create(input_nc, output_nc, ngf, size=size, halvings=halvings)
    return generator.create(
        input_nc, output_nc, ngf, norm=norm, use_dropout=use_dropout, antialias=antialias, antialias_up=antialias_up
    )


def generator_size_multiple(netG: str) -> int:
    """What the sides of this generator's images must be multiples of; raises UserError for an unknown name."""
    return find_by_name(GENERATORS, netG, "--netG").size_multiple


def training_size(netG: str, netD: str, pixels: int) -> int | None:
    """The image size that these networks are made for when crops have so many pixels; None where any size will do."""
    sized = find_by_name(GENERATORS, netG, "--netG").sized or netD == "stylegan2"
    return nearest_size(pixels) if sized else None


def create_discriminator(
    netD: str, input_nc: int, ndf: int = 64, n_layers: int = 3, norm: str = "instance", antialias: bool = True,
    size: int = 256,
) -> nn.Module:  # fmt: skip
    """The discriminator with this name, as torch initialises it; basic has 3 layers, `size` is for stylegan2.

    Raises:
        UserError: unknown name.
    """
    return find_by_name(DISCRIMINATORS, netD, "--netD")(input_nc, ndf, n_layers, norm, antialias, size)
