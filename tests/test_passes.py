"""Passes through networks: several batches joined into one, and features from the pass that translates."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from models.networks import (
    GENERATORS,
    create_discriminator,
    create_generator,
    passes,
    stylegan2_layers,
)
from models.networks.passes import mixes_images, pass_each, translate_and_encode
from tests.test_models import build
from util.errors import UserError

NORMS = ["instance", "none", "batch"]
NETWORKS = {
    f"{netD} {norm}": (netD, norm)
    for netD in ("basic", "strided", "n_layers", "pixel")
    for norm in NORMS
}
NETWORKS |= {
    f"{netG} {norm}": (netG, norm) for netG in ("resnet_4blocks", "unet_128") for norm in NORMS
}
NETWORKS |= {
    name: (name, "none")
    for name in ("stylegan2 D", "tilestylegan2 D", "stylegan2", "smallstylegan2")
}
WITHOUT_BATCH_NORM = [name for name in NETWORKS if not name.endswith("batch")]
WITH_BATCH_NORM = [name for name in NETWORKS if name.endswith("batch")]


def make(name: str) -> nn.Module:
    """A small network with random biases and strengths of noise, in double precision."""
    kind, norm = NETWORKS[name]
    if kind in GENERATORS:
        net = create_generator(kind, 3, 3, 2, norm=norm, size=16)
    else:
        antialias = kind != "strided"
        kind = kind.removesuffix(" D").replace("strided", "basic")
        net = create_discriminator(kind, 3, 4, n_layers=2, norm=norm, antialias=antialias, size=16)
    for parameter in net.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, 1, 0.1)
    return net.double()


def image_pair(name: str, count: int = 2) -> list[torch.Tensor]:
    side = 128 if name.startswith("unet") else 16 if name == "stylegan2 D" else 32
    generator = torch.Generator().manual_seed(3)
    return [
        torch.rand(count, 3, side, side, generator=generator).double() * 2 - 1 for _ in range(2)
    ]


@pytest.fixture
def joined(monkeypatch):
    """As on a GPU: joining pays. Noise is the same for every image."""
    monkeypatch.setattr(passes, "joining_pays", lambda x: True)

    def noise(like, height, width):
        return (
            torch.linspace(-1, 1, height * width)
            .double()
            .view(1, 1, height, width)
            .expand(len(like), -1, -1, -1)
        )

    monkeypatch.setattr(stylegan2_layers, "draw_noise", noise)


def count_calls(*nets: nn.Module) -> list[int]:
    """How many images each forward pass from now on has."""
    calls: list[int] = []
    for net in nets:
        net.register_forward_hook(lambda _module, inputs, _output: calls.append(len(inputs[0])))
    return calls


def results(function, net: nn.Module, images: list[torch.Tensor]) -> list[torch.Tensor]:
    """Outputs for both batches, and the gradients of images and parameters."""
    images = [x.clone().requires_grad_() for x in images]
    net.zero_grad(set_to_none=True)
    outputs = function(net, *images)
    sum(((1 + n) * y.square()).mean() for n, y in enumerate(outputs)).backward()
    slopes = [t.grad for t in (*images, *net.parameters()) if t.grad is not None]
    return [*(y.detach() for y in outputs), *slopes]


def one_by_one(net: nn.Module, *images: torch.Tensor) -> list[torch.Tensor]:
    return [net(x) for x in images]


def assert_equal_to_rounding(found, expected) -> None:
    """To 1e-12 of the largest value of each tensor."""
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12 * max(1e-3, b.abs().max().item()))


def double_steps(
    root, model_name: str, flags: str, counted: Callable[[nn.Module], list[int]]
) -> list[tuple]:
    """Two steps in double precision: losses, gradients, and the number of calls that `counted(model)` notes."""
    torch.manual_seed(0)
    opt, _, _, model = build(root, model_name, None, "--batch_size", "2", *flags.split())
    generator = torch.Generator().manual_seed(1)
    if hasattr(model, "vgg"):
        model.vgg.double()
    for net in (*model.networks.values(), *model.averages.values()):
        net.double()
        for key, parameter in net.named_parameters():
            if key.endswith("bias"):
                nn.init.normal_(parameter, 0, 0.3, generator=generator)
    calls = counted(model)
    torch.manual_seed(2)
    seen = []
    for _ in range(2):
        calls.clear()
        shape = (2 * opt.accumulate, 3, opt.crop_size, opt.crop_size)
        model.set_input(
            {role: torch.rand(shape, generator=generator).double() * 2 - 1 for role in "AB"}
        )
        model.optimize_parameters()
        grads = {
            f"{n}.{k}": p.grad
            for n, net in model.networks.items()
            for k, p in net.named_parameters()
        }
        grads = {key: grad.clone() for key, grad in grads.items() if grad is not None}
        seen.append((model.get_current_losses(), grads, len(calls)))
    return seen


def assert_equal_steps(found: list[tuple], expected: list[tuple]) -> None:
    """The first step to rounding; the second, after Adam has divided by small gradients, to a part in a million."""
    for (losses, grads, _), (losses_2, grads_2, _), tolerance in zip(
        found, expected, (1e-12, 1e-6), strict=True
    ):
        assert losses.keys() == losses_2.keys() and grads.keys() == grads_2.keys()
        for name, value in losses_2.items():
            assert losses[name].item() == pytest.approx(
                value.item(), rel=tolerance, abs=tolerance
            ), name
        for name, value in grads_2.items():
            error = (grads[name] - value).abs().max().item()
            assert error <= tolerance * max(1, value.abs().max().item()), name


# -- several batches ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITHOUT_BATCH_NORM)
def test_joined_is_one_by_one(joined, name):
    net, images = make(name), image_pair(name)
    expected = results(one_by_one, net, images)
    calls = count_calls(net)
    assert_equal_to_rounding(results(pass_each, net, images), expected)
    assert calls == [4]


@pytest.mark.parametrize("name", WITH_BATCH_NORM)
def test_batch_norm_is_never_joined_in_training(joined, name):
    net, images = make(name), image_pair(name)
    other = copy.deepcopy(net)
    assert all(
        map(torch.equal, results(pass_each, net, images), results(one_by_one, other, images))
    )
    assert all(map(torch.equal, net.state_dict().values(), other.state_dict().values())), (
        "running statistics"
    )
    both = net(torch.cat(images)).chunk(2)
    assert (both[0] - net(images[0])).abs().max() > 1e-4, "joining would have been something else"
    net.eval()
    expected, calls = [net(x) for x in images], count_calls(net)
    assert_equal_to_rounding(pass_each(net, *images), expected)
    assert calls == [4], "with running statistics images do not meet"


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_says_whether_it_mixes_images(joined, name):
    """Every network, so that a layer that mixes images cannot come in unnoticed."""
    net, (images, _) = make(name), image_pair(name)
    changed = images.clone()
    changed[1] = changed[1].flip(0) / 2
    for training in (True, False):
        net.train(training)
        alone = torch.allclose(net(images)[0], net(changed)[0], rtol=1e-10, atol=1e-12)
        assert mixes_images(net) == (not alone) == (training and name in WITH_BATCH_NORM)


def test_a_cpu_takes_one_batch_after_the_other():
    net, images = make("basic instance"), image_pair("basic")
    calls = count_calls(net)
    assert all(map(torch.equal, pass_each(net, *images), one_by_one(net, *images)))
    assert calls == [2] * 4


def test_batches_of_unlike_shapes_are_not_joined(joined):
    net, (images, others) = make("basic instance"), image_pair("basic")
    calls = count_calls(net)
    for other in (others[:1], others[..., :28]):
        found = pass_each(net, images, other)
        assert all(map(torch.equal, found, one_by_one(net, images, other)))
    assert 3 not in calls and 4 not in calls


JOINED = [
    ("cut", ""),
    ("cut", "--netD tilestylegan2 --n_layers_D 1 --gan_mode nonsaturating"),
    ("cut", "--netD pixel --gan_mode wgangp --normD none --accumulate 2"),
    ("sincut", "--ngf 2 --stylegan2_size 32"),
    ("patchgcl", "--gan_mode hinge"),
    ("cycle_gan", ""),
    ("cycle_gan", "--gan_mode wgangp --normD none --lambda_identity 0"),
    ("cycle_gan", "--normG batch --normD batch"),
    ("pix2pix", "--no_dropout"),
    ("pix2pix", "--preset shared"),
]


@pytest.mark.parametrize(("model_name", "flags"), JOINED)
def test_a_step_with_joined_passes_is_that_of_a_cpu(tmp_path, monkeypatch, model_name, flags):
    """Losses, penalties included, and gradients of every method; pix2pix has batch norm by default."""

    def judged(model) -> list[int]:
        return count_calls(*(net for name, net in model.networks.items() if name.startswith("D")))

    expected = double_steps(tmp_path, model_name, flags, judged)
    monkeypatch.setattr(passes, "joining_pays", lambda x: True)
    found = double_steps(tmp_path, model_name, flags, judged)
    assert_equal_steps(found, expected)
    fewer = expected[0][2] - found[0][2]
    discriminators = 2 if model_name == "cycle_gan" else 1
    mixes = "normD batch" in flags or flags == "--no_dropout"
    assert fewer == (0 if mixes else discriminators * (2 if "accumulate" in flags else 1))


# -- features from the pass that translates ----------------------------------------------------------------------------

ENCODERS = {
    "resnet_4blocks instance": [12, 0, 8, 4], "resnet_4blocks none": [4, 14], "stylegan2": [3, 0, 2],
    "smallstylegan2": [1],
}  # fmt: skip


@pytest.mark.parametrize(("name", "layers"), ENCODERS.items())
def test_one_pass_gives_output_and_features(joined, name, layers):
    net, (images, _) = make(name), image_pair(name)
    output, features = net.forward_with_features(images, layers)
    assert all(map(torch.equal, features, net.encode(images, layers)))
    assert len(features) == len(layers)
    expected = results(lambda net, x: [net(x)], net, [images])
    found = results(lambda net, x: [net.forward_with_features(x, layers)[0]], net, [images])
    assert_equal_to_rounding([output], expected[:1])
    if (
        "instance" in name
    ):  # biases of tapped convolutions are added, which moves gradients by rounding alone
        dead = [bias for bias in net.model.dead_biases() if bias.grad is not None]
        assert len(dead) == 2 and all(bias.grad.abs().max() < 1e-12 for bias in dead)
        found = [
            *found[:2],
            *(p.grad for p in net.parameters() if p.grad is not None and p not in set(dead)),
        ]
    assert_equal_to_rounding(found, expected)


def test_features_carry_no_gradient_and_half_precision_is_that_of_a_second_pass():
    net, (images, _) = make("resnet_4blocks instance").float(), image_pair("resnet")
    with torch.autocast("cpu", torch.bfloat16):
        output, features = translate_and_encode(net, images.float(), [0, 4, 8])
        expected = net.encode(images.float(), [0, 4, 8])
    assert all(map(torch.equal, features, expected)) and features[1].dtype == torch.bfloat16
    assert output.requires_grad and not any(feature.requires_grad for feature in features)


def test_where_a_second_pass_would_differ_there_are_no_features():
    images = image_pair("resnet")[0].float()
    for settings in ({"norm": "batch"}, {"use_dropout": True}):
        net = create_generator("resnet_4blocks", 3, 3, 2, **settings)
        assert translate_and_encode(net, images, [0, 4])[1] is None
        _, features = translate_and_encode(net.eval(), images, [0, 4])
        assert all(map(torch.equal, features, net.encode(images, [0, 4])))
    unet = make("unet_128 none").float()
    images = image_pair("unet")[0].float()
    output, features = translate_and_encode(unet, images, [0])
    assert features is None and torch.equal(output, unet(images))


@pytest.mark.parametrize("name", ["resnet_4blocks instance", "stylegan2"])
def test_bad_sizes_and_layers_are_refused_as_ever(name):
    net, (good, _) = make(name), image_pair(name)
    for images, layers, message in (
        (good[..., :-1], [0], "multiples"),
        (good, [99], "layer 99"),
        (good, [], "no layer"),
    ):
        with pytest.raises(UserError, match=message):
            net.forward_with_features(images, layers)


STEPS = [
    ("cut", ""),
    ("cut", "--normG none --nce_idt false"),
    ("cut", "--no_antialias --accumulate 2 --netF sample"),
    ("cut", "--netG stylegan2 --ngf 2 --stylegan2_size 32 --nce_layers 0,2,4"),
    ("cut", "--ema 0.9 --lambda_GAN 0 --nce_layers 8,4"),
    ("sincut", "--ngf 2 --stylegan2_size 32"),
    ("patchgcl", "--graph_features generator --nce_layers 4,8"),
    (
        "patchgcl",
        "--graph_features generator --nce_layers 8 --gnn_idt false --accumulate 2 --normG none",
    ),
]


@pytest.mark.parametrize(("model_name", "flags"), STEPS)
def test_a_step_with_features_from_the_first_pass_is_that_with_a_second_pass(
    tmp_path, monkeypatch, model_name, flags
):
    """The second step tells whether features are those of its own batch."""

    def encoded(model) -> list[int]:
        calls, features = [], model.features
        model.features = lambda images: calls.append(len(images)) or features(images)
        return calls

    found = double_steps(tmp_path, model_name, flags, encoded)
    module = "cut" if model_name == "sincut" else model_name
    monkeypatch.setattr(
        f"models.{module}_model.translate_and_encode", lambda net, x, layers: (net(x), None)
    )
    expected = double_steps(tmp_path, model_name, flags, encoded)
    assert_equal_steps(found, expected)
    micro_batches = 2 if "accumulate" in flags else 1
    assert [count for _, _, count in found] == [micro_batches] * 2, (
        "only the output is encoded apart"
    )
    assert [count for _, _, count in expected] == [2 * micro_batches] * 2


@pytest.mark.parametrize(
    "flags",
    [
        "--CUT_mode FastCUT",
        "--no_dropout false",
        "--normG batch",
        "--netG unet_128 --nce_layers 0,1",
    ],
)
def test_keys_take_a_second_pass_where_the_first_is_another_function(tmp_path, flags):
    size = ["--crop_size", "128", "--load_size", "128"] if "unet" in flags else []
    _, _, loader, model = build(tmp_path, "cut", None, *flags.split(), *size)
    model.load(next(iter(loader.epoch(1))))
    model.forward()
    assert model.real_features is None
    expected = model.features(model.real)
    if "dropout" not in flags:
        for key, value in zip(model.keys(), expected, strict=True):
            assert all(map(torch.equal, key, value))
