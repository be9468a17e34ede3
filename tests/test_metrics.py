"""Every measure against something slow and obvious in float64, closed forms, and what it must not depend on."""

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.ndimage import correlate1d, sobel
from scipy.spatial.distance import cdist
from torch_fidelity import metric_fid, metric_kid

from util.errors import UserError
from util.metrics import bootstrap, duplicates
from util.metrics.fid import fid, kid
from util.metrics.lpips import WIDTHS, lpips, read_lpips
from util.metrics.measures import MEASURES, find_measures, measure
from util.metrics.prdc import coverage, density, nearest, precision, radii, recall
from util.metrics.structure import LUMINANCE, edges, self_similarity_distance
from util.metrics.suite import of_kind
from util.metrics.truth import l1, peak_snr, ssim


def features(count: int, width: int, seed: int, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(width, width))
    return rng.normal(size=(count, width)) @ mixing + shift


# --- FID and KID ------------------------------------------------------------------------------------------------------


def fid_by_definition(x: np.ndarray, y: np.ndarray) -> float:
    """With a matrix root, as the paper writes it."""
    cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(cov_x @ cov_y)
    distance = np.square(x.mean(0) - y.mean(0)).sum()
    return float(distance + np.trace(cov_x + cov_y - 2 * root.real))


@pytest.mark.parametrize(("n", "m"), [(40, 30), (300, 50)])
def test_fid_by_its_definition(n, m):
    x, y = features(n, 12, 1), features(m, 12, 2, shift=0.5)
    assert fid(x, y) == pytest.approx(fid_by_definition(x, y), abs=1e-6)
    assert fid(y, x) == pytest.approx(fid(x, y), abs=1e-9)


def test_fid_is_torch_fidelitys_also_with_fewer_images_than_dimensions():
    x, y = features(20, 64, 1), features(15, 64, 2, shift=0.1)
    statistics = [
        metric_fid.fid_features_to_statistics(torch.from_numpy(values)) for values in (x, y)
    ]
    theirs = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
    assert fid(x, y) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)


def test_fid_of_gaussians_in_closed_form():
    """Points whose mean and covariance are exactly known: |m|^2 + sum of (s_x - s_y)^2."""
    points = np.concatenate([np.eye(3), -np.eye(3)]) * math.sqrt(5 / 2)  # covariance 1
    x, y = points * [1, 2, 3], points * [2, 2, 1] + [1, 0, 2]
    assert np.allclose(np.cov(x, rowvar=False), np.diag([1, 4, 9]))
    assert fid(x, y) == pytest.approx(1 + 4 + (1 - 2) ** 2 + 0 + (3 - 1) ** 2, abs=1e-9)


def test_kid_by_loops():
    x, y = features(7, 5, 1), features(9, 5, 2, shift=0.3)

    def kernel(a, b):
        return (float(a @ b) / 5 + 1) ** 3

    expected = 0.0
    for points in (x, y):
        count = len(points)
        pairs = [kernel(points[i], points[j]) for i in range(count) for j in range(count) if i != j]
        expected += sum(pairs) / (count * (count - 1))
    expected -= 2 * sum(kernel(a, b) for a in x for b in y) / (len(x) * len(y))
    assert kid(x, y) == pytest.approx(expected, abs=1e-6, rel=1e-9)


def test_kid_is_torch_fidelitys_over_the_whole_sets():
    x, y = features(30, 8, 1), features(30, 8, 2, shift=0.3)
    theirs = metric_kid.kid_features_to_metric(
        torch.from_numpy(x), torch.from_numpy(y), kid_subsets=2, kid_subset_size=30, verbose=False
    )
    assert kid(x, y) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)


# --- precision, recall, density, coverage -----------------------------------------------------------------------------


def prdc_by_loops(fakes: np.ndarray, reals: np.ndarray, k: int = 5) -> dict[str, float]:
    def ball(points):
        distances = cdist(points, points)
        np.fill_diagonal(distances, np.inf)
        return np.sort(distances, axis=1)[:, k - 1]

    between, of_reals, of_fakes = cdist(fakes, reals), ball(reals), ball(fakes)
    n, m = between.shape
    inside = [[between[i, j] <= of_reals[j] for j in range(m)] for i in range(n)]
    return {
        "precision": np.mean([any(row) for row in inside]),
        "recall": np.mean([any(between[i, j] <= of_fakes[i] for i in range(n)) for j in range(m)]),
        "density": np.sum(inside) / (k * n),
        "coverage": np.mean([min(between[:, j]) <= of_reals[j] for j in range(m)]),
    }


