"""The discriminator of several sizes against plain operators, its losses against sums by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from models.losses.gan import OBJECTIVES
from models.losses.multiscale_gan import multiscale_discriminator_loss, multiscale_generator_loss
from models.networks.multiscale_discriminator import MultiScaleDiscriminator
from models.networks.passes import pass_each
from tests.test_gan_loss import CLOSED_FORMS


def halved(x: torch.Tensor) -> torch.Tensor:
    """Means of 3x3 around every second pixel, of as many pixels as there are."""
    rows, columns = ((side + 1) // 2 for side in x.shape[2:])
    means = []
    for row in range(rows):
        for column in range(columns):
            top, left = max(0, 2 * row - 1), max(0, 2 * column - 1)
            means.append(x[:, :, top : 2 * row + 2, left : 2 * column + 2].mean((2, 3)))
    return torch.stack(means, 2).reshape(*x.shape[:2], rows, columns)


def written_out(net: MultiScaleDiscriminator, x: torch.Tensor, slope: float) -> list[torch.Tensor]:
    """Four convolutions 4x4 that halve, reflected borders, then 1x1, for the image and its halvings."""
    scores, state = [], net.state_dict(keep_vars=True)
    for scale in range(3):
        y = x if scale == 0 else (x := halved(x))
        for layer in range(4):
            key = f"scales.{scale}.{3 * layer + 1}"
            y = F.pad(y, (1, 1, 1, 1), mode="reflect")
            y = F.conv2d(y, state[f"{key}.weight"], state[f"{key}.bias"], stride=2)
            y = F.leaky_relu(y, slope)
        key = f"scales.{scale}.12"
        scores.append(F.conv2d(y, state[f"{key}.weight"], state[f"{key}.bias"]))
    return scores


@pytest.mark.parametrize("batch, size, slope", [(1, (64, 80), 0.2), (3, (73, 65), 0.01)])
def test_scores_and_gradients_are_those_of_plain_operators(batch, size, slope):
    net = MultiScaleDiscriminator(2, ndf=2, slope=slope).double()
    x = torch.randn(batch, 2, *size, dtype=torch.float64, requires_grad=True)
    found, expected = net(x), written_out(net, x, slope)
    inputs = [x, *net.parameters()]
    slopes = torch.autograd.grad(sum(s.square().sum() for s in found), inputs)
    wanted = torch.autograd.grad(sum(s.square().sum() for s in expected), inputs)
    for a, b in zip([*found, *slopes], [*expected, *wanted], strict=True):
        torch.testing.assert_close(a, b)


def test_published_sizes():
    net = MultiScaleDiscriminator(3)
    assert sum(p.numel() for p in net.parameters()) == 3 * 2_757_057
    with torch.no_grad():
        shapes = [tuple(scores.shape) for scores in net(torch.zeros(1, 3, 256, 256))]
    assert shapes == [(1, 1, 16, 16), (1, 1, 8, 8), (1, 1, 4, 4)]


@pytest.mark.parametrize("size", [(8, 8), (20, 34), (1, 1)])
def test_images_too_small_for_all_halvings_still_get_a_score_of_each_size(size):
    net = MultiScaleDiscriminator(3, ndf=4)
    scores = net(torch.rand(2, 3, *size))
    assert len(scores) == 3
    sum(s.sum() for s in scores).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_several_batches_in_one_pass_get_their_own_scores(monkeypatch):
    net = MultiScaleDiscriminator(3, ndf=4)
    one, other = torch.rand(2, 3, 64, 48), torch.rand(2, 3, 64, 48)
    calls = []
    net.register_forward_hook(lambda *_: calls.append(1))
    monkeypatch.setattr("models.networks.passes.joining_pays", lambda x: True)
    joined = pass_each(net, one, other)
    assert len(calls) == 1
    for found, x in zip(joined, (one, other), strict=True):
        for a, b in zip(found, net(x), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("mode", OBJECTIVES)
def test_losses_are_sums_over_sizes_of_means_and_nothing_is_halved(mode):
    real = [torch.randn(2, 1, 4, 5), torch.randn(2, 1, 2, 3)]
    fake = [torch.randn(3, 1, 4, 5), torch.randn(3, 1, 2, 3)]
    of_real, of_fake, of_G = CLOSED_FORMS[mode]
    whole = 1 / OBJECTIVES[mode].weight_D  # the closed forms have CUT's one half

    def total(function, scores):
        means = [math.fsum(map(function, s.flatten().tolist())) / s.numel() for s in scores]
        return math.fsum(means)

    expected = whole * (total(of_real, real) + total(of_fake, fake))
    found = multiscale_discriminator_loss(real, fake, mode)
    assert found.item() == pytest.approx(expected, rel=1e-5) and found.shape == ()
    found = multiscale_generator_loss(fake, mode)
    assert found.item() == pytest.approx(total(of_G, fake), rel=1e-5) and found.shape == ()


@pytest.mark.parametrize("mode", ["lsgan", "vanilla"])
def test_gradients_of_the_losses(mode):
    shapes = [(2, 1, 3, 2), (2, 1, 1, 1)]
    scores = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes * 2]
    assert torch.autograd.gradcheck(
        lambda *s: (
            multiscale_discriminator_loss(s[:2], s[2:], mode),
            multiscale_generator_loss(s[2:], mode),
        ),
        scores,
    )


def test_half_precision_scores_are_averaged_in_float32():
    scores = [torch.full((1, 1, 64, 64), 3.0).bfloat16()]
    assert multiscale_generator_loss(scores).dtype == torch.float32
    assert multiscale_discriminator_loss(scores, scores).item() == 4 + 9
