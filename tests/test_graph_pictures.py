"""test.py --show_graph --save_graph: files, numbers, the page, and what goes wrong in one line."""

import importlib.util
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from models.explain.figures import draw_figures, to_arrays
from models.explain.graph_maps import MapHead
from models.networks.graph import GraphHead
from models.networks.vgg import VGG16Features
from options import TestOptions, parse
from tests.browser import Browser, needs_browser
from tests.helpers import REPO, run_command, train_flags
from util.errors import UserError
from util.images import to_uint8

FIGURES = ("graph_pooling", "graph_spectrum", "graph_query")
HEAD = ["--pooling_num", "2", "--netF_nc", "8", "--attn_layers", "2,7"]  # relu2_1 and relu4_1


def train(root, *extra):
    result = run_command(["train.py", *train_flags(root, *HEAD, "--max_steps", "2", *extra)])
    assert result.returncode == 0, result.stderr


def flags_of(root, *extra):
    where = [
        "--checkpoints_dir",
        root / "checkpoints",
        "--results_dir",
        root / "results",
        "--gpu_ids",
        "-1",
    ]
    return [
        str(flag) for flag in ("--name", "run", *where, "--num_test", "2", "--size", "own", *extra)
    ]


def translate(root, *extra):
    """test.py without starting a process."""
    spec = importlib.util.spec_from_file_location("command", REPO / "test.py")
    command = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command)
    command.translate(parse(TestOptions(), flags_of(root, *extra)))


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A run, its images translated and explained; returns the folder of the run and that of the results."""
    root = tmp_path_factory.mktemp("shown")
    train(root, "--ema", "0.9")
    flags = ["--show_graph", "--save_graph", "--graph_query", "0.12,0.9", "--graph_clusters", "3"]
    result = run_command(["test.py", *flags_of(root, *flags)])
    assert result.returncode == 0, result.stderr
    return root, root / "results" / "run" / "test_latest"


def test_every_image_has_its_figures_and_arrays(shown):
    _, folder = shown
    for kind, suffix in (*((f"figures/{label}", "png") for label in FIGURES), ("arrays", "npz")):
        assert sorted(path.name for path in (folder / kind).iterdir()) == [
            f"image_00{i}.{suffix}" for i in range(2)
        ]
    page = (folder / "index.html").read_text()
    assert page.count("<img") == 2 * (2 + len(FIGURES)) and "2 inputs · 10 pictures" in page
    assert "latest_net_F.pth" in page
    for label in FIGURES:
        with Image.open(folder / "figures" / label / "image_000.png") as picture:
            assert picture.width > 900 and len(picture.getcolors(10**6)) > 100


def read_picture(path) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(path)).copy()).permute(2, 0, 1)[None] / 127.5 - 1


def test_the_arrays_are_what_the_head_computes(shown):
    """The head itself, with every position sampled, on the written pictures."""
    root, folder = shown
    arrays = np.load(folder / "arrays" / "image_001.npz")
    head = GraphHead(
        [128, 512],
        8,
        pooling_num=2,
        pool_hop=1,
        pool_shrink=2,
        strict=True,
        extra_loop=True,
        pool_adjacency="two_hop",
    )
    head.load_state_dict(
        torch.load(root / "checkpoints" / "run" / "latest_net_F.pth", weights_only=True)
    )
    vgg = VGG16Features([2, 7], "random")
    with torch.inference_mode():
        real, fake = (
            vgg(read_picture(folder / "images" / label / "image_001.png"))
            for label in ("real_A", "fake_B")
        )
        ids = [torch.arange(feat[0, 0].numel())[None] for feat in real]
        levels = head(fake, real, ids)
        assert arrays["layers"].tolist() == ["relu2_1", "relu4_1"] and arrays[
            "image_size"
        ].tolist() == [36, 40]
        for i, (layer, grid) in enumerate((("relu2_1", (18, 20)), ("relu4_1", (4, 5)))):
            found = {
                key.split(".")[1]: arrays[key] for key in arrays.files if key.startswith(layer)
            }
            score = head.get_submodule(f"pools_{i}")[0](levels[i][0].node_in_BND)[0].numpy()
            assert found["score_in"].shape == found["score_out"].shape == (2, *grid)
            assert np.allclose(found["score_in"][0].flatten(), score, atol=1e-6)
            first, second = (set(level.position_BN[0].tolist()) for level in levels[i][1:])
            assert set(found["kept_1"].tolist()) == first and len(first) == grid[0] * grid[1] // 4
            assert set(np.flatnonzero(np.isfinite(found["score_in"][1]))) == first
            assert set(found["kept_2"].tolist()) == second
            row, column = divmod(int(found["query"]), grid[1])
            assert (row, column) == (int(0.9 * grid[0]), int(0.12 * grid[1]))
            assert found["similarity_in"][row, column] == pytest.approx(1, abs=1e-5)
            assert np.array_equal(
                found["edges"].flatten(), levels[i][0].adj_BNN[0, int(found["query"])].numpy()
            )
            assert np.array_equal(found["edges"] != 0, found["similarity_in"] >= 0.1)
            assert np.array_equal(found["own_edges"] != 0, found["similarity_out"] >= 0.1)
            assert np.allclose(found["degree"].flatten(), levels[i][0].adj_BNN[0].sum(1) - 1)
            assert found["eigenvectors"].shape == (3, *grid) and found["eigenvalues"][
                0
            ] == pytest.approx(0, abs=1e-5)
            assert found["clusters"].dtype == np.uint8 and set(np.unique(found["clusters"])) <= {
                0,
                1,
                2,
            }
            assert np.allclose(found["centre"][1, 2], [2.5 / grid[1] * 40, 1.5 / grid[0] * 36])


def test_the_documented_arrays_are_those_written(shown):
    """Names and types in the table of the page, one row each."""
    _, folder = shown
    arrays = np.load(folder / "arrays" / "image_000.npz")
    text = (REPO / "docs" / "graph_pictures.md").read_text()
    documented = dict(re.findall(r"^\| `([\w.]+)` \| [^|]* \| (\w+) \|", text, re.MULTILINE))
    written = {
        re.sub(r"^relu\w+", "LAYER", re.sub(r"kept_\d", "kept_P", key)): arrays[key].dtype
        for key in arrays
    }
    assert documented == {
        key: "str" if kind.kind == "U" else str(kind) for key, kind in written.items()
    }


@needs_browser
def test_a_browser_shows_the_figures_at_a_readable_size(shown):
    _, folder = shown
    with Browser() as browser:
        browser.command(
            "Emulation.setDeviceMetricsOverride",
            width=1500,
            height=1000,
            deviceScaleFactor=1,
            mobile=False,
        )
        browser.open(folder / "index.html")
        images = browser.images()
        widths = browser.evaluate(
            "[...document.images].map(image => [image.alt, image.clientWidth])"
        )
        outside = browser.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert [image["label"] for image in images] == ["real_A", "fake_B", *FIGURES] * 2
    assert all(image["width"] > 0 for image in images)
    for label, width in widths:
        assert width == 256 if label not in FIGURES else width > 900
    assert outside <= 0


def test_numbers_alone_need_no_matplotlib_and_figures_say_what_is_missing(
    shown, tmp_path, monkeypatch
):
    root, _ = shown
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # importing it fails
    with pytest.raises(UserError, match=r"^--show_graph .* pip install 'matplotlib[^\n]*$"):
        translate(root, "--show_graph", "--results_dir", tmp_path)
    assert not list(tmp_path.iterdir())
    translate(root, "--save_graph", "--results_dir", tmp_path, "--num_test", "1")
    folder = tmp_path / "run" / "test_latest"
    assert [path.name for path in (folder / "arrays").iterdir()] == ["image_000.npz"]
    assert not (folder / "figures").exists()


def test_without_the_flags_the_head_is_not_touched(shown, tmp_path):
    root, _ = shown
    shutil.copytree(root / "checkpoints", tmp_path / "checkpoints")
    (tmp_path / "checkpoints" / "run" / "latest_net_F.pth").unlink()
    translate(tmp_path)
    assert sorted(
        p.name for p in (tmp_path / "results" / "run" / "test_latest").iterdir() if p.is_dir()
    ) == ["images"]
    for flag in ("--show_graph", "--save_graph"):
        with pytest.raises(UserError, match=rf"^{flag} needs .*latest_net_F.pth does not exist"):
            translate(tmp_path, flag)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--graph_query", "300,20"], "--graph_query 300.0,20.0 lies outside an image 40 x 36"),
        (["--graph_query", "0.5"], "--graph_query 0.5: expected x,y"),
        (["--graph_query=-1,0"], "--graph_query -1.0,0.0: expected x,y"),
        (["--graph_clusters", "1"], "--graph_clusters 1: expected 2 to 20"),
    ],
)
def test_bad_input_is_one_line(shown, tmp_path, flags, message):
    with pytest.raises(UserError, match=f"^{message}[^\n]*$"):
        translate(shown[0], "--save_graph", "--results_dir", tmp_path, *flags)


def test_features_of_the_generator_and_images_of_odd_sizes(tmp_path):
    train(tmp_path, "--graph_features", "generator", "--nce_layers", "0,8", "--neighbours", "4")
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, size in (("wide", (61, 33)), ("high", (35, 50))):
        Image.effect_noise(size, 80).convert("RGB").save(photos / f"{name}.png")
    flags = ["--graph_nodes", "500", "--batch_size", "2", "--graph_query", "20,30"]
    translate(tmp_path, "--dataroot", photos, "--show_graph", "--save_graph", *flags)
    [folder] = (tmp_path / "results" / "run").iterdir()  # of other data than the run's
    for name, size, step in (("wide", (61, 33), 3), ("high", (35, 50), 3)):
        arrays = np.load(folder / "arrays" / f"{name}.npz")
        assert (
            arrays["layers"].tolist() == ["G_0", "G_8"]
            and arrays["image_size"].tolist() == [*size][::-1]
        )
        padded = [side + 6 for side in size]  # layer 0 is the generator's reflection padding
        assert arrays["G_0.degree"].shape == tuple(-(-side // step) for side in padded[::-1])
        x, y = arrays["G_0.centre"].reshape(-1, 2)[arrays["G_0.query"]]
        assert abs(x - 20) < 2 and abs(y - 30) < 2
        assert (arrays["G_8.degree"] >= 4).all()


@pytest.mark.parametrize(
    ("size", "channels", "settings", "pooled"),
    [
        ((32, 32), 3, {"pooling_num": 0}, False),
        ((32, 96), 1, {"pooling_num": 3, "down_scale": 1, "pool_shrink": 2}, True),
        ((96, 16), 3, {"neighbours": 2}, True),
        ((8, 8), 3, {}, True),  # one position in the second layer
        ((64, 64), 3, {"threshold": 1.1}, True),  # no edges
    ],
)
def test_figures_of_any_head_and_shape(size, channels, settings, pooled):
    head = MapHead([4, 4], 4, nodes=100, **settings)
    real, fake = torch.rand(2, channels, *size) * 2 - 1
    features = [[torch.randn(1, 4, size[0] // k, size[1] // k) for k in (2, 8)] for _ in range(2)]
    with torch.inference_mode():
        layers = head.maps(*features, query=(0.5, 0.5), vectors=5)
        figures = draw_figures(["a", "b"], layers, real, fake)
    assert list(figures) == list(FIGURES) if pooled else list(FIGURES[1:])
    for figure in figures.values():
        assert figure.dtype == torch.uint8 and figure.shape[0] == 3
        assert to_uint8(figure).std() > 10
    assert len(to_arrays(["a", "b"], layers, real)) >= 24


def test_a_figure_shows_its_own_image_scores_and_neighbours():
    """Colours at known places: dimmed pictures, tinted neighbours, and a score map that follows the scores."""
    head = MapHead([3], 4, pooling_num=1)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(0, 1)
    halves = torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 8, 8).clone()
    halves[:, :, 4:] = torch.tensor([0, 1.0, 0])[:, None, None]
    with torch.no_grad():
        head.embed_0.linear.weight.copy_(torch.eye(4)[:, :3])  # so the two halves are orthogonal
        head.embed_0.linear.bias.zero_()
    image = torch.ones(3, 64, 64)
    with torch.inference_mode():
        layers = head.maps([halves[None]], [halves[None]], query=(0.1, 0.1), vectors=2)
        figure = to_uint8(draw_figures(["a"], layers, image, image)["graph_query"]).astype(int)
    assert layers[0].edge_N.view(8, 8).tolist() == [[1.0] * 4 + [0.0] * 4] * 8
    assert layers[0].cluster_N.view(8, 8)[0].unique().numel() == 2
    dimmed = (abs(figure - 140) <= 1).all(2)  # white at 0.55
    tinted = (abs(figure - [209, 150, 83]) <= 3).all(2)  # 0.6 of the orange over it
    for half in (
        slice(0, figure.shape[1] // 2),
        slice(figure.shape[1] // 2, None),
    ):  # the first and the last picture
        assert 0.6 < tinted[:, half].sum() / dimmed[:, half].sum() < 1.1
