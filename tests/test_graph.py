"""The graph head and its loss against a loop-based reference, hand-drawn graphs and closed forms."""

import math
import re
import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters

from models.losses.graph_nce import graph_nce_loss, judge_levels, multi_level_loss
from models.networks import graph as graph_module
from models.networks.adjacency import (
    gather_patches,
    induced,
    normalize_adjacency,
    sample_positions,
    similarity_graph,
    two_hop,
    unit,
)
from models.networks.graph import GraphHead, TAGConv
from options import TrainOptions, parse
from tests.helpers import REPO
from tests.reference_graph import reference_loss
from util.parser import show_value

PAPER = {
    "pool_hop": None, "strict": False, "extra_loop": False, "pool_adjacency": "induced", "pool_shrink": 4,
    "symmetric": False, "ratio": [1.0], "average_levels": False, "temperature": 0.07,
}  # fmt: skip
OFFICIAL = {
    "pool_hop": 1, "strict": True, "extra_loop": True, "pool_adjacency": "two_hop", "pool_shrink": 2,
    "symmetric": True, "ratio": [1.0, 0.5], "average_levels": True, "temperature": 0.07,
}  # fmt: skip
COMMON = {
    "num_hop": 2, "pooling_num": 1, "down_scale": 2, "threshold": 0.2, "adjacency_from": "embedding",
    "pool_score": "input", "detach_input": True, "bias": True, "neighbours": 0, "weighted": False,
}  # fmt: skip
LOSS_ONLY = ("symmetric", "ratio", "average_levels", "temperature")

PATH_GRAPH = torch.tensor(
    [[[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]], dtype=torch.float64
)


def make_case(settings: dict, batch: int = 1, nodes: int = 8) -> tuple:
    """A small head in float64 with well spread weights, features of one layer, and fixed positions."""
    options = {k: v for k, v in settings.items() if k not in LOSS_ONLY}
    head = GraphHead([5], width=4, num_patches=nodes, **options).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(0, 0.7)
    out, source = torch.randn(2, batch, 5, 4, 5, dtype=torch.float64)
    ids = torch.stack([torch.randperm(20)[:nodes] for _ in range(batch)])
    return head, out.requires_grad_(), source.requires_grad_(), ids


def head_loss(head, out, source, ids, settings) -> torch.Tensor:
    """The project's loss of one layer, mean over images."""
    levels = head([out], [source], [ids])[0]
    weighting = (settings[key] for key in ("temperature", "symmetric", "ratio", "average_levels"))
    return multi_level_loss(levels, *weighting).mean()


def slow_loss(head, out, source, ids, settings) -> torch.Tensor:
    """The reference's, image by image."""
    weights = dict(head.named_parameters())
    options = {k: v for k, v in settings.items() if k != "bias"}
    if options["pool_hop"] is None:
        options["pool_hop"] = options["num_hop"]
    losses = [
        reference_loss(o, s, i.tolist(), weights, layer=0, **options)
        for o, s, i in zip(out, source, ids, strict=True)
    ]
    return torch.stack(losses).mean()


def gradients(loss, head, out, source) -> dict[str, torch.Tensor]:
    inputs = {"out": out, "source": source, **dict(head.named_parameters())}
    grads = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True)
    return {
        n: torch.zeros_like(x) if g is None else g
        for (n, x), g in zip(inputs.items(), grads, strict=True)
    }


