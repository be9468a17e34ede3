"""DINO's keys equal those of a transformer written out in NumPy; files that hold no such backbone are refused."""

import numpy as np
import pytest
import torch
from scipy.special import erf

from models.networks.dino import SIDE, DinoKeys
from util.errors import UserError

WIDTH, PATCH, DEPTH, HEADS = 128, 56, 2, 2
PLACES = (SIDE // PATCH) ** 2


def backbone() -> dict[str, torch.Tensor]:
    """Random weights in DINO's own layout."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) / np.sqrt(shape[-1])

    state = {
        "cls_token": draw(1, 1, WIDTH),
        "pos_embed": draw(1, 1 + PLACES, WIDTH),
        "patch_embed.proj.weight": draw(WIDTH, 3, PATCH, PATCH) / PATCH,
        "patch_embed.proj.bias": draw(WIDTH),
        "norm.weight": draw(WIDTH),
        "norm.bias": draw(WIDTH),
    }
    shapes = {
        "norm1": (WIDTH,), "attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH), "norm2": (WIDTH,),
        "mlp.fc1": (4 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 4 * WIDTH),
    }  # fmt: skip
    for block in range(DEPTH):
        for name, shape in shapes.items():
            state[f"blocks.{block}.{name}.weight"] = draw(*shape)
            state[f"blocks.{block}.{name}.bias"] = draw(shape[0])
    return state


def slow_keys(weights: dict[str, torch.Tensor], picture: np.ndarray) -> np.ndarray:
    """A picture (3,SIDE,SIDE) in [-1,1] -> keys (D,h,w) of the last block, as DINO's paper describes its ViT."""
    w = {name: value.double().numpy() for name, value in weights.items()}

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    picture = ((picture + 1) / 2 - mean[:, None, None]) / std[:, None, None]

    tokens = [w["cls_token"][0, 0]]
    for y in range(0, SIDE, PATCH):
        for x in range(0, SIDE, PATCH):
            patch = picture[:, y : y + PATCH, x : x + PATCH]
            kernel = w["patch_embed.proj.weight"]
            tokens.append((kernel * patch).sum((1, 2, 3)) + w["patch_embed.proj.bias"])
    x = np.stack(tokens) + w["pos_embed"][0]

    for block in range(DEPTH):
        name = f"blocks.{block}"
        query, key, value = np.split(linear(norm(x, f"{name}.norm1"), f"{name}.attn.qkv"), 3, -1)
        if block == DEPTH - 1:
            return key[1:].T.reshape(WIDTH, SIDE // PATCH, SIDE // PATCH)

        heads = []
        for head in np.split(np.arange(WIDTH), HEADS):
            scores = query[:, head] @ key[:, head].T / np.sqrt(len(head))
            shares = np.exp(scores - scores.max(1, keepdims=True))
            heads.append(shares / shares.sum(1, keepdims=True) @ value[:, head])
        x = x + linear(np.concatenate(heads, 1), f"{name}.attn.proj")

        hidden = linear(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")
        gelu = hidden * (1 + erf(hidden / np.sqrt(2))) / 2
        x = x + linear(gelu, f"{name}.mlp.fc2")


def test_keys_are_those_of_the_transformer_written_out(tmp_path):
    state = backbone()
    torch.save(state, tmp_path / "dino.pth")
    pictures = torch.rand(2, 3, SIDE, SIDE) * 2 - 1
    net = DinoKeys(tmp_path / "dino.pth")
    (keys,) = net(pictures)
    for picture, found in zip(pictures, keys, strict=True):
        expected = slow_keys(state, picture.double().numpy())
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)

    # pictures of any size; nothing trains
    assert net(torch.zeros(1, 3, 100, 60))[0].shape == keys[:1].shape
    assert not keys.requires_grad


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {"features.0.weight": torch.zeros(64, 3, 3, 3)},  # a VGG16
        lambda state: {**state, "head.weight": torch.zeros(10, WIDTH)},
        lambda state: {name: value for name, value in state.items() if "fc2" not in name},
        lambda state: {**state, "pos_embed": torch.zeros(1, 9, WIDTH)},
        lambda state: list(state),
    ],
)
def test_other_weights_are_refused_in_one_line(tmp_path, change):
    torch.save(change(backbone()), tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth is no backbone of DINO v1") as error:
        DinoKeys(tmp_path / "other.pth")
    assert "\n" not in str(error.value)
