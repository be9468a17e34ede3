"""Draws what the graph head learned, and lists it as arrays: one figure per kind, one row per feature layer.

Matplotlib is imported when the first figure is drawn, and nowhere else.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from util.errors import UserError
from util.images import to_uint8

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from models.explain.graph_maps import LayerMaps

DPI = 100
CELL = 2.6  # inches: the longer side of one picture
BAR = 1.2  # inches for the colour bar of a row
HEAD, ROW = 0.75, 0.32  # inches for the title, and for the text of a row
LINES = 60  # a patch with more neighbours than that is drawn without lines to them
KEPT, SHARED, LOST, OWN = "#ffe14d", "#ff9d2e", "#3f8cff", "#c04dff"
DIM = 0.55  # brightness of a picture under dots or tints


def require_matplotlib() -> None:
    """Raise UserError where matplotlib cannot be imported."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--show_graph draws with matplotlib, which cannot be imported ({error}): "
            "pip install 'matplotlib>=3.8', or give --save_graph alone for the numbers"
        ) from None


def to_arrays(
    names: Sequence[str], layers: "Sequence[LayerMaps]", image: Tensor
) -> dict[str, np.ndarray]:
    """Everything as arrays for an .npz file; names, shapes and types are those of docs/graph_pictures.md."""
    height, width = image.shape[-2:]
    arrays = {"layers": np.array(names), "image_size": np.array([height, width])}
    for name, layer in zip(names, layers, strict=True):
        grid = (layer.rows, layer.columns)
        size = layer.centre_N2.new_tensor([width, height])
        part = {
            "centre": layer.centre_N2.view(*grid, 2) * size,
            "score_in": layer.score_in_PN.view(-1, *grid),
            "score_out": layer.score_out_PN.view(-1, *grid),
            "degree": layer.degree_N.view(grid),
            "eigenvalues": layer.eigenvalue_L,
            "eigenvectors": layer.eigenvector_NL.T.view(-1, *grid),
            "similarity_in": layer.similarity_in_N.view(grid),
            "similarity_out": layer.similarity_out_N.view(grid),
            "edges": layer.edge_N.view(grid),
            "own_edges": layer.own_edge_N.view(grid),
        }
        for key, value in part.items():
            arrays[f"{name}.{key}"] = value.float().numpy(force=True)

        # whole numbers
        arrays[f"{name}.clusters"] = layer.cluster_N.view(grid).to(torch.uint8).numpy(force=True)
        arrays[f"{name}.query"] = layer.query.numpy(force=True)
        for level, index_K in enumerate(layer.kept, 1):
            arrays[f"{name}.kept_{level}"] = index_K.numpy(force=True)
    return arrays


def draw_figures(
    names: Sequence[str], layers: "Sequence[LayerMaps]", real: Tensor, fake: Tensor
) -> dict[str, Tensor]:
    """The figures of one image and its translation, (C,H,W) in [-1,1] each: label -> uint8 (3,h,w).

    "graph_pooling" is left out for a head without pooling. Raises UserError without matplotlib.
    """
    require_matplotlib()
    pictures = _Pictures(real, fake)

    figures = {}
    if layers[0].kept:
        figures["graph_pooling"] = draw_pooling(names, layers, pictures)
    figures["graph_spectrum"] = draw_spectrum(names, layers, pictures)
    figures["graph_query"] = draw_query(names, layers, pictures)

    return {label: _rendered(figure) for label, figure in figures.items()}


def draw_pooling(
    names: Sequence[str], layers: "Sequence[LayerMaps]", pictures: "_Pictures"
) -> "Figure":
    """Scores of all patches in input and output, and the kept ones; a row for each layer and pooling level."""
    rows = []
    for name, layer in zip(names, layers, strict=True):
        rows += [(name, layer, level) for level in range(len(layer.kept))]
    title = "Top-K pooling: which patches the head keeps (dots), by their score"
    figure, grid = pictures.canvas(len(rows), 4, title)

    for axes, (name, layer, level) in zip(grid, rows, strict=True):
        # scores, with one bar for both
        score_in = _map(layer, layer.score_in_PN[level])
        score_out = _map(layer, layer.score_out_PN[level])
        low, high = _limits(np.stack([score_in, score_out]))
        for ax, values in ((axes[1], score_in), (axes[2], score_out)):
            shown = pictures.show_map(ax, layer, values, cmap="viridis", vmin=low, vmax=high)
        _colour_bar(figure, shown, axes[2], "score, between 0 and 1")

        # kept patches
        x, y = pictures.points(layer)[:, layer.kept[level].numpy(force=True)]
        for ax, picture in ((axes[0], pictures.real), (axes[3], pictures.fake)):
            pictures.show(ax, picture * DIM)
            ax.scatter(x, y, s=3.5, c=KEPT, linewidths=0)

        number = f"pooling {level + 1}, " if len(layer.kept) > 1 else ""
        candidates = int(np.isfinite(score_in).sum())
        axes[0].set_ylabel(name)
        axes[0].set_xlabel(f"{number}{len(x)} of {candidates} patches kept", fontsize=8)

    titles = (
        "input, kept patches",
        r"score $\sigma(S_{in})$ of the input",
        r"score $\sigma(S_{out})$ of the output",
        "output, same patches",
    )
    _title(grid[0], titles)
    return figure


