"""Self-similarity and its loss against loops and closed forms."""

import pytest
import torch
from torch import Tensor

from models.losses.self_similarity import (
    largest,
    self_similarity,
    spatial_loss,
    window_positions,
)

SHAPES = [(1, 5, 7), (3, 7, 4), (1, 6, 6)]  # B, H, W


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(
        *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    ).requires_grad_()


def slopes(loss_B: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Gradients of a loss whose images count differently."""
    weights = torch.arange(1.0, len(loss_B) + 1).double()
    return torch.autograd.grad((weights * loss_B).sum(), inputs, retain_graph=True)


# -- similarity --------------------------------------------------------------------------------------------------------


def around(place: int, side: int, window: int) -> range:
    """Rows (or columns) of the window around one: from window // 2 before it, moved inside the map."""
    first = min(max(place - window // 2, 0), side - window)
    return range(first, first + window)


def loop_similarity(feat: Tensor, ids: list[int], window: int, use_norm: bool) -> Tensor:
    """One image, one query and one key at a time, by row and column."""
    batch, channels, height, width = feat.shape
    whole = not 0 < window < min(height, width)
    images = []
    for b in range(batch):
        mean = sum(feat[b, :, y, x] for y in range(height) for x in range(width)) / (height * width)
        rows = []
        for place in ids:
            y, x = place // width, place % width
            query = feat[b, :, y, x] - mean
            row = []
            for v in range(height) if whole else around(y, height, window):
                for u in range(width) if whole else around(x, width, window):
                    key = feat[b, :, v, u] - mean
                    product = (query * key).sum()
                    if use_norm:
                        row.append(product / (query.norm() * key.norm()))
                    else:
                        row.append(torch.tanh(product / channels / 10))
            rows.append(torch.stack(row))
        images.append(torch.stack(rows))
    return torch.stack(images)


@pytest.mark.parametrize("use_norm", [False, True])
@pytest.mark.parametrize("window", [0, 2, 3, 4, 6])
@pytest.mark.parametrize("shape", SHAPES)
def test_similarity_is_its_formula(shape, window, use_norm):
    """The queries lie in corners, at edges and inside; maps of other sides than the window's are cut or taken whole."""
    batch, height, width = shape
    feat = random(batch, 3, height, width)
    last = height * width - 1
    ids = [0, width - 1, last, last - width + 1, width + 2, last // 2]
    found = self_similarity(feat, torch.tensor(ids), window, use_norm)
    expected = loop_similarity(feat, ids, window, use_norm)
    keys = window**2 if 0 < window < min(height, width) else height * width
    assert found.shape == (batch, len(ids), keys)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    weights = random(*found.shape, seed=1).detach()
    [ours] = torch.autograd.grad((weights * found).sum(), feat)
    [theirs] = torch.autograd.grad((weights * expected).sum(), feat)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


def test_windows_of_a_map_that_is_not_square():
    """By hand: a map of 4 rows and 6 columns, windows of 3; row 3, column 5 is position 23."""
    ids = window_positions(torch.tensor([0, 8, 23]), 4, 6, 3)
    assert ids.tolist() == [
        [0, 1, 2, 6, 7, 8, 12, 13, 14],
        [1, 2, 3, 7, 8, 9, 13, 14, 15],
        [9, 10, 11, 15, 16, 17, 21, 22, 23],
    ]


def test_exchanging_rows_and_columns_exchanges_them_everywhere():
    """What a transposed map gives is the same, transposed: no direction is mistaken for the other."""
    feat = random(2, 4, 9, 5).detach()
    ids, flipped = torch.tensor([0, 7, 23, 44]), []
    for place in ids.tolist():
        row, column = divmod(place, 5)
        flipped.append(column * 9 + row)
    plain = self_similarity(feat, ids, window=3).unflatten(2, (3, 3))
    turned = self_similarity(feat.transpose(2, 3), torch.tensor(flipped), window=3)
    torch.testing.assert_close(turned.unflatten(2, (3, 3)), plain.transpose(2, 3))


def test_an_offset_of_the_features_changes_nothing():
    feat = random(1, 4, 5, 6).detach()
    ids = torch.arange(30)
    shifted = feat + torch.arange(4.0).double()[:, None, None]
    torch.testing.assert_close(self_similarity(shifted, ids), self_similarity(feat, ids))


# -- comparison --------------------------------------------------------------------------------------------------------


def distance(a: Tensor, b: Tensor | float, use_norm: bool) -> Tensor:
    """Of two numbers: smooth L1, or with `use_norm` the absolute difference."""
    gap = abs(a - b)
    if use_norm:
        return gap
    return gap**2 / 2 if gap < 1 else gap - 0.5


def row_loss(real: Tensor, fake: Tensor, mode: str, use_norm: bool) -> Tensor:
    """Of one query, with a sorted list."""
    keys = len(fake)
    least = sorted(fake.tolist(), reverse=True)[keys // 4]
    kept = [k for k in range(keys) if fake[k].item() >= least]
    if mode == "cos":
        product = sum(real[k] * fake[k] for k in kept)
        length_real = torch.sqrt(sum(real[k] ** 2 for k in kept))
        length_fake = torch.sqrt(sum(fake[k] ** 2 for k in kept))
        return distance(product / (length_real * length_fake), 1.0, use_norm)
    scale = keys / max(keys // 4, 1)
    return sum(distance(scale * fake[k], scale * real[k], use_norm) for k in kept) / keys


def loop_loss(real: Tensor, fake: Tensor, mode: str, use_norm: bool) -> Tensor:
    images = []
    for real_rows, fake_rows in zip(real, fake, strict=True):
        pairs = zip(real_rows, fake_rows, strict=True)
        images.append(torch.stack([row_loss(r, f, mode, use_norm) for r, f in pairs]).mean())
    return torch.stack(images)


@pytest.mark.parametrize("use_norm", [False, True])
@pytest.mark.parametrize("mode", ["cos", "l1"])
@pytest.mark.parametrize(("batch", "keys"), [(1, 9), (3, 16), (2, 3), (1, 1)])
def test_the_loss_is_its_formula(batch, keys, mode, use_norm):
    """Values of both branches of the smooth distance; with fewer than four keys one or all are kept."""
    real, fake = random(batch, 5, keys, seed=1), random(batch, 5, keys, seed=2)
    found = spatial_loss(real, fake, mode, use_norm)
    expected = loop_loss(real, fake, mode, use_norm)
    assert found.shape == (batch,)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    for ours, theirs in zip(slopes(found, real, fake), slopes(expected, real, fake), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_the_kept_entries_are_the_largest_of_the_output_and_ties():
    row = torch.tensor([[[0.1, 0.9, 0.5, 0.5, 0.5, -1.0, 0.2, 0.3]]])  # K // 4 = 2
    assert largest(row).tolist() == [[[False, True, True, True, True, False, False, False]]]
    sim = random(2, 3, 20).detach()
    assert largest(sim).sum(2).eq(6).all()


@pytest.mark.parametrize("mode", ["cos", "l1"])
def test_equal_similarities_have_no_loss(mode):
    sim = torch.tanh(random(2, 4, 12).detach())
    assert spatial_loss(sim, sim, mode).abs().max() < 1e-12
    assert spatial_loss(sim, -sim, mode).min() > 0.1


@pytest.mark.parametrize("mode", ["cos", "l1"])
@pytest.mark.parametrize("use_norm", [False, True])
def test_maps_without_structure_have_a_loss_and_finite_gradients(mode, use_norm):
    """An output of one colour: its similarities are 0, all tie, none is like the input's."""
    ids = torch.arange(12)
    real = self_similarity(random(1, 3, 3, 4).detach(), ids, use_norm=use_norm)
    feat = torch.full((1, 3, 3, 4), 2.0).double().requires_grad_()
    loss = spatial_loss(real, self_similarity(feat, ids, use_norm=use_norm), mode, use_norm)
    if mode == "cos":
        assert loss.item() == pytest.approx(1.0 if use_norm else 0.5)
    [slope] = slopes(loss, feat)
    assert torch.isfinite(slope).all()


def test_half_precision_is_computed_in_single_precision():
    feats = [random(2, 8, 5, 6, seed=seed).detach().bfloat16() for seed in range(2)]
    ids = torch.arange(0, 30, 3)
    with torch.autocast("cpu", torch.bfloat16):
        loss = spatial_loss(*(self_similarity(feat, ids) for feat in feats))
    exact = spatial_loss(*(self_similarity(feat.double(), ids) for feat in feats))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact, rtol=1e-4, atol=1e-5)
