"""scripts/parity.py accepts a correct export of the released module and rejects a changed one."""

import json

import numpy as np
import pytest
import torch

from models.networks.graph import GraphHead
from tests.helpers import run_command
from tests.reference_graph import reference_loss

RELEASE = {
    "num_hop": 2, "pool_hop": 1, "pooling_num": 1, "down_scale": 4, "pool_shrink": 2, "threshold": 0.1,
    "strict": True, "adjacency_from": "embedding", "extra_loop": True, "pool_adjacency": "two_hop",
    "pool_score": "input", "detach_input": True, "neighbours": 0, "weighted": False,
}  # fmt: skip


def export(path, options: dict | None = None, **changes) -> None:
    """Write what the released module would: values and gradients by the loop-based reference, in float64."""
    options = options or {}
    settings = {**RELEASE, **{{"nonzero_th": "threshold"}.get(k, k): v for k, v in options.items()}}
    ratio = [
        1.0,
        *settings.pop("pooling_ratio", [1.0, 0.5])[1:],
    ]  # the release never reads the first entry
    shape = {k: settings[k] for k in ("num_hop", "pool_hop", "pooling_num")}
    weights = {
        name: p.double().normal_(0, 0.5)
        for name, p in GraphHead([4, 6], 5, **shape).state_dict().items()
    }
    arrays = {name: weight.requires_grad_() for name, weight in weights.items()}
    losses, students = [], []
    for i, (channels, side) in enumerate(((4, 5), (6, 4))):
        student, teacher = torch.randn(2, 1, channels, side, side, dtype=torch.float64)
        ids = torch.randperm(side * side)[:8]
        students.append(student.requires_grad_())
        losses.append(
            reference_loss(
                student[0], teacher[0], ids.tolist(), weights, layer=i, temperature=0.07, symmetric=True, ratio=ratio,
                average_levels=True, **settings,
            )
        )  # fmt: skip
        changes.setdefault(f"student_{i}", student.detach().numpy())
        changes.setdefault(f"teacher_{i}", teacher.numpy())
        changes.setdefault(f"ids_{i}", ids.numpy())
    loss = torch.stack(losses).mean()
    loss.backward()
    file = {f"w:{name}": weight.detach().numpy() for name, weight in arrays.items()}
    file |= {f"g:{name}": weight.grad.numpy() for name, weight in arrays.items()}
    file |= {f"grad_student_{i}": student.grad.numpy() for i, student in enumerate(students)}
    factors = {name: changes.pop(name) for name in [*file, "loss"] if name in changes}
    file |= {"loss": loss.detach().numpy(), "options": np.array(repr(options)), **changes}
    np.savez(
        path,
        **{
            name: value * factors.get(name, 1) if name != "options" else value
            for name, value in file.items()
        },
    )


def parity(path, *extra):
    return run_command(["scripts/parity.py", "--reference", path, *extra])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"nonzero_th": 0.6, "pooling_num": 0},
        {"pooling_num": 2, "pooling_ratio": [7, 0.5, 0.25]},
        {"num_hop": 3},
    ],
)
def test_a_correct_export_is_accepted(tmp_path, options):
    export(tmp_path / "r.npz", options)
    result = parity(tmp_path / "r.npz")
    assert result.returncode == 0, result.stderr + result.stdout
    report = json.loads(result.stdout)
    assert report["agrees"] and report["loss"] == pytest.approx(report["loss_reference"], rel=1e-9)
    assert (
        report["feature_gradient_relative"] < 1e-6 and report["parameter_gradient_relative"] < 1e-6
    )


def test_an_export_in_single_precision_is_accepted(tmp_path):
    """As the release makes it: a gradient that nearly cancels may then be noise beside its own size."""
    export(tmp_path / "r.npz")
    with np.load(tmp_path / "r.npz") as file:
        single = {
            name: a.astype(np.float32) if a.dtype == np.float64 else a for name, a in file.items()
        }
    name = "g:pools_1.0.proj.bias"
    single[name] = single[name] + np.float32(
        2e-6 * max(abs(a).max() for n, a in single.items() if n.startswith("g:"))
    )
    np.savez(tmp_path / "s.npz", **single)
    assert parity(tmp_path / "s.npz").returncode == 0
    assert parity(tmp_path / "s.npz", "--tolerance", "1e-9").returncode == 1


@pytest.mark.parametrize(
    "name",
    [
        "loss",
        "w:embed_1.linear.weight",
        "w:gnn_pools_0.0.conv1.lin.weight",
        "g:pools_0.0.proj.weight",
    ],
)
def test_a_change_of_one_percent_is_rejected(tmp_path, name):
    export(tmp_path / "r.npz", **{name: 1.01})
    result = parity(tmp_path / "r.npz")
    assert result.returncode == 1, result.stderr
    assert not json.loads(result.stdout)["agrees"]


def test_what_is_no_export_is_one_line(tmp_path):
    (tmp_path / "a.npz").write_text("hello")
    np.savez(tmp_path / "b.npz", loss=1.0)
    np.savez(
        tmp_path / "c.npz", loss=1.0, student_0=np.zeros(1), options=np.array("{'nonsense': 1}")
    )
    for name in ("a.npz", "b.npz", "c.npz", "missing.npz"):
        result = parity(tmp_path / name)
        assert result.returncode == 2 and result.stderr.count("\n") == 1 and name in result.stderr
