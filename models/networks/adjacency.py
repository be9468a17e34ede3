"""Graphs of patches as dense adjacencies: drawn from similarity, normalised, restricted to kept nodes.

Shape legend: B graphs (one per image), N nodes (sampled patches), K kept nodes, C channels of a feature map,
D embedding width, H and W height and width of a map, P = H*W its positions.
"""

import torch
from torch import Tensor


def unit(x: Tensor) -> Tensor:
    """Scale the last axis to length 1; a zero vector stays zero and gets no gradient (the release gives NaN there)."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / length.masked_fill(length < 1e-12, torch.inf)


def sample_positions(
    batch: int, positions: int, count: int, device: torch.device, shuffled: bool = False
) -> Tensor:
    """Draw `count` of `positions` without replacement for each image: ids_BN; all of them where there are no more.

    Drawn on the device by sorting noise, so that no step waits for the host. Their order is random where `shuffled`,
    else that of the device's selection; all positions then come as they are.
    """
    if positions <= count and not shuffled:
        return torch.arange(positions, device=device).expand(batch, -1)

    noise = torch.rand(batch, positions, device=device)
    return noise.topk(min(count, positions), dim=1, sorted=shuffled).indices


def gather_patches(feat_BCHW: Tensor, ids_BN: Tensor) -> Tensor:
    """Features at the sampled positions (row-major ids): feat_BNC."""
    flat_BCP = feat_BCHW.flatten(2)
    ids_BCN = ids_BN[:, None].expand(-1, flat_BCP.shape[1], -1)
    return flat_BCP.gather(2, ids_BCN).transpose(1, 2)


def similarity_graph(
    embed_BND: Tensor,
    threshold: float,
    strict: bool = False,
    neighbours: int = 0,
    weighted: bool = False,
) -> Tensor:
    """Adjacency adj_BNN: 1 where the cosine of two nodes reaches the threshold (paper, eq. 1); no gradient.

    A node is always its own neighbour: its cosine is 1.

    Args:
        embed_BND: node features, of any length.
        strict: more than the threshold is asked for (released code).
        neighbours: if positive, edges join each node and its so many most similar others, whatever the threshold.
        weighted: an edge weighs its cosine instead of 1.
    """
    unit_BND = unit(embed_BND.detach())
    cos_BNN = unit_BND @ unit_BND.transpose(1, 2)
    eye_NN = torch.eye(cos_BNN.shape[1], dtype=cos_BNN.dtype, device=cos_BNN.device)

    if neighbours:
        nearest_BNk = nearest_others(cos_BNN, eye_NN, neighbours)
        chosen_BNN = torch.zeros_like(cos_BNN).scatter(2, nearest_BNk, 1.0)
        edge_BNN = torch.maximum(chosen_BNN, chosen_BNN.transpose(1, 2))
    else:
        edge_BNN = reaches(cos_BNN, threshold, strict)

    return finish_edges(edge_BNN, cos_BNN, eye_NN, weighted)


def nearest_others(cos_BMN: Tensor, self_MN: Tensor, neighbours: int) -> Tensor:
    """For each of M rows the nodes most similar to it, itself (where self is 1) left out: ids_BMk."""
    others = cos_BMN.shape[2] - 1
    below_all = cos_BMN - 4 * self_MN
    return below_all.topk(min(neighbours, others), dim=2).indices


def reaches(cos_BMN: Tensor, threshold: float, strict: bool) -> Tensor:
    """1 where the cosine reaches the threshold, or passes it where `strict`."""
    edge_BMN = cos_BMN > threshold if strict else cos_BMN >= threshold
    return edge_BMN.to(cos_BMN.dtype)


def finish_edges(edge_BMN: Tensor, cos_BMN: Tensor, self_MN: Tensor, weighted: bool) -> Tensor:
    """Weigh the edges if asked, and give each node (where self is 1) a loop of weight 1."""
    adj_BMN = edge_BMN * cos_BMN if weighted else edge_BMN
    return adj_BMN * (1 - self_MN) + self_MN


def normalize_adjacency(adj_BNN: Tensor, extra_loop: bool = False) -> Tensor:
    """P = D^-1/2 A^T D^-1/2 with D the in-degrees; `extra_loop` adds I to A first, as the release does."""
    if extra_loop:
        adj_BNN = adj_BNN + torch.eye(adj_BNN.shape[1], dtype=adj_BNN.dtype, device=adj_BNN.device)

    scale_BN = adj_BNN.sum(dim=1).clamp(min=1).rsqrt()
    return scale_BN[:, :, None] * adj_BNN.transpose(1, 2) * scale_BN[:, None, :]


def two_hop(adj_BNN: Tensor, index_BK: Tensor) -> Tensor:
    """Which kept nodes reach each other within two hops: [(A A) > 0], kept rows and columns only, adj_BKK."""
    edge_BNN = (adj_BNN != 0).to(adj_BNN.dtype)
    rows_BKN = take_nodes(edge_BNN, index_BK)
    columns_BNK = take_nodes(edge_BNN.transpose(1, 2), index_BK).transpose(1, 2)
    return (rows_BKN @ columns_BNK > 0).to(adj_BNN.dtype)


def induced(adj_BNN: Tensor, index_BK: Tensor) -> Tensor:
    """The subgraph of the kept nodes, adj_BKK."""
    rows_BKN = take_nodes(adj_BNN, index_BK)
    return take_nodes(rows_BKN.transpose(1, 2), index_BK).transpose(1, 2)


def take_nodes(x_BND: Tensor, index_BK: Tensor) -> Tensor:
    """The chosen nodes of each graph: x_BKD."""
    index_BKD = index_BK[:, :, None].expand(-1, -1, x_BND.shape[2])
    return x_BND.gather(1, index_BKD)


POOLED = {"induced": induced, "two_hop": two_hop}  # the ways to restrict an adjacency to kept nodes
