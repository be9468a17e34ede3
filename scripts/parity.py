"""Check the graph head against an export of the released module: `python scripts/parity.py --reference FILE.npz`.

The file holds, for every feature layer i, student_i and teacher_i (features (1,C,H,W) of output and input), ids_i (the
sampled positions), grad_student_i; for every parameter of the released module its value w:<name> and gradient g:<name>;
`loss`; and `options`, a Python dict literal of what differs from the README's values. Prints one JSON line; exit status
0 when everything agrees within the tolerance, 1 when not, 2 when the file cannot be used.
"""

import argparse
import ast
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from models.losses.graph_nce import multi_level_loss
from models.networks.graph import GraphHead
from util.errors import UserError, exit_status

README = {
    "num_hop": 2,
    "pooling_num": 1,
    "down_scale": 4,
    "pooling_ratio": [1, 0.5],
    "nonzero_th": 0.1,
}
FLOOR = 0.05


def read_reference(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The arrays in float64 and the options; raises UserError for a file that is not such an export."""
    try:
        with np.load(path, allow_pickle=False) as file:
            content = {name: np.asarray(file[name]) for name in file.files}
        changed = ast.literal_eval(str(content.pop("options", "{}")))
        arrays = {name: torch.from_numpy(array) for name, array in content.items()}
    except (OSError, ValueError, SyntaxError, zipfile.BadZipFile) as error:
        text = f"--reference {path} is not an export of the released module ({error})"
        raise UserError(text) from None

    unknown = sorted(changed.keys() - README.keys())
    if unknown:
        known = ", ".join(README)
        raise UserError(f"--reference {path}: unknown option {unknown[0]}; known are {known}")
    if "student_0" not in arrays or "loss" not in arrays:
        raise UserError(
            f"--reference {path} lacks student_0 or loss: "
            "it is not an export of the released module"
        )

    for name, array in arrays.items():
        if array.is_floating_point():
            arrays[name] = array.double()
    return arrays, README | changed


def build_head(arrays: dict[str, Tensor], options: dict[str, Any]) -> GraphHead:
    """The head of the official recipe with the file's weights; widths and layers are read off their shapes."""
    weights = {name[2:]: value for name, value in arrays.items() if name.startswith("w:")}
    layers = sum(name.startswith("embed_") and name.endswith(".weight") for name in weights)
    channels = [weights[f"embed_{i}.linear.weight"].shape[1] for i in range(layers)]
    width = weights["embed_0.linear.weight"].shape[0]

    head = GraphHead(
        channels,
        width,
        num_hop=options["num_hop"],
        pool_hop=1,
        pooling_num=options["pooling_num"],
        down_scale=options["down_scale"],
        pool_shrink=2,
        threshold=options["nonzero_th"],
        strict=True,
        extra_loop=True,
        pool_adjacency="two_hop",
    ).double()

    try:
        head.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the weights do not fit the options {options}: {reason}") from None
    return head


def compare(arrays: dict[str, Tensor], options: dict[str, Any]) -> dict[str, float]:
    """Loss here and there, and the largest differences of loss and gradients."""
    head = build_head(arrays, options)
    layers = range(head.layers)
    students = [arrays[f"student_{i}"].requires_grad_() for i in layers]
    teachers = [arrays[f"teacher_{i}"] for i in layers]
    ids = [arrays[f"ids_{i}"].long().reshape(1, -1) for i in layers]

    terms = {
        "temperature": 0.07,
        "symmetric": True,
        "ratio": [1.0, *options["pooling_ratio"][1:]],  # the release never reads the first entry
        "average": True,
    }
    losses = [multi_level_loss(graphs, **terms) for graphs in head(students, teachers, ids)]
    loss = torch.stack(losses).mean()
    loss.backward()

    loss_pairs = [(loss.detach(), arrays["loss"].reshape(()))]
    feature_pairs = [(students[i].grad, arrays[f"grad_student_{i}"]) for i in layers]
    parameter_pairs = []
    for name, parameter in head.named_parameters():
        if f"g:{name}" in arrays:
            parameter_pairs.append((parameter.grad, arrays[f"g:{name}"]))

    return {
        "loss": loss.item(),
        "loss_reference": arrays["loss"].item(),
        **differences("loss", loss_pairs),
        **differences("feature_gradient", feature_pairs),
        **differences("parameter_gradient", parameter_pairs),
    }


def differences(name: str, pairs: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Largest absolute difference, and largest relative to the largest entry of the reference tensor.

    A tensor that is small beside the others (a pooling bias, whose gradient nearly cancels, is mostly rounding noise in
    a float32 export) is measured against FLOOR times the largest entry of all.
    """
    absolute = [(found - wanted).abs().max().item() for found, wanted in pairs]
    scales = [wanted.abs().max().item() for _, wanted in pairs]

    floor = max(FLOOR * max(scales, default=0.0), 1e-12)
    relative = []
    for difference, scale in zip(absolute, scales, strict=True):
        relative.append(difference / max(scale, floor))

    return {
        f"{name}_absolute": max(absolute, default=0.0),
        f"{name}_relative": max(relative, default=0.0),
    }


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference", type=Path, required=True, help="the export, an .npz file")
    text = "largest relative difference (default: 1e-4)"
    parser.add_argument("--tolerance", type=float, default=1e-4, help=text)
    args = parser.parse_args()

    result = compare(*read_reference(args.reference))
    relative = [value for name, value in result.items() if name.endswith("_relative")]
    agrees = all(value <= args.tolerance for value in relative)
    print(json.dumps({**result, "tolerance": args.tolerance, "agrees": agrees}))
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(exit_status(main))
