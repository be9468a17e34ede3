"""The graph head on whole images: the same computation as on samples, in chunks, against loops and dense solvers."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.explain import spectrum
from models.explain.chunked_graph import ChunkedGraph, chunked_similarity_graph
from models.explain.graph_maps import MapHead, thin_grid
from models.explain.spectrum import leading_eigenpairs, spectral_clusters
from models.networks.adjacency import normalize_adjacency, similarity_graph
from models.networks.graph import GraphHead

FLAGS = [
    {},
    {"strict": True, "extra_loop": True, "pool_adjacency": "two_hop", "pool_hop": 1, "pool_shrink": 2},
    {"threshold": 0.6, "pool_adjacency": "two_hop", "pooling_num": 3, "pool_shrink": 1},
    {"neighbours": 3},
    {"neighbours": 3, "weighted": True, "pool_adjacency": "two_hop"},
    {"neighbours": 1000},
    {"threshold": -0.6, "weighted": True, "pool_adjacency": "two_hop"},
    {"weighted": True, "adjacency_from": "features", "extra_loop": True},
    {"pool_score": "both", "detach_input": False, "bias": False},
    {"num_hop": 0, "pooling_num": 0},
    {"num_hop": 3, "pool_hop": 0, "down_scale": 1},
]  # fmt: skip
CHUNKED = 20  # numbers of an adjacency held at once: one row of a map of 6 x 7, and nothing of a pooled graph


def name(flags: dict) -> str:
    return " ".join(f"{k}={v}" for k, v in flags.items()) or "paper"


def make_heads(flags: dict, **extra) -> tuple[GraphHead, MapHead]:
    """A head in float64 with well spread weights, and the same for whole maps."""
    settings = {
        "num_hop": 2,
        "pooling_num": 2,
        "down_scale": 2,
        "pool_shrink": 2,
        "threshold": 0.2,
        **flags,
    }
    head, whole = (
        GraphHead([5, 3], 4, **settings).double(),
        MapHead([5, 3], 4, **settings, **extra).double(),
    )
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(0, 0.7)
    whole.load_state_dict(head.state_dict())
    return head, whole


def make_features(height: int = 6, width: int = 7) -> list[list[torch.Tensor]]:
    """Of output and input, two layers of different size."""
    return [
        [
            torch.randn(1, c, height // k, width // k, dtype=torch.float64)
            for c, k in ((5, 1), (3, 2))
        ]
        for _ in range(2)
    ]


def dense(adj) -> torch.Tensor:
    """The whole adjacency, held or in chunks."""
    if not isinstance(adj, ChunkedGraph):
        return adj
    return torch.cat([adj.rows(ids) for ids in adj.chunks()], dim=1)


@pytest.mark.parametrize("flags", FLAGS, ids=name)
@pytest.mark.parametrize(
    "budget", [2**24, 600, CHUNKED], ids=["held", "pooled graphs held", "chunks"]
)
def test_all_positions_are_the_head_with_every_position_sampled(flags, budget):
    head, whole = make_heads(flags, budget=budget)
    out, source = make_features()
    ids = [torch.arange(feat[0, 0].numel())[None] for feat in source]
    chunked = whole.adjacency(torch.randn(1, 42, 4, dtype=torch.float64))
    assert isinstance(chunked, ChunkedGraph) == (budget < 42**2)
    expected, found = head(out, source, ids), whole(out, source, ids)
    for layer, (levels, others) in enumerate(zip(expected, found, strict=True)):
        for a, b in zip(levels, others, strict=True):
            assert torch.equal(a.position_BN, b.position_BN)
            torch.testing.assert_close(a.node_in_BND, b.node_in_BND)
            torch.testing.assert_close(a.node_out_BND, b.node_out_BND)
            torch.testing.assert_close(a.adj_BNN, dense(b.adj_BNN))
        if budget == CHUNKED and flags.get("pooling_num") != 0 and layer == 0:
            assert isinstance(
                others[1].adj_BNN, ChunkedGraph
            )  # a pooled graph is too large as well


@pytest.mark.parametrize("flags", FLAGS, ids=name)
def test_every_map_is_the_same_in_chunks(flags):
    out, source = make_features()
    _, whole = make_heads(flags)
    held = whole.maps(out, source, (0.3, 0.8), vectors=3)
    whole.budget = CHUNKED
    for a, b in zip(held, whole.maps(out, source, (0.3, 0.8), vectors=3), strict=True):
        for field, value in vars(a).items():
            if field not in (
                "eigenvector_NL",
                "cluster_N",
            ):  # these are not unique in a disconnected graph
                torch.testing.assert_close(
                    getattr(b, field), value, equal_nan=True, msg=lambda m, f=field: f"{f}: {m}"
                )


def slow_propagation(embed: torch.Tensor, threshold: float) -> torch.Tensor:
    """D^-1/2 A D^-1/2 of a threshold graph, entry by entry."""
    rows = [[float(value) for value in row] for row in embed]
    length = [math.sqrt(sum(v * v for v in row)) for row in rows]
    n = len(rows)
    edge = [
        [
            sum(a * b for a, b in zip(p, q, strict=True)) / (length[i] * length[j]) >= threshold
            for j, q in enumerate(rows)
        ]
        for i, p in enumerate(rows)
    ]
    degree = [sum(row) for row in edge]
    entries = [[edge[i][j] / math.sqrt(degree[i] * degree[j]) for j in range(n)] for i in range(n)]
    return torch.tensor(entries, dtype=torch.float64)


@pytest.mark.parametrize("exact", [256, 0], ids=["solved whole", "block Krylov"])
@pytest.mark.parametrize("budget", [2**24, CHUNKED], ids=["held", "chunks"])
def test_laplacian_eigenpairs_are_those_of_a_dense_solver(monkeypatch, exact, budget):
    monkeypatch.setattr(spectrum, "EXACT", exact)
    _, whole = make_heads({}, budget=budget)
    out, source = make_features(10, 11)
    layer = whole.maps(out, source, (0, 0), vectors=5)[0]
    embed = whole.embed_0(source[0].flatten(2).transpose(1, 2))[0].detach()
    slow = slow_propagation(embed, 0.2)
    values, vectors = torch.linalg.eigh(torch.eye(110, dtype=torch.float64) - slow)
    torch.testing.assert_close(layer.eigenvalue_L, values[:5], rtol=0, atol=1e-10)
    assert (
        values[1:6] - values[:5]
    ).min() > 1e-3  # so that the vectors are unique but for their sign
    overlap = (layer.eigenvector_NL * vectors[:, :5]).sum(0).abs()
    torch.testing.assert_close(overlap, torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-8)
    assert (
        layer.eigenvector_NL.gather(0, layer.eigenvector_NL.abs().argmax(0, keepdim=True)) > 0
    ).all()


def planted(sizes: tuple[int, ...] = (150, 100, 50)) -> torch.Tensor:
    """Nodes in groups, complete within and without edges between, shuffled; returns the group of each node."""
    label = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return label[torch.randperm(len(label), generator=torch.Generator().manual_seed(1))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_graph_in_pieces_has_an_eigenvalue_zero_for_each(dtype):
    label = planted()
    adj = (label[:, None] == label).to(dtype)
    prop = normalize_adjacency(adj[None])[0]
    values, vectors = leading_eigenpairs(lambda x: prop @ x, prop[0], 4)
    torch.testing.assert_close(
        1 - values, torch.tensor([0, 0, 0, 1], dtype=dtype), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(4, dtype=dtype), rtol=0, atol=1e-5)
    assert torch.equal(spectral_clusters(vectors[:, :3]), label)  # 0 is the largest


@pytest.mark.parametrize("kind", ["complete", "empty", "ring"])
def test_extreme_graphs_have_their_known_spectrum(kind):
    n = 300
    i = torch.arange(n)
    distance = (i[:, None] - i).abs()
    near = torch.minimum(distance, n - distance) <= {"complete": n, "empty": 0, "ring": 1}[kind]
    prop = normalize_adjacency(near.double()[None])[0]
    values, vectors = leading_eigenpairs(lambda x: prop @ x, prop[0], 5)
    ring = [(1 + 2 * math.cos(2 * math.pi * k / n)) / 3 for k in (0, 1, 1, 2, 2)]
    expected = {"complete": [1, 0, 0, 0, 0], "empty": [1] * 5, "ring": ring}[kind]
    close = (
        1e-6 if kind == "ring" else 1e-9
    )  # of a ring the wanted eigenvalues are 1e-4 apart: slow, but enough
    torch.testing.assert_close(
        values, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=close
    )
    torch.testing.assert_close(
        vectors.T @ vectors, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-9
    )


def test_clusters_need_no_clean_cut():
    label = planted((80, 60, 40))
    features = torch.nn.functional.one_hot(label, 3).double() + 0.25 * torch.randn(
        180, 3, dtype=torch.float64
    )
    prop = normalize_adjacency(similarity_graph(features[None], 0.5))[0]
    assert ((prop > 0).sum(1) > torch.bincount(label)[label]).any()  # edges between the groups
    found = spectral_clusters(leading_eigenpairs(lambda x: prop @ x, prop[0], 3)[1])
    assert (found == label).float().mean() > 0.97


def test_clusters_follow_directions_of_rows_not_their_length():
    """A node of high degree has a long row (Ng, Jordan, Weiss 2001)."""
    label = planted((80, 60, 40))
    rows = torch.eye(3, dtype=torch.float64)[label] + 0.1 * torch.rand(180, 3, dtype=torch.float64)
    assert torch.equal(spectral_clusters(rows * (10 ** (3 * torch.rand(180, 1)))), label)


def test_scores_kept_nodes_and_similarity_against_loops():
    """Two pooling levels: scores where a node still is, NaN elsewhere; similarity and edges of one patch."""
    head, whole = make_heads({"weighted": True})
    out, source = make_features()
    layer = whole.maps(out, source, query=(0.99, 0.0), vectors=2)[0]
    levels = head(out, source, [torch.arange(42)[None], torch.arange(9)[None]])[0]
    assert (layer.rows, layer.columns) == (6, 7)
    alive = list(range(42))
    for p in range(2):
        w, b = head.pools_0[p].proj.weight[0], head.pools_0[p].proj.bias[0]
        score = {}
        for place, node in enumerate(alive):
            score[node] = 1 / (1 + math.exp(-(levels[p].node_in_BND[0, place] @ w + b).item()))
            other = 1 / (1 + math.exp(-(levels[p].node_out_BND[0, place] @ w + b).item()))
            assert layer.score_in_PN[p, node].item() == pytest.approx(score[node])
            assert layer.score_out_PN[p, node].item() == pytest.approx(other)
        gone = [node for node in range(42) if node not in alive]
        assert (
            layer.score_in_PN[p, gone].isnan().all() and layer.score_out_PN[p, gone].isnan().all()
        )
        alive = sorted(alive, key=lambda node: -score[node])[: (21, 10)[p]]
        assert layer.kept[p].tolist() == alive

    assert int(layer.query) == 6  # the top right corner
    cosines = []
    for feat in (source[0], out[0]):
        nodes = [head.embed_0(feat[0, :, y, x]).detach() for y in range(6) for x in range(7)]
        cosines.append(
            [float((node * nodes[6]).sum() / node.norm() / nodes[6].norm()) for node in nodes]
        )
    assert layer.similarity_in_N.tolist() == pytest.approx(cosines[0])
    assert layer.similarity_out_N.tolist() == pytest.approx(cosines[1])
    for edges, cosine in ((layer.edge_N, cosines[0]), (layer.own_edge_N, cosines[1])):
        assert edges.tolist() == pytest.approx([c if c >= 0.2 else 0.0 for c in cosine])
    degrees = [sum(row) - 1 for row in levels[0].adj_BNN[0].tolist()]
    assert layer.degree_N.tolist() == pytest.approx(degrees)
    assert layer.centre_N2[9].tolist() == pytest.approx([2.5 / 7, 1.5 / 6])


@pytest.mark.parametrize(
    ("height", "width", "nodes", "rows", "columns", "first"),
    [
        (4, 5, 20, 4, 5, 0),
        (4, 5, 19, 2, 3, 0),
        (9, 9, 16, 3, 3, 1 * 9 + 1),
        (1, 100, 10, 1, 10, 4),
        (3, 3, 1, 1, 1, 4),
    ],
)
def test_large_maps_are_thinned_to_a_regular_grid(height, width, nodes, rows, columns, first):
    position, *shape = thin_grid(height, width, nodes, torch.device("cpu"))
    assert shape == [rows, columns] and len(position) == rows * columns <= nodes
    assert position[0] == first and position.max() < height * width
    assert position.tolist() == sorted(set(position.tolist()))


def test_a_thinned_map_is_the_head_at_these_positions():
    head, whole = make_heads({}, nodes=12)
    out, source = make_features(9, 8)
    layer = whole.maps(out, source, (0.5, 0.5), vectors=2)[0]
    position = thin_grid(9, 8, 12, torch.device("cpu"))[0]
    ids = [position[None], thin_grid(4, 4, 12, torch.device("cpu"))[0][None]]
    level = head(out, source, ids)[0][0]
    torch.testing.assert_close(layer.score_in_PN[0], head.pools_0[0](level.node_in_BND)[0])
    assert layer.kept[0].max() < len(position) == 9


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 2)])
def test_maps_of_few_positions(size):
    _, whole = make_heads({"neighbours": 2})
    features = [torch.randn(1, c, *size, dtype=torch.float64) for c in (5, 3)]
    for layer in whole.maps(features, features, (0.5, 0.5), vectors=5):
        assert layer.eigenvalue_L.shape == (min(5, size[0] * size[1]),)
        assert torch.isfinite(layer.eigenvector_NL).all() and torch.equal(
            layer.edge_N, layer.own_edge_N
        )


class LargestTensor(TorchDispatchMode):
    """Notes the most bytes that any operator's result takes."""

    most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, torch.Tensor):
                self.most = max(
                    self.most, value.untyped_storage().nbytes()
                )  # of a view, those of the whole
        return result


