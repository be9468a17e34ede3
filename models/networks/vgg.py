"""Features of a frozen VGG16."""

import hashlib
import http.client
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import VGG16_Weights, WeightsEnum

from models.networks.chain import Chain
from util.errors import UserError
from util.run.weights import read_file

# Convolutions per block and their width; each block but the first starts with a max pooling.
BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
LAYER_NAMES = tuple(
    f"relu{block}_{n}" for block, (convs, _) in enumerate(BLOCKS, 1) for n in range(1, convs + 1)
)


class VGG16Features(nn.Module):
    """Outputs of chosen ReLU layers of VGG16 (Simonyan and Zisserman 2015, arXiv 1409.1556), cut after the last one.

    The weights never train: images are differentiable, parameters are not. Parameter names are torchvision's,
    `features.N.weight`.

    Args:
        layers: places in relu1_1, relu1_2, relu2_1, ... counted from 0 (`LAYER_NAMES`); 4, 7, 9 are relu3_1, relu4_1,
            relu4_3, with 256, 512, 512 channels at 1/4, 1/8, 1/8 of the image's size.
        weights: "imagenet" (torchvision's, downloaded once), "random" (always the same draw, for demos and tests), or
            the path of a torchvision state dict, of which only the layers in use need be there.
        dtype: what convolutions compute in; half precision is what autocast would cast weights to in each pass.

    Attributes:
        channels: width of each feature.

    Raises:
        UserError: unknown layer, or weights that are missing or do not fit.
    """

    def __init__(
        self, layers: Sequence[int], weights: str = "imagenet", dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        wrong = [index for index in layers if not 0 <= index < len(LAYER_NAMES)]
        if wrong or not layers:
            asked = f"layer {wrong[0]}" if wrong else "no layer"
            raise UserError(
                f"{asked} of VGG16 was asked for; it has 0 ({LAYER_NAMES[0]}) to 12 ({LAYER_NAMES[-1]})"
            )
        with torch.device(
            "meta"
        ):  # neither memory nor random numbers for weights that are replaced at once
            self.features = _convolutions(max(layers) + 1)
        self.load_state_dict(_read_weights(weights, self.state_dict()), assign=True)
        self.features.to(dtype)
        self.requires_grad_(False)
        relus = [index for index, layer in enumerate(self.features) if isinstance(layer, nn.ReLU)]
        self.taps = [relus[index] for index in layers]
        self.channels = [self.features[tap - 1].out_channels for tap in self.taps]
        scale, shift = imagenet_normalisation()
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        self.eval()

    def train(self, mode: bool = True) -> "VGG16Features":
        """Stays in evaluation mode."""
        return super().train(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B,3,H,W) or (B,1,H,W) in [-1,1] -> one (B,C,h,w) per layer, in the order asked."""
        # (B,3,H,W): broadcasting repeats a grey image's one channel
        normalized = x * self.scale + self.shift
        return self.features.collect(normalized.to(self.features[0].weight.dtype), self.taps)


def imagenet_normalisation() -> tuple[Tensor, Tensor]:
    """Scale and shift (3,1,1) that take [-1,1] to ImageNet's normalisation, ((x + 1) / 2 - mean) / std, in one step."""
    mean = torch.tensor([0.485, 0.456, 0.406])
    std = torch.tensor([0.229, 0.224, 0.225])
    return (0.5 / std)[:, None, None], ((0.5 - mean) / std)[:, None, None]


def _convolutions(count: int) -> Chain:
    """The first `count` convolutions, each with its ReLU, and the poolings between them, numbered as in torchvision."""
    layers: list[nn.Module] = []
    before = 3
    for block, (convs, width) in enumerate(BLOCKS):
        for n in range(convs):
            if count == 0:
                return Chain(*layers)
            if block > 0 and n == 0:
                layers.append(nn.MaxPool2d(2))
            # A ReLU may work in place: only ReLUs are tapped, and what follows one leaves its input alone.
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(inplace=True)]
            before = width
            count -= 1
    return Chain(*layers)