@pytest.mark.parametrize("shift", [0.0, 0.8])
def test_prdc_by_loops(shift):
    x, y = features(40, 3, 1, shift), features(55, 3, 2)
    for name, expected in prdc_by_loops(x, y).items():
        assert MEASURES[name].function(x, y).mean() == pytest.approx(expected, abs=1e-6), name
    assert len(density(x, y)) == 40 and len(coverage(x, y)) == 55 and len(recall(x, y)) == 55


def test_prdc_in_parts_is_the_same(monkeypatch):
    x, y = features(40, 3, 1, 0.5), features(55, 3, 2)
    whole = [function(x, y).tolist() for function in (precision, recall, density, coverage)]
    monkeypatch.setattr("util.metrics.prdc.ROWS", 7)
    assert [f(x, y).tolist() for f in (precision, recall, density, coverage)] == whole


def test_copies_count_as_neighbours():
    points = np.repeat(
        features(3, 4, 1), 6, axis=0
    )  # each point six times: every ball has radius 0
    assert radii(points).tolist() == [0.0] * 18
    assert precision(points, points).mean() == 1 and density(points, points).mean() == 6 / 5


def test_the_nearest_is_found():
    points = np.array([[0.0, 0.0], [1.0, 0.0], [5.0, 5.0]])
    index, distance = nearest(np.array([[0.9, 0.0], [4.0, 5.0]]), points)
    assert index.tolist() == [1, 2] and distance == pytest.approx([0.1, 1.0])


# --- what no measure may depend on ------------------------------------------------------------------------------------


def test_identical_sets_and_any_order():
    x, y = features(30, 6, 1), features(25, 6, 2, 0.4)
    assert abs(fid(x, x)) < 1e-9
    for name in ("precision", "recall", "coverage"):
        assert MEASURES[name].function(x, x).mean() == 1, name

    order = np.random.default_rng(0).permutation(30)
    for found in of_kind("sets", "members"):
        before = np.mean(found.function(x, y))
        assert np.mean(found.function(x[order], y[::-1])) == pytest.approx(before, abs=1e-9)


def test_a_measure_is_registered_once_and_found_by_name():
    assert [m.name for m in find_measures(["kid", "fid"], "--eval_metrics")] == ["kid", "fid"]
    with pytest.raises(UserError, match=r"--eval_metrics fed: .*did you mean 'fid'"):
        find_measures(["fed"], "--eval_metrics")
    with pytest.raises(ValueError, match="two measures are called fid"):
        measure("sets", "FID", "low")(fid)
    assert MEASURES["fid"].is_better(1.0, 2.0) and MEASURES["density"].is_better(2.0, 1.0)


# --- intervals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("function", "count"), [(fid, 40), (kid, 40)])
def test_bootstrap_intervals_cover(function, count):
    """The figure that is to be expected at this number of images lies in about 95 % of the intervals."""
    rng = np.random.default_rng(0)

    def draw():
        return rng.normal(size=(count, 3)), rng.normal(size=(count, 3)) * 1.5 + 0.7

    expected = np.mean([function(*draw()) for _ in range(1500)])
    hits = 0
    for seed in range(120):
        low, high = bootstrap.of_sets(function, *draw(), 80, seed)["interval"]
        hits += low <= expected <= high
    assert 0.86 <= hits / 120 <= 0.995


def test_the_centre_is_what_makes_the_interval_cover():
    """Copies in a resample raise FID: of two equal sets its plain quantiles lie above nearly every figure."""
    rng = np.random.default_rng(0)

    def draw():
        return rng.normal(size=(40, 8)), rng.normal(size=(40, 8))

    expected = np.mean([fid(*draw()) for _ in range(500)])
    centred = plain = 0
    for seed in range(60):
        x, y = draw()
        low, high = bootstrap.of_sets(fid, x, y, 60, seed)["interval"]
        centred += low <= expected <= high

        some = np.random.default_rng(seed).integers(40, size=(60, 2, 40))
        low, high = np.quantile([fid(x[one], y[other]) for one, other in some], (0.025, 0.975))
        plain += low <= expected <= high
    assert centred / 60 >= 0.9 and plain / 60 <= 0.4


def test_bootstrap_of_a_mean_covers_and_is_as_wide_as_theory():
    rng = np.random.default_rng(0)
    hits, widths = 0, []
    for seed in range(150):
        low, high = bootstrap.of_mean(rng.normal(size=60), 150, seed)["interval"]
        hits += low <= 0 <= high
        widths.append(high - low)
    assert 0.88 <= hits / 150 <= 0.99
    assert np.mean(widths) == pytest.approx(2 * 1.96 / math.sqrt(60), rel=0.1)


