"""What STROTSS compares a picture with at one scale: a content's and a style's features at random positions.

Shape legend: N positions of the picture, P and Q pixels of the content and of the style, C channels of a feature.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from models.inference.regions import Regions
from models.losses.optimal_transport import StyleSample, moments, strotss_terms
from models.networks.hypercolumns import Hypercolumns
from util.errors import UnfitImage


class Region(NamedTuple):
    """Pixels of the content, numbered row by row, and a sample of the style's pixels whose look they take."""

    content_P: Tensor
    sample: StyleSample


class StyleTarget:
    """The loss of a picture at one scale, given content and style.

    Positions are drawn anew for each picture that is judged, uniformly and the same for content and picture; those of
    the style are drawn once. Random numbers come from a generator on the CPU, so they are the same on every machine.

    Args:
        features: what a position is described by.
        content, style: images (1,3,h,w) in [0,1] at this scale.
        regions: what takes whose look; without, all is one region.
        positions, style_positions: how many are drawn in each region.
        generator: on the CPU.

    Raises:
        UnfitImage: no region is left at this scale.
    """

    def __init__(
        self,
        features: Hypercolumns,
        content: Tensor,
        style: Tensor,
        regions: Regions | None,
        positions: int,
        style_positions: int,
        generator: torch.Generator,
    ) -> None:
        self.features, self.positions, self.generator = features, positions, generator
        self.device, self.width = content.device, content.shape[3]

        with torch.no_grad():
            self.content_maps = features(content)
            style_maps = features(style)
        self.regions = []
        for content_P, style_Q in self._pixels(content.shape[2:], style.shape[2:], regions):
            feat_MC = self._read(style_maps, style_Q, style.shape[3], style_positions)
            with torch.autocast(self.device.type, enabled=False):
                self.regions.append(Region(content_P, StyleSample(feat_MC, moments(feat_MC))))

    def loss(self, picture: Tensor, alpha: float) -> Tensor:
        """The loss of a picture (1,3,H,W) with content weight alpha, mean over regions, 0-d."""
        maps, totals = self.features(picture), []
        for region in self.regions:
            x_N, y_N = self._draw(region.content_P, self.width, self.positions)
            output_NC = self.features.read(maps, x_N, y_N)
            content_NC = self.features.read(self.content_maps, x_N, y_N)
            terms = strotss_terms(output_NC, content_NC, region.sample, alpha)
            totals.append(sum(terms.values()))
        return torch.stack(totals).mean()

    @staticmethod
    def _pixels(
        content_size: torch.Size, style_size: torch.Size, regions: Regions | None
    ) -> list[tuple[Tensor, Tensor]]:
        """Pixels of content and style, (P,) and (Q,), that belong together."""
        if regions is None:
            sizes = content_size, style_size
            content_P, style_Q = (torch.arange(height * width) for height, width in sizes)
            return [(content_P, style_Q)]

        found = []
        for masks in regions.masks(content_size, style_size):
            content_P, style_Q = (mask.flatten().nonzero()[:, 0] for mask in masks)
            found.append((content_P, style_Q))
        if not found:
            height, width = content_size
            raise UnfitImage(
                f"--content_labels: no region is left of them in a picture of {width}x{height}; "
                "give larger regions"
            )
        return found

    @torch.no_grad()
    def _read(self, maps: list[Tensor], pixels_P: Tensor, width: int, count: int) -> Tensor:
        """Features (count,C) at random ones of these pixels."""
        return self.features.read(maps, *self._draw(pixels_P, width, count))

    def _draw(self, pixels_P: Tensor, width: int, count: int) -> tuple[Tensor, Tensor]:
        """Columns and rows, (count,) each, of random ones of these pixels; rows are `width` long."""
        chosen_N = torch.randint(len(pixels_P), (count,), generator=self.generator)
        drawn_N = pixels_P[chosen_N].to(self.device)
        return drawn_N % width, drawn_N // width
