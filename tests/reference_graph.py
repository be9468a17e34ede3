"""The graph contrastive loss once more, one image and one node at a time: slow, obvious, independent of the project."""

import math

import torch
from torch import Tensor


def norm(vector: Tensor) -> Tensor:
    """The vector at length 1."""
    return vector / torch.sqrt((vector**2).sum())


def tagconv(
    nodes: list[Tensor], edges: list[list[float]], weight: Tensor, bias: Tensor | None, hops: int
) -> list[Tensor]:
    """sum_l (D^-1/2 A^T D^-1/2)^l x W_l + b for every node, W_l the l-th block of columns of `weight`."""
    n, width = len(nodes), nodes[0].shape[0]
    degree = [
        max(1.0, sum(edges[i][j] for i in range(n))) for j in range(n)
    ]  # in-degree: over senders
    current = list(nodes)
    outputs = [weight[:, :width] @ x for x in current]
    for hop in range(1, hops + 1):
        new = []
        for j in range(n):
            message = torch.zeros_like(nodes[0])
            for i in range(n):
                message = message + edges[i][j] * current[i] / math.sqrt(degree[i] * degree[j])
            new.append(message)
        current = new
        outputs = [
            o + weight[:, hop * width : (hop + 1) * width] @ x
            for o, x in zip(outputs, current, strict=True)
        ]
    return [norm(o + bias) if bias is not None else norm(o) for o in outputs]


def info_nce(z: list[Tensor], v: list[Tensor], temperature: float, symmetric: bool) -> Tensor:
    """Cross entropy of each z_i against all v_j, and the other way round where symmetric."""
    total = torch.zeros((), dtype=z[0].dtype)
    n = len(z)
    for i in range(n):
        row = torch.stack([(z[i] * v[j]).sum() / temperature for j in range(n)])
        total = total - torch.log(torch.exp(row[i]) / torch.exp(row).sum()) / n
        if symmetric:
            column = torch.stack([(z[j] * v[i]).sum() / temperature for j in range(n)])
            total = total - torch.log(torch.exp(column[i]) / torch.exp(column).sum()) / n
    return total


def reference_loss(
    out: Tensor, source: Tensor, ids: list[int], weights: dict[str, Tensor], *, layer: int, num_hop: int, pool_hop: int,
    pooling_num: int, down_scale: int, pool_shrink: int, threshold: float, strict: bool,
    neighbours: int, weighted: bool, adjacency_from: str,
    extra_loop: bool, pool_adjacency: str, pool_score: str, detach_input: bool, temperature: float, symmetric: bool,
    ratio: list[float], average_levels: bool,
) -> Tensor:  # fmt: skip
    """Loss of one layer of one image; `out` and `source` are (C,H,W), weights carry the released names."""
    width = out.shape[2]
    patches_out = [out[:, i // width, i % width] for i in ids]
    patches_in = [source[:, i // width, i % width] for i in ids]
    w, b = weights[f"embed_{layer}.linear.weight"], weights[f"embed_{layer}.linear.bias"]
    v = [norm(w @ x + b) for x in patches_out]
    z = [norm(w @ x + b) for x in patches_in]
    basis = (
        [x.detach() for x in z]
        if adjacency_from == "embedding"
        else [norm(x.detach()) for x in patches_in]
    )
    n = len(ids)
    cosines = [[(norm(basis[i]) * norm(basis[j])).sum().item() for j in range(n)] for i in range(n)]
    edges = [[0.0] * n for _ in range(n)]
    for i in range(n):
        nearest = sorted((j for j in range(n) if j != i), key=lambda j: -cosines[i][j])[:neighbours]
        for j in range(n):
            passes = cosines[i][j] > threshold if strict else cosines[i][j] >= threshold
            if i == j:
                edges[i][j] = 1.0
            elif neighbours and j in nearest:
                edges[i][j] = edges[j][i] = cosines[i][j] if weighted else 1.0
            elif not neighbours and passes:
                edges[i][j] = cosines[i][j] if weighted else 1.0
    total = torch.zeros((), dtype=out.dtype)
    keep, hops, name = n // down_scale, num_hop, f"gnn_{layer}"
    for level in range(pooling_num + 1):
        if level:
            w_p = weights[f"pools_{layer}.{level - 1}.proj.weight"][0]
            b_p = weights[f"pools_{layer}.{level - 1}.proj.bias"][0]
            score_in = [torch.sigmoid((w_p * x).sum() + b_p) for x in z]
            score_out = (
                score_in
                if pool_score == "input"
                else [torch.sigmoid((w_p * x).sum() + b_p) for x in v]
            )
            k = min(max(2, keep), len(z))
            kept = sorted(range(len(z)), key=lambda i: -score_in[i].item())[:k]
            if pool_adjacency == "two_hop":
                m = len(z)
                reach = [
                    [any(edges[i][r] and edges[r][j] for r in range(m)) for j in range(m)]
                    for i in range(m)
                ]
                edges = [[1.0 if reach[i][j] else 0.0 for j in kept] for i in kept]
            else:
                edges = [[edges[i][j] for j in kept] for i in kept]
            z = [score_in[i] * z[i] for i in kept]
            v = [score_out[i] * v[i] for i in kept]
            keep, hops, name = keep // pool_shrink, pool_hop, f"gnn_pools_{layer}.{level - 1}"
        looped = [
            [e + (1.0 if extra_loop and i == j else 0.0) for j, e in enumerate(row)]
            for i, row in enumerate(edges)
        ]
        weight, bias = weights[f"{name}.conv1.lin.weight"], weights.get(f"{name}.conv1.lin.bias")
        z = tagconv(z, looped, weight, bias, hops)
        v = tagconv(v, looped, weight, bias, hops)
        if detach_input:
            z = [x.detach() for x in z]
        total = total + ratio[min(level, len(ratio) - 1)] * info_nce(z, v, temperature, symmetric)
    return total / (pooling_num + 1) if average_levels else total
