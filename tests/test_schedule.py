"""Learning-rate policies against their closed forms, epoch by epoch."""

import math

import pytest
import torch

from util.run.schedule import create_scheduler


def rates(policy: str, epochs: int, fall: float = 0, **settings) -> list[float]:
    """The learning rate of each epoch, starting from 1; the value that plateau watches falls by so large a part."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = create_scheduler(optimizer, policy, **settings)
    result = []
    for epoch in range(epochs):
        result.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(*([(1 - fall) ** epoch] if policy == "plateau" else []))
    return result


def test_linear_is_constant_then_falls():
    found = rates("linear", 7, n_epochs=3, n_epochs_decay=4, lr_decay_iters=1)
    assert found == pytest.approx([1, 1, 1, 4 / 5, 3 / 5, 2 / 5, 1 / 5])


def test_linear_from_a_later_epoch_joins_the_same_line():
    whole = rates("linear", 7, n_epochs=3, n_epochs_decay=4, lr_decay_iters=1)
    late = rates("linear", 3, n_epochs=3, n_epochs_decay=4, lr_decay_iters=1, epoch_count=5)
    assert late == pytest.approx(whole[4:])


def test_step_divides_by_ten():
    assert rates("step", 5, n_epochs=5, n_epochs_decay=0, lr_decay_iters=2) == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01]
    )


def test_cosine_spans_all_epochs():
    found = rates("cosine", 4, n_epochs=2, n_epochs_decay=2, lr_decay_iters=1)
    assert found == pytest.approx([(1 + math.cos(math.pi * e / 4)) / 2 for e in range(4)])


def test_plateau_waits_for_a_gain():
    found = rates("plateau", 9, n_epochs=9, n_epochs_decay=0, lr_decay_iters=1)
    assert found[:7] == [1.0] * 7
    assert found[7] == pytest.approx(0.2)


@pytest.mark.parametrize(("fall", "least"), [(0.001, 0.2), (0.002, 1)])
def test_plateau_counts_a_gain_from_one_percent_on(fall, least):
    """Of the best value so far: in the six epochs that it waits, 0.1 % each makes less than that, 0.2 % more."""
    found = rates("plateau", 9, fall, n_epochs=9, n_epochs_decay=0, lr_decay_iters=1)
    assert min(found) == pytest.approx(least)
