"""Scaling a VGG so that its activations have a mean of 1, whatever its weights come from."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@torch.no_grad()
def scale_to_unit(layers: Iterable[Callable[[Tensor], Tensor]], x: Tensor) -> None:
    """Scale convolutions, in place, so that behind each ReLU the mean activation on images x is 1.

    Activations of VGGs differ a thousandfold by where they come from, and nothing else does, since
    ReLUs and poolings pass a factor on: features keep their pattern, and have another unit.

    Args:
        layers: from the image on: convolutions, each with its ReLU, and what lies between them.
        x: images as the first layer takes them, (B,C,H,W).
    """
    factor = torch.ones(())  # of the plain features over the scaled ones, so far
    for layer in layers:
        if not isinstance(layer, nn.Conv2d):
            x = layer(x)
            continue

        layer.bias.div_(factor)
        x = F.relu(layer(x))
        mean = x.mean()
        factor = factor * mean
        for tensor in (layer.weight, layer.bias, x):
            tensor.div_(mean)


def natural_noise(count: int = 2, side: int = 64) -> Tensor:
    """Images (count,3,side,side) in [0,1] with a spectrum as of photographs, always the same."""
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(count, 4, side, side, generator=generator)
    frequency = torch.hypot(torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)[None])
    frequency[0, 0] = torch.inf

    smooth = torch.fft.irfft2(torch.fft.rfft2(white) / frequency, s=(side, side))
    smooth = smooth / smooth.std((2, 3), keepdim=True)
    grey, colours = smooth[:, :1], smooth[:, 1:]
    return (0.5 + 0.2 * grey + 0.07 * colours).clamp(0, 1)
