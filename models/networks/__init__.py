"""Things with weights, split by kind; none of them ever sees the options.

A generator or discriminator is its own file and one entry in a table below, which says what it takes of the numbers
that the options hold.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from models.networks.init import initialize_weights
from models.networks.patch_discriminator import NLayerDiscriminator, PixelDiscriminator
from models.networks.resnet_generator import ResnetGenerator
from models.networks.stylegan2 import (
    StyleGAN2Discriminator,
    StyleGAN2Generator,
    TileStyleGAN2Discriminator,
    nearest_size,
)
from models.networks.unet_generator import UnetGenerator
from util.registry import find_by_name


class Entry(NamedTuple):
    """How a network is made.

    Attributes:
        create: its class, with what the name fixes.
        takes: which settings it has, of norm, padding, use_dropout, antialias, antialias_up, n_layers, halvings and
            size; one that takes `size` is made for images of that size.
        size_multiple: what the sides of a generator's images must be multiples of.
    """

    create: Callable[..., nn.Module]
    takes: tuple[str, ...]
    size_multiple: int = 1


RESNET = ("norm", "padding", "use_dropout", "antialias", "antialias_up")
UNET = ("norm", "use_dropout")
STYLEGAN2 = ("size", "halvings")
SMALL_STYLEGAN2 = partial(StyleGAN2Generator, n_blocks=2, inject_noise=False)
BOUNDED_STYLEGAN2 = partial(StyleGAN2Generator, bounded=True)

GENERATORS = {
    "resnet_9blocks": Entry(partial(ResnetGenerator, n_blocks=9), RESNET, size_multiple=4),
    "resnet_6blocks": Entry(partial(ResnetGenerator, n_blocks=6), RESNET, size_multiple=4),
    "resnet_4blocks": Entry(partial(ResnetGenerator, n_blocks=4), RESNET, size_multiple=4),
    "unet_256": Entry(partial(UnetGenerator, num_downs=8), UNET, size_multiple=2**8),
    "unet_128": Entry(partial(UnetGenerator, num_downs=7), UNET, size_multiple=2**7),
    "stylegan2": Entry(StyleGAN2Generator, STYLEGAN2, size_multiple=4),
    "smallstylegan2": Entry(SMALL_STYLEGAN2, STYLEGAN2, size_multiple=4),
    "stylegan2_tanh": Entry(BOUNDED_STYLEGAN2, STYLEGAN2, size_multiple=4),
}

DISCRIMINATORS = {
    "basic": Entry(partial(NLayerDiscriminator, n_layers=3), ("norm", "antialias")),
    "n_layers": Entry(NLayerDiscriminator, ("n_layers", "norm", "antialias")),
    "pixel": Entry(PixelDiscriminator, ("norm",)),
    "stylegan2": Entry(StyleGAN2Discriminator, ("size",)),
    "stylegan2_8x8": Entry(partial(StyleGAN2Discriminator, last_map=8), ("size",)),
    "tilestylegan2": Entry(TileStyleGAN2Discriminator.of_layers, ("n_layers",)),
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
    netG: str, input_nc: int, output_nc: int, ngf: int = 64, **settings: Any
) -> nn.Module:
    """The generator with this name, as torch initialises it; its constructor explains the numbers.

    Every generator has `encode(images, layers)` and `feature_channels(layers)`, for losses on its own features.
    Those without skips between encoder and decoder have `forward_with_features(images, layers)` too, for output and
    features from one pass.

    Args:
        netG: a key of `GENERATORS`.
        settings: of all generators, see `Entry`; this one takes what it has, and its own defaults for the rest.

    Raises:
        UserError: unknown name.
    """
    entry = find_by_name(GENERATORS, netG, "--netG")
    return entry.create(input_nc, output_nc, ngf, **_taken(entry, settings))


def create_discriminator(netD: str, input_nc: int, ndf: int = 64, **settings: Any) -> nn.Module:
    """The discriminator with this name, as torch initialises it, with what it has of the `settings` of all.

    Raises:
        UserError: unknown name.
    """
    entry = find_by_name(DISCRIMINATORS, netD, "--netD")
    return entry.create(input_nc, ndf, **_taken(entry, settings))


def generator_size_multiple(netG: str) -> int:
    """What the sides of this generator's images must be multiples of; raises UserError for an unknown name."""
    return find_by_name(GENERATORS, netG, "--netG").size_multiple


def training_size(netG: str, netD: str, pixels: int) -> int | None:
    """The image size that these networks are made for when crops have so many pixels; None where any size will do."""
    generator = find_by_name(GENERATORS, netG, "--netG")
    discriminator = find_by_name(DISCRIMINATORS, netD, "--netD")
    sized = "size" in generator.takes or "size" in discriminator.takes
    return nearest_size(pixels) if sized else None


def _taken(entry: Entry, settings: dict[str, Any]) -> dict[str, Any]:
    return {name: settings[name] for name in entry.takes if name in settings}
