"""Weights in half precision, cast network by network or kept so, against autocast's casts one by one: the same bits."""

import copy

import pytest
import torch
from torch import nn

from models.networks import create_discriminator, create_generator, half_copies
from models.networks.chain import dead_biases
from models.networks.half_copies import HalfCopies
from models.networks.vgg import VGG16Features
from models.step.runners import PlainStep
from tests.test_models import build


def networks() -> list[nn.Module]:
    """A generator and a discriminator, biases included."""
    nets = [create_generator("resnet_4blocks", 3, 3, 4), create_discriminator("basic", 3, 4)]
    for net in nets:
        for parameter in net.parameters():
            nn.init.normal_(parameter, 0, 0.2)
    return nets


def losses_of(netG: nn.Module, netD: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """D sees two images one after the other; G is used without gradients before it is used with them."""
    with torch.no_grad():
        taps = netG.encode(image, [0, 4, 8])  # 4 and 8 are convolutions, taken with their biases
    fake = netG(image)
    return netD(fake).square().mean() + netD(image).mean() + sum(tap.mean() for tap in taps)


def test_copies_of_weights_give_the_bits_of_autocast(monkeypatch):
    nets = networks()
    others = copy.deepcopy(nets)
    image, casts = torch.rand(1, 3, 32, 32) * 2 - 1, []
    original = half_copies._copied
    monkeypatch.setattr(
        half_copies, "_copied", lambda *given: casts.append(len(given[0])) or original(*given)
    )

    with torch.autocast("cpu", torch.bfloat16):
        expected = losses_of(*others, image)
    assert not casts
    with torch.autocast("cpu", torch.bfloat16), HalfCopies(nets, dead_biases(nets)).in_use():
        found = losses_of(*nets, image)

    assert len(casts) == 2, "each network once"
    for loss in (expected, found):
        loss.backward()
    assert len(casts) == 4, "and its gradients once"
    assert torch.equal(found, expected)

    for net, other in zip(nets, others, strict=True):
        for (key, weight), like in zip(net.named_parameters(), other.parameters(), strict=True):
            assert weight.dtype == torch.float32, key
            assert (weight.grad is None) == (like.grad is None), key
            if weight.grad is not None:
                assert weight.grad.dtype == torch.float32 and torch.equal(weight.grad, like.grad), (
                    key
                )


def test_copies_are_not_read_where_autocast_is_off_or_after_the_block():
    netG, _ = networks()
    image = torch.rand(1, 3, 32, 32)
    expected = netG(image)
    copies = HalfCopies([netG])
    with torch.autocast("cpu", torch.bfloat16), copies.in_use():
        assert netG.model.collect(image, [1])[0].dtype == torch.bfloat16
        with torch.autocast("cpu", enabled=False):
            assert torch.equal(netG(image), expected)
    assert torch.equal(netG(image), expected)

    # weights that moved between two blocks
    for step in (1, 2):
        with torch.no_grad():
            netG.model[1].weight.mul_(2)
        with torch.autocast("cpu", torch.bfloat16), copies.in_use():
            moved = netG.model.collect(image, [1])[0] - netG.model[1].bias.bfloat16()[:, None, None]
        first = expected_first(image, netG.model[1])
        torch.testing.assert_close(moved.float(), first, rtol=0.05, atol=0.05 * 2**step)


def expected_first(image: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
    """The first convolution of a generator without its bias, in float32."""
    padded = nn.functional.pad(image, (3,) * 4, mode="reflect")
    return nn.functional.conv2d(padded, conv.weight.detach())


def test_second_derivatives_pass_through_copies():
    netD = networks()[1]
    other, image = copy.deepcopy(netD), torch.rand(1, 3, 32, 32)
    slopes = []
    for net, nets in ((netD, [netD]), (other, [])):
        leaf = image.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16), HalfCopies(nets).in_use():
            (slope,) = torch.autograd.grad(net(leaf).sum(), leaf, create_graph=True)
        slope.square().sum().backward()
        slopes.append(slope)

    assert torch.equal(*slopes)
    for weight, like in zip(netD.parameters(), other.parameters(), strict=True):
        if like.grad is not None:
            torch.testing.assert_close(weight.grad, like.grad)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_vgg_kept_in_half_precision_gives_the_bits_of_autocast(layout):
    kept, plain = (VGG16Features([1, 4], "random", dtype) for dtype in (torch.bfloat16, None))
    assert all(weight.dtype == torch.bfloat16 for weight in kept.features.parameters())
    results = []
    for vgg in (kept, plain):
        vgg.to(memory_format=layout)
        image = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32).to(memory_format=layout)
        image.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            features = vgg(image)
            sum(feature.float().square().mean() for feature in features).backward()
        results.append([*features, image.grad])
    for one, other in zip(*results, strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)


@pytest.mark.parametrize(
    ("name", "flags"), [("patchgcl", ["--num_patches", "8"]), ("cycle_gan", [])]
)
def test_a_step_with_copies_moves_weights_to_the_same_bits(tmp_path, monkeypatch, name, flags):
    results, original = [], half_copies.HalfCopies.of
    for copied in (True, False):
        used = []

        def of(self, weight, dtype, copied=copied, used=used):
            used.append(weight)
            return original(self, weight, dtype) if copied else weight

        monkeypatch.setattr(half_copies.HalfCopies, "of", of)
        _, _, loader, model = build(tmp_path, name, None, "--amp", "bf16", *flags)
        torch.manual_seed(5)
        for batch in list(loader.epoch(1))[:2]:
            PlainStep(model)(batch)
        assert used
        results.append(model.state_dict()["networks"])

    for net, state in results[0].items():
        for key, value in state.items():
            assert value.dtype == torch.float32, key
            assert torch.equal(value, results[1][net][key]), f"{net} {key}"