def draw_spectrum(
    names: Sequence[str], layers: "Sequence[LayerMaps]", pictures: "_Pictures"
) -> "Figure":
    """Eigenvectors of the input graph's Laplacian but the first, and the clusters they make."""
    from matplotlib import colormaps

    fewest = min(len(layer.eigenvalue_L) for layer in layers)
    shown = max(1, min(5, fewest) - 1)
    title = (
        "Spectrum of the input's patch graph: eigenvectors of I - P with the smallest eigenvalues λ"
    )
    figure, grid = pictures.canvas(len(layers), shown + 2, title)

    for axes, name, layer in zip(grid, names, layers, strict=True):
        pictures.show(axes[0], pictures.real)
        axes[0].set_ylabel(name)
        axes[0].set_xlabel(f"{layer.rows} x {layer.columns} patches", fontsize=8)

        # eigenvectors, scaled so that an entry of mean size is 1
        scale = (layer.rows * layer.columns) ** 0.5
        for k, ax in enumerate(axes[1:-1], 1):
            k = min(k, len(layer.eigenvalue_L) - 1)
            values = _map(layer, layer.eigenvector_NL[:, k]) * scale
            vectors = pictures.show_map(ax, layer, values, cmap="RdBu_r", vmin=-2.5, vmax=2.5)
            ax.set_title(f"eigenvector {k + 1}, λ = {float(layer.eigenvalue_L[k]):.3f}", fontsize=9)
        _colour_bar(figure, vectors, axes[-2], "entry x √N", extend="both")

        # clusters
        labels = _map(layer, layer.cluster_N)
        colours = colormaps["tab10" if labels.max() < 10 else "tab20"]
        pictures.show_map(axes[-1], layer, colours(labels.astype(int)))
        axes[-1].set_title(f"{len(layer.eigenvalue_L)} spectral clusters", fontsize=9)

    grid[0][0].set_title("input", fontsize=9)
    return figure