CASES = [
    *[
        {**recipe, "num_hop": hops, "pooling_num": pools}
        for recipe in (PAPER, OFFICIAL)
        for hops in range(4)
        for pools in range(3)
    ],
    *[{**recipe, "threshold": th} for recipe in (PAPER, OFFICIAL) for th in (-1.0, 0.0, 0.6, 1.1)],
    *[{**recipe, "batch": 3} for recipe in (PAPER, OFFICIAL)],
    {**PAPER, "adjacency_from": "features"},
    {**PAPER, "weighted": True, "batch": 2},
    {**PAPER, "weighted": True, "pool_adjacency": "two_hop"},
    {**PAPER, "neighbours": 2, "batch": 2},
    {**PAPER, "neighbours": 3, "weighted": True},
    {**PAPER, "neighbours": 50},
    {**PAPER, "pool_score": "both", "pooling_num": 2},
    {**PAPER, "detach_input": False},
    {**PAPER, "bias": False},
    {**PAPER, "extra_loop": True},
    {**PAPER, "pool_adjacency": "two_hop", "threshold": 0.6},
    {**PAPER, "strict": True},
    {**PAPER, "pool_hop": 3},
    {**PAPER, "symmetric": True, "temperature": 1.0, "ratio": [0.3, 2.0], "average_levels": True},
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda c: " ".join(f"{k}={v}" for k, v in c.items()))
def test_head_equals_loops(case):
    settings = {**COMMON, **case}
    batch = settings.pop("batch", 1)
    head, out, source, ids = make_case(settings, batch)
    fast, slow = (
        head_loss(head, out, source, ids, settings),
        slow_loss(head, out, source, ids, settings),
    )
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9)
    expected = gradients(slow, head, out, source)
    for name, gradient in gradients(fast, head, out, source).items():
        torch.testing.assert_close(
            gradient, expected[name], rtol=1e-7, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert expected["out"].abs().max() > 0


def test_source_image_gets_no_gradient_when_detached():
    settings = {**COMMON, **PAPER}
    head, out, source, ids = make_case(settings)
    assert (
        gradients(head_loss(head, out, source, ids, settings), head, out, source)["source"]
        .abs()
        .max()
        == 0
    )
    settings["detach_input"] = False
    head, out, source, ids = make_case(settings)
    assert (
        gradients(head_loss(head, out, source, ids, settings), head, out, source)["source"]
        .abs()
        .max()
        > 0
    )


def test_tagconv_on_a_path_of_four_nodes():
    conv = TAGConv(1, 1, hops=2, bias=True).double()
    with torch.no_grad():
        conv.lin.weight.copy_(torch.tensor([[1.0, 10.0, 100.0]]))
        conv.lin.bias.fill_(0.5)
    x = torch.tensor([[[1.0], [0.0], [0.0], [0.0]]], dtype=torch.float64)
    # degrees with self loops: 2, 3, 3, 2, so P01 = 1/sqrt(6), P12 = 1/3, P00 = 1/2, P11 = 1/3
    a = 1 / math.sqrt(6)
    one_hop = [1 / 2, a, 0, 0]
    two_hops = [1 / 4 + a * a, a / 2 + a / 3, a / 3, 0]
    expected = [
        0.5 + x0 + 10 * h1 + 100 * h2
        for x0, h1, h2 in zip([1, 0, 0, 0], one_hop, two_hops, strict=True)
    ]
    result = conv(x, normalize_adjacency(PATH_GRAPH))[0, :, 0]
    torch.testing.assert_close(result, torch.tensor(expected, dtype=torch.float64))


def test_normalisation_uses_in_degrees_and_the_extra_loop():
    adj = torch.tensor(
        [[[1.0, 1.0], [0.0, 1.0]]], dtype=torch.float64
    )  # an arrow 0 -> 1, and self loops
    expected = torch.tensor([[1.0, 0.0], [1 / math.sqrt(2), 1 / 2]], dtype=torch.float64)
    torch.testing.assert_close(normalize_adjacency(adj)[0], expected)
    looped = torch.tensor([[2 / 2, 0.0], [1 / math.sqrt(6), 2 / 3]], dtype=torch.float64)
    torch.testing.assert_close(normalize_adjacency(adj, extra_loop=True)[0], looped)


def test_pooled_graphs_of_a_path():
    keep = torch.tensor([[0, 2]])
    assert induced(PATH_GRAPH, keep)[0].tolist() == [[1, 0], [0, 1]]  # 0 and 2 are no neighbours
    assert two_hop(PATH_GRAPH, keep)[0].tolist() == [[1, 1], [1, 1]]  # but meet over 1
    assert two_hop(PATH_GRAPH, torch.tensor([[0, 3]]))[0].tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(("strict", "edge"), [(False, 1.0), (True, 0.0)])
def test_threshold_is_reached_or_passed(strict, edge):
    embed = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])  # cosine exactly 0
    assert similarity_graph(embed, 0.0, strict)[0, 0, 1] == edge


