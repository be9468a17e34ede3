"""What batch norm and dropout do when a generator translates, as flags instead of a hidden switch."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def add_test_options(group) -> None:
    """Flags of methods whose release leaves the generator in training mode at test."""
    group.add(
        "--test_norm",
        "image",
        "batch norm at test: statistics of the image itself (release), or the running averages of training",
        choices=("image", "running"),
    )
    group.add(
        "--test_dropout",
        True,
        "dropout stays active at test, drawn from --seed (release); only if G has any",
    )


def translate_each(
    net: nn.Module, images: Tensor, norm: str = "image", dropout: bool = True
) -> Tensor:
    """Images (B,C,H,W) through a generator, none affected by another; no statistics are updated.

    All methods translate through this: a picture must not depend on the batch that it came in.

    Args:
        net: in evaluation mode it keeps to that, whatever the other arguments say.
        norm: "image" or "running" statistics for batch norm.
        dropout: whether dropout is active.
    """
    modes = {}
    if net.training:
        batch_norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
        dropouts = [module for module in net.modules() if isinstance(module, nn.Dropout)]
        modes = dict.fromkeys(batch_norms, norm == "image") | dict.fromkeys(dropouts, dropout)

    draws_noise = hasattr(net, "draw_noise")  # at each layer for a whole batch
    if not modes and not draws_noise:
        return net(images)
    with _modes(modes):
        return torch.cat([net(image) for image in images.split(1)])


@contextmanager
def _modes(training: dict[nn.Module, bool]) -> Iterator[None]:
    """While entered, modules are in training mode or not as given; batch norm only reads its running statistics."""
    before = {
        module: (module.training, getattr(module, "track_running_stats", None))
        for module in training
    }
    try:
        for module, mode in training.items():
            module.training = mode
            module.track_running_stats = False
        yield
    finally:
        for module, (mode, tracked) in before.items():
            module.training, module.track_running_stats = mode, tracked
