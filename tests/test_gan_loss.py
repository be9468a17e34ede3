"""Adversarial losses against closed forms, and the gradient penalties against slopes known by hand."""

import math

import pytest
import torch
from torch.func import functional_call

from models.adversary import gradient_penalty, r1_penalty
from models.losses.gan import OBJECTIVES, discriminator_loss, generator_loss
from models.networks.patch_discriminator import NLayerDiscriminator


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# Per score: D's loss on a real one, D's loss on a fake one (with CUT's one half), G's loss on a fake one.
CLOSED_FORMS = {
    "lsgan": (lambda p: 0.5 * (p - 1) ** 2, lambda p: 0.5 * p**2, lambda p: (p - 1) ** 2),
    "vanilla": (
        lambda p: -0.5 * math.log(sigmoid(p)),
        lambda p: -0.5 * math.log(1 - sigmoid(p)),
        lambda p: -math.log(sigmoid(p)),
    ),
    "nonsaturating": (
        lambda p: 0.5 * math.log(1 + math.exp(-p)),
        lambda p: 0.5 * math.log(1 + math.exp(p)),
        lambda p: math.log(1 + math.exp(-p)),
    ),
    "hinge": (lambda p: 0.5 * max(0, 1 - p), lambda p: 0.5 * max(0, 1 + p), lambda p: -p),
    "wgangp": (lambda p: -p, lambda p: p, lambda p: -p),
    "hinge_both": (
        lambda p: 0.5 * max(0, 1 - p),
        lambda p: 0.5 * max(0, 1 + p),
        lambda p: max(0, 1 - p),
    ),
}


@pytest.mark.parametrize("mode", OBJECTIVES)
def test_losses_are_means_of_their_closed_forms(mode):
    real, fake = 2 * torch.randn(3, 1, 4, 5), 2 * torch.randn(2, 1, 3, 3)
    of_real, of_fake, of_G = CLOSED_FORMS[mode]

    def mean(function, scores):
        return sum(map(function, scores.flatten().tolist())) / scores.numel()

    D_real, D_fake = discriminator_loss(real, fake, mode)
    assert D_real.item() == pytest.approx(mean(of_real, real), rel=1e-5)
    assert D_fake.item() == pytest.approx(mean(of_fake, fake), rel=1e-5)
    assert generator_loss(fake, mode).item() == pytest.approx(mean(of_G, fake), rel=1e-5)
    assert D_real.shape == D_fake.shape == generator_loss(fake, mode).shape == ()


