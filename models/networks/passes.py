"""How images pass through a network: several batches in one pass, features from the pass that translates."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

_layers_of_kind: WeakKeyDictionary[nn.Module, dict[type, list[nn.Module]]] = WeakKeyDictionary()


def pass_each(net: nn.Module, *batches: Tensor) -> list:
    """Each of several batches (B,C,H,W) through a network, [net(x) for x in batches] up to rounding.

    The network gives a tensor or a list of tensors. Batches are joined into one pass where that is faster and the same:
    batches of one shape, no layer that mixes images. Dropout and noise are drawn for each image by itself, joined or
    not.
    """
    if joins(net, batches):
        return _taken_apart(net(torch.cat(batches)), len(batches))
    return [net(x) for x in batches]


def joins(net: nn.Module, batches: Sequence[Tensor]) -> bool:
    """Whether batches (B,C,H,W) should go through a network in one pass: it is faster, and up to rounding the same."""
    alike = all(x.shape == batches[0].shape for x in batches)
    return len(batches) > 1 and alike and joining_pays(batches[0]) and not mixes_images(net)


def _taken_apart(joined: Tensor | list[Tensor], count: int) -> list:
    """What a network gives for `count` batches in one -> what it gives for each."""
    if isinstance(joined, Tensor):
        return list(joined.chunk(count))
    chunks = [output.chunk(count) for output in joined]
    return [list(of_batch) for of_batch in zip(*chunks, strict=True)]


def joining_pays(x: Tensor) -> bool:
    """Whether one pass of two batches like x is faster than two passes: on a GPU, which launches half the kernels.

    A CPU has no launches to save: with two cores, batch 1 and 128 or 256 pixels one pass took 1.02 to 1.12 times as
    long as two through discriminators, and 0.98 to 1.03 times through generators.
    """
    return x.is_cuda


def mixes_images(net: nn.Module) -> bool:
    """Whether what the network makes of an image depends on the others of its batch, as batch norm does in training.

    StyleGAN2's discriminators here have no minibatch deviation. A layer of another kind that mixes images has to be
    named here.
    """
    return _has_active(net, nn.BatchNorm2d)


def drops_out(net: nn.Module) -> bool:
    """Whether the network has dropout that is active."""
    return _has_active(net, nn.Dropout)


def translate_and_encode(
    net: nn.Module, images: Tensor, layers: Sequence[int], detach: bool = True
) -> tuple[Tensor, list[Tensor] | None]:
    """net(images), and net.encode(images, layers), up to rounding, from the same pass.

    The features are None where a second pass would see something else, or do something else: with active dropout,
    with batch norm (each pass moves its running statistics), and for a generator that keeps no features.

    Args:
        net: a generator.
        images: (B,C,H,W).
        layers: as for `encode`.
        detach: no gradients flow through the features.
    """
    if not hasattr(net, "forward_with_features") or drops_out(net) or mixes_images(net):
        return net(images), None

    output, features = net.forward_with_features(images, layers)
    return output, [feature.detach() for feature in features] if detach else features


def _has_active(net: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a layer of this kind is in training mode; layers are looked for once in the life of a network."""
    known = _layers_of_kind.setdefault(net, {})
    if kind not in known:
        known[kind] = [module for module in net.modules() if isinstance(module, kind)]
    return any(layer.training for layer in known[kind])
