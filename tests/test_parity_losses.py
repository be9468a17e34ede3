"""scripts/parity.py --loss NAME accepts exports made by loops, and rejects each that is changed."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.networks.similarity_head import SimilarityHead
from scripts.parity import CHECKS, main
from tests.helpers import run_command
from tests.test_dclgan import loop_nce, vectors
from tests.test_lsesim import loop_contrast
from tests.test_relations import loop_hdce, loop_src
from tests.test_relations import vectors as unit_vectors
from tests.test_self_similarity import loop_loss, loop_similarity, random
from tests.test_simdcl import loop_head
from util.errors import UserError

Arrays = dict[str, Any]


def numpy_of(arrays: Arrays) -> Arrays:
    return {
        name: value.detach().numpy() if isinstance(value, Tensor) else np.array(value)
        for name, value in arrays.items()
    }


# -- exports, as the released modules would make them ------------------------------------------------------------------


def hdce_export(batch: int = 3) -> Arrays:
    query = unit_vectors(batch, 5, 6, seed=1).requires_grad_()
    key = unit_vectors(batch, 5, 6, seed=2)
    loss = loop_hdce(query, key, 0.5, 0.07, False).mean()
    (slope,) = torch.autograd.grad(loss, query)
    arrays = {"query_0": query, "key_0": key, "gamma": 0.5, "T": 0.07}
    return arrays | {"loss_decoupled": loss, "grad_query_0": slope}


def src_export(batch: int = 3) -> Arrays:
    """Vectors of many lengths: the loss brings them to one."""
    query, key = vectors(batch, seed=1).requires_grad_(), vectors(batch, seed=2)
    loss = loop_src(query, key, False).mean()
    (slope,) = torch.autograd.grad(loss, query)
    return {"query_0": query, "key_0": key, "loss": loss, "grad_query_0": slope}


IDS = [0, 6, 34, 17, 8]  # of a map of 5 rows and 7 columns


def spatial_export(mode: str = "cos", window: int = 3, use_norm: bool = False) -> Arrays:
    fake, real = random(1, 3, 5, 7, seed=1), random(1, 3, 5, 7, seed=2).detach()
    sims = [loop_similarity(feat, IDS, window, use_norm) for feat in (real, fake)]
    loss = loop_loss(*sims, mode, use_norm).mean()
    (slope,) = torch.autograd.grad(loss, fake)
    settings = {"ids_0": IDS, "patch_size": window, "use_norm": int(use_norm), "loss_mode": mode}
    return {"fake_0": fake, "real_0": real, **settings, "loss": loss, "grad_fake_0": slope}


def lsesim_export(batch: int = 2, window: int = 3, use_norm: bool = False) -> Arrays:
    names = ("src_0", "tgt_0", "oth_0")
    maps = [random(batch, 3, 5, 7, seed=seed) for seed in range(3)]
    sims = [loop_similarity(feat, IDS, window, use_norm) for feat in maps]
    loss = loop_contrast(*sims, 0.07).mean()
    slopes = torch.autograd.grad(loss, maps)
    settings = {"ids_0": IDS, "patch_size": window, "use_norm": int(use_norm), "T": 0.07}
    arrays = {**dict(zip(names, maps, strict=True)), **settings, "loss": loss}
    return arrays | {f"grad_{name}": slope for name, slope in zip(names, slopes, strict=True)}


def dcl_nce_export(batch: int = 3) -> Arrays:
    query, key = vectors(batch, seed=1).requires_grad_(), vectors(batch, seed=2)
    loss = loop_nce(query, key, 0.07).mean()
    (slope,) = torch.autograd.grad(loss, query)
    return {"query_0": query, "key_0": key, "T": 0.07, "loss": loss, "grad_query_0": slope}


def simdcl_head_export(layers: int = 2, width: int = 5) -> Arrays:
    torch.manual_seed(3)
    weights = {}
    for name, value in SimilarityHead(layers, width).state_dict().items():
        weights[name] = (0.3 * torch.randn(value.shape).double()).requires_grad_()
    patches = torch.randn(layers, 7, 6).double()
    other = torch.randn(width).double()

    output = loop_head(weights, patches)
    loss = (output - other).abs().mean()
    slopes = torch.autograd.grad(loss, list(weights.values()))
    arrays = {f"x_{i}": x for i, x in enumerate(patches)}
    arrays |= {"other": other, "output": output, "loss": loss}
    arrays |= {f"w:{name}": weight for name, weight in weights.items()}
    return arrays | {f"g:{name}": slope for name, slope in zip(weights, slopes, strict=True)}


EXPORTS: dict[str, Callable[..., Arrays]] = {
    "hdce": hdce_export,
    "src": src_export,
    "spatial": spatial_export,
    "lsesim": lsesim_export,
    "dcl_nce": dcl_nce_export,
    "simdcl_head": simdcl_head_export,
}


def check(path, name: str, arrays: Arrays, capsys, *flags: str) -> tuple[int, dict[str, Any]]:
    """Exit status and the line that is printed."""
    np.savez(path, **numpy_of(arrays))
    status = main(["--loss", name, "--reference", str(path), *flags])
    [line] = capsys.readouterr().out.splitlines()
    return status, json.loads(line)


@pytest.fixture(params=EXPORTS)
def export(request) -> tuple[str, Arrays]:
    return request.param, EXPORTS[request.param]()


def test_every_loss_has_an_export_here():
    assert set(CHECKS) == {"graph", *EXPORTS}


# -- what is accepted --------------------------------------------------------------------------------------------------


def test_a_correct_export_is_accepted(tmp_path, capsys, export):
    name, arrays = export
    status, found = check(tmp_path / "r.npz", name, arrays, capsys)
    assert status == 0 and found["agrees"], found
    assert found["loss"] == pytest.approx(found["loss_reference"], rel=1e-9)
    assert found["tolerance"]["loss"] == 1e-5 and found["tolerance"]["gradient"] == 1e-4
    assert all(value < 1e-7 for key, value in found.items() if key.endswith("_relative")), found


VARIANTS = [
    ("hdce", {"batch": 1}),
    ("src", {"batch": 1}),
    ("dcl_nce", {"batch": 1}),
    ("spatial", {"mode": "l1"}),
    ("spatial", {"use_norm": True}),
    ("spatial", {"mode": "l1", "use_norm": True, "window": 64}),
    ("lsesim", {"batch": 1, "use_norm": True}),
    ("lsesim", {"window": 64}),
    ("simdcl_head", {"layers": 4, "width": 3}),
]


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_a_correct_export_with_other_settings_is_accepted(tmp_path, capsys, name, settings):
    status, found = check(tmp_path / "r.npz", name, EXPORTS[name](**settings), capsys)
    assert status == 0 and found["loss_relative"] < 1e-9, found


def test_an_export_in_single_precision_is_accepted(tmp_path, capsys, export):
    name, arrays = export
    single = {
        key: value.astype(np.float32) if value.dtype == np.float64 and value.ndim else value
        for key, value in numpy_of(arrays).items()
    }
    status, found = check(tmp_path / "r.npz", name, single, capsys)
    assert status == 0, found
    status, found = check(tmp_path / "r.npz", name, single, capsys, "--tolerance", "1e-10")
    assert status == 1 and found["tolerance"] == 1e-10


def test_a_change_of_one_percent_of_anything_is_rejected(tmp_path, capsys, export):
    name, arrays = export
    for changed, value in numpy_of(arrays).items():
        if value.dtype.kind != "f":
            continue
        spoiled = value * 1.01
        if value.ndim > 1 and not changed.startswith(("g:", "grad")):
            spoiled = value + 0.01 * np.abs(value).max() * np.sin(np.arange(value.size)).reshape(
                value.shape
            )
        status, found = check(tmp_path / "r.npz", name, {**arrays, changed: spoiled}, capsys)
        assert status == 1 and not found["agrees"], (changed, found)


@pytest.mark.parametrize(
    ("first", "accepted"), [("model.0.weight", True), ("model.4.weight", False)]
)
def test_the_first_layer_of_the_head_has_ten_times_the_tolerance(tmp_path, capsys, first, accepted):
    arrays = simdcl_head_export()
    arrays[f"g:{first}"] = arrays[f"g:{first}"] * 1.0005
    status, _ = check(tmp_path / "r.npz", "simdcl_head", arrays, capsys)
    assert status == (0 if accepted else 1)


# -- what cannot be used -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("dcl_nce", {"key_0": None}, "it lacks key_0"),
        ("dcl_nce", {"T": None}, "it lacks T"),
        ("dcl_nce", {"T": np.ones(2)}, "T holds 2 numbers"),
        ("dcl_nce", {"query_0": np.ones((2, 3))}, "where 3 axes are due"),
        ("dcl_nce", {"query_0": np.ones((2, 3, 4))}, "unlike shapes"),
        ("dcl_nce", {"query_0": np.array("x")}, "query_0 holds no numbers"),
        ("dcl_nce", {"grad_query_0": np.ones((2, 3, 4))}, "gradient has the shape (2, 3, 4)"),
        ("hdce", {"gamma": None}, "it lacks gamma"),
        ("hdce", {"loss_decoupled": None, "loss": 1.0}, "it lacks loss_decoupled"),
        ("spatial", {"loss_mode": "cosine"}, "loss_mode is cosine, not one of cos, l1"),
        ("spatial", {"ids_0": [3, 35]}, "ids_0 leaves the map, which has 35 positions"),
        ("spatial", {"real_0": np.ones((1, 3, 7, 5))}, "fake_0, real_0 have unlike shapes"),
        ("lsesim", {"oth_0": None}, "it lacks oth_0"),
        ("simdcl_head", {"g:model.4.bias": None}, "it lacks g:model.4.bias"),
        ("simdcl_head", {"w:model.4.bias": None}, "Missing key"),
        ("simdcl_head", {"x_0": None}, "it lacks x_0"),
    ],
)
def test_what_is_no_such_export_is_one_line(tmp_path, name, changes, message):
    arrays = {**EXPORTS[name](), **changes}
    kept = {key: value for key, value in arrays.items() if value is not None}
    np.savez(tmp_path / "r.npz", **numpy_of(kept))
    with pytest.raises(UserError) as caught:
        main(["--loss", name, "--reference", str(tmp_path / "r.npz")])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_the_command_line(tmp_path):
    np.savez(tmp_path / "r.npz", **numpy_of(dcl_nce_export(1)))
    command = ["scripts/parity.py", "--loss", "dcl_nce", "--reference", tmp_path / "r.npz"]
    result = run_command(command)
    assert result.returncode == 0 and json.loads(result.stdout)["agrees"], result.stderr
    result = run_command([*command[:3], "--reference", tmp_path / "missing.npz"])
    assert result.returncode == 2 and result.stderr.count("\n") == 1