@pytest.mark.parametrize("mode", OBJECTIVES)
def test_gradients(mode):
    real, fake = (
        torch.randn(2, 1, 3, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    assert torch.autograd.gradcheck(
        lambda r, f: (*discriminator_loss(r, f, mode), generator_loss(f, mode)), (real, fake)
    )


@pytest.mark.parametrize("mode", OBJECTIVES)
def test_players_want_opposite_scores(mode):
    real, fake = (
        torch.zeros(1, 1, 2, 2, requires_grad=True),
        torch.zeros(1, 1, 2, 2, requires_grad=True),
    )
    for value, score, wanted in (
        (sum(discriminator_loss(real, fake.detach(), mode)), real, "up"),
        (sum(discriminator_loss(real.detach(), fake + 0.5, mode)), fake, "down"),
        (generator_loss(fake, mode), fake, "up"),
    ):
        (slope,) = torch.autograd.grad(value, score)
        assert (slope < 0).all() if wanted == "up" else (slope > 0).all()


@pytest.mark.parametrize("mode", OBJECTIVES)
def test_low_precision_scores_are_averaged_in_float32(mode):
    scores = torch.full((1, 1, 64, 64), 1.5, dtype=torch.bfloat16)
    for loss in (*discriminator_loss(scores, scores, mode), generator_loss(scores, mode)):
        assert loss.dtype == torch.float32
    expected = CLOSED_FORMS[mode][2](1.5)
    assert generator_loss(scores, mode).item() == pytest.approx(expected, rel=1e-6)


def test_a_hinge_for_both_teaches_g_nothing_above_one():
    scores = torch.tensor([-2.0, 0.5, 1.5], requires_grad=True)
    generator_loss(scores, "hinge_both").backward()
    assert scores.grad.tolist() == pytest.approx([-1 / 3, -1 / 3, 0])


def test_large_scores_stay_finite():
    scores = torch.tensor([-1e4, 1e4])
    assert torch.isfinite(torch.stack(discriminator_loss(scores, scores, "vanilla"))).all()


def test_an_unknown_mode_is_refused_with_the_list():
    for call in (
        lambda: generator_loss(torch.zeros(1), "lsgna"),
        lambda: discriminator_loss(*torch.zeros(2, 1), "lsgna"),
    ):
        with pytest.raises(
            ValueError,
            match="'lsgna': expected one of lsgan, vanilla, nonsaturating, hinge, wgangp, hinge_both",
        ):
            call()


# -- gradient penalty ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3])
def test_penalty_of_a_linear_discriminator_depends_on_its_weights_only(batch):
    slope = torch.randn(2, 4, 3)
    real, fake = torch.randn(batch, 2, 4, 3), torch.randn(batch, 2, 4, 3)
    penalty = gradient_penalty(
        lambda x: (x * slope).sum((1, 2, 3)), real, fake, centre=0.5, weight=3.0
    )
    assert penalty.item() == pytest.approx(3 * (slope.norm().item() - 0.5) ** 2, rel=1e-5)


def test_the_penalty_of_half_precision_images_is_that_of_the_same_images_in_full():
    """G leaves bfloat16 under autocast, the real image is float32; the two are not mixed as they are."""
    real, fake = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4).bfloat16()
    eps = torch.rand(2, 1, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradient_penalty(torch.square, real, fake, eps=eps)
    assert found.dtype == torch.float32
    assert torch.equal(found, gradient_penalty(torch.square, real, fake.float(), eps=eps))


def test_penalty_is_taken_between_real_and_fake_image_by_image():
    real, fake = torch.randn(3, 1, 2, 2), torch.randn(3, 1, 2, 2)
    eps = torch.tensor([0.0, 0.3, 1.0])
    penalty = gradient_penalty(lambda x: 0.5 * x.square(), real, fake, eps=eps[:, None, None, None])
    lengths = [(e * r + (1 - e) * f).norm().item() for e, r, f in zip(eps, real, fake, strict=True)]
    assert penalty.item() == pytest.approx(
        10 * sum((length - 1) ** 2 for length in lengths) / 3, rel=1e-5
    )


def test_positions_are_drawn_per_image_and_repeat_with_the_seed():
    real, fake = torch.ones(4, 1, 2, 2), torch.zeros(4, 1, 2, 2)
    seen = []

    def netD(x):
        seen.append(x.detach().flatten(1))
        return x.square()

    torch.manual_seed(1)
    gradient_penalty(netD, real, fake)
    torch.manual_seed(1)
    eps = torch.rand(4, 1, 1, 1)
    assert torch.equal(seen[0], eps.flatten(1).expand(4, 4)), (
        "real images count eps, fake ones the rest"
    )


def test_only_the_discriminator_learns_from_the_penalty():
    real, fake = (
        torch.randn(2, 3, 16, 16, requires_grad=True),
        torch.randn(2, 3, 16, 16, requires_grad=True),
    )
    netD = NLayerDiscriminator(3, 4, n_layers=1)
    gradient_penalty(netD, real, fake).backward()
    assert real.grad is None and fake.grad is None
    weights = [p for p in netD.parameters() if p.dim() > 1]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in weights)


@pytest.mark.parametrize("norm", ["instance", "none"])
def test_second_derivatives_through_a_discriminator(norm):
    """Instance norm, LeakyReLU in place, reflected borders and blur all have to be differentiable twice."""
    netD = NLayerDiscriminator(1, 2, n_layers=1, norm=norm).double()
    real, fake = (
        torch.randn(2, 1, 10, 10, dtype=torch.float64),
        torch.randn(2, 1, 10, 10, dtype=torch.float64),
    )
    eps = torch.rand(2, 1, 1, 1, dtype=torch.float64)
    names = [name for name, p in netD.named_parameters() if p.dim() > 1]

    def penalty(*weights):
        parameters = dict(zip(names, weights, strict=True))
        return gradient_penalty(
            lambda x: functional_call(netD, parameters, (x,)), real, fake, eps=eps
        )

    weights = [netD.get_parameter(name).detach().clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(
        penalty, weights, eps=1e-7, atol=1e-4, rtol=1e-3, fast_mode=True
    )


def test_a_flat_discriminator_gives_a_finite_penalty():
    weight = torch.zeros(3, requires_grad=True)
    images = torch.randn(2, 3, 1, 1)
    penalty = gradient_penalty(lambda x: (x.flatten(1) * weight).sum(1), images, images)
    assert penalty.item() == pytest.approx(10)
    penalty.backward()
    assert torch.isfinite(weight.grad).all()


# -- R1 ----------------------------------------------------------------------------------------------------------------


def test_r1_of_a_linear_discriminator_depends_on_its_weights_only():
    slope = torch.randn(2, 4, 3, dtype=torch.float64)
    real = torch.randn(5, 2, 4, 3, dtype=torch.float64)
    penalty = r1_penalty(lambda x: (x * slope).sum((1, 2, 3)), real, weight=3.0)
    assert penalty.item() == pytest.approx(0.5 * 3 * sum(v**2 for v in slope.flatten().tolist()))


def test_r1_of_a_quadratic_discriminator_is_the_mean_over_images():
    """D(x) = x^T M x for each image, with slope (M + M^T) x; its derivative with respect to M by hand."""
    matrix = torch.randn(6, 6, dtype=torch.float64, requires_grad=True)
    real = torch.randn(4, 1, 2, 3, dtype=torch.float64)
    penalty = r1_penalty(
        lambda x: torch.einsum("bi,ij,bj->b", x.flatten(1), matrix, x.flatten(1)), real, weight=0.7
    )
    penalty.backward()
    both = (matrix + matrix.T).detach()
    expected, gradient = 0.0, torch.zeros(6, 6, dtype=torch.float64)
    for image in real.flatten(1):
        slope = both @ image
        expected += 0.5 * 0.7 * (slope**2).sum().item() / 4
        gradient += 0.7 / 4 * (torch.outer(slope, image) + torch.outer(image, slope))
    assert penalty.item() == pytest.approx(expected)
    torch.testing.assert_close(matrix.grad, gradient)


def test_r1_sums_the_scores_of_an_image_and_leaves_it_alone():
    real = torch.randn(3, 1, 2, 2, requires_grad=True)
    weight = torch.ones(1, requires_grad=True)
    penalty = r1_penalty(
        lambda x: 0.5 * weight * x.square(), real
    )  # a map of scores; the slope is x
    assert penalty.item() == pytest.approx(0.5 * real.square().sum().item() / 3, rel=1e-5)
    penalty.backward()
    assert real.grad is None
    assert weight.grad.item() == pytest.approx(2 * penalty.item(), rel=1e-5)
