"""The U-Net generator of pix2pix: halvings down to 1x1 and doublings back, with a skip at every size."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.networks.blocks import check_layers, needs_bias, norm_layer
from models.networks.chain import Chain
from util.errors import UserError


class SkipBlock(nn.Module):
    """One size of the U-Net: halve, run the smaller sizes, double; the input is put before the result.

    The outermost block has no skip, no activation before its convolution, and ends in tanh; the innermost has nothing
    inside and no normalisation after its convolution, whose maps may be 1x1.

    Args:
        before, outer, inner: channels that come in, that the doubling gives, and of the halved maps.
        inside: the next smaller size; None for the innermost.
        norm: a key of `NORMS`.
        outermost: whether this is the largest size.
        use_dropout: dropout of one half at the end.
    """

    def __init__(
        self, before: int, outer: int, inner: int, inside: "SkipBlock | None", norm: str, outermost: bool = False,
        use_dropout: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        bias = needs_bias(norm)

        down: list[nn.Module] = []
        if not outermost:
            # not in place: its input is also the skip, and may be tapped
            down.append(nn.LeakyReLU(0.2))
        down.append(nn.Conv2d(before, inner, 4, stride=2, padding=1, bias=bias))
        if inside and not outermost:
            down.append(norm_layer(norm, inner))

        width = 2 * inner if inside else inner
        up = [
            nn.ReLU(inplace=True),  # in place: nothing else reads what it gets
            nn.ConvTranspose2d(width, outer, 4, stride=2, padding=1, bias=bias or outermost),
            nn.Tanh() if outermost else norm_layer(norm, outer),
        ]
        if use_dropout:
            up.append(nn.Dropout(0.5))

        within = [inside] if inside else []
        self.model = Chain(*down, *within, *up)
        self.n_down = len(down)
        self.outermost = outermost

    def forward(self, x: Tensor) -> Tensor:
        """(B,before,H,W) -> (B,before+outer,H,W), the skip first; outermost: (B,outer,H,W)."""
        out = self.model(x)
        return out if self.outermost else torch.cat([x, out], 1)

    def halve(self, x: Tensor) -> Tensor:
        """(B,before,H,W) -> (B,inner,H/2,W/2): the way down alone."""
        return self.model.collect(x, [self.n_down - 1])[0]

    @property
    def inside(self) -> "SkipBlock":
        """The next smaller size."""
        return self.model[self.n_down]


class UnetGenerator(nn.Module):
    """Image to image by a U-Net (Isola et al. 2017, arXiv 1611.07004; Ronneberger et al. 2015).

    State-dict keys are those of the releases of pix2pix and CUT, and so is the place of dropout: in the doublings
    between maps of 8*ngf channels, the innermost left out. Halvings are strided and doublings transposed
    convolutions; there is no anti-aliased form.

    Args:
        input_nc, output_nc: channels of the images.
        ngf: width at the first halving; it doubles with each up to 8*ngf.
        num_downs: number of halvings, at least 2; a side of 2^num_downs shrinks to 1 pixel.
        norm: a key of `NORMS`.
        use_dropout: dropout of one half.
    """

    def __init__(
        self, input_nc: int, output_nc: int, ngf: int = 64, num_downs: int = 8, norm: str = "batch",
        use_dropout: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.size_multiple = 2**num_downs
        self.widths = [ngf * min(2**n, 8) for n in range(num_downs)]

        block = None  # from the innermost outwards
        for n in reversed(range(1, num_downs)):
            outer, inner = self.widths[n - 1 : n + 1]
            dropout = use_dropout and n >= 4 and block is not None
            block = SkipBlock(outer, outer, inner, block, norm, use_dropout=dropout)

        self.model = SkipBlock(input_nc, output_nc, ngf, block, norm, outermost=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) in [-1,1] -> the same size in [-1,1]; C is input_nc before, output_nc after.

        Raises:
            UserError: a side that the halvings would not give back.
        """
        height, width = x.shape[-2:]
        if height % self.size_multiple or width % self.size_multiple:
            raise UserError(
                f"this U-Net needs sides that are multiples of {self.size_multiple}, not {width} "
                f"wide and {height} high: see --preprocess, --load_size, --crop_size, or take "
                "another --netG"
            )
        return self.model(x)

    def encode(self, x: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Features of (B,input_nc,H,W) on the way down, in the order asked: layer n is (B,C,H/2^(n+1),W/2^(n+1)).

        They are the outputs of the halvings, after their normalisation; smaller maps than the last one asked for are
        not computed.

        Raises:
            UserError: there is no such layer.
        """
        self._check(layers)
        block, outputs = self.model, []

        for n in range(max(layers) + 1):
            block = block.inside if n else block
            x = block.halve(x)
            outputs.append(x)
        return [outputs[index] for index in layers]

    def feature_channels(self, layers: Sequence[int]) -> list[int]:
        """Channels of what `encode` returns for these layers; raises UserError as it does."""
        self._check(layers)
        return [self.widths[index] for index in layers]

    def _check(self, layers: Sequence[int]) -> None:
        check_layers(layers, len(self.widths), "this U-Net has layers 0 to {}, the halvings")