def draw_query(
    names: Sequence[str], layers: "Sequence[LayerMaps]", pictures: "_Pictures"
) -> "Figure":
    """One patch: how similar all others are to it, and which are its neighbours, in input and output."""
    from matplotlib.patches import Patch

    title = "One patch (cross): its similarity to all others, and its neighbours"
    figure, grid = pictures.canvas(len(layers), 4, title)

    for axes, name, layer in zip(grid, names, layers, strict=True):
        # similarity, with one bar for both
        similar_in = _map(layer, layer.similarity_in_N)
        similar_out = _map(layer, layer.similarity_out_N)
        low = min(0.0, float(similar_in.min()), float(similar_out.min()))
        for ax, values in ((axes[1], similar_in), (axes[2], similar_out)):
            shown = pictures.show_map(ax, layer, values, cmap="magma", vmin=low, vmax=1)
        _colour_bar(figure, shown, axes[2], "cosine, 1: the same")

        # neighbours, without the patch's own loop
        place = int(layer.query)
        edge, own = _map(layer, layer.edge_N) != 0, _map(layer, layer.own_edge_N) != 0
        edge.flat[place] = own.flat[place] = False
        pictures.show(axes[0], pictures.real * DIM)
        pictures.show(axes[3], pictures.fake * DIM)
        pictures.tint(axes[0], layer, [(edge, SHARED)])
        kinds = [(edge & own, SHARED), (edge & ~own, LOST), (own & ~edge, OWN)]
        pictures.tint(axes[3], layer, kinds)

        # the patch itself
        x, y = pictures.points(layer)[:, place]
        for ax in axes:
            ax.plot(x, y, "x", color="black", markersize=9, markeredgewidth=4)
            ax.plot(x, y, "x", color="white", markersize=8, markeredgewidth=2)

        neighbours, kept = edge.sum(), (edge & own).sum()
        axes[0].set_ylabel(name)
        axes[0].set_xlabel(f"{neighbours} of {edge.size - 1} patches are neighbours", fontsize=8)
        axes[3].set_xlabel(f"{kept} of these {neighbours} in its own graph too", fontsize=8)

    titles = (
        "input, neighbours",
        "similarity in the input",
        "similarity in the output",
        "output, neighbours",
    )
    _title(grid[0], titles)

    meaning = {
        SHARED: "neighbour, in the output too",
        LOST: "neighbour in the input, not similar enough in the output",
        OWN: "similar enough in the output only",
    }
    handles = [Patch(color=colour, label=text) for colour, text in meaning.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


class _Pictures:
    """Draws pictures, maps and points of one image in its own pixels."""

    def __init__(self, real: Tensor, fake: Tensor) -> None:
        self.real, self.fake = _colours(real), _colours(fake)
        self.height, self.width = self.real.shape[:2]

    def canvas(self, rows: int, columns: int, title: str) -> "tuple[Figure, list[list[Axes]]]":
        """A figure with a grid of axes, without ticks."""
        from matplotlib.figure import Figure

        longer = max(self.height, self.width)
        wide, high = max(CELL * self.width / longer, 1.3), CELL * self.height / longer
        size = (columns * wide + BAR, rows * (high + ROW) + HEAD)
        figure = Figure(size, dpi=DPI, layout="constrained")
        figure.suptitle(title, fontsize=12)

        grid = figure.subplots(rows, columns, squeeze=False)
        for ax in grid.flat:
            ax.set(xticks=[], yticks=[])
        return figure, grid

    def show(self, ax: "Axes", picture: np.ndarray, **settings: Any) -> Any:
        """A picture over the whole axes."""
        extent = (0, self.width, self.height, 0)
        defaults = {"extent": extent, "interpolation": "nearest"}
        image = ax.imshow(picture, **(defaults | settings))
        ax.set(xlim=(0, self.width), ylim=(self.height, 0))
        return image

    def show_map(self, ax: "Axes", layer: "LayerMaps", values: np.ndarray, **settings: Any) -> Any:
        """Values of the nodes, each at its place in the image; where there are none it stays grey."""
        x, y = self.points(layer).reshape(2, layer.rows, layer.columns)
        half_x, half_y = self.width / layer.columns / 2, self.height / layer.rows / 2
        extent = (x.min() - half_x, x.max() + half_x, y.max() + half_y, y.min() - half_y)

        ax.set_facecolor("#d5d5d5")
        return self.show(ax, values, extent=extent, **settings)

    def points(self, layer: "LayerMaps") -> np.ndarray:
        """Where the nodes are, in pixels: (2, N)."""
        return layer.centre_N2.numpy(force=True).T * [[self.width], [self.height]]

    def tint(self, ax: "Axes", layer: "LayerMaps", kinds: list[tuple[np.ndarray, str]]) -> None:
        """Colour the patches where a kind's mask is true, and join few of them to the query by lines."""
        from matplotlib.collections import LineCollection
        from matplotlib.colors import to_rgba

        colours = np.zeros((layer.rows, layer.columns, 4))
        for mask, colour in kinds:
            colours[mask] = to_rgba(colour, 0.6)
        self.show_map(ax, layer, colours)

        if sum(mask.sum() for mask, _ in kinds) > LINES:
            return

        points = self.points(layer).T
        start = points[int(layer.query)]
        for mask, colour in kinds:
            lines = [(start, end) for end in points[mask.flatten()]]
            ax.add_collection(LineCollection(lines, colors=colour, linewidths=0.7))


def _colours(image: Tensor) -> np.ndarray:
    """(C,H,W) in [-1,1], C 1 or 3 -> (H,W,3) in [0,1]."""
    return np.repeat(to_uint8(image), 3 // len(image), axis=2) / 255


def _map(layer: "LayerMaps", values_N: Tensor) -> np.ndarray:
    return values_N.numpy(force=True).reshape(layer.rows, layer.columns)


def _limits(values: np.ndarray) -> tuple[float, float]:
    """The range of a colour bar; one that is nearly empty is widened, so that rounding is not shown as structure."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    middle, half = (low + high) / 2, max((high - low) / 2, 5e-4)
    return middle - half, middle + half


def _colour_bar(figure: "Figure", shown: Any, ax: "Axes", label: str, **settings: Any) -> None:
    figure.colorbar(shown, ax=ax, label=label, location="right", fraction=0.05, **settings)


def _title(axes: "Sequence[Axes]", titles: Sequence[str]) -> None:
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title, fontsize=9)


def _rendered(figure: "Figure") -> Tensor:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[:, :, :3].copy()
    return torch.from_numpy(pixels).permute(2, 0, 1)