def test_equal_numbers_draw_from_the_larger_set_only():
    x, y = features(10, 3, 1), features(40, 3, 2)
    seen = []
    bootstrap.at_equal_numbers(lambda a, b: seen.append((a, b)) or 0.0, x, y, 10)
    assert len(seen) == bootstrap.DRAWS and all(len(b) == 10 and a is x for a, b in seen)
    assert bootstrap.at_equal_numbers(fid, x, x[::-1], 10) == pytest.approx(fid(x, x), abs=1e-9)

    seen.clear()
    bootstrap.at_numbers(lambda a, b: seen.append((a, b)) or 0.0, y, x, (30, 10))
    assert len(seen) == bootstrap.DRAWS and all(len(a) == 30 and b is x for a, b in seen)


# --- pictures ---------------------------------------------------------------------------------------------------------


def picture(seed: int, size: tuple[int, int] = (24, 30)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(0.5, 0.25, (*size, 3)), 0, 1)


def test_edges_by_scipy_and_at_any_contrast():
    one, other = picture(1), picture(2)

    def length(image):
        grey = image @ LUMINANCE
        return np.hypot(sobel(grey, 0, mode="reflect"), sobel(grey, 1, mode="reflect"))

    a, b = length(one), length(other)
    expected = (a * b).sum() / math.sqrt((a**2).sum() * (b**2).sum())
    assert edges(one, other) == pytest.approx(expected, abs=1e-9)
    assert edges(one, 0.9 - 0.3 * one) == pytest.approx(1)
    assert edges(np.zeros((8, 8, 3)), np.ones((8, 8, 3))) == 1
    assert edges(np.zeros((24, 30, 3)), one) == 0


def test_self_similarity_by_loops():
    rng = np.random.default_rng(0)
    maps = [torch.from_numpy(rng.normal(size=(1, 4, 3, 5))) for _ in range(2)]

    def table(feat):
        columns = feat[0].reshape(4, 15).numpy()
        columns = columns - columns.mean(1, keepdims=True)
        return [
            [
                columns[:, i] @ columns[:, j] / np.linalg.norm(columns[:, i]) / np.linalg.norm(columns[:, j])
                for j in range(15)
            ]
            for i in range(15)
        ]  # fmt: skip

    expected = math.sqrt(np.square(np.subtract(table(maps[0]), table(maps[1]))).mean())
    assert float(self_similarity_distance(maps[:1], maps[1:])) == pytest.approx(expected, abs=1e-6)
    assert float(self_similarity_distance(maps[:1], [3 * maps[0] + 7])) == pytest.approx(
        0, abs=1e-6
    )


def ssim_by_scipy(one: np.ndarray, other: np.ndarray) -> float:
    window = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window /= window.sum()

    def average(values):
        return correlate1d(correlate1d(values, window, 0), window, 1)[5:-5, 5:-5]

    a, b = average(one), average(other)
    covariance = average(one * other) - a * b
    spread = average(one**2) - a**2 + average(other**2) - b**2
    values = (2 * a * b + 1e-4) * (2 * covariance + 9e-4)
    return float((values / ((a**2 + b**2 + 1e-4) * (spread + 9e-4))).mean())


def test_truth_measures():
    one, other = picture(1), picture(2)
    assert ssim(one, other) == pytest.approx(ssim_by_scipy(one, other), abs=1e-6)
    assert (
        ssim(one, one) == pytest.approx(1) and 0 < ssim(picture(1, (5, 6)), picture(2, (5, 6))) < 1
    )
    assert l1(np.zeros((2, 2, 3)), np.full((2, 2, 3), 0.25)) == 0.25
    assert peak_snr(one, one) == 100 and peak_snr(
        np.zeros((2, 2, 3)), np.full((2, 2, 3), 0.1)
    ) == pytest.approx(20)


def test_lpips_by_loops(tmp_path):
    rng = np.random.default_rng(0)
    shapes = [(1, 3, 2, 2), (1, 5, 1, 2)]
    one, other = ([torch.from_numpy(rng.normal(size=s)) for s in shapes] for _ in range(2))
    weights = [torch.from_numpy(rng.random(s[1])) for s in shapes]

    expected = 0.0
    for a, b, w in zip(one, other, weights, strict=True):
        places = []
        for y in range(a.shape[2]):
            for x in range(a.shape[3]):
                u, v = a[0, :, y, x] / a[0, :, y, x].norm(), b[0, :, y, x] / b[0, :, y, x].norm()
                places.append(float((w * (u - v) ** 2).sum()))
        expected += np.mean(places)
    assert float(lpips(one, other, weights)) == pytest.approx(expected, rel=1e-6)

    published = {
        f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1) for i, width in enumerate(WIDTHS)
    }
    torch.save(published, tmp_path / "vgg.pth")
    assert [len(w) for w in read_lpips(tmp_path / "vgg.pth")] == list(WIDTHS)
    del published["lin3.model.1.weight"]
    torch.save(published, tmp_path / "less.pth")
    with pytest.raises(UserError, match=r"lin3\.model\.1\.weight with 512 numbers is missing"):
        read_lpips(tmp_path / "less.pth")


