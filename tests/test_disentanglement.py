"""Losses of MUNIT and DRIT against loops over single numbers, with gradients."""

import math

import pytest
import torch

from models.losses.disentanglement import (
    content_confusion_loss,
    content_discriminator_loss,
    mode_seeking_loss,
    normal_divergence,
)
from models.losses.reconstruction import domain_invariant_distance, l1_distance


def numbers(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def assert_value_and_gradients(loss, inputs, expected):
    """`expected` from plain numbers; gradients by finite differences."""
    found = loss(*inputs)
    assert found.shape == () and found.item() == pytest.approx(expected, rel=1e-9)
    assert torch.autograd.gradcheck(loss, inputs)


def mean(values):
    values = list(values)
    return math.fsum(values) / len(values)


def pairs(a, b):
    return zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)


@pytest.mark.parametrize("batch", [1, 3])
def test_l1_is_the_mean_absolute_difference(batch):
    a, b = numbers(batch, 2, 3, 5), numbers(batch, 2, 3, 5)
    assert_value_and_gradients(l1_distance, (a, b), mean(abs(x - y) for x, y in pairs(a, b)))


@pytest.mark.parametrize("batch, size", [(1, (3, 5)), (3, (2, 4))])
def test_the_deep_distance_ignores_mean_and_deviation_of_each_map(batch, size):
    a, b = numbers(batch, 2, *size), numbers(batch, 2, *size)

    def normal(feature):
        rows = []
        for row in feature.flatten(0, 1).flatten(1).tolist():
            middle = mean(row)
            spread = math.sqrt(mean((x - middle) ** 2 for x in row) + 1e-5)
            rows += [(x - middle) / spread for x in row]
        return rows

    expected = mean((x - y) ** 2 for x, y in zip(normal(a), normal(b), strict=True))
    assert_value_and_gradients(domain_invariant_distance, (a, b), expected)

    scale = torch.rand(1, 2, 1, 1, dtype=torch.float64) + 0.5
    moved = domain_invariant_distance(100 * scale * a + 7, 100 * a)
    assert moved.item() < 1e-8


def test_the_deep_distance_of_flat_maps_is_finite_with_its_gradient():
    flat = torch.ones(1, 2, 2, 2, requires_grad=True)
    loss = domain_invariant_distance(flat, torch.randn(1, 2, 2, 2))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(flat.grad).all()


@pytest.mark.parametrize("batch", [1, 3])
def test_divergence_from_the_standard_normal(batch):
    middle, log_variance = numbers(batch, 4), numbers(batch, 4)
    total = math.fsum((m * m + math.exp(v) - v - 1) / 2 for m, v in pairs(middle, log_variance))
    assert_value_and_gradients(normal_divergence, (middle, log_variance), total / batch)
    assert normal_divergence(torch.zeros(2, 3), torch.zeros(2, 3)) == 0


def test_divergence_is_that_of_torch():
    middle, log_variance = torch.randn(1, 5), torch.randn(1, 5)
    found = torch.distributions.kl_divergence(
        torch.distributions.Normal(middle, (0.5 * log_variance).exp()),
        torch.distributions.Normal(0.0, 1.0),
    )
    torch.testing.assert_close(normal_divergence(middle, log_variance), found.sum())


def entropy(score: float, target: float) -> float:
    """Cross entropy of a score without sigmoid."""
    p = 1 / (1 + math.exp(-score))
    return -target * math.log(p) - (1 - target) * math.log(1 - p)


def test_the_judge_of_contents_has_target_0_for_a_and_1_for_b():
    a, b = numbers(2, 1, 2, 1), numbers(2, 1, 1, 3)
    expected = mean(entropy(s, 0) for s in a.flatten().tolist())
    expected += mean(entropy(s, 1) for s in b.flatten().tolist())
    assert_value_and_gradients(content_discriminator_loss, (a, b), expected)


def test_contents_confuse_the_judge_where_it_says_one_half():
    scores = numbers(3, 1, 2, 3)
    expected = mean(entropy(s, 0.5) for s in scores.flatten().tolist())
    assert_value_and_gradients(content_confusion_loss, (scores,), expected)
    assert content_confusion_loss(torch.zeros(1)).item() == pytest.approx(math.log(2))
    assert content_confusion_loss(torch.tensor([40.0])).item() == pytest.approx(20)  # no overflow


@pytest.mark.parametrize("batch", [1, 3])
def test_mode_seeking_is_the_inverse_of_distance_per_distance_of_each_image(batch):
    images = [numbers(batch, 3, 2, 4) for _ in range(2)]
    codes = [numbers(batch, 4) for _ in range(2)]
    expected = 0.0
    for b in range(batch):
        apart = mean(abs(x - y) for x, y in pairs(images[0][b], images[1][b]))
        codes_apart = mean(abs(x - y) for x, y in pairs(codes[0][b], codes[1][b]))
        expected += 1 / (apart / codes_apart + 1e-5) / batch
    assert_value_and_gradients(mode_seeking_loss, (*images, *codes), expected)


def test_mode_seeking_of_equal_images_is_large_and_finite():
    image = torch.rand(2, 3, 4, 4, requires_grad=True)
    loss = mode_seeking_loss(image, image.detach(), torch.zeros(2, 4), torch.ones(2, 4))
    loss.backward()
    assert loss.item() == pytest.approx(1e5) and torch.isfinite(image.grad).all()
