"""Norms of gradients: terms make up the whole gradient, their weights scale them, and nothing is trained."""

import json

import pytest
import torch

from scripts import gradient_norms
from scripts.gradient_norms import Pull, batches_from, measure, summary, table
from tests.helpers import train_flags, train_options
from tests.test_models import TRAINED, build, weights
from train import train
from util.errors import UserError


def pulls(root, model, *flags, steps=1):
    _, _, loader, built = build(root, model, None, *flags)
    return measure(built, batches_from(loader, 1, 0), steps), built


@pytest.mark.parametrize("name", ["cut", "patchgcl", "cycle_gan", "pix2pix"])
def test_the_pulls_of_all_terms_add_up_to_what_moves_the_network(tmp_path, name, monkeypatch):
    grads = {}

    def keep(model, names):
        for network, net in model.networks.items():
            found = [p.grad.flatten() for p in net.parameters() if p.grad is not None]
            if found:
                grads.setdefault(network, torch.cat(found).norm().item())

    monkeypatch.setattr("models.step.training_step.TrainingStep._step", keep)  # nothing moves here
    found, model = pulls(tmp_path, name)
    assert grads.keys() == model.networks.keys()
    for network, expected in grads.items():
        along = sum(pull.norm * pull.along for pull in found if pull.network == network)
        # rounding differs by CPU: up to 1.2e-4 was seen
        assert along == pytest.approx(expected, rel=1e-3), network


@pytest.mark.parametrize("name", TRAINED)
def test_every_method_can_be_measured_and_stays_as_it_was(tmp_path, name):
    lone = ("--batch_size", "2", "--unnormalized_distances") if name == "distance_gan" else ()
    _, _, loader, model = build(tmp_path, name, None, *lone)
    model.prepare_once(loader.dataset)
    before, random = weights(model), torch.get_rng_state()

    rows = summary(measure(model, batches_from(loader, 1, 0), model.CYCLE))
    assert {row.network for row in rows} == model.networks.keys()
    assert all(row.norm >= 0 and -1.001 <= row.along <= 1.001 for row in rows)
    assert sum(row.share for row in rows) == pytest.approx(len(model.networks))
    after = weights(model)
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert torch.equal(torch.get_rng_state(), random)


def test_twice_the_weight_pulls_twice_as_hard(tmp_path):
    one, _ = pulls(tmp_path, "patchgcl", "--lambda_GNN", "0.1", steps=2)
    two, _ = pulls(tmp_path, "patchgcl", "--lambda_GNN", "0.2", steps=2)
    compared = 0
    for small, large in zip(one, two, strict=True):
        assert (small.network, small.term) == (large.network, large.term)
        if small.term.startswith("GNN"):
            assert large.norm == pytest.approx(2 * small.norm, rel=1e-4)
            compared += 1
        elif small.network == "D":
            assert large.norm == pytest.approx(small.norm, rel=1e-4), "the same images and weights"
    assert compared == 8, "two terms at G and F, in two steps"


def test_a_network_that_nothing_pulls_at_is_a_row_of_zeros():
    """As a discriminator whose hinge loss is saturated."""
    pulls = [Pull("D", "real", 0.0, 0.0, 1.0), Pull("D", "fake", 0.0, 0.0, 1.0)]
    rows = summary([*pulls, Pull("G", "GAN", 1.0, 2.0, 1.0)])
    assert [row.share for row in rows] == [0, 0, 1]
    assert "| D | real | 0 | 0 ± 0 | 0.0% | 1.00 |" in table(rows)


def test_the_command_reads_a_run_and_leaves_it_alone(tmp_path, capsys):
    flags = train_flags(tmp_path, "--n_epochs", "1", "--n_epochs_decay", "0", model="cut")
    gradient_norms.main(["--steps", "1", *flags])
    assert "with first weights" in capsys.readouterr().out

    train(train_options(tmp_path, "--n_epochs", "1", "--n_epochs_decay", "0", model="cut"))
    folder = tmp_path / "checkpoints" / "run"
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    out = tmp_path / "there" / "norms.json"
    capsys.readouterr()
    assert gradient_norms.main(["--steps", "3", "--out", str(out), *flags]) == 0

    text = capsys.readouterr().out
    assert "after 4 images; 3 steps" in text and "| G | NCE |" in text and "| D | NCE |" not in text
    record = json.loads(out.read_text())
    assert record["images"] == 4 and {row["network"] for row in record["rows"]} == {"G", "D", "F"}
    assert files == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    with pytest.raises(UserError, match="give those of the run's training command"):
        gradient_norms.main([*flags, "--ngf", "8"])
