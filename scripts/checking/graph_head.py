"""PatchGCL's graph head: loss, and gradients of features and weights."""

import ast
from typing import Any

import torch
from torch import Tensor

from models.losses.graph_nce import multi_level_loss
from models.networks.graph import GraphHead
from scripts.checking.agreement import Compared
from scripts.checking.export import Export
from util.errors import UserError

README = {
    "num_hop": 2,
    "pooling_num": 1,
    "down_scale": 4,
    "pooling_ratio": [1, 0.5],
    "nonzero_th": 0.1,
}
TOLERANCE = 1e-4

# A gradient that is small beside the others (a pooling bias, whose gradient nearly cancels, is mostly rounding noise in
# a float32 export) is measured against this share of the largest.
FLOOR = 0.05


def graph_head(export: Export) -> list[Compared]:
    """The head with the export's weights, features and positions.

    The file holds, for every feature layer i, student_i and teacher_i (features (1,C,H,W) of output and input), ids_i
    (the sampled positions), grad_student_i; for every parameter of the released module its value w:<name> and gradient
    g:<name>; loss; and options, a Python dict literal of what differs from the README's values.
    """
    export.require(["student_0", "loss"])
    options = read_options(export)
    head = build_head(export.tensors("w:"), options)

    layers = range(head.layers)
    students = [export.learning(f"student_{i}") for i in layers]
    teachers = [export.tensor(f"teacher_{i}") for i in layers]
    ids = [export.tensor(f"ids_{i}").long().reshape(1, -1) for i in layers]
    ratio = [1.0, *options["pooling_ratio"][1:]]  # the release never reads the first entry

    losses = []
    for levels in head(students, teachers, ids):
        losses.append(multi_level_loss(levels, 0.07, symmetric=True, ratio=ratio, average=True))
    loss = torch.stack(losses).mean()
    loss.backward()

    compared = [Compared("loss", loss, export.tensor("loss").reshape(()), TOLERANCE)]
    for i in layers:
        wanted = export.tensor(f"grad_student_{i}")
        compared.append(Compared("feature_gradient", students[i].grad, wanted, TOLERANCE, FLOOR))
    parameters = dict(head.named_parameters())
    for name, wanted in export.tensors("g:").items():
        if name in parameters:
            found = parameters[name].grad
            compared.append(Compared("parameter_gradient", found, wanted, TOLERANCE, FLOOR))
    return compared


def read_options(export: Export) -> dict[str, Any]:
    """The README's values and what differs from them; raises UserError for what is no option."""
    try:
        changed = ast.literal_eval(export.text("options", default="{}"))
    except (ValueError, SyntaxError) as error:
        raise export.unusable(str(error)) from None
    unknown = sorted(changed.keys() - README.keys())
    if unknown:
        raise UserError(
            f"--reference {export.path}: unknown option {unknown[0]}; known are {', '.join(README)}"
        )
    return {**README, **changed}


def build_head(weights: dict[str, Tensor], options: dict[str, Any]) -> GraphHead:
    """The head of the official recipe with the file's weights; widths and layers are read off their shapes."""
    layers = sum(name.startswith("embed_") and name.endswith(".weight") for name in weights)
    channels = [weights[f"embed_{i}.linear.weight"].shape[1] for i in range(layers)]
    head = GraphHead(
        channels,
        weights["embed_0.linear.weight"].shape[0],
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
        raise UserError(
            f"the weights do not fit the options {options}: {' '.join(str(error).split())}"
        ) from None
    return head
