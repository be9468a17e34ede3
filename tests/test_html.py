"""The parts of pages: quoting, escaping, links, charts; checked in the text and in a real browser."""

import math
import re

import numpy as np
import pytest
from PIL import Image

from tests.browser import Browser, needs_browser
from util.pages import html
from util.pages.curve import MOST_BUCKETS, Curve
from util.pages.files import Picture, remove_pages_after, write_page

ODD = 'it\'s "#1" 50% & <b>? 雪;+=:.png'


def draw(path) -> Picture:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (200, 30, 30)).save(path)
    return Picture("label <i> & 雪", path.name, 8, 6)


def points(chart: str, kind: str) -> list[tuple[float, float]]:
    """The points of a curve in a rendered chart, in drawing units."""
    drawn = re.search(rf'<path(?=[^>]*class="{kind}")[^>]*\bd="([^"]*)"', chart).group(1)
    return [tuple(map(float, point.split())) for point in re.split("[ML]", drawn)[1:]]


def chart(images, values) -> str:
    curve = Curve(zip(images, values, strict=True))
    return html.curve_charts({"G": curve}).render(pretty=False)


def test_urls_and_text_are_escaped():
    assert html.url("a b/#%?\"'&.png") == "a%20b/%23%25%3F%22%27%26.png"
    text = html.page(
        "<run>", "s", [html.picture_rows([("<h>", [Picture("<l>", "x.png", 1, 1)])], 10)]
    )
    assert "&lt;run&gt;" in text and "&lt;h&gt;" in text and "&lt;l&gt;" in text
    assert text.count("<img") == text.count('loading="lazy"') == 1
    assert "<run>" not in text and "<h>" not in text and "<l>" not in text


def test_names_that_are_no_utf8_can_be_shown_and_linked():
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    assert html.url(name) == "caf%E9.png" and html.printable(name) == "caf\ufffd.png"
    html.page(name, "", [html.fact_table({name: name})]).encode("utf-8")


def test_pages_fetch_nothing_and_run_nothing():
    text = html.page("t", "s", [html.curve_charts({"G": Curve([(1, 1.0), (2, 2.0)])})])
    assert "http" not in text and "<script" not in text and "@import" not in text


def test_the_current_link_is_marked_not_linked():
    text = html.links({"one": "1.html", "two": "2.html"}, current="two").render(pretty=False)
    assert text == '<nav><a href="1.html">one</a><b>two</b></nav>'


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (0.1, 0.9), (-3, 17), (1e-6, 3e-6), (5, 5), (0, 0), (-2, -2), (0, 1e9)],
)
def test_ticks_are_round_even_few_and_cover_the_values(low, high):
    ticks = html.nice_ticks(low, high, 4)
    steps = np.diff(ticks)
    assert ticks[0] <= low <= high <= ticks[-1] and 2 <= len(ticks) <= 7
    assert np.allclose(steps, steps[0])
    assert float(f"{steps[0]:.1e}") == pytest.approx(steps[0]), "a step has at most two digits"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (400, "400"), (1000, "1k"), (12_500, "12.5k"), (1_500_000, "1.5M")],
)
def test_counts_are_short(value, text):
    assert html.short_number(value) == text


def test_a_chart_places_its_points_by_value():
    drawn = points(chart([0, 50, 100], [0.0, 1.0, 2.0]), "raw")
    (x0, y0), (x1, y1), (x2, y2) = drawn
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11) and x2 == html.CHART_WIDTH - html.CHART_RIGHT
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.3) and y0 > y1 > y2, (
        "larger values are drawn higher"
    )


def test_nan_is_a_gap_not_a_point():
    text = chart([1, 2, 3, 4], [1.0, None, 2.0, 3.0])
    drawn = re.search(r'd="([^"]*)"', text).group(1)
    assert drawn.count("M") == 2 and len(points(text, "raw")) == 3 and "nan" not in text.lower()


def test_a_loss_without_a_finite_value_says_so():
    assert "no finite value yet" in chart([1, 2], [None, None])


