"""Node-level contrast between the graphs of an output and its input image.

Shape legend: B graphs, N nodes, D node width.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from util.hardware.precision import full_precision

if TYPE_CHECKING:
    from models.networks.graph import GraphLevel


def graph_nce_loss(
    node_in_BND: Tensor, node_out_BND: Tensor, temperature: float = 0.07, symmetric: bool = False
) -> Tensor:
    """InfoNCE that pulls each output node to the input node at the same place (PatchGCL, arXiv 2312.08223, eqs 4, 9).

        loss_b = - mean_i log( exp(z_i . v_i / T) / sum_j exp(z_i . v_j / T) ),  z input nodes, v output nodes

    Args:
        node_in_BND, node_out_BND: unit vectors of corresponding nodes.
        temperature: T; 1 is eq. 4 as written, 0.07 the released code.
        symmetric: add the same with z and v exchanged (the sum of both, as in the released code).

    Returns:
        loss_B, one per graph, in float32 or wider.
    """
    with torch.autocast(node_in_BND.device.type, enabled=False):
        z, v = full_precision(node_in_BND), full_precision(node_out_BND)
        logits_BNN = z @ v.transpose(1, 2) / temperature
        positive_BN = logits_BNN.diagonal(dim1=1, dim2=2)

        loss_B = (logits_BNN.logsumexp(2) - positive_BN).mean(1)
        if symmetric:
            loss_B = loss_B + (logits_BNN.logsumexp(1) - positive_BN).mean(1)
    return loss_B


def weigh_levels(
    losses: Sequence[Tensor], ratio: Sequence[float] = (1.0,), average: bool = False
) -> Tensor:
    """The loss of one feature layer over its pooling levels (eq. 9): sum_p ratio_p * loss_p.

    Args:
        losses: loss_B of each level.
        ratio: weight of each level, the last one repeated.
        average: divide the sum by the number of levels (released code).
    """
    last = len(ratio) - 1
    total_B = sum(ratio[min(p, last)] * loss_B for p, loss_B in enumerate(losses))
    return total_B / len(losses) if average else total_B


def multi_level_loss(
    levels: Sequence["GraphLevel"],
    temperature: float = 0.07,
    symmetric: bool = False,
    ratio: Sequence[float] = (1.0,),
    average: bool = False,
) -> Tensor:
    """`graph_nce_loss` of every level that GraphHead gives for one feature layer, weighed as above: loss_B.

    The defaults are those of PatchGCL's `--preset paper`, as GraphHead's are.
    """
    return judge_levels(levels, temperature, symmetric, ratio, average)[0]


def judge_levels(
    levels: Sequence["GraphLevel"],
    temperature: float,
    symmetric: bool,
    ratio: Sequence[float],
    average: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`multi_level_loss`, and what a log tells of each graph (B,): its topology, each level's loss without weight."""
    losses = [graph_nce_loss(g.node_in_BND, g.node_out_BND, temperature, symmetric) for g in levels]
    loss_B = weigh_levels(losses, ratio, average)

    notes = levels[0].statistics()
    for p, of_level_B in enumerate(losses):
        notes[f"level_{p}"] = of_level_B.detach()
    return loss_B, notes
