"""Scaling of losses for float16, whose gradients would vanish; nothing happens in other precisions."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

FIRST_SCALE = 2.0**16
# The scale doubles after so many steps without overflow, and halves at each overflow.
STEPS_TO_GROW = 2000


class NoLossScale(nn.Module):
    """float32 and bfloat16 reach far enough down."""

    def scale(self, loss: Tensor) -> Tensor:
        """The 0-d loss to go backward from."""
        return loss

    def unscale(self, grads: Sequence[Tensor], skip: Tensor) -> Tensor:
        """Bring gradients, in place, to their own size; returns `skip` (0-d), or 1.0 where they overflowed."""
        return skip


class DynamicLossScale(NoLossScale):
    """Multiplies the loss by a factor that adapts itself on the device (Micikevicius et al. 2018, arXiv 1710.03740).

    Unlike torch's GradScaler it never asks the host, so that a step can be replayed as a CUDA graph.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(FIRST_SCALE))
        self.register_buffer("good_steps", torch.zeros(()))

    def scale(self, loss: Tensor) -> Tensor:
        return loss * self.factor

    @torch.no_grad()
    def unscale(self, grads: Sequence[Tensor], skip: Tensor) -> Tensor:
        torch._foreach_mul_(list(grads), 1 / self.factor)
        largest = torch.stack(torch._foreach_norm(list(grads), ord=torch.inf))
        overflow = 1 - torch.isfinite(largest).all().float()

        good_steps = (self.good_steps + 1) * (1 - overflow)
        grown = (good_steps >= STEPS_TO_GROW).float()
        self.factor.mul_(1 + grown - 0.5 * overflow).clamp_(min=1)
        self.good_steps.copy_(good_steps * (1 - grown))

        return torch.maximum(skip, overflow)


def create_loss_scale(amp_dtype: torch.dtype | None, device: torch.device) -> NoLossScale:
    """What the precision of autocast (None: off) needs."""
    if amp_dtype == torch.float16:
        return DynamicLossScale().to(device)
    return NoLossScale()
