"""What test.py shows of a graph head with --show_graph and --save_graph: flags, and the view of one image."""

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from models.explain import figures
from models.explain.graph_maps import MapHead
from util.errors import UserError
from util.parser import float_list, positive_int, show_value

Features = Sequence[Tensor]  # (1,C,H,W) per layer


def add_picture_options(group) -> None:
    """Flags of test.py for what the graph head learned (docs/graph_pictures.md)."""
    text = "show pooling scores, kept patches, graph spectrum and one patch's neighbours"
    group.add("--show_graph", False, text)
    text = "write the numbers behind these pictures, arrays/<image>.npz"
    group.add("--save_graph", False, text)

    text = (
        "x,y of the patch whose neighbours are shown: fractions of the image, or pixels where one "
        "is above 1"
    )
    group.add("--graph_query", [0.5, 0.5], text, float_list)
    text = "thin larger feature maps to at most so many patches"
    group.add("--graph_nodes", 4096, text, positive_int)
    text = "eigenvectors and clusters of the spectrum, 2 to 20"
    group.add("--graph_clusters", 5, text, positive_int)


def check_picture_options(opt: Namespace) -> None:
    """Raise UserError for values that make no picture, or where matplotlib is missing."""
    if len(opt.graph_query) != 2 or min(opt.graph_query) < 0:
        query = show_value(opt.graph_query)
        raise UserError(f"--graph_query {query}: expected x,y, such as 0.5,0.5 or 120,80")
    if not 2 <= opt.graph_clusters <= 20:
        raise UserError(f"--graph_clusters {opt.graph_clusters}: expected 2 to 20")
    if opt.show_graph:
        figures.require_matplotlib()


def explain_graphs(
    head: MapHead,
    names: Sequence[str],
    features: tuple[Features, Features],
    real: Tensor,
    fake: Tensor,
    opt: Namespace,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The head's view of an image and its translation, (C,H,W) each: figures and arrays by name, as asked for.

    Args:
        names: of the feature layers.
        features: of the translation, and of the image.

    Raises:
        UserError: --graph_query lies outside the image.
    """
    place = query_place(opt.graph_query, *real.shape[1:])
    layers = head.maps(*features, place, opt.graph_clusters)

    drawn = figures.draw_figures(names, layers, real, fake) if opt.show_graph else {}
    arrays = figures.to_arrays(names, layers, real) if opt.save_graph else {}
    return drawn, arrays


def query_place(query: Sequence[float], height: int, width: int) -> tuple[float, float]:
    """x and y of --graph_query as fractions of the image; raises UserError where they lie outside."""
    x, y = query
    if max(query) > 1:  # pixels
        x, y = x / width, y / height

    if max(x, y) > 1:
        asked = show_value(query)
        raise UserError(f"--graph_query {asked} lies outside an image {width} x {height}")
    return x, y
