"""Graphs too large to hold as an adjacency: rows are computed when a product needs them, some at a time.

Shape legend: B graphs, N nodes, K kept nodes, M rows at a time, D width of a node.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from models.networks.adjacency import finish_edges, nearest_others, reaches, unit

Rows = Callable[[Tensor], Tensor]  # ids_M -> adj_BMN


@dataclass(frozen=True)
class ChunkedGraph:
    """A symmetric adjacency of one graph (B = 1) that is never held: no tensor of it is larger than `step` rows.

    Attributes:
        rows: the rows of given nodes, ids_M -> adj_BMN.
        nodes: N.
        step: rows at a time.
        budget: an adjacency of at most so many numbers may be held after all.
        device: where the ids of rows are made.
    """

    rows: Rows
    nodes: int
    step: int
    budget: int
    device: torch.device

    def chunks(self) -> Iterator[Tensor]:
        """All nodes in order, so many at a time: ids_M."""
        yield from torch.arange(self.nodes, device=self.device).split(self.step)

    def __matmul__(self, x_BND: Tensor) -> Tensor:
        return torch.cat([self.rows(ids_M) @ x_BND for ids_M in self.chunks()], dim=1)

    def degrees(self) -> Tensor:
        """Sums of rows, degree_BN."""
        return torch.cat([self.rows(ids_M).sum(2) for ids_M in self.chunks()], dim=1)

    def settled(self) -> "Tensor | ChunkedGraph":
        """The whole adjacency as a tensor where that is within the budget, else the graph itself."""
        if self.nodes**2 > self.budget:
            return self
        return torch.cat([self.rows(ids_M) for ids_M in self.chunks()], dim=1)

    def restricted(self, kind: str, index_1K: Tensor) -> "Tensor | ChunkedGraph":
        """The adjacency of kept nodes, as the functions of the same names in adjacency.py: "induced" or "two_hop"."""
        restrict = {"induced": self._induced, "two_hop": self._two_hop}[kind]
        rows, nodes = restrict(index_1K[0]), index_1K.shape[1]
        return ChunkedGraph(rows, nodes, self.step, self.budget, self.device).settled()

    def _induced(self, kept_K: Tensor) -> Rows:
        return lambda ids_M: self.rows(kept_K[ids_M])[:, :, kept_K]

    def _two_hop(self, kept_K: Tensor) -> Rows:
        """Found once and held, a byte for each pair of kept nodes: found anew it would cost a pass for every chunk."""

        def linked(ids_M: Tensor) -> Tensor:
            rows_BMN = self.rows(ids_M)
            return (rows_BMN != 0).to(rows_BMN.dtype)

        parts = kept_K.split(self.step)
        reached = [_meet(linked(ids_M), map(linked, parts)) for ids_M in parts]
        reached_BKK = torch.cat(reached, dim=1)
        dtype = linked(kept_K[:1]).dtype
        return lambda ids_M: reached_BKK[:, ids_M].to(dtype)


def _meet(one_BMN: Tensor, others: Iterable[Tensor]) -> Tensor:
    """Which rows of one graph share a neighbour with which of the others: (B,M,K), true or false."""
    return torch.cat([one_BMN @ other_BMN.transpose(1, 2) > 0 for other_BMN in others], dim=2)


@dataclass(frozen=True)
class ChunkedPropagation:
    """P = D^-1/2 A D^-1/2 of a ChunkedGraph; `extra_loop` as in `normalize_adjacency`."""

    graph: ChunkedGraph
    scale_BN: Tensor
    extra_loop: bool

    @classmethod
    def of(cls, graph: ChunkedGraph, extra_loop: bool) -> "ChunkedPropagation":
        """One pass over the rows for the degrees."""
        degree_BN = graph.degrees() + float(extra_loop)
        return cls(graph, degree_BN.clamp(min=1).rsqrt(), extra_loop)

    def __matmul__(self, x_BND: Tensor) -> Tensor:
        scaled_BND = self.scale_BN[:, :, None] * x_BND
        product_BND = self.graph @ scaled_BND
        if self.extra_loop:
            product_BND = product_BND + scaled_BND
        return self.scale_BN[:, :, None] * product_BND


def chunked_similarity_graph(
    embed_1ND: Tensor,
    budget: int,
    threshold: float,
    strict: bool = False,
    neighbours: int = 0,
    weighted: bool = False,
) -> ChunkedGraph:
    """`similarity_graph` of one image in chunks of rows; for nearest neighbours N * neighbours indices are held."""
    unit_1ND = unit(embed_1ND.detach())
    nodes, device = unit_1ND.shape[1], unit_1ND.device
    step = max(1, budget // nodes)
    everyone_N = torch.arange(nodes, device=device)

    def cosines(ids_M: Tensor) -> tuple[Tensor, Tensor]:
        cos_BMN = unit_1ND[:, ids_M] @ unit_1ND.transpose(1, 2)
        self_MN = (ids_M[:, None] == everyone_N).to(unit_1ND.dtype)
        return cos_BMN, self_MN

    def threshold_rows(ids_M: Tensor) -> Tensor:
        cos_BMN, self_MN = cosines(ids_M)
        edge_BMN = reaches(cos_BMN, threshold, strict)
        return finish_edges(edge_BMN, cos_BMN, self_MN, weighted)

    if not neighbours:
        return ChunkedGraph(threshold_rows, nodes, step, budget, device)

    chunks = everyone_N.split(step)
    nearest_Nk = torch.cat([nearest_others(*cosines(ids_M), neighbours)[0] for ids_M in chunks])

    def neighbour_rows(ids_M: Tensor) -> Tensor:
        cos_BMN, self_MN = cosines(ids_M)
        rows = len(ids_M)

        # whom the rows chose
        chosen_MN = torch.zeros_like(self_MN).scatter(1, nearest_Nk[ids_M], 1.0)

        # who chose them: place_N is a node's place among the rows, one past the last for all others
        order_M = torch.arange(rows, device=device)
        place_N = torch.full_like(everyone_N, rows).scatter(0, ids_M, order_M)
        choosing_NM = self_MN.new_zeros(nodes, rows + 1)
        choosing_NM = choosing_NM.scatter(1, place_N[nearest_Nk], 1.0)[:, :-1]

        edge_BMN = torch.maximum(chosen_MN, choosing_NM.T)[None]
        return finish_edges(edge_BMN, cos_BMN, self_MN, weighted)

    return ChunkedGraph(neighbour_rows, nodes, step, budget, device)