def test_statistics_of_a_path_and_of_single_nodes():
    head, out, source, ids = make_case({**COMMON, **PAPER, "threshold": -1.0})
    level = head([out], [source], [ids])[0][0]
    complete = {k: v.item() for k, v in level.statistics().items()}
    assert complete == {"density": 1, "degree": 7, "isolated": 0}
    path = {k: v.item() for k, v in replace(level, adj_BNN=PATH_GRAPH).statistics().items()}
    assert path == {"density": 0.5, "degree": 1.5, "isolated": 0}  # 3 of 6 pairs
    empty = {
        k: v.item() for k, v in replace(level, adj_BNN=torch.eye(4)[None]).statistics().items()
    }
    assert empty == {"density": 0, "degree": 0, "isolated": 1}


def test_permuting_positions_permutes_the_graph_and_keeps_the_loss():
    settings = {**COMMON, **PAPER, "pooling_num": 2}
    head, out, source, ids = make_case(settings, batch=2)
    order = torch.randperm(ids.shape[1])
    first, second = (head([out], [source], [i])[0] for i in (ids, ids[:, order]))
    torch.testing.assert_close(first[0].node_out_BND[:, order], second[0].node_out_BND)
    torch.testing.assert_close(first[0].adj_BNN[:, order][:, :, order], second[0].adj_BNN)
    torch.testing.assert_close(
        head_loss(head, out, source, ids, settings),
        head_loss(head, out, source, ids[:, order], settings),
    )


@pytest.mark.parametrize("case", CASES, ids=lambda c: " ".join(f"{k}={v}" for k, v in c.items()))
def test_permuting_256_positions_permutes_every_level_whatever_the_flags(case):
    settings = {**COMMON, **case}
    settings.pop("batch", None)
    head, *_ = make_case(settings)
    out, source = torch.randn(2, 2, 5, 20, 20, dtype=torch.float64)
    ids = torch.stack([torch.randperm(400)[:256] for _ in range(2)])
    order = torch.randperm(256)
    first, second = (head([out], [source], [i])[0] for i in (ids, ids[:, order]))
    assert len(first) == settings["pooling_num"] + 1 and not torch.equal(ids, ids[:, order])
    for level, (a, b) in enumerate(zip(first, second, strict=True)):
        for image in range(2):
            place = {position: i for i, position in enumerate(b.position_BN[image].tolist())}
            assert len(place) == len(a.position_BN[image])
            match = torch.tensor([place[position] for position in a.position_BN[image].tolist()])
            if level == 0:
                assert torch.equal(order[match], torch.arange(256))
            for x, y in ((a.node_in_BND, b.node_in_BND), (a.node_out_BND, b.node_out_BND)):
                torch.testing.assert_close(x[image], y[image, match])
            torch.testing.assert_close(a.adj_BNN[image], b.adj_BNN[image][match][:, match])
    losses = [head_loss(head, out, source, i, settings) for i in (ids, ids[:, order])]
    torch.testing.assert_close(*losses)


def test_images_of_a_batch_do_not_mix():
    settings = {**COMMON, **OFFICIAL}
    head, out, source, ids = make_case(settings, batch=3)
    together = head_loss(head, out, source, ids, settings)
    alone = [
        head_loss(head, out[i : i + 1], source[i : i + 1], ids[i : i + 1], settings)
        for i in range(3)
    ]
    torch.testing.assert_close(together, torch.stack(alone).mean())


