"""Things with weights, split by kind; none of them ever sees the options."""

from collections.abc import Callable
from functools import partial

from torch import nn

from models.networks.init import initialize_weights
from models.networks.patch_discriminator import NLayerDiscriminator, PixelDiscriminator
from models.networks.resnet_generator import ResnetGenerator
from util.registry import find_by_name

GENERATORS: dict[str, Callable[..., nn.Module]] = {
    "resnet_9blocks": partial(ResnetGenerator, n_blocks=9),
    "resnet_6blocks": partial(ResnetGenerator, n_blocks=6),
    "resnet_4blocks": partial(ResnetGenerator, n_blocks=4),
}

DISCRIMINATORS: dict[str, Callable[[int, int, int, str, bool], nn.Module]] = {
    "basic": lambda input_nc, ndf, n_layers, norm, antialias: NLayerDiscriminator(input_nc, ndf, 3, norm, antialias),
    "n_layers": NLayerDiscriminator,
    "pixel": lambda input_nc, ndf, n_layers, norm, antialias: PixelDiscriminator(input_nc, ndf, norm),
}

__all__ = ["DISCRIMINATORS", "GENERATORS", "create_discriminator", "create_generator", "initialize_weights"]


def create_generator(
    netG: str, input_nc: int, output_nc: int, ngf: int = 64, norm: str = "instance", use_dropout: bool = False,
    antialias: bool = True, antialias_up: bool = True,
) -> nn.Module:  # fmt: skip
    """The generator with this name, as torch initialises it; its constructor explains the numbers.

    Every generator has `size_multiple` (sides must be multiples of it), `encode` and `feature_channels`.

    Raises:
        UserError: unknown name.
    """
    create = find_by_name(GENERATORS, netG, "--netG")
    return create(
        input_nc, output_nc, ngf, norm=norm, use_dropout=use_dropout, antialias=antialias, antialias_up=antialias_up
    )


def create_discriminator(
    netD: str, input_nc: int, ndf: int = 64, n_layers: int = 3, norm: str = "instance", antialias: bool = True
) -> nn.Module:
    """The discriminator with this name, as torch initialises it: basic (3 layers), n_layers or pixel.

    Raises:
        UserError: unknown name.
    """
    return find_by_name(DISCRIMINATORS, netD, "--netD")(input_nc, ndf, n_layers, norm, antialias)
