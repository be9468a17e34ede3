"""Frozen VGG16 features: against torchvision's layers, where weights come from, and what a user is told."""

import urllib.error

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import VGG16_Weights
from torchvision.models.vgg import cfgs, make_layers

from models.networks.vgg import LAYER_NAMES, VGG16Features, describe_weights
from tests.helpers import REPO, make_image_folder
from util.errors import UserError

# relu1_1, relu1_2, relu2_1, ... in torchvision's vgg16().features
TORCHVISION_RELUS = (1, 3, 6, 8, 11, 13, 15, 18, 20, 22, 25, 27, 29)
PHOTOS = REPO.parent / "shared" / "datasets" / "summer2winter_yosemite" / "testA"


def save_state(path, blocks=cfgs["D"], **changes):
    """A file like torchvision's vgg16 state dict, random, and the layers it describes."""
    layers = make_layers(list(blocks))
    state = {f"features.{key}": value for key, value in layers.state_dict().items()}
    state["classifier.0.weight"] = torch.zeros(2, 2)
    torch.save({**state, **changes}, path)
    return layers


def to_tensor(path) -> torch.Tensor:
    pixels = np.asarray(Image.open(path).convert("RGB").resize((128, 128)), dtype=np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1


def test_layers_have_their_names_in_order():
    assert LAYER_NAMES == (
        "relu1_1", "relu1_2", "relu2_1", "relu2_2", "relu3_1", "relu3_2", "relu3_3",
        "relu4_1", "relu4_2", "relu4_3", "relu5_1", "relu5_2", "relu5_3",
    )  # fmt: skip
    assert [LAYER_NAMES[index] for index in (4, 7, 9)] == ["relu3_1", "relu4_1", "relu4_3"]


def test_features_are_torchvisions(tmp_path):
    reference = save_state(tmp_path / "vgg.pth")
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    value = ((x + 1) / 2 - mean[:, None, None]) / std[:, None, None]
    vgg = VGG16Features(range(13), str(tmp_path / "vgg.pth"))
    taps = dict(zip(TORCHVISION_RELUS, vgg(x), strict=True))
    with torch.no_grad():
        for index, layer in enumerate(reference[:30]):
            value = layer(value)
            if index in taps:
                torch.testing.assert_close(
                    taps[index], value, rtol=1e-4, atol=1e-5, msg=f"layer {index}"
                )
    assert vgg.channels == [f.shape[1] for f in taps.values()]


def test_the_layers_of_the_released_command():
    vgg = VGG16Features([4, 7, 9], "random")
    assert vgg.channels == [256, 512, 512]
    assert [tuple(f.shape) for f in vgg(torch.zeros(1, 3, 64, 64))] == [
        (1, 256, 16, 16), (1, 512, 8, 8), (1, 512, 8, 8),
    ]  # fmt: skip
    assert len(vgg.features) == 23, "nothing is built after relu4_3"
    assert sum(p.numel() for p in vgg.parameters()) == 7_635_264


def test_order_and_repetition_are_kept():
    vgg = VGG16Features([2, 0, 2], "random")
    late, early, again = vgg(torch.rand(1, 3, 8, 8))
    assert vgg.channels == [128, 64, 128]
    assert (late.shape[1], early.shape[1]) == (128, 64)
    assert torch.equal(late, again)


def test_grey_images_are_repeated():
    vgg, grey = VGG16Features([1], "random"), torch.rand(2, 1, 8, 8) * 2 - 1
    torch.testing.assert_close(vgg(grey)[0], vgg(grey.expand(-1, 3, -1, -1))[0])


def test_nothing_tapped_is_changed_later():
    vgg = VGG16Features(range(7), "random")
    copies = {}
    for index in vgg.taps:
        vgg.features[index].register_forward_hook(
            lambda _m, _i, out, index=index: copies.update({index: out.clone()})
        )
    for index, tap in zip(vgg.taps, vgg(torch.rand(1, 3, 16, 16)), strict=True):
        assert torch.equal(tap, copies[index])


def test_weights_are_frozen_but_images_are_differentiable():
    vgg = VGG16Features([0, 2], "random").train()
    assert not vgg.training and not any(module.training for module in vgg.modules())
    assert not any(p.requires_grad for p in vgg.parameters())
    x = torch.rand(1, 3, 8, 8, requires_grad=True)
    sum(f.sum() for f in vgg(x)).backward()
    assert x.grad.abs().sum() > 0


def test_state_dict_has_torchvisions_keys_only():
    keys = set(VGG16Features([2], "random").state_dict())
    assert keys == {
        f"features.{index}.{kind}" for index in (0, 2, 5) for kind in ("weight", "bias")
    }


@pytest.mark.parametrize(
    ("layers", "named"), [([4, 13], "layer 13"), ([-1], "layer -1"), ([], "no layer")]
)
def test_a_missing_layer_is_named(layers, named):
    with pytest.raises(UserError, match=rf"{named} of VGG16 .* 0 \(relu1_1\) to 12 \(relu5_3\)"):
        VGG16Features(layers, "random")


# -- random weights --------------------------------------------------------------------------------------------------


def test_random_weights_are_always_the_same_and_use_no_random_numbers_of_the_run():
    torch.manual_seed(1)
    first = VGG16Features([3], "random").state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = VGG16Features([4], "random").state_dict()
    assert torch.equal(before, torch.get_rng_state())
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def check_scale(images):
    """Root mean square near 1 at every depth, about half of the units active."""
    with torch.no_grad():
        for name, feature in zip(
            LAYER_NAMES, VGG16Features(range(13), "random")(images), strict=True
        ):
            assert torch.isfinite(feature).all(), name
            assert 0.5 < feature.square().mean().sqrt() < 2, name
            assert 0.3 < (feature > 0).float().mean() < 0.7, name


def test_random_weights_keep_the_scale_of_activations(tmp_path):
    check_scale(
        torch.cat([to_tensor(path) for path in make_image_folder(tmp_path / "images", count=2)])
    )


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs ../shared/datasets")
def test_random_weights_keep_the_scale_on_photographs():
    check_scale(torch.cat([to_tensor(path) for path in sorted(PHOTOS.glob("*.jpg"))[:4]]))


# -- weights from a file ---------------------------------------------------------------------------------------------


def test_a_file_needs_only_the_layers_in_use(tmp_path):
    path = tmp_path / "part.pth"
    reference = save_state(path, cfgs["D"][:2])
    before = torch.get_rng_state()
    vgg = VGG16Features([1], str(path))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(vgg.features[2].weight, reference[2].weight)
    with pytest.raises(
        UserError,
        match=r"part.pth: features.5.weight \(relu2_1\) is missing; .* reaches relu1_2: .*choose",
    ):
        VGG16Features([2], str(path))
    torch.save({"classifier.0.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(UserError, match=r"features.0.weight is missing; expected a state dict"):
        VGG16Features([2], str(path))


def test_weights_are_described_so_that_files_cannot_be_mistaken(tmp_path):
    for name, value in (("a", 0.0), ("b", 1.0)):
        torch.save({"features.0.weight": torch.full((1,), value)}, tmp_path / f"{name}.pth")
    one, two = (describe_weights(str(tmp_path / f"{name}.pth")) for name in "ab")
    assert one.startswith("a.pth, sha256 ") and one.split()[-1] != two.split()[-1]
    assert "untrained" in describe_weights("random") and "ImageNet" in describe_weights("imagenet")


def test_half_precision_weights_become_float32(tmp_path):
    path = tmp_path / "half.pth"
    torch.save(
        {f"features.{k}": v for k, v in make_layers(cfgs["D"][:1]).half().state_dict().items()},
        path,
    )
    (feature,) = VGG16Features([0], str(path))(torch.zeros(1, 3, 8, 8))
    assert feature.dtype == torch.float32


def test_wrong_files_are_refused_in_one_clear_line(tmp_path):
    with pytest.raises(
        UserError, match=r"--vgg_weights imagnet: no such file; give imagenet, random, or the path"
    ):
        VGG16Features([0], "imagnet")
    wrong_shape = tmp_path / "shape.pth"
    save_state(wrong_shape, cfgs["D"][:1], **{"features.0.weight": torch.zeros(32, 3, 3, 3)})
    with pytest.raises(
        UserError,
        match=r"shape.pth: features.0.weight is \(32, 3, 3, 3\), expected \(64, 3, 3, 3\)",
    ):
        VGG16Features([0], str(wrong_shape))
    not_a_dict = tmp_path / "list.pth"
    torch.save([1, 2], not_a_dict)
    with pytest.raises(
        UserError, match=r"list.pth: expected a state dict of torchvision's vgg16, not list"
    ):
        VGG16Features([0], str(not_a_dict))
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(b"not weights")
    with pytest.raises(UserError, match=r"damaged.pth is damaged or not a file of weights"):
        VGG16Features([0], str(damaged))
    code = tmp_path / "code.pth"
    torch.save(nn.Linear(1, 1), code)
    with pytest.raises(UserError, match=r"code.pth is damaged or not a file of weights"):
        VGG16Features([0], str(code))


# -- ImageNet weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [urllib.error.URLError("no route"), RuntimeError("invalid hash value")]
)
def test_a_failed_download_says_what_to_do(monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(VGG16_Weights, "get_state_dict", fail)
    with pytest.raises(
        UserError, match=r"imagenet: could not get .*(no route|invalid hash)"
    ) as raised:
        VGG16Features([0], "imagenet")
    for part in ("https://", "--vgg_weights PATH", "--vgg_weights random", "checkpoints"):
        assert part in str(raised.value)


def test_weights_in_torchs_cache_are_used(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    cache = tmp_path / "checkpoints"
    cache.mkdir()
    reference = save_state(cache / VGG16_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1], cfgs["D"][:1])
    assert torch.equal(VGG16Features([0]).features[0].weight, reference[0].weight)
