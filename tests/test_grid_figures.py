"""Figures of a grid: which panels are drawn, where dots and lines stand, and pictures that stay as they are."""

import io

import numpy as np
import pytest
from PIL import Image

from scripts.experiments.collect import Measured, RunRow
from scripts.experiments.figures import (
    DPI,
    GAP,
    HEAD,
    NARROWEST,
    draw_curves,
    draw_pictures,
    draw_trade_off,
    mean_curve,
    sheet,
    write_figures,
)
from scripts.experiments.grid import Grid
from scripts.experiments.table import Table

BETTER = {"FID-768": "low", "KID-768 x100": "low", "edges": "high"}


def run_of(row: str, seed: int, fid: float, edges: float) -> RunRow:
    figures = {"FID-768": fid, "KID-768 x100": 10 * fid, "edges": edges}
    floors = {"doing nothing": {"FID-768": 1.4, "edges": 1.0}}
    curves = {"eval/KID-768": [(100, fid + 1), (200, fid)], "G_GAN": [(100, 0.5), (200, 0.4)]}
    return RunRow(
        f"{row}-{seed}",
        row,
        "horses",
        seed,
        "recipe",
        "commit",
        {"last": Measured(figures, floors=floors)},
        BETTER,
        {},
        curves,
    )


@pytest.fixture
def grid(tmp_path) -> Grid:
    rows = {"one": {}, "two": {}, "not yet run": {}}
    return Grid(
        "small", "", [0, 1], "one", rows, {"horses": {}}, {}, {}, {}, {}, tmp_path, tmp_path / "g.toml"
    )  # fmt: skip


@pytest.fixture
def table() -> Table:
    runs = [run_of("one", 0, 1.0, 0.5), run_of("one", 1, 2.0, 0.7), run_of("two", 0, 0.5, 0.4)]
    return Table("horses", [], {}, runs, {})


def test_the_mean_of_seeds_where_all_were_measured():
    assert mean_curve([[(1, 2.0), (2, 4.0)], [(2, 8.0), (3, 1.0)]]) == ([2], [6.0])
    assert mean_curve([]) == ([], [])


def test_curves_are_those_of_figures_not_of_losses(grid, table):
    figure = draw_curves(grid, table)
    [ax] = figure.axes
    assert ax.get_title() == "KID-768"
    thin, other, mean, two = ax.lines
    assert [*thin.get_ydata()] == [2, 1] and [*other.get_ydata()] == [3, 2]
    assert [*mean.get_ydata()] == [2.5, 1.5] and mean.get_label() == "one"
    assert [*two.get_ydata()] == [1.5, 0.5] and two.get_color() != mean.get_color()


def test_realism_stands_over_correspondence_with_the_floor(grid, table):
    figure = draw_trade_off(grid, table)
    assert [ax.get_ylabel() for ax in figure.axes] == [
        "FID-768 (lower is better)",
        "KID-768 x100 (lower is better)",
    ]
    assert {ax.get_xlabel() for ax in figure.axes} == {"edges (higher is better)"}

    seeds, one, two, floor = (np.array(dots.get_offsets()) for dots in figure.axes[0].collections)
    np.testing.assert_allclose(seeds, [[0.5, 1.0], [0.7, 2.0]])
    np.testing.assert_allclose(one, [[0.6, 1.5]])
    np.testing.assert_allclose(two, [[0.4, 0.5]])
    np.testing.assert_allclose(floor, [[1.0, 1.4]])
    assert len(figure.axes[1].collections) == 3, "no floor of KID is known"


def test_what_was_not_measured_is_not_drawn(grid):
    empty = Table("horses", [], {}, [], {})
    assert draw_curves(grid, empty) is None
    assert draw_trade_off(grid, empty) is None
    assert draw_pictures({}) is None
    assert write_figures(grid, [empty]) == []


@pytest.mark.parametrize("times", [1, 3])
def test_pictures_stay_as_they_are(times):
    """Each pixel of a picture is a square of the figure, also where sizes differ."""
    rng = np.random.default_rng(0)
    wide = NARROWEST // times + 1
    sizes = [[(40, 50), (40, 50)], [(30, wide), (60, 33)]]
    lines = [[rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in line] for line in sizes]
    file = io.BytesIO()
    sheet(["input", "one"], lines).savefig(file, dpi=DPI)
    drawn = np.asarray(Image.open(file).convert("RGB"))

    assert drawn.shape == (HEAD + 100 * times + GAP, (wide + 50) * times + GAP, 3)
    for top, line in zip((HEAD, HEAD + 40 * times + GAP), lines, strict=True):
        for left, image in zip((0, wide * times + GAP), line, strict=True):
            large = image.repeat(times, 0).repeat(times, 1)
            rows, columns = large.shape[:2]
            np.testing.assert_array_equal(drawn[top : top + rows, left : left + columns], large)


def test_inputs_that_every_row_translated_are_shown(tmp_path):
    folders = {}
    for row, names in {"real_A": "abc", "fake_B": "abc"}.items():
        for name in names:
            path = tmp_path / "one" / row / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (10, 20, 30)).save(path)
    folders["one"] = tmp_path / "one" / "fake_B"
    (tmp_path / "two").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "two" / "b.png")
    folders["two"] = tmp_path / "two"
    assert [text.get_text() for text in draw_pictures(folders).texts] == ["input", "one", "two"]
    assert len(draw_pictures(folders).axes) == 3, "only b was translated by both"


def test_the_same_figures_give_the_same_bytes(grid, table):
    first = {path: path.read_bytes() for path in write_figures(grid, [table])}
    assert sorted(path.name for path in first) == ["horses_curves.png", "horses_trade_off.png"]
    assert (grid.folder / "figures" / "horses_curves.pdf").is_file()
    assert {path: path.read_bytes() for path in write_figures(grid, [table])} == first
