"""The layers of StyleGAN2 that image translation needs, in plain torch operators.

They are no nn.Conv2d or nn.Linear on purpose: --init_type, which redraws those, leaves their N(0,1) alone.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLUR_LINE = (1.0, 3.0, 3.0, 1.0)


class Blur(nn.Module):
    """Convolve each map with [1,3,3,1] x [1,3,3,1], scaled to sum `gain`; zeros beyond the border.

    The filter is a buffer `kernel`, so that state dicts equal the released ones.
    """

    def __init__(self, padding: int, stride: int = 1, gain: float = 1.0) -> None:
        super().__init__()
        self.padding, self.stride = padding, stride

        line = torch.tensor(BLUR_LINE)
        self.register_buffer("kernel", gain * torch.outer(line, line) / line.sum() ** 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,C,h,w), h = floor((H + 2*padding - 4) / stride) + 1."""
        channels = x.shape[1]
        weight = self.kernel.to(x.dtype).expand(channels, 1, -1, -1)
        return F.conv2d(x, weight, padding=self.padding, stride=self.stride, groups=channels)


class EqualConv2d(nn.Module):
    """A convolution whose weights are N(0,1) and divided by sqrt(inputs) as it runs (equalised learning rate).

    Karras et al. 2018 (arXiv 1710.10196), section 4.1: Adam then moves all layers at the same relative speed.
    """

    def __init__(
        self,
        before: int,
        after: int,
        size: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding
        self.scale = 1 / math.sqrt(before * size**2)
        self.weight = nn.Parameter(torch.randn(after, before, size, size))
        self.bias = nn.Parameter(torch.zeros(after)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(B,before,H,W) -> (B,after,h,w)."""
        return F.conv2d(x, self.weight * self.scale, self.bias, self.stride, self.padding)


class EqualLinear(nn.Module):
    """A linear layer with equalised learning rate, as `EqualConv2d`; `activate` puts `scaled_leaky_relu` after it."""

    def __init__(self, before: int, after: int, activate: bool = False) -> None:
        super().__init__()
        self.activate = activate
        self.scale = 1 / math.sqrt(before)
        self.weight = nn.Parameter(torch.randn(after, before))
        self.bias = nn.Parameter(torch.zeros(after))

    def forward(self, x: Tensor) -> Tensor:
        """(B,before) -> (B,after)."""
        x = F.linear(x, self.weight * self.scale, self.bias)
        return scaled_leaky_relu(x) if self.activate else x


def scaled_leaky_relu(x: Tensor) -> Tensor:
    """sqrt(2) * leaky ReLU of slope 0.2, which roughly keeps the variance."""
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


class BiasedLeakyReLU(nn.Module):
    """Add a bias to each map, then `scaled_leaky_relu`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> the same shape."""
        return scaled_leaky_relu(x + self.bias.to(x.dtype))


def conv_layer(before: int, after: int, size: int, halve: bool = False) -> nn.Sequential:
    """Convolution and activation, (B,before,H,W) -> (B,after,H,W), or blurred before and halved."""
    if halve:
        blur, conv = Blur((size + 1) // 2), EqualConv2d(before, after, size, stride=2)
        return nn.Sequential(blur, conv, BiasedLeakyReLU(after))

    conv = EqualConv2d(before, after, size, padding=size // 2)
    return nn.Sequential(conv, BiasedLeakyReLU(after))


class ResBlock(nn.Module):
    """(two convolutions 3x3 + skip) / sqrt 2; with `halve` both branches are blurred and halved.

    Karras et al. 2020 (arXiv 1912.04958), figure 7c. A skip that changes width or size is a convolution 1x1; it keeps
    every second pixel of the blurred map, so only those are computed.
    """

    def __init__(self, before: int, after: int, halve: bool) -> None:
        super().__init__()
        self.conv1 = conv_layer(before, before, 3)
        self.conv2 = conv_layer(before, after, 3, halve)

        if halve:
            self.skip = nn.Sequential(Blur(1, stride=2), EqualConv2d(before, after, 1))
        elif before != after:
            self.skip = nn.Sequential(EqualConv2d(before, after, 1))
        else:
            self.skip = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B,before,H,W) -> (B,after,H,W), or half the size for even H and W."""
        return (self.conv2(self.conv1(x)) + self.skip(x)) / math.sqrt(2)


class DoublingConv(nn.Module):
    """Doubling by a transposed convolution 3x3, then blur; each output map's weights are scaled to length 1.

    That is StyleGAN2's modulated convolution (arXiv 1912.04958, equations 1 to 3) with all styles 1: the weights do
    not depend on the image. The state dict has the released shape of `weight`, (1,after,before,3,3); in memory it has
    four axes, which is what the layout of a GPU's convolutions is made for.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.scale = 1 / math.sqrt(before * 9)
        self.weight = nn.Parameter(torch.randn(after, before, 3, 3))
        self.blur = Blur(1, gain=4.0)

    def forward(self, x: Tensor) -> Tensor:
        """(B,before,H,W) -> (B,after,2H,2W)."""
        weight = self.weight * self.scale
        squared_length = weight.square().sum((1, 2, 3), keepdim=True)
        weight = weight * torch.rsqrt(squared_length + 1e-8)

        doubled = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
        return self.blur(doubled)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        key = f"{prefix}weight"
        destination[key] = destination[key].unsqueeze(0)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        key = f"{prefix}weight"
        if key in state_dict and state_dict[key].dim() == 5:
            state_dict[key] = state_dict[key].squeeze(0)
        super()._load_from_state_dict(state_dict, prefix, *args)


class NoiseInjection(nn.Module):
    """Add one map of normal noise to all maps, times a learned strength that starts at 0."""

    def __init__(self, inject: bool) -> None:
        super().__init__()
        self.inject = inject
        self.weight = nn.Parameter(torch.zeros(1), requires_grad=inject)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """(B,C,H,W), noise (B,1,H,W) or None to draw it on x's device -> the same shape."""
        if not self.inject:
            return x

        if noise is None:
            noise = draw_noise(x, *x.shape[2:])
        return x + (self.weight * noise).to(x.dtype)


def draw_noise(like: Tensor, height: int, width: int) -> Tensor:
    """Normal noise (B,1,height,width) for a batch, the same numbers whatever autocast makes of the batch."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return torch.randn(len(like), 1, height, width, device=like.device, dtype=dtype)


class StyledDoubling(nn.Module):
    """Doubling, noise, bias and activation."""

    def __init__(self, before: int, after: int, inject_noise: bool) -> None:
        super().__init__()
        self.conv = DoublingConv(before, after)
        self.noise = NoiseInjection(inject_noise)
        self.activate = BiasedLeakyReLU(after)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """(B,before,H,W), noise (B,1,2H,2W) or None -> (B,after,2H,2W)."""
        return self.activate(self.noise(self.conv(x), noise))