def test_without_hops_it_is_plain_patch_contrast():
    settings = {**COMMON, **PAPER, "num_hop": 0, "pooling_num": 0}
    head, out, source, ids = make_case(settings)
    patches = [gather_patches(x, ids) for x in (source, out)]
    z, v = (unit(head.gnn_0.conv1.lin(head.embed_0(p))) for p in patches)
    logits = (z @ v.transpose(1, 2))[0] / 0.07
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)))
    torch.testing.assert_close(head_loss(head, out, source, ids, settings), expected)


def test_identical_orthogonal_nodes_have_a_closed_form():
    eye = torch.eye(5)[None]
    n, t = 5, 0.5
    expected = math.log(math.exp(1 / t) + (n - 1)) - 1 / t
    assert graph_nce_loss(eye, eye, t).item() == pytest.approx(expected, rel=1e-6)
    assert graph_nce_loss(eye, eye, t, symmetric=True).item() == pytest.approx(
        2 * expected, rel=1e-6
    )


def test_positions_are_drawn_without_replacement_and_evenly():
    ids = sample_positions(2000, 10, 4, torch.device("cpu"))
    assert all(len(set(row)) == 4 for row in ids.tolist())
    counts = torch.bincount(ids.flatten(), minlength=10).float() / 2000
    assert (counts - 0.4).abs().max() < 0.05  # 4.5 standard deviations
    assert sample_positions(2, 3, 4, torch.device("cpu")).tolist() == [[0, 1, 2]] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("settings", [PAPER, OFFICIAL], ids=["paper", "official"])
def test_degenerate_features_stay_finite(settings, dtype):
    settings = {**COMMON, **settings, "pooling_num": 2}
    options = {k: v for k, v in settings.items() if k not in LOSS_ONLY}
    head = GraphHead([5], width=4, num_patches=256, **options)
    dead, constant, tiny = torch.zeros(2, 5, 4, 4), torch.ones(2, 5, 4, 4), torch.rand(2, 5, 1, 1)
    for features in (dead, constant, tiny):
        out = features.to(dtype).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32):
            loss = sum(
                graph_nce_loss(level.node_in_BND, level.node_out_BND).mean()
                for level in head([out], [out.detach()])[0]
            )
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(out.grad).all()
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in head.parameters())


def test_parameter_names_and_count_are_the_released_ones():
    head = GraphHead([256, 512, 512], pool_hop=1)
    names = [
        f"{module}.{kind}"
        for i in range(3)
        for module in (
            f"embed_{i}.linear",
            f"gnn_{i}.conv1.lin",
            f"pools_{i}.0.proj",
            f"gnn_pools_{i}.0.conv1.lin",
        )
        for kind in ("weight", "bias")
    ]
    assert sorted(head.state_dict()) == sorted(names)
    assert sum(p.numel() for p in head.parameters()) == 1_313_795
    assert head.gnn_0.conv1.lin.weight.shape == (256, 768)
    assert head.gnn_0.conv1.lin.weight.std().item() == pytest.approx(0.02, rel=0.01)


