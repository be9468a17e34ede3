"""Keys of a frozen DINO: which places of a picture show the same kind of thing, by a ViT that learned without labels.

Caron et al., ICCV 2021, arXiv 2104.14294. Self-similarity of the keys of the last layer is what Splice (Tumanyan et
al., CVPR 2022, arXiv 2201.00424) calls the structure of a picture. The transformer itself is torchvision's.
"""

import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from models.networks.vgg import imagenet_normalisation
from util.errors import UserError, first_line
from util.run.weights import read_file

SIDE = 224  # of the pictures that DINO saw
HEAD = 64  # width of a head, in all published sizes
MLP = 4  # width of a block's hidden layer, in widths of the block

# names of DINO's parameters -> torchvision's
OF_THE_NET = {
    "cls_token": "class_token",
    "pos_embed": "encoder.pos_embedding",
    "patch_embed.proj": "conv_proj",
    "norm": "encoder.ln",
}
OF_A_BLOCK = {
    "norm1": "ln_1",
    "attn.qkv": "self_attention.in_proj",
    "attn.proj": "self_attention.out_proj",
    "norm2": "ln_2",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.3",
}


class DinoKeys(nn.Module):
    """Pictures -> keys of the last attention layer. The weights never train.

    Args:
        path: a published backbone of DINO v1 (`dino_vitbase8_pretrain.pth` and its like); size of patches, depth and
            width are read from it.

    Raises:
        UserError: the file is missing, damaged, or no such backbone.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        state = read_file(path)
        try:
            renamed = torchvision_names(state)
            width, _, _, patch = renamed["conv_proj.weight"].shape
            self.net = VisionTransformer(
                image_size=SIDE,
                patch_size=patch,
                num_layers=1 + max(block_of(name) for name in renamed),
                num_heads=width // HEAD,
                hidden_dim=width,
                mlp_dim=MLP * width,
                num_classes=1,
            )
            self.net.heads = nn.Identity()
            self.net.load_state_dict(renamed)
        except (AttributeError, KeyError, RuntimeError, ValueError, ZeroDivisionError) as error:
            raise UserError(
                f"--dino {path} is no backbone of DINO v1, such as dino_vitbase8_pretrain.pth "
                f"({first_line(error)})"
            ) from error

        self.places = SIDE // patch
        self.requires_grad_(False)
        scale, shift = imagenet_normalisation()
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        self.eval()

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B,3,H,W) in [-1,1] -> keys [(B,D,h,w)], one layer; any picture is scaled to the squares that DINO saw."""
        if x.shape[2:] != (SIDE, SIDE):
            x = F.interpolate(x, (SIDE, SIDE), mode="bicubic", antialias=True).clamp(-1, 1)
        patches_BDhw = self.net.conv_proj(x * self.scale + self.shift)

        # the class token, then the places, row by row
        tokens_BND = patches_BDhw.flatten(2).transpose(1, 2)
        first_B1D = self.net.class_token.expand(len(x), -1, -1)
        tokens_BND = torch.cat([first_B1D, tokens_BND], 1) + self.net.encoder.pos_embedding

        *before, last = self.net.encoder.layers
        for block in before:
            tokens_BND = block(tokens_BND)
        keys_BND = self._keys(last.self_attention, last.ln_1(tokens_BND))[:, 1:]
        return [keys_BND.transpose(1, 2).unflatten(2, (self.places, self.places))]

    @staticmethod
    def _keys(attention: nn.MultiheadAttention, tokens_BND: Tensor) -> Tensor:
        """(B,N,D): the second third of what a layer of attention projects its tokens to; heads lie side by side."""
        _, weight_DD, _ = attention.in_proj_weight.chunk(3)
        _, bias_D, _ = attention.in_proj_bias.chunk(3)
        return F.linear(tokens_BND, weight_DD, bias_D)


def torchvision_names(state: Any) -> dict[str, Tensor]:
    """A backbone's weights, under the names that torchvision's VisionTransformer has for them."""
    renamed = {}
    for name, value in state.items():
        stem, _, kind = (
            name.rpartition(".") if name.endswith((".weight", ".bias")) else (name, "", "")
        )
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)", stem)
        if block:
            own = OF_A_BLOCK[block[2]]
            joint = "_" if own.endswith("in_proj") else "."
            renamed[f"encoder.layers.encoder_layer_{block[1]}.{own}{joint}{kind}"] = value
        else:
            renamed[OF_THE_NET[stem] + ("." + kind if kind else "")] = value
    return renamed


def block_of(name: str) -> int:
    """Which block a parameter belongs to; -1: none."""
    found = re.search(r"encoder_layer_(\d+)\.", name)
    return int(found[1]) if found else -1
