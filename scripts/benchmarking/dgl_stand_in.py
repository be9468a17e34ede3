"""A stand-in for the part of DGL that the released code uses, for machines where DGL cannot run on the device.

It keeps what DGL costs where DGL has it: graphs arrive as SciPy matrices on the host and are copied to the device, self
loops are added and the sparse format is built there, and hops are sparse matrix products (torch.sparse) there.
"""

import sys
import types
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Graph:
    """A directed graph from a SciPy matrix: an edge from row to column for each stored value, whatever the value."""

    def __init__(self, matrix: Any = None, readonly: bool = True) -> None:
        self.ndata: dict[str, Tensor] = {}
        self._hops: tuple[Tensor, Tensor] | None = None
        if matrix is not None:
            entries = matrix.tocoo()
            ends = np.stack([entries.row, entries.col]).astype(np.int64)
            self.nodes, self.edges = matrix.shape[0], torch.from_numpy(ends)

    def to(self, device: torch.device) -> "Graph":
        """The same graph on a device."""
        return self._with(self.edges.to(device))

    def with_self_loops(self) -> "Graph":
        """One more loop at every node, also where there is one."""
        loop = torch.arange(self.nodes, device=self.edges.device)
        return self._with(torch.cat([self.edges, loop.expand(2, -1)], dim=1))

    def _with(self, edges: Tensor) -> "Graph":
        graph = Graph()
        graph.nodes, graph.edges = self.nodes, edges
        return graph

    def sum_of_predecessors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The sparse (N,N) matrix that adds up, for each node, what its predecessors hold, and how many they are.

        Double edges count twice.
        """
        if self._hops is None:
            ones = torch.ones(self.edges.shape[1], device=self.edges.device, dtype=dtype)
            ends, size = self.edges.flip(0), (self.nodes, self.nodes)
            sparse = torch.sparse_coo_tensor(ends, ones, size, check_invariants=False).coalesce()
            degree = ones.new_zeros(self.nodes).index_add_(0, self.edges[1], ones)
            self._hops = sparse, degree
        return self._hops


class TAGConv(nn.Module):
    """DGL's TAGConv in its parameter names: one linear layer on the features after 0 to k normalised hops."""

    def __init__(self, in_feats: int, out_feats: int, k: int = 2, **_: Any) -> None:
        super().__init__()
        self.k = k
        self.lin = nn.Linear(in_feats * (k + 1), out_feats)

    def forward(self, graph: Graph, x: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        """(N,C) -> (N,out_feats)."""
        hops, degree = graph.sum_of_predecessors(x.dtype)
        scale = degree.clamp(min=1).rsqrt()[:, None]

        outputs = [x]
        for _ in range(self.k):
            outputs.append(scale * torch.sparse.mm(hops, scale * outputs[-1]))
        return self.lin(torch.cat(outputs, dim=1))


class _Unused(nn.Module):
    """A name that is imported and never called."""


def install() -> list[str]:
    """Put the stand-in where `import dgl` finds it; returns the names of its modules."""
    top = {
        "DGLGraph": Graph,
        "add_self_loop": Graph.with_self_loops,
        "__version__": "stand-in",
    }
    backend = {
        "ndim": lambda x: x.dim(),
        "shape": lambda x: x.shape,
        "unsqueeze": torch.unsqueeze,
        "swapaxes": torch.swapaxes,
        "asnumpy": lambda x: x.detach().cpu().numpy(),
    }
    contents = {
        "dgl": top,
        "dgl.backend": backend,
        "dgl.function": {},
        "dgl.nn": {},
        "dgl.nn.pytorch": {"TAGConv": TAGConv, "GATConv": _Unused, "GATv2Conv": _Unused},
        "dgl.nn.pytorch.factory": {"KNNGraph": _Unused},
    }

    for name, members in contents.items():
        module = types.ModuleType(name)
        module.__path__ = []
        vars(module).update(members)
        sys.modules[name] = module

        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)

    return list(contents)
