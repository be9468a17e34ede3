"""Batch normalisation over the images of all processes, so that several train as one with the whole batch would."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from util.hardware.precision import full_precision


class _SumOverProcesses(torch.autograd.Function):
    """Sums a tensor over all processes. Each contributes to every sum, so a gradient is the sum of their gradients.

    That sum is differentiable in turn, as a gradient penalty needs it.
    """

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return _SumOverProcesses.apply(gradient.contiguous())


class SharedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose statistics in training are those of the batch of all processes; parts are equally large.

    Torch's SyncBatchNorm does the same on GPUs alone.

    Attributes:
        shared: whether the others take part; see `by_itself`.
    """

    shared = True

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> the same shape."""
        if not (self.training and self.shared):
            return super().forward(x)

        wide = full_precision(x)
        count = x.numel() // x.shape[1] * dist.get_world_size()
        mean = _SumOverProcesses.apply(wide.sum((0, 2, 3))) / count
        centred = wide - mean[:, None, None]
        variance = _SumOverProcesses.apply(centred.square().sum((0, 2, 3))) / count

        self._note(mean.detach(), variance.detach() * count / max(count - 1, 1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return torch.addcmul(self.bias[:, None, None], centred, scale[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _note(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics on."""
        if self.track_running_stats:
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance, self.momentum)


def has_batch_norm(module: nn.Module) -> bool:
    """Whether statistics of a batch play a part anywhere in a module."""
    return any(isinstance(part, nn.BatchNorm2d) for part in module.modules())


def share_batch_norms(module: nn.Module) -> None:
    """Let every BatchNorm2d in a module take its statistics over all processes; weights and keys stay as they are."""
    for part in module.modules():
        if type(part) is nn.BatchNorm2d:
            part.__class__ = SharedBatchNorm2d


@contextmanager
def by_itself(modules: Iterable[nn.Module]) -> Iterator[None]:
    """While entered, the modules may run on this process alone: they ask the others for no statistics."""
    parts = [part for module in modules for part in module.modules()]
    shared = [part for part in parts if isinstance(part, SharedBatchNorm2d)]
    for part in shared:
        part.shared = False
    try:
        yield
    finally:
        for part in shared:
            part.shared = True
