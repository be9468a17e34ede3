"""Losses that are not finite are skipped where that is asked for; a game that is over is told; D's accuracy."""

import math
from types import SimpleNamespace

import pytest
import torch

from models.losses.gan import OBJECTIVES, accuracy
from models.losses.multiscale_gan import multiscale_accuracy
from models.networks.image_pool import ImagePool
from models.step.training_step import MOST_IN_A_ROW, TrainingStep
from tests.test_models import build, step, weights
from util.errors import UserError
from util.hardware.loss_scale import DynamicLossScale
from util.run.health import LINES, Health


def good_and_bad(tmp_path, *flags):
    _, _, loader, model = build(tmp_path, "cycle_gan", None, "--on_nonfinite", "skip", *flags)
    good = next(iter(loader.epoch(1)))
    bad = {**good, "A": torch.full_like(good["A"], math.nan)}
    return model, good, bad


def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path):
    model, good, bad = good_and_bad(tmp_path)
    step(model, good)
    before = weights(model)
    losses = step(model, bad)
    assert all(torch.equal(value, before[key]) for key, value in weights(model).items())
    assert losses["skipped"] == 1  # G and D move in one update
    model.check_finite("x.pt")

    losses = step(model, good)  # the next one counts again, and the pool holds no bad image
    assert losses["skipped"] == 1 and all(map(math.isfinite, losses.values()))
    assert any(not torch.equal(value, before[key]) for key, value in weights(model).items())
    assert torch.isfinite(model.pool_A.images).all()
    assert model._skipped.tolist() == [1, 0]


@pytest.mark.parametrize("flags", [(), ("--batch_size", "1", "--accumulate", "2")])
def test_plateau_sees_the_mean_of_the_losses_that_were_finite(tmp_path, flags):
    model, good, bad = good_and_bad(tmp_path, "--lr_policy", "plateau", *flags)
    if flags:
        good, bad = ({key: images.repeat(2, 1, 1, 1) for key, images in batch.items() if key in "AB"}
                     for batch in (good, bad))  # fmt: skip
    seen = []
    model.schedulers["G"].step = seen.append
    losses = [step(model, batch)["G"] for batch in (good, bad, good)]
    model.end_epoch()
    assert seen == [pytest.approx((losses[0] + losses[2]) / 2, rel=1e-6)]

    step(model, bad)
    model.end_epoch()  # nothing to compare
    assert len(seen) == 1


def test_a_run_that_skips_everything_ends(tmp_path):
    model, _, bad = good_and_bad(tmp_path)
    step(model, bad)
    model._skipped[1] = MOST_IN_A_ROW - 1
    model.check_finite("x.pt")
    step(model, bad)
    with pytest.raises(UserError, match=rf"{MOST_IN_A_ROW} updates in a row .*G_A.*x\.pt"):
        model.check_finite("x.pt")


def tiny(skip_bad, scale=None):
    """A step of one weight: loss = weight * number."""
    runtime = SimpleNamespace(
        device=torch.device("cpu"), amp_dtype=None, overlap=False, average_gradients=lambda _: None,
        any=lambda flags: flags, autocast=lambda: torch.autocast("cpu", enabled=False),
        mean=lambda values: {name: float(value) for name, value in values.items()},
    )  # fmt: skip
    model = TrainingStep(runtime, 0, 1, skip_bad)
    model.net = model.networks["G"] = torch.nn.Linear(1, 1, bias=False)
    model._trained_by["G"] = [model.net]
    model.optimizers["G"] = torch.optim.Adam(model.net.parameters(), lr=0.1, fused=True)
    model._loss_scale = scale or model._loss_scale
    model.load = lambda batch: setattr(model, "x", batch["x"])
    model.forward = lambda: None
    return model


def move(model, value, loss=None):
    loss = loss or (lambda: {"G_x": model.net(model.x).sum()})
    model.set_input({"x": torch.full((1, 1), value)})
    model.update("G", loss=loss)
    return model.net.weight.item()