@pytest.mark.parametrize(
    "flags", [{}, {"pool_adjacency": "two_hop"}, {"neighbours": 8, "weighted": True}], ids=name
)
def test_memory_is_bounded(flags):
    """A map of 40 x 40: no tensor comes near the 2.56 million numbers, of 4 bytes, of its adjacency."""
    budget = 250_000
    settings = {"pooling_num": 1, "down_scale": 2, **flags}
    whole = MapHead([5], 4, budget=budget, **settings)
    features = torch.randn(1, 5, 40, 40)
    with torch.inference_mode(), LargestTensor() as largest:
        whole.maps([features + 0.1 * torch.randn_like(features)], [features], (0.5, 0.5), vectors=3)
    assert 0.5 * 4 * budget < largest.most <= 1.1 * 4 * budget
    whole.budget = 2**24
    with torch.inference_mode(), LargestTensor() as largest:
        whole.maps([features], [features], (0.5, 0.5), vectors=3)
    assert largest.most >= 4 * 1600**2  # the mode does see an adjacency that is held


def test_rows_of_any_nodes_in_any_order():
    embed = torch.randn(1, 30, 4, dtype=torch.float64)
    ids = torch.tensor([7, 3, 29])
    for flags in (
        {"threshold": 0.3},
        {"threshold": 0.0, "neighbours": 4},
        {"threshold": 0.3, "weighted": True},
    ):
        expected = similarity_graph(embed, **flags)[:, ids]
        torch.testing.assert_close(chunked_similarity_graph(embed, 60, **flags).rows(ids), expected)
