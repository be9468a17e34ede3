"""The graph contrastive head of PatchGCL: patches as nodes, shared adjacency, TAGConv over hops, top-K pooling.

Shape legend: B graphs (one per image), N nodes (sampled patches), K kept nodes, C channels of a feature map,
D embedding width, H and W height and width of a map.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from models.networks.adjacency import (
    POOLED,
    gather_patches,
    normalize_adjacency,
    sample_positions,
    similarity_graph,
    take_nodes,
    unit,
)
from models.networks.joined_layers import alike, joined_linear, rows, taken_apart
from models.networks.passes import joining_pays
from util.hardware.precision import full_precision

Encode = Callable[[Tensor, Tensor], Tensor]  # nodes and propagation -> nodes
LayerInputs = tuple[Tensor, Tensor, Tensor]  # out_BCHW, in_BCHW and position_BN of a feature layer
Finish = Callable[[list["GraphLevel"]], Any]
SOURCES = ("embedding", "features")  # values of adjacency_from
SCORES = ("input", "both")  # of pool_score


class TAGConv(nn.Module):
    """Topology-adaptive graph convolution (Du et al. 2017, arXiv 1710.10370): sum_l P^l X W_l + b, l = 0..hops.

    Written as one linear layer on the concatenated hops, which is also the released layout of the weights.
    """

    def __init__(self, in_width: int, out_width: int, hops: int, bias: bool = True) -> None:
        super().__init__()
        self.hops = hops
        self.lin = nn.Linear((hops + 1) * in_width, out_width, bias=bias)

    def forward(self, x_BND: Tensor, prop_BNN: Tensor) -> Tensor:
        """(B,N,D), (B,N,N) normalised adjacency -> (B,N,out_width)."""
        return self.lin(walk(x_BND, prop_BNN, self.hops))


def walk(x_BND: Tensor, prop_BNN: Tensor, hops: int) -> Tensor:
    """P^l X for l = 0..hops, side by side: (B,N,(hops+1)*D)."""
    steps = [x_BND]
    for _ in range(hops):
        steps.append(prop_BNN @ steps[-1])
    return torch.cat(steps, dim=2)


class Embedding(nn.Module):
    """h: one linear layer to the node width, then unit length."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, width)

    def forward(self, feat_BNC: Tensor) -> Tensor:
        """(B,N,C) -> (B,N,D), rows of length 1."""
        return unit(self.linear(feat_BNC))

    @staticmethod
    def joined(embeddings: Sequence["Embedding"], feats_BNC: Sequence[Tensor]) -> Tensor:
        """Features of L layers, each through its own embedding: (L*B,N,D)."""
        linears = [embedding.linear for embedding in embeddings]
        return unit(rows([linear(x) for linear, x in zip(linears, feats_BNC, strict=True)]))


class GraphEncoder(nn.Module):
    """A TAGConv whose output is scaled to unit length (eq. 2 on nodes)."""

    def __init__(self, width: int, hops: int, bias: bool) -> None:
        super().__init__()
        self.conv1 = TAGConv(width, width, hops, bias)

    def forward(self, x_BND: Tensor, prop_BNN: Tensor) -> Tensor:
        """(B,N,D), (B,N,N) -> (B,N,D), rows of length 1."""
        return unit(self.conv1(x_BND, prop_BNN))

    @staticmethod
    def joined(encoders: Sequence["GraphEncoder"]) -> Encode:
        """Encoders of L layers as one: (L*B,N,D), (L*B,N,N) -> (L*B,N,D)."""
        if len(encoders) == 1:
            return encoders[0]

        hops = encoders[0].conv1.hops
        linear = joined_linear([encoder.conv1.lin for encoder in encoders])
        return lambda x_BND, prop_BNN: unit(linear(walk(x_BND, prop_BNN, hops)))


