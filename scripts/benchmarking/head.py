"""The graph head alone: time and peak memory as the batch grows, and beside the released head."""

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from scripts.benchmarking.captured import Captured
from scripts.benchmarking.checks import LOSS, Agreements, largest
from scripts.benchmarking.contest import Contestant, Settings
from scripts.benchmarking.counting import peak_memory
from scripts.benchmarking.official import Released
from scripts.benchmarking.ours import Ours
from scripts.benchmarking.step import AS_PUBLISHED, Turns
from scripts.benchmarking.timing import speed_up, time_in_turns

GRADIENT = 1e-3  # largest relative difference of the features' gradients


def feature_maps(ours: Ours, settings: Settings, batch: int) -> tuple[list[Tensor], list[Tensor]]:
    """VGG16's maps of 2*batch pairs of pictures, output and input: what the head gets at that batch size."""
    maps = []
    for pictures in settings.pictures(batch)[:2]:
        # A and B by turns, so that any even part holds both
        both = [ours.runtime.images(pictures[role]) for role in "AB"]
        images = torch.stack(both, dim=1).flatten(0, 1)

        with torch.no_grad(), ours.cast():
            chunks = [ours.model.features(image) for image in images.split(2)]
        maps.append([layer.float() for layer in joined(chunks)])
    return maps[0], maps[1]


def joined(parts: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The tensors of each layer in one, for layers that were computed in parts of a batch."""
    return [torch.cat(layer) for layer in zip(*parts, strict=True)]


def draw_positions(maps: Sequence[Tensor], count: int) -> list[Tensor]:
    """Places of so many nodes in every map (B,C,H,W), ids_BN per layer."""
    ids = []
    for feat in maps:
        batch, positions = len(feat), feat[0, 0].numel()
        order = torch.rand(batch, positions, device=feat.device).argsort(1)
        ids.append(order[:, :count])
    return ids


def run_head(
    contestant: Contestant, feats: tuple[list[Tensor], list[Tensor]], pairs: int
) -> tuple[Tensor, list]:
    """Forward and backward on the first pairs: losses, one a pair, and the gradients of the output's features."""
    contestant.clear()
    leaves = [f[:pairs].detach().requires_grad_() for f in feats[0]]
    inputs = [f[:pairs] for f in feats[1]]

    with contestant.cast():
        losses = contestant.head_losses(leaves, inputs)
    losses.sum().backward()
    return losses.detach(), [leaf.grad for leaf in leaves]


def compare_heads(
    name: str, expected: tuple[Tensor, list], found: tuple[Tensor, list], agreements: Agreements
) -> None:
    """Raises Refused unless losses and feature gradients are equal up to rounding."""
    size = expected[0].abs().clamp(min=1e-3)
    loss = float(((found[0] - expected[0]).abs() / size).max())
    pairs = zip(found[1], expected[1], strict=True)
    gradient = largest([float((a - b).norm() / b.norm()) for a, b in pairs])

    agreements.check(name, "a loss", loss, max(LOSS, agreements.loss_tolerance))
    agreements.check(name, "a feature's gradient", gradient, GRADIENT)
    agreements.found[name] = {"loss": loss, "gradient": gradient}


def measure_growth(
    ours: Ours, settings: Settings, batches: Sequence[int], turns: Turns, agreements: Agreements
) -> dict[str, Any]:
    """Time and peak memory of the head by batch; a batch of b has 2b pairs of graphs, of A and of B.

    Before anything is timed, every batch must give what its pairs give one by one.
    """
    ours.enter()
    ours.load()  # the head's statistics are means over the batches of a step
    feats = feature_maps(ours, settings, max(batches))
    require_batches_equal(ours, feats, batches, agreements)

    device = settings.device
    work = {str(batch): partial(run_head, ours, feats, 2 * batch) for batch in batches}
    ways = {batch: Captured(device, run) for batch, run in work.items()}
    replays = {batch: way.run for batch, way in ways.items()}
    timings = time_in_turns(device, replays, turns.iterations, turns.rounds, turns.warm_up)
    rows = []
    for batch in batches:
        agreements.require(f"head at batch {batch}")
        memory = peak_memory(work[str(batch)], device.on_gpu)
        row = {"batch": batch, "pairs": 2 * batch, "memory_mb": memory / 1e6}
        row["recorded"] = ways[str(batch)].recorded
        rows.append(row | timings[str(batch)].summary())

    for before, row in itertools.pairwise(rows):
        row["time_ratio"] = row["ms_min"] / before["ms_min"]
        row["memory_ratio"] = row["memory_mb"] / before["memory_mb"]

    # growth over all rows, and between the last two
    sizes = [row["batch"] for row in rows]
    exponents = {}
    for key in ("ms_min", "memory_mb"):
        exponents[key] = exponent(sizes, [row[key] for row in rows])
    last, before = rows[-1], rows[-2] if len(rows) > 1 else {"batch": 0, "memory_mb": 0.0}
    slope = (last["memory_mb"] - before["memory_mb"]) / (last["batch"] - before["batch"])

    return {
        "rows": rows,
        "exponents": exponents,
        "memory_mb_per_image": slope,
        "density": ours.density(),
    }


def require_batches_equal(
    ours: Ours,
    feats: tuple[list[Tensor], list[Tensor]],
    batches: Sequence[int],
    agreements: Agreements,
) -> None:
    """Raises Refused unless every batch gives what its pairs give one by one."""
    ids = draw_positions(feats[0], ours.opt.num_patches)

    losses, gradients = [], []
    for row in range(2 * max(batches)):
        one = slice(row, row + 1)
        pair = [f[one] for f in feats[0]], [f[one] for f in feats[1]]
        with ours.fixed_positions([layer[one] for layer in ids]):
            loss, gradient = run_head(ours, pair, 1)
        losses.append(loss)
        gradients.append(gradient)

    for batch in batches:
        pairs = 2 * batch
        with ours.fixed_positions([layer[:pairs] for layer in ids]):
            found = run_head(ours, feats, pairs)
        alone = torch.cat(losses[:pairs]), joined(gradients[:pairs])
        compare_heads(f"head at batch {batch}", alone, found, agreements)


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """e of the best fit values ~ sizes^e: 1 is linear growth, 2 quadratic; None for a single size."""
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in values]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)

    spread = sum((a - mean_x) ** 2 for a in x)
    if not spread:
        return None
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread


def compare_with_released(
    ours: Ours, released: Released, settings: Settings, turns: Turns, agreements: Agreements
) -> dict[str, Any]:
    """Both heads at batch 1 on the same features and weights, forward and backward, in turns."""
    feats = feature_maps(ours, settings, 1)
    ids = draw_positions(feats[0], ours.opt.num_patches)

    results = []
    for contestant in (ours, released):
        contestant.enter()
        with contestant.fixed_positions(ids):
            results.append(run_head(contestant, feats, 2))
    compare_heads("released head", *results, agreements)

    device = settings.device
    ways = {}
    for name, contestant in (("ours", ours), (AS_PUBLISHED, released)):
        contestant.enter()
        ways[name] = Captured(device, partial(run_head, contestant, feats, 2))
    work = {name: way.run for name, way in ways.items()}
    timings = time_in_turns(device, work, turns.iterations, turns.rounds, turns.warm_up)
    agreements.require("released head")

    return {
        "graph_path": released.release.graph_path,
        "density": ours.density(),
        "heads": {
            name: {"recorded": ways[name].recorded, **timing.summary()}
            for name, timing in timings.items()
        },
        "ratio": speed_up(timings[AS_PUBLISHED], timings["ours"]),
    }
