"""CycleGAN's ResNet and pix2pix's U-Net from their papers and key layouts alone, written with torch.nn.functional."""

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def random_state(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> State:
    """Weights of visible size for every key, so that each one matters to the output."""
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=generator) * 0.2 for key, shape in shapes.items()}


# -- CycleGAN's generator: 9 blocks, instance norm, strided convolutions, no dropout -----------------------------------


def resnet_shapes(ngf: int, blocks: int = 9, channels: int = 3) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a published file such as horse2zebra's latest_net_G.pth."""
    last = 10 + blocks
    weights = {
        "model.1": (ngf, channels, 7, 7),
        "model.4": (2 * ngf, ngf, 3, 3),
        "model.7": (4 * ngf, 2 * ngf, 3, 3),
        **{
            f"model.{10 + n}.conv_block.{k}": (4 * ngf, 4 * ngf, 3, 3)
            for n in range(blocks)
            for k in (1, 5)
        },
        f"model.{last}": (4 * ngf, 2 * ngf, 3, 3),
        f"model.{last + 3}": (2 * ngf, ngf, 3, 3),
        f"model.{last + 7}": (channels, ngf, 7, 7),
    }
    doubling = (f"model.{last}", f"model.{last + 3}")
    biases = {
        f"{key}.bias": (shape[1 if key in doubling else 0],) for key, shape in weights.items()
    }
    return {f"{key}.weight": shape for key, shape in weights.items()} | biases


def resnet_forward(state: State, x: Tensor, blocks: int = 9) -> Tensor:
    """(B,C,H,W) -> the same shape."""

    def pad(x: Tensor, width: int) -> Tensor:
        return F.pad(x, (width,) * 4, mode="reflect")

    def conv(name: str, x: Tensor, **settings) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **settings)

    x = F.relu(F.instance_norm(conv("model.1", pad(x, 3))))
    for index in (4, 7):
        x = F.relu(F.instance_norm(conv(f"model.{index}", x, stride=2, padding=1)))
    for index in range(10, 10 + blocks):
        y = F.relu(F.instance_norm(conv(f"model.{index}.conv_block.1", pad(x, 1))))
        x = x + F.instance_norm(conv(f"model.{index}.conv_block.5", pad(y, 1)))
    for index in (10 + blocks, 13 + blocks):
        weight, bias = state[f"model.{index}.weight"], state[f"model.{index}.bias"]
        x = F.conv_transpose2d(x, weight, bias, stride=2, padding=1, output_padding=1)
        x = F.relu(F.instance_norm(x))
    return torch.tanh(conv(f"model.{17 + blocks}", pad(x, 3)))


# -- pix2pix's generator: a U-Net with batch norm ----------------------------------------------------------------------


def unet_level(n: int) -> str:
    """Where the layers of the n-th size are: the outermost holds the next at place 1, all others at place 3."""
    return "model.model" + (".1.model" if n else "") + ".3.model" * (n - 1)


def unet_widths(ngf: int, downs: int) -> list[int]:
    """Channels of the halved maps."""
    return [min(ngf * 2**n, 8 * ngf) for n in range(downs)]


def unet_shapes(ngf: int, downs: int, channels: int = 3) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a published file such as facades_label2photo's latest_net_G.pth (batch norm, no counters)."""
    widths, shapes = unet_widths(ngf, downs), {}
    for n in range(downs):
        level, first, last = unet_level(n), n == 0, n == downs - 1
        before, inner = channels if first else widths[n - 1], widths[n]
        up = 3 if first or last else 5
        shapes[f"{level}.{0 if first else 1}.weight"] = (inner, before, 4, 4)
        shapes[f"{level}.{up}.weight"] = (inner if last else 2 * inner, before, 4, 4)
        if first:
            shapes[f"{level}.{up}.bias"] = (before,)
        norms = ([] if first or last else [(2, inner)]) + ([] if first else [(up + 1, before)])
        for place, width in norms:
            for kind in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{level}.{place}.{kind}"] = (width,)
    return shapes


def unet_state(ngf: int, downs: int, seed: int = 0) -> State:
    """A random file with that layout; variances are positive."""
    state = random_state(unet_shapes(ngf, downs), seed)
    return {
        key: value.abs() + 0.5 if key.endswith("running_var") else value
        for key, value in state.items()
    }


def unet_down(state: State, x: Tensor, downs: int, running: bool = False) -> list[Tensor]:
    """Outputs of the halvings, outermost first."""
    outputs = []
    for n in range(downs):
        level = unet_level(n)
        x = F.conv2d(
            F.leaky_relu(x, 0.2) if n else x, state[f"{level}.{1 if n else 0}.weight"], None, 2, 1
        )
        if 0 < n < downs - 1:
            x = batch_norm(state, f"{level}.2", x, running)
        outputs.append(x)
    return outputs


def unet_forward(state: State, x: Tensor, downs: int, running: bool = False) -> Tensor:
    """(B,C,H,W) -> the same shape, without dropout, by `running` statistics or those of the batch."""
    skips = unet_down(state, x, downs, running)
    y = skips.pop()
    for n in reversed(range(1, downs)):
        level = unet_level(n)
        up = 3 if n == downs - 1 else 5
        y = F.conv_transpose2d(F.relu(y), state[f"{level}.{up}.weight"], None, 2, 1)
        y = torch.cat([skips.pop(), batch_norm(state, f"{level}.{up + 1}", y, running)], 1)
    y = F.conv_transpose2d(
        F.relu(y), state["model.model.3.weight"], state["model.model.3.bias"], 2, 1
    )
    return torch.tanh(y)


def batch_norm(state: State, name: str, x: Tensor, running: bool) -> Tensor:
    """Normalise each channel over the batch and all pixels, or by running statistics; then scale and shift."""
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    if running:
        mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    scale = state[f"{name}.weight"] / torch.sqrt(variance + 1e-5)
    return (x - mean[:, None, None]) * scale[:, None, None] + state[f"{name}.bias"][:, None, None]