def test_the_documented_use_in_other_code_runs():
    text = (REPO / "docs" / "method.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    names = {"feats_out": [torch.randn(2, c, 8, 8, requires_grad=True) for c in (256, 512)]}
    names["feats_in"] = [torch.randn(2, c, 8, 8) for c in (256, 512)]
    exec(code, names)
    names["loss"].backward()
    assert all(feature.grad.abs().sum() > 0 for feature in names["feats_out"])


def test_documented_defaults_are_those_of_the_presets():
    text = (REPO / "docs" / "method.md").read_text()
    rows = re.findall(r"\| `--(\w+)` \((.*?); (.*?)\) \|", text)
    assert len(rows) == 18
    for preset, column in (("paper", 1), ("official", 2)):
        opt = parse(TrainOptions(), ["--dataroot", "x", "--preset", preset])
        for row in rows:
            written = row[column]
            value = opt.pool_hop if row[0] == "pool_hop" else getattr(opt, row[0])
            shown = "as `--num_hop`" if value is None else show_value(value)
            assert shown.replace("1.0", "1") == written, row[0]


JOINED = {
    "official": {**OFFICIAL, "pooling_num": 2},
    "paper": PAPER,
    "features": {**PAPER, "adjacency_from": "features", "bias": False},
    "both scores": {**PAPER, "pool_score": "both", "detach_input": False},
}


@pytest.mark.parametrize("case", JOINED)
def test_layers_joined_into_one_batch_compute_the_same(case, monkeypatch):
    """Losses, notes and all gradients; the third of four layers has fewer nodes, so that it stays by itself."""
    settings = {**COMMON, **JOINED[case]}
    options = {k: v for k, v in settings.items() if k not in LOSS_ONLY}
    head = GraphHead([5, 3, 4, 5], width=4, num_patches=12, **options).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, 0, 0.7)

    shapes = [(5, 4, 5), (3, 4, 4), (4, 2, 3), (5, 4, 5)]
    outs, ins = ([torch.randn(2, *shape, dtype=torch.float64) for shape in shapes] for _ in "oi")
    ids = [sample_positions(2, h * w, 12, torch.device("cpu")) for _, h, w in shapes]
    judge = partial(judge_levels, temperature=0.07, symmetric=True, ratio=(1.0, 0.5), average=True)

    results, calls, run = [], [], graph_module.run_group

    def noted(head, layers, *rest):
        calls.append(layers)
        return run(head, layers, *rest)

    monkeypatch.setattr(graph_module, "run_group", noted)

    for join in (False, True):
        monkeypatch.setattr(graph_module, "joining_pays", lambda x, join=join: join)
        leaves = [x.clone().requires_grad_() for x in (*outs, *ins)]
        judged = head(leaves[:4], leaves[4:], ids, finish=judge)

        losses_LB = torch.stack([loss_B for loss_B, _ in judged])
        weights_LB = torch.arange(1.0, 9, dtype=torch.float64).view(4, 2)
        head.zero_grad()
        (losses_LB * weights_LB).sum().backward()

        grads = [x.grad for x in (*leaves, *head.parameters()) if x.grad is not None]
        notes = [note_B for _, notes in judged for note_B in notes.values()]
        results.append([losses_LB, *notes, *grads])

    assert calls == [[0], [1], [2], [3], [0, 1, 3], [2]]
    assert len(results[0]) == len(results[1]) > 40
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-12)


@pytest.mark.skipif(not shutil.which("g++"), reason="compiling needs a C++ compiler")
def test_the_compiled_head_computes_the_same_and_is_compiled_once():
    """Losses and gradients, with new positions in each step."""
    head = GraphHead([5], width=4, num_patches=16)
    judge = partial(judge_levels, temperature=0.07, symmetric=True, ratio=(1.0, 0.5), average=True)
    counters.clear()
    for _ in range(3):
        feats_out, feats_in = ([torch.randn(2, 5, 6, 6)] for _ in range(2))
        ids = [sample_positions(2, 36, 16, feat.device) for feat in feats_in]
        results = []
        for compiled in (False, True):
            head.compile_parts(compiled)
            head.zero_grad()
            leaves = [feat.clone().requires_grad_() for feat in feats_out]
            judged = head(leaves, feats_in, ids, finish=judge)
            sum(loss_B.sum() for loss_B, _ in judged).backward()
            notes = [note for _, layer in judged for note in layer.values()]
            results.append([*(loss for loss, _ in judged), *notes, *(leaf.grad for leaf in leaves)])
            results[-1] += [p.grad for p in head.parameters() if p.grad is not None]
        assert len(results[0]) == len(results[1]) > 12
        torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
