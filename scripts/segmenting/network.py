"""The segmenter: LRASPP on MobileNetV3 (arXiv 1905.02244), torchvision's, trained from nothing on a set's own pairs."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from util.errors import UserError
from util.metrics.segmentation import LABEL_SETS, LabelSet
from util.run.weights import atomic_save, read_file

OWN_SIZE = "measured at the size of label maps"  # of the facts in a file; earlier ones were measured at `side`
MOMENTUM = 0.1  # of batch norm: torchvision's 0.01 needs more steps than a small set is trained for


def new_network(labels: LabelSet) -> nn.Module:
    """The network with initial weights."""
    network = lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=len(labels.classes)
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = MOMENTUM
    return network


def to_tensor(image: Image.Image) -> Tensor:
    """A photograph as (3,H,W) in [-1,1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


class Segmenter:
    """A trained network, and what its labels are.

    Args:
        path: what scripts/train_segmenter.py wrote.

    Raises:
        UserError: it is another file.
    """

    def __init__(self, path: Path) -> None:
        content = read_file(path)
        if not isinstance(content, dict) or not {"labels", "side", "network"} <= content.keys():
            raise UserError(f"--segmenter {path} was not written by scripts/train_segmenter.py")

        self.name, self.side = content["labels"], content["side"]
        self.facts: dict[str, Any] = content["facts"]
        self.labels = LABEL_SETS[self.name]
        self.network = new_network(self.labels)
        self.network.load_state_dict(content["network"])
        self.network.eval()

    def __call__(self, image: Image.Image, size: tuple[int, int] | None = None) -> np.ndarray:
        """The classes (H,W) of a photograph, at its own size or at another (width, height)."""
        return predict_classes(self.network, image, self.side, size or image.size)


@torch.inference_mode()
def predict_classes(
    network: nn.Module, image: Image.Image, side: int, size: tuple[int, int]
) -> np.ndarray:
    """The classes (H,W) of a photograph at some (width, height); it is looked at in the size of training."""
    small = image.resize((side, side), Image.Resampling.BICUBIC)
    device = next(network.parameters()).device
    scores = network(to_tensor(small)[None].to(device))["out"]
    scores = F.interpolate(scores, size[::-1], mode="bilinear", align_corners=False)
    return scores[0].argmax(0).cpu().numpy().astype(np.uint8)


def save_segmenter(
    path: Path, network: nn.Module, labels: str, side: int, facts: dict[str, Any]
) -> None:
    """Write a segmenter that `Segmenter` reads."""
    content = {"labels": labels, "side": side, "network": network.state_dict(), "facts": facts}
    atomic_save(content, path)
