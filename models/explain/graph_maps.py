"""What the graph head makes of whole images: scores, kept nodes, the graph's spectrum, one patch and its neighbours.

Shape legend: P pooling levels, N nodes (positions of a feature map), K kept nodes, L eigenvectors, C channels,
D embedding width, H and W height and width of a feature map.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.explain.chunked_graph import ChunkedGraph, ChunkedPropagation, chunked_similarity_graph
from models.explain.spectrum import leading_eigenpairs, spectral_clusters
from models.networks.adjacency import gather_patches, unit
from models.networks.graph import GraphHead, GraphLevel
from util.hardware.precision import full_precision


@dataclass(frozen=True)
class LayerMaps:
    """One feature layer of one image and its translation; nodes lie on a grid and are numbered row by row.

    Attributes:
        rows, columns: the grid; N = rows * columns.
        centre_N2: x and y of the nodes, as fractions of the image's width and height.
        score_in_PN, score_out_PN: pooling scores of input and output nodes (eqs 12, 13) of each pooling level; NaN for
            nodes that earlier levels dropped.
        kept: nodes kept by each pooling level, ids_K, the best first.
        degree_N: sum of a node's edges, its own loop left out.
        eigenvalue_L, eigenvector_NL: of the input graph's Laplacian I - P, smallest eigenvalues first; unit vectors.
        cluster_N: spectral clusters of these vectors, 0 the largest.
        query: the node asked for, 0-d.
        similarity_in_N, similarity_out_N: cosine of every node with it, in the input and in the output.
        edge_N: its edges, as both graphs share them, 0 where there is none.
        own_edge_N: the edges that the output's own similarity would give it.
    """

    rows: int
    columns: int
    centre_N2: Tensor
    score_in_PN: Tensor
    score_out_PN: Tensor
    kept: list[Tensor]
    degree_N: Tensor
    eigenvalue_L: Tensor
    eigenvector_NL: Tensor
    cluster_N: Tensor
    query: Tensor
    similarity_in_N: Tensor
    similarity_out_N: Tensor
    edge_N: Tensor
    own_edge_N: Tensor


class MapHead(GraphHead):
    """The graph head on all positions of a feature map instead of a sample; the same weights and computation.

    An adjacency of up to `budget` numbers is held; of a larger one at most so many numbers at a time, computed again
    for every product.

    Args:
        nodes: larger feature maps are thinned to a regular grid of at most so many positions.
        budget: 2^24 numbers are 64 MiB in float32, the adjacency of 4096 nodes; several such tensors exist at a time.
        settings: as GraphHead's.
    """

    def __init__(self, *args, nodes: int = 4096, budget: int = 2**24, **settings) -> None:
        super().__init__(*args, **settings)
        self.nodes, self.budget = nodes, budget

    def compile_parts(self, on: bool = True) -> None:
        """Nothing: an image is looked at once."""

    def adjacency(self, source_BND: Tensor) -> Tensor | ChunkedGraph:
        """As GraphHead's, or in chunks of rows."""
        if source_BND.shape[1] ** 2 <= self.budget:
            return super().adjacency(source_BND)
        return chunked_similarity_graph(source_BND, self.budget, **self.graph.keywords)

    def propagation(self, adj_BNN: Tensor | ChunkedGraph) -> Tensor | ChunkedPropagation:
        """As GraphHead's."""
        if isinstance(adj_BNN, ChunkedGraph):
            return ChunkedPropagation.of(adj_BNN, self.extra_loop)
        return super().propagation(adj_BNN)

    def restrict(self, adj_BNN: Tensor | ChunkedGraph, index_BK: Tensor) -> Tensor | ChunkedGraph:
        """As GraphHead's."""
        if isinstance(adj_BNN, ChunkedGraph):
            return adj_BNN.restricted(self.pool_adjacency, index_BK)
        return super().restrict(adj_BNN, index_BK)

    def maps(
        self,
        feats_out: Sequence[Tensor],
        feats_in: Sequence[Tensor],
        query: tuple[float, float],
        vectors: int = 6,
    ) -> list[LayerMaps]:
        """Everything about one image: features (1,C,H,W) per layer of output and input -> one LayerMaps per layer.

        `query` is x and y of the patch asked for, as fractions of width and height; the node nearest to it is taken.
        `vectors` is the number of eigenvectors and of clusters.
        """
        grids = [thin_grid(*feat.shape[2:], self.nodes, feat.device) for feat in feats_in]
        ids = [position_N[None] for position_N, _, _ in grids]
        graphs = self(feats_out, feats_in, ids)

        layers = []
        for i, levels in enumerate(graphs):
            position_N, rows, columns = grids[i]
            height, width = feats_in[i].shape[2:]
            x_N, y_N = (position_N % width + 0.5) / width, (position_N // width + 0.5) / height
            asked = ((x_N - query[0]) ** 2 + (y_N - query[1]) ** 2).argmin()

            layer = LayerMaps(
                rows=rows,
                columns=columns,
                centre_N2=torch.stack([x_N, y_N], dim=1),
                **self.scores(i, levels),
                **self.spectrum(levels[0], vectors),
                **self.around(i, levels[0], feats_out[i], feats_in[i], asked),
            )
            layers.append(layer)
        return layers

    def scores(self, i: int, levels: Sequence[GraphLevel]) -> dict[str, Tensor | list[Tensor]]:
        """Scores of layer i at every pooling level, and the nodes that each keeps."""
        first_N = levels[0].position_BN[0]
        indices = [torch.searchsorted(first_N, level.position_BN[0]) for level in levels]

        # each pool scores the nodes of the level before it
        pools = self.get_submodule(f"pools_{i}")
        unscored_N = torch.full_like(levels[0].node_in_BND[0, :, 0], torch.nan)
        score_in_PN = unscored_N.repeat(len(pools), 1)
        score_out_PN = score_in_PN.clone()
        for p, score in enumerate(pools):
            score_in_PN[p, indices[p]] = score(levels[p].node_in_BND)[0]
            score_out_PN[p, indices[p]] = score(levels[p].node_out_BND)[0]

        return {"score_in_PN": score_in_PN, "score_out_PN": score_out_PN, "kept": indices[1:]}

    def spectrum(self, level: GraphLevel, vectors: int) -> dict[str, Tensor]:
        """Degrees, eigenvectors and clusters of the input's graph before pooling."""
        adj, like_N = level.adj_BNN, level.node_in_BND[0, :, 0]
        degree_BN = adj.degrees() if isinstance(adj, ChunkedGraph) else adj.sum(2)

        prop = self.propagation(adj)

        def propagate(x_NL: Tensor) -> Tensor:
            return (prop @ x_NL[None])[0]

        values_L, vectors_NL = leading_eigenpairs(propagate, like_N, vectors)
        return {
            "degree_N": degree_BN[0] - 1,
            "eigenvalue_L": 1 - values_L,
            "eigenvector_NL": vectors_NL,
            "cluster_N": spectral_clusters(vectors_NL),
        }

    def around(
        self, i: int, level: GraphLevel, out_BCHW: Tensor, in_BCHW: Tensor, query: Tensor
    ) -> dict[str, Tensor]:
        """Similarity and edges of one node with all others, in the input and in the output."""
        embed = self.get_submodule(f"embed_{i}")
        similarity, sources = [], []
        for feat_BCHW in (in_BCHW, out_BCHW):
            feat_BNC = gather_patches(full_precision(feat_BCHW), level.position_BN)
            by_embedding = self.adjacency_from == "embedding"
            source_BND = embed(feat_BNC) if by_embedding else feat_BNC
            sources.append(source_BND)
            unit_ND = unit(source_BND[0])
            similarity.append(unit_ND @ unit_ND[query])

        # the node's row of the shared graph, and of the output's own
        edges = []
        for adj in (level.adj_BNN, self.adjacency(sources[1])):
            row_BN = adj.rows(query[None])[:, 0] if isinstance(adj, ChunkedGraph) else adj[:, query]
            edges.append(row_BN[0])

        return {
            "query": query,
            "similarity_in_N": similarity[0],
            "similarity_out_N": similarity[1],
            "edge_N": edges[0],
            "own_edge_N": edges[1],
        }


def thin_grid(height: int, width: int, nodes: int, device: torch.device) -> tuple[Tensor, int, int]:
    """Positions (row-major) of every s-th row and column, s the smallest step that leaves at most `nodes` of them.

    Returns position_N, and the rows and columns of the grid.
    """
    step = 1
    while -(-height // step) * -(-width // step) > nodes:
        step += 1

    y = torch.arange((height - 1) % step // 2, height, step, device=device)
    x = torch.arange((width - 1) % step // 2, width, step, device=device)
    return (y[:, None] * width + x).flatten(), len(y), len(x)
