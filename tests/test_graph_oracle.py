"""Our graph convolution against that of PyTorch Geometric, in float64: outputs and gradients."""

import pytest
import torch
from torch_geometric.nn import TAGConv as OracleTAGConv

from models.networks.adjacency import normalize_adjacency
from models.networks.graph import TAGConv

NODES, WIDTH_IN, WIDTH_OUT = 9, 5, 4


def random_graph(kind: str) -> torch.Tensor:
    """adj_NN, A[i, j] the weight of the edge i -> j; nodes 2 and 7 touch no other."""
    weight = torch.rand(NODES, NODES, dtype=torch.float64) * (torch.rand(NODES, NODES) < 0.4)
    if kind != "directed":
        weight = torch.triu(weight, 1) + torch.triu(weight, 1).T
    weight.fill_diagonal_(0)
    weight[[2, 7]] = 0
    weight[:, [2, 7]] = 0
    if kind == "unweighted":
        weight = (weight > 0).double()
    # The head gives each node a loop of weight 1 (of weight 2 under --extra_self_loop). Without loops our rule for
    # degrees below 1 shows, see the last test, so these edges are made heavy enough.
    return 10 * weight if kind == "no loops" else weight + torch.eye(NODES, dtype=torch.float64)


def both(hops: int, bias: bool) -> tuple[TAGConv, OracleTAGConv]:
    """The same weights in both layouts: ours is one matrix, block l of its columns is the oracle's l-th matrix."""
    ours = TAGConv(WIDTH_IN, WIDTH_OUT, hops, bias).double()
    oracle = OracleTAGConv(WIDTH_IN, WIDTH_OUT, K=hops, bias=bias).double()
    with torch.no_grad():
        for part, lin in zip(ours.lin.weight.chunk(hops + 1, dim=1), oracle.lins, strict=True):
            lin.weight.copy_(part)
        if bias:
            ours.lin.bias.normal_()
            oracle.bias.copy_(ours.lin.bias)
    return ours, oracle


def oracle_output(oracle, x, adj):
    edges = adj.nonzero().T
    return oracle(x, edges, adj[edges[0], edges[1]])


@pytest.mark.parametrize("kind", ["weighted", "unweighted", "directed", "no loops"])
@pytest.mark.parametrize("hops", [0, 1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("extra_loop", [False, True])
def test_tagconv_equals_the_oracle(kind, hops, bias, extra_loop):
    """The oracle adds no loops of its own here, so the extra one of the release is part of its graph."""
    ours, oracle = both(hops, bias)
    adj = random_graph(kind)
    degrees = adj.sum(0)
    assert degrees[degrees > 0].min() >= 1 and (degrees == 0).any() == (kind == "no loops")
    x = torch.randn(2, NODES, WIDTH_IN, dtype=torch.float64)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    result = ours(mine, normalize_adjacency(adj.expand(2, -1, -1), extra_loop))
    looped = adj + torch.eye(NODES) if extra_loop else adj
    expected = torch.stack([oracle_output(oracle, graph, looped) for graph in theirs])
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    slope = torch.randn_like(expected)
    result.backward(slope)
    expected.backward(slope)
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-12, atol=1e-12)
    matrices = torch.cat([lin.weight.grad for lin in oracle.lins], dim=1)
    torch.testing.assert_close(ours.lin.weight.grad, matrices, rtol=1e-12, atol=1e-12)
    if bias:
        torch.testing.assert_close(ours.lin.bias.grad, oracle.bias.grad, rtol=1e-12, atol=1e-12)


def test_degrees_below_one_are_the_one_difference():
    """Ours counts a degree below 1 as 1, as the release's library does; the oracle divides by it.

    The head's own graphs never get there: every node has its loop, and only weighted edges of negative cosine could
    pull a degree below 1.
    """
    ours, oracle = both(1, bias=False)
    x = torch.randn(1, 2, WIDTH_IN, dtype=torch.float64)
    for weight, same in ((4.0, True), (1.0, True), (0.25, False)):
        adj = torch.tensor([[0.0, weight], [weight, 0.0]], dtype=torch.float64)
        close = torch.allclose(
            ours(x, normalize_adjacency(adj[None]))[0], oracle_output(oracle, x[0], adj)
        )
        assert close == same, weight