def _read_weights(source: str, wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Values for the keys of `wanted`, with its shapes, as float32."""
    if source == "random":
        return random_weights(wanted)
    found = read_state(source, VGG16_Weights.IMAGENET1K_V1)
    for key, value in wanted.items():
        if not isinstance(found.get(key), Tensor):
            raise UserError(f"--vgg_weights {source}: {_missing(key, wanted, found)}")
        if found[key].shape != value.shape:
            raise UserError(
                f"--vgg_weights {source}: {key} is {tuple(found[key].shape)}, expected {tuple(value.shape)} as in "
                "torchvision's vgg16"
            )
    return {key: found[key].float() for key in wanted}


def _missing(key: str, wanted: dict[str, Tensor], found: dict[str, Any]) -> str:
    """What to say of a file without this key."""
    layers = dict(zip([k for k in wanted if k.endswith(".weight")], LAYER_NAMES, strict=False))
    there = [name for k, name in layers.items() if isinstance(found.get(k), Tensor)]
    weight = key.removesuffix(".bias").removesuffix(".weight") + ".weight"
    if not there:
        return f"{key} is missing; expected a state dict of torchvision's vgg16"
    return (
        f"{key} ({layers[weight]}) is missing; expected a state dict of torchvision's vgg16. This one reaches "
        f"{there[-1]}: give another, or choose layers up to there"
    )


def read_state(source: str, entry: WeightsEnum) -> dict[str, Any]:
    """The state dict that --vgg_weights names: torchvision's `entry` for "imagenet", else that of a file.

    Raises:
        UserError: it cannot be downloaded, or read.
    """
    return _download(entry) if source == "imagenet" else _read(Path(source))


def describe_weights(source: str) -> str:
    """Which weights --vgg_weights means, so that nobody can take them for others: a file with its checksum."""
    if source == "random":
        return "random (untrained: for demos and tests only)"
    if source == "imagenet":
        return "ImageNet, torchvision's"
    return describe_file(Path(source))


def describe_frozen(weights: str, layers: Sequence[int]) -> str:
    """The line with which a run says what its frozen VGG16 is, and whether it knows anything."""
    names = ", ".join(LAYER_NAMES[index] for index in layers)
    return f"VGG16: frozen, {describe_weights(weights)}, {names}"


def describe_file(path: Path) -> str:
    """The name of a file of weights, and its checksum."""
    with open(path, "rb") as file:
        return f"{path.name}, sha256 {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"


def random_weights(wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights that keep the scale of activations through ReLUs (He et al. 2015), the same in every process.

    They come from their own generator, so the run's random numbers do not depend on where VGG's weights come from.
    """
    generator = torch.Generator().manual_seed(0)
    values = {key: torch.zeros(value.shape) for key, value in wanted.items()}
    for value in values.values():
        if value.dim() == 4:
            nn.init.kaiming_normal_(value, nonlinearity="relu", generator=generator)
    return values


def _download(entry: WeightsEnum) -> dict[str, Tensor]:
    """ImageNet weights from torch's cache, or downloaded into it."""
    name = type(entry).__name__.removesuffix("_Weights")
    try:
        return entry.get_state_dict(
            progress=True, check_hash=True, map_location="cpu", weights_only=True
        )
    except (
        OSError,
        RuntimeError,
        EOFError,
        http.client.HTTPException,
        pickle.UnpicklingError,
    ) as error:
        raise UserError(
            f"--vgg_weights imagenet: could not get torchvision's {name} ({error}). Fetch {entry.url} where there is a "
            f"connection and put it into {torch.hub.get_dir()}/checkpoints or give --vgg_weights PATH; "
            "--vgg_weights random is for demos and tests only"
        ) from error


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(
            f"--vgg_weights {path}: no such file; give imagenet, random, or the path of a torchvision vgg16 state dict"
        )
    found = read_file(path)
    if not isinstance(found, dict):
        raise UserError(
            f"--vgg_weights {path}: expected a state dict of torchvision's vgg16, not {type(found).__name__}"
        )
    return found