def test_a_gradient_that_overflows_under_a_finite_loss_is_skipped():
    model = tiny(skip_bad=True)
    start = model.net.weight.item()
    slope = torch.zeros((), requires_grad=True)

    def steep():  # sqrt has no slope at 0: the loss is 0, its gradient infinite
        return {"G_x": (model.net.weight.sum() * 0 + slope).sqrt() + model.net.weight.sum() * 0}

    assert move(model, 1.0, steep) == start
    assert model._skipped.tolist() == [1, 1]
    assert move(model, 1.0) != start


def test_an_overflow_in_half_precision_is_no_error():
    for skip_bad in (False, True):
        model = tiny(skip_bad, DynamicLossScale())
        start, factor = model.net.weight.item(), model._loss_scale.factor.item()
        assert move(model, 1e35) == start  # times the scale it overflows, the loss itself does not
        assert model._loss_scale.factor.item() == factor / 2
        model.check_finite("x.pt")
        assert model._skipped.tolist() == [0, 0]
        assert move(model, 1.0) != start


def test_a_pool_keeps_no_image_that_is_not_finite():
    pool = ImagePool(2, only_finite=True)
    bad = torch.full((1, 1, 2, 2), torch.nan)
    for image in (bad, torch.ones(1, 1, 2, 2), bad, torch.ones(1, 1, 2, 2), *[bad] * 20):
        pool(image)
    assert pool.filled.item() == 2 and torch.equal(pool.images, torch.ones(2, 1, 2, 2))


@pytest.mark.parametrize("mode", OBJECTIVES)
def test_accuracy_is_the_share_of_right_scores(mode):
    line = OBJECTIVES[mode].line
    if line is None:
        assert accuracy(torch.ones(2), torch.ones(2), mode) is None
        return
    real, fake = torch.tensor([1.0, 1.0, -1.0, 1.0]) + line, torch.tensor([-1.0, 1.0]) + line
    assert accuracy(real, fake, mode).item() == (3 / 4 + 1 / 2) / 2
    assert accuracy(real.abs() + 1, -fake.abs() - 1, mode).item() == 1


@pytest.mark.parametrize(
    ("method", "judges"),
    [
        ("cycle_gan", ["D_A", "D_B"]),
        ("munit", ["D_A", "D_B"]),
        ("drit", ["D_A", "D_B", "D_A2", "D_B2"]),
    ],
)
def test_accuracy_is_logged_and_is_no_part_of_the_loss(tmp_path, method, judges):
    _, _, loader, model = build(tmp_path, method, None)
    losses = step(model, next(iter(loader.epoch(1))))
    assert all(0 <= losses[f"{name}_accuracy"] <= 1 for name in judges)
    assert losses["D"] == pytest.approx(sum(losses[name] for name in judges), rel=1e-5)


def test_accuracy_at_several_sizes_is_over_all_scores():
    """All real scores are right, and eight of ten others; nothing where there is no line."""
    real, fake = [torch.ones(1, 1, 1, 2), torch.ones(8)], [torch.ones(1, 1, 1, 2), torch.zeros(8)]
    assert multiscale_accuracy(real, fake).item() == pytest.approx((1 + 8 / 10) / 2)
    assert multiscale_accuracy(real, fake, "wgangp") is None


OVER = {
    "D_accuracy is 1": (lambda k: {"G": k, "D_accuracy": 1.0}, None),
    "one half throughout": (lambda k: {"G": k, "D_accuracy": 0.5}, None),
    "loss D stands still at 0.25": (lambda k: {"G": k, "D": 0.25}, None),
    "of one colour": (lambda k: {"G": k}, 0.001),
}


@pytest.mark.parametrize("words", OVER)
def test_a_game_that_is_over_is_told_once(words):
    line, spread = OVER[words]
    health = Health(["G", "D"])
    said = [health.notice(line(float(k + 1)), spread) for k in range(3 * LINES)]
    assert [len(texts) for texts in said] == [int(k == LINES - 1) for k in range(3 * LINES)]
    assert words in said[LINES - 1][0]


def test_a_game_that_goes_on_is_not_told():
    health = Health(["G", "D"])
    for k in range(3 * LINES):
        accuracy = 1.0 if k % 10 else 0.99
        line = {"G": 1 + k % 3, "D": 0.5 + 0.001 * (k % 2), "D_accuracy": accuracy, "isolated": 0.0}
        assert health.notice(line, 0.001 if k % 20 else 0.5) == []