class NodeScore(nn.Module):
    """The pooling score sigma(p^T z + b) of a node (eqs 5, 12, 13)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 1)

    def forward(self, node_BND: Tensor) -> Tensor:
        """(B,N,D) -> (B,N), in (0,1)."""
        return self.proj(node_BND).squeeze(2).sigmoid()

    @staticmethod
    def joined(scores: Sequence["NodeScore"]) -> Callable[[Tensor], Tensor]:
        """Scores of L layers as one: (L*B,N,D) -> (L*B,N)."""
        if len(scores) == 1:
            return scores[0]

        linear = joined_linear([score.proj for score in scores])
        return lambda node_BND: linear(node_BND).squeeze(2).sigmoid()


@dataclass(frozen=True)
class GraphLevel:
    """The two graphs of one VGG layer at one pooling level; node i of one corresponds to node i of the other.

    Attributes:
        node_in_BND: nodes of the input image.
        node_out_BND: nodes of the output image.
        adj_BNN: the adjacency they share.
        position_BN: where in the feature map the nodes are (row-major).
    """

    node_in_BND: Tensor
    node_out_BND: Tensor
    adj_BNN: Tensor
    position_BN: Tensor

    def statistics(self) -> dict[str, Tensor]:
        """The topology of each graph in numbers, (B,); self loops do not count.

        density: share of pairs of nodes that are edges; degree: neighbours of a node; isolated: share of nodes that
        have none. A graph that is complete (density 1) or empty (isolated 1) has no topology to teach.
        """
        others = max(self.adj_BNN.shape[1] - 1, 1)
        degree_BN = (self.adj_BNN != 0).sum(2).float() - 1

        degree_B = degree_BN.mean(1)
        isolated_B = (degree_BN == 0).float().mean(1)
        return {"density": degree_B / others, "degree": degree_B, "isolated": isolated_B}


class GraphHead(nn.Module):
    """Patch graphs of an output and its input image on the input's topology (PatchGCL, arXiv 2312.08223, section 3).

    Per feature layer: patches -> h -> adjacency of the input's embeddings -> TAGConv on both images -> top-K pooling
    by the input's scores -> TAGConv again, and so on. Parameter names are those of the released `net_F`. The defaults
    are those of `--preset paper`; the flags of models/patchgcl_model.py have those of `official`, the released code.

    Args:
        channels: channels of each feature layer.
        width: node width D.
        num_hop: hops of the first graph convolution (0 makes it a plain linear layer).
        pool_hop: hops on pooled graphs; None for `num_hop` (paper), the release has 1.
        pooling_num: pooling levels after the first graph.
        num_patches: nodes sampled per image and layer (fewer where the map is smaller).
        down_scale: the first pooling keeps N // down_scale nodes,
        pool_shrink: each further one divides by this.
        threshold, strict: adjacency is cos >= threshold, or > when strict.
        neighbours: if positive, a k-nearest-neighbour graph takes the place of the threshold.
        weighted: edges weigh their cosine instead of 1.
        adjacency_from: "embedding" (Fig. 10, release) or "features" (eq. 1 as written).
        extra_loop: weight 2 on the diagonal (release).
        pool_adjacency: "induced" subgraph (paper) or "two_hop" reachability (release).
        pool_score: whose score weights the output's kept nodes: "input" (eqs 5-6, release) or "both", each its own
            (eqs 12-13). The kept nodes are always chosen by the input's scores.
        detach_input: no gradient through the input image's nodes (release).
        bias: bias in the graph convolutions (release).
    """

    def __init__(
        self, channels: Sequence[int], width: int = 256, *, num_hop: int = 2, pool_hop: int | None = None,
        pooling_num: int = 1, num_patches: int = 256, down_scale: int = 4, pool_shrink: int = 4,
        threshold: float = 0.1, strict: bool = False, neighbours: int = 0, weighted: bool = False,
        adjacency_from: str = "embedding", extra_loop: bool = False,
        pool_adjacency: str = "induced", pool_score: str = "input", detach_input: bool = True, bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.compiled = False
        self.layers = len(channels)
        self.num_patches, self.detach_input = num_patches, detach_input

        # edges
        self.graph = partial(
            similarity_graph,
            threshold=threshold,
            strict=strict,
            neighbours=neighbours,
            weighted=weighted,
        )
        self.adjacency_from, self.extra_loop = adjacency_from, extra_loop

        # pooling
        self.down_scale, self.pool_shrink = down_scale, pool_shrink
        self.pool_adjacency, self.pool_score = pool_adjacency, pool_score

        pool_hop = num_hop if pool_hop is None else pool_hop
        for i, count in enumerate(channels):
            self.add_module(f"embed_{i}", Embedding(count, width))
            self.add_module(f"gnn_{i}", GraphEncoder(width, num_hop, bias))
            scores = [NodeScore(width) for _ in range(pooling_num)]
            self.add_module(f"pools_{i}", nn.ModuleList(scores))
            encoders = [GraphEncoder(width, pool_hop, bias) for _ in range(pooling_num)]
            self.add_module(f"gnn_pools_{i}", nn.ModuleList(encoders))

        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Weights from N(0, 0.02), biases 0 (released code)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, 0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(
        self, feats_out: Sequence[Tensor], feats_in: Sequence[Tensor], ids: Sequence[Tensor] | None = None,
        finish: Finish | None = None,
    ) -> list[list[GraphLevel]] | list[Any]:  # fmt: skip
        """Features (B,C,H,W) per layer of output and input -> per layer, per pooling level, the pair of graphs.

        `ids` fixes the sampled positions, ids_BN per layer; without it they are drawn afresh. `finish` makes of a
        layer's levels what is wanted: a tensor, or a tuple or dict of tensors, with a row for each graph. It is
        compiled with them where the head is. Computed in float32 at least, whatever autocast says: cosines near the
        threshold decide the graph.
        """
        run = compiled_group() if self.compiled else run_group

        with torch.autocast(feats_in[0].device.type, enabled=False):
            positions = [self.draw(feat) for feat in feats_in] if ids is None else ids
            maps = list(zip(feats_out, feats_in, positions, strict=True))

            groups = [[i] for i in range(len(maps))]
            if finish is not None and joining_pays(feats_in[0]):
                groups = alike(positions)

            results: dict[int, Any] = {}
            for layers in groups:
                together = run(self, layers, [maps[i] for i in layers], finish)
                results |= zip(layers, taken_apart(together, len(layers)), strict=True)
        return [results[i] for i in range(len(maps))]

    def draw(self, feat_BCHW: Tensor) -> Tensor:
        """Positions of the nodes in one layer, drawn on its device: position_BN."""
        batch, _, height, width = feat_BCHW.shape
        return sample_positions(batch, height * width, self.num_patches, feat_BCHW.device)

    def compile_parts(self, on: bool = True) -> None:
        """From now on compile what follows the drawing of positions; or run it as it is again."""
        self.compiled = on

    def layer_graphs(self, layers: Sequence[int], maps: Sequence[LayerInputs]) -> list[GraphLevel]:
        """All levels of layers with equally many nodes, joined: B graphs of the first, then B of the second, ..."""
        feats_out = [full_precision(gather_patches(out, position)) for out, _, position in maps]
        feats_in = [
            full_precision(gather_patches(source, position)) for _, source, position in maps
        ]
        position_BN = rows([position for _, _, position in maps])

        embeddings = self.parts("embed", layers)
        embed_in_BND = Embedding.joined(embeddings, feats_in)
        embed_out_BND = Embedding.joined(embeddings, feats_out)

        # the graph of all sampled patches, on the input's topology
        if self.adjacency_from == "embedding":
            adj_BNN = self.adjacency(embed_in_BND)
        else:
            adj_BNN = rows([self.adjacency(feat_BNC) for feat_BNC in feats_in])
        gnn = GraphEncoder.joined(self.parts("gnn", layers))
        levels = [self.level(gnn, embed_in_BND, embed_out_BND, adj_BNN, position_BN)]

        # smaller graphs of the nodes that each pooling keeps
        keep = position_BN.shape[1] // self.down_scale
        scores, gnns = self.parts("pools", layers), self.parts("gnn_pools", layers)
        for of_level in zip(zip(*scores, strict=True), zip(*gnns, strict=True), strict=True):
            score, pooled_gnn = NodeScore.joined(of_level[0]), GraphEncoder.joined(of_level[1])
            levels.append(self.pool(levels[-1], score, pooled_gnn, keep))
            keep //= self.pool_shrink
        return levels

    def parts(self, name: str, layers: Sequence[int]) -> list[nn.Module]:
        """What is called so in each of some layers."""
        return [self.get_submodule(f"{name}_{i}") for i in layers]

    def adjacency(self, source_BND: Tensor) -> Tensor:
        """Edges between similar nodes: adj_BNN (eq. 1)."""
        return self.graph(source_BND)

    def propagation(self, adj_BNN: Tensor) -> Tensor:
        """The normalised adjacency P of the convolutions, prop_BNN."""
        return normalize_adjacency(adj_BNN, self.extra_loop)

    def restrict(self, adj_BNN: Tensor, index_BK: Tensor) -> Tensor:
        """The adjacency of kept nodes, adj_BKK."""
        return POOLED[self.pool_adjacency](adj_BNN, index_BK)

    def level(
        self, gnn: nn.Module, in_BND: Tensor, out_BND: Tensor, adj_BNN: Tensor, position_BN: Tensor
    ) -> GraphLevel:
        """Both images through one graph convolution on the shared adjacency (eqs 2, 7, 8)."""
        prop_BNN = self.propagation(adj_BNN)
        node_in_BND = gnn(in_BND, prop_BNN)
        if self.detach_input:
            node_in_BND = node_in_BND.detach()

        return GraphLevel(node_in_BND, gnn(out_BND, prop_BNN), adj_BNN, position_BN)

    def pool(self, level: GraphLevel, score: nn.Module, gnn: nn.Module, keep: int) -> GraphLevel:
        """Keep the `keep` nodes (at least 2) that score best on the input image, weighted by their score (eqs 5-8)."""
        score_in_BN = score(level.node_in_BND)
        score_out_BN = score_in_BN if self.pool_score == "input" else score(level.node_out_BND)
        keep = min(max(keep, 2), score_in_BN.shape[1])
        index_BK = score_in_BN.topk(keep, dim=1).indices

        in_BKD = take_nodes(score_in_BN[:, :, None] * level.node_in_BND, index_BK)
        out_BKD = take_nodes(score_out_BN[:, :, None] * level.node_out_BND, index_BK)
        adj_BKK = self.restrict(level.adj_BNN, index_BK)
        position_BK = level.position_BN.gather(1, index_BK)
        return self.level(gnn, in_BKD, out_BKD, adj_BKK, position_BK)


def run_group(
    head: GraphHead, layers: Sequence[int], maps: Sequence[LayerInputs], finish: Finish | None
) -> Any:
    """All levels of a group of layers, joined, or what `finish` makes of them."""
    levels = head.layer_graphs(layers, maps)
    return levels if finish is None else finish(levels)


@cache
def compiled_group() -> Callable[..., Any]:
    """`run_group`, compiled once for each group of layers and shape."""
    return torch.compile(run_group, dynamic=False)