def test_one_spike_does_not_flatten_the_curve():
    values = [1 + 0.01 * (k % 10) for k in range(250)]
    values[100] = 1e6
    heights = [y for x, y in points(chart(range(250), values), "raw")]
    assert min(heights) >= 0 and max(heights) <= html.CHART_HEIGHT
    assert np.ptp(heights[:100]) > 0.5 * html.CHART_HEIGHT


def test_a_long_run_is_thinned_to_averages():
    values = np.arange(10_000.0)
    values[5000] = np.nan
    drawn = points(chart(range(10_000), values), "raw")
    assert len(drawn) == html.CHART_POINTS
    x, y = html._thin(np.arange(1000.0), np.repeat([1.0, np.nan], 500))
    assert len(x) == html.CHART_POINTS and np.all(np.diff(x) > 0)
    assert np.all(y[:149] == 1) and np.all(np.isnan(y[151:]))


def test_a_curve_stays_small_and_keeps_the_means_of_a_long_run():
    values = np.sin(np.arange(100_000) / 5000)
    curve = Curve()
    for images, value in enumerate(values):
        curve.add(images, value)
        assert len(curve) <= MOST_BUCKETS
    assert len(curve) > MOST_BUCKETS / 2 and curve.latest == values[-1]

    x, y = curve.arrays()
    assert np.all(np.diff(x) > 0) and x[0] < 200 and x[-1] > 99_800
    assert np.abs(y - np.sin(x / 5000)).max() < 1e-3
    one_by_one, _ = Curve(zip(range(MOST_BUCKETS), values, strict=False)).arrays()
    assert one_by_one.tolist() == [*range(MOST_BUCKETS)]


def test_stretches_of_a_curve_without_a_finite_value_stay_gaps():
    values = [None] * 1000 + [2.0, math.nan] * 500 + [math.inf]
    curve = Curve(enumerate(values))
    assert math.isinf(curve.latest)
    x, y = curve.arrays()
    assert np.isnan(y[x < 990]).all() and (y[(x > 1010) & (x < 1990)] == 2).all()
    assert math.isnan(Curve([(1, 1.0), (2, None)]).latest)


def test_smoothing_keeps_a_constant_and_steadies_noise():
    assert np.allclose(html._smooth(np.full(50, 3.0)), 3)
    noise = np.random.default_rng(0).normal(size=300)
    assert html._smooth(noise)[50:].std() < 0.5 * noise.std()


def test_numbered_pages_beyond_the_last_are_removed(tmp_path):
    for name in ("page_001.html", "page_002.html", "page_010.html", "page_mine.html", "index.html"):
        (tmp_path / name).touch()
    remove_pages_after(tmp_path, 1)
    assert {path.name for path in tmp_path.iterdir()} == {
        "page_001.html",
        "page_mine.html",
        "index.html",
    }


@needs_browser
def test_a_browser_shows_odd_names_and_draws_the_chart(tmp_path):
    folder = tmp_path / "odd #1 100% & folder?"
    picture = draw(folder / ODD)
    body = [
        html.links({"go & see": ODD}),
        html.curve_charts({"G <GAN>": Curve([(100, 1.0), (200, 2.0), (300, 1.5)])}),
        html.picture_rows([("row <1> & more", [picture])], 256),
    ]
    write_page(folder / "index.html", html.page('run "<b>" 雪', "summary", body))
    with Browser() as browser:
        browser.open(folder / "index.html")
        assert browser.images() == [
            {
                "source": (folder / ODD).as_uri().replace("'", "%27"),
                "label": picture.label,
                "width": 8,
            }
        ]
        assert browser.evaluate("document.title") == 'run "<b>" 雪'
        assert browser.evaluate("document.querySelector('.row h3').innerText") == "row <1> & more"
        assert browser.evaluate("document.querySelector('.chart h3').innerText").startswith(
            "G <GAN>"
        )
        for target in ("nav a", "figure a"):
            assert (
                browser.evaluate(f"document.querySelector('{target}').href")
                == browser.images()[0]["source"]
            )
        box = browser.evaluate(
            "(b => [b.width, b.height])(document.querySelector('path.smooth').getBoundingClientRect())"
        )
        assert min(box) > 50, "the curve fills its chart"