# --- duplicates -------------------------------------------------------------------------------------------------------


def looks(*pictures: tuple[str, int, float]) -> duplicates.Looks:
    """Pictures by checksum, the seed of what they show, and a change of brightness."""
    thumbnails = [
        np.random.default_rng(seed).random(256) * 0.8 + shift for _, seed, shift in pictures
    ]
    return duplicates.Looks(
        [name for name, _, _ in pictures], np.array(thumbnails, dtype=np.float32)
    )


def test_duplicates_are_told_apart():
    train = looks(("a", 1, 0), ("b", 2, 0), ("a", 1, 0), ("c", 1, 0.01), ("d", 3, 0))
    found = duplicates.groups(train)
    assert found == {"exact": [[0, 2]], "near": [[0, 2, 3]]}

    test = looks(("b", 2, 0), ("x", 3, 0.005), ("y", 4, 0), ("z", 2, 0.1), ("y2", 4, 0.001))
    assert duplicates.shared(test, train) == {"exact": [0], "near": [0, 1]}
    assert duplicates.superfluous(test) == [4]
    assert duplicates.superfluous(test, [train]) == [0, 1, 4]


def test_flat_pictures_are_alike_only_at_the_same_brightness():
    flat = np.stack([np.full(256, level) for level in (0.5, 0.505, 0.9)]).astype(np.float32)
    assert duplicates.groups(duplicates.Looks(["a", "b", "c"], flat))["near"] == [[0, 1]]


def look_alike(one: np.ndarray, other: np.ndarray) -> bool:
    """The definition, for two thumbnails that are not flat."""
    return np.corrcoef(one, other)[0, 1] > 0.99 and np.abs(one - other).mean() < 0.02


def test_duplicates_are_those_of_a_comparison_of_all_pairs(monkeypatch):
    """Chains of look-alikes, copies and loners, in several blocks."""
    monkeypatch.setattr(duplicates, "ROWS", 7)
    rng = np.random.default_rng(0)
    scenes = rng.random((6, 256))
    thumbnails = scenes[rng.integers(0, 6, 40)] + rng.integers(0, 8, (40, 1)) * 0.012
    thumbnails = np.concatenate([thumbnails, rng.random((9, 256)), thumbnails[:5]])
    thumbnails = thumbnails.astype(np.float32)[rng.permutation(54)]
    pictures = duplicates.Looks([str(number) for number in range(54)], thumbnails)

    groups = {number: {number} for number in range(54)}
    for one, other in itertools.combinations(range(54), 2):
        if look_alike(thumbnails[one], thumbnails[other]):
            whole = groups[one] | groups[other]
            groups |= dict.fromkeys(whole, whole)
    expected = {tuple(sorted(group)) for group in groups.values() if len(group) > 1}
    found = duplicates.groups(pictures)["near"]
    assert found == sorted(map(list, expected)) and len(found) > 3

    halves = [duplicates.Looks(["x"] * 27, part) for part in (thumbnails[:27], thumbnails[27:])]
    halves[1].checksums[:] = ["y"] * 27
    pairs = itertools.product(range(27), range(27, 54))
    near = {one for one, other in pairs if look_alike(thumbnails[one], thumbnails[other])}
    assert duplicates.shared(*halves)["near"] == sorted(near)


@pytest.mark.parametrize("spread", [0, 1e-3])
def test_a_collapsed_generator_takes_no_comparison_of_all_pairs(monkeypatch, spread):
    """All its pictures are alike: to the last digit, or nearly."""
    rng = np.random.default_rng(0)
    thumbnails = rng.random(256) + spread * rng.random((1500, 256))
    pictures = duplicates.Looks(list(map(str, range(1500))), thumbnails.astype(np.float32))
    compared = []
    are_close = duplicates._are_close

    def count(one, others):
        compared.append(len(others))
        return are_close(one, others)

    monkeypatch.setattr(duplicates, "_are_close", count)
    assert duplicates.groups(pictures)["near"] == [[*range(1500)]]
    assert sum(compared) <= 1500
    assert duplicates.shared(pictures, pictures)["near"] == [*range(1500)]
