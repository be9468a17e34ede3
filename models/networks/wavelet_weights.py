"""Which weights WCT2's networks start from: those of a VGG, or of a published encoder, by the order of the file."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.models import VGG19_Weights

from models.networks.vgg import random_weights, read_state
from util.errors import UserError

LEVELS = (1, 2, 3, 4)
WIDTHS = {1: 64, 2: 128, 3: 256, 4: 512}
VGG16, VGG19 = 3, 4  # convolutions at level 3
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, for torchvision's weights


class EncoderWeights(NamedTuple):
    """The convolutions of an encoder, weight and bias each.

    `published`: they come with a 1 x 1 convolution for colours of their own, so that nothing is to be added.
    """

    colour: tuple[Tensor, Tensor]
    others: list[tuple[Tensor, Tensor]]
    published: bool


def encoder_weights(source: str) -> EncoderWeights:
    """What --vgg_weights names: the colour convolution and VGG's up to relu4_1.

    Raises:
        UserError: weights that are missing or do not fit.
    """
    if source == "random":
        return EncoderWeights(_normalization(), _random_convolutions(), published=False)

    named = f"--vgg_weights {source}"
    found = convolutions_of(read_state(source, VGG19_Weights.IMAGENET1K_V1), named)
    published = bool(found) and tuple(found[0][0].shape) == (3, 3, 1, 1)
    colour = found.pop(0) if published else _normalization()

    shapes = [tuple(weight.shape) for weight, _ in found]
    thirds = min(sum(shape[0] == WIDTHS[3] for shape in shapes), VGG19)
    wanted = _vgg_shapes(max(thirds, VGG16))
    check_shapes(shapes[: len(wanted)], wanted, named, "VGG16 or VGG19 up to relu4_1")
    return EncoderWeights(colour, found[: len(wanted)], published)


def convolutions_of(state: Any, source: str) -> list[tuple[Tensor, Tensor]]:
    """Weights and biases of a state dict's convolutions, in its order, without 2 x 2 filters.

    Raises:
        UserError: it is none, it normalises batches, or a convolution has no bias.
    """
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{source}: expected a state dict of convolutions")
    if any(key.endswith("running_mean") for key in state):
        raise UserError(f"{source} has batch normalisation; expected a plain VGG")

    found = []
    for key, weight in state.items():
        if weight.dim() != 4 or tuple(weight.shape[2:]) == (2, 2):
            continue
        bias = state.get(key.removesuffix("weight") + "bias")
        if bias is None:
            raise UserError(f"{source}: {key} has no bias beside it")
        found.append((weight.float(), bias.float()))
    return found


def _vgg_shapes(thirds: int) -> list[tuple[int, ...]]:
    """Of the convolutions from conv1_1 to conv4_1."""
    shapes, before = [], 3
    for level, count in zip(LEVELS, (2, 2, thirds, 1), strict=True):
        for _ in range(count):
            shapes.append((WIDTHS[level], before, 3, 3))
            before = WIDTHS[level]
    return shapes


def check_shapes(found: list, wanted: list, source: str, expected: str) -> None:
    for number, shape in enumerate(wanted):
        if number >= len(found):
            raise UserError(
                f"{source} holds {len(found)} convolutions; {expected} has {len(wanted)}"
            )
        if found[number] != shape:
            raise UserError(
                f"{source}: convolution {number + 1} is {found[number]}; "
                f"in {expected} it is {shape}"
            )
    if len(found) > len(wanted):
        raise UserError(f"{source} holds {len(found)} convolutions; {expected} has {len(wanted)}")


def _normalization() -> tuple[Tensor, Tensor]:
    """Colours in [0,1] to what torchvision's weights expect, as a 1 x 1 convolution."""
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    return torch.diag(1 / std)[:, :, None, None], -mean / std


def _random_convolutions() -> list[tuple[Tensor, Tensor]]:
    """Those of a VGG19 that has learned nothing, the same in every process."""
    shapes = {str(number): torch.empty(shape) for number, shape in enumerate(_vgg_shapes(VGG19))}
    weights = random_weights(shapes)
    return [(weight, torch.zeros(len(weight))) for weight in weights.values()]
