"""Node-level contrast between the graphs of an output and its input image.

Shape legend: B graphs, N nodes, D node width.
"""

import torch
from torch import Tensor

from util.precision import full_precision


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
