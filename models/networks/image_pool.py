"""A memory of earlier translated images, so that a discriminator does not forget what it has seen through."""

from typing import Any

import torch
from torch import Tensor, nn

from util.errors import UserError


class ImagePool(nn.Module):
    """History of generated images (Shrivastava et al. 2017, arXiv 1612.07828, as in CycleGAN's release).

    Until it is full, images are kept and passed on. Then, with probability one half, an image takes the place of a
    random earlier one, which is returned instead; otherwise it is passed on and not kept. The images of a batch are
    treated one after another. All choices are made on the device, by its random numbers.

    Args:
        size: how many images are kept; 0 passes everything on.
        shape: (C,H,W) of the images where it is known beforehand; else that of the first one.
        only_finite: an image with a value that is not finite is passed on and never kept.
    """

    def __init__(
        self, size: int, shape: tuple[int, int, int] | None = None, only_finite: bool = False
    ) -> None:
        super().__init__()
        self.size, self.only_finite = size, only_finite
        images = None if shape is None else torch.zeros(size, *shape)
        self.register_buffer("images", images, persistent=False)
        self.register_buffer("filled", torch.zeros(1, dtype=torch.long), persistent=False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """(B,C,H,W) -> as many images, new or earlier ones, without gradients.

        Raises:
            UserError: images of another size than those kept.
        """
        if self.size == 0:
            return images.detach()

        if self.images is None:
            self.images = torch.zeros(self.size, *images.shape[1:], device=images.device)
        if images.shape[1:] != self.images.shape[1:]:
            height, width = images.shape[2:]
            kept_height, kept_width = self.images.shape[2:]
            raise UserError(
                f"--pool_size {self.size} keeps images of one size, {kept_width}x{kept_height} so "
                f"far, but now one is {width}x{height}: give --pool_size 0, or a --preprocess that "
                "crops"
            )
        return torch.cat([self._exchange(image) for image in images.split(1)])

    def _exchange(self, new: Tensor) -> Tensor:
        """(1,C,H,W) -> the image itself or an earlier one."""
        full = self.filled >= self.size
        slot = torch.where(full, torch.randint(self.size, (1,), device=new.device), self.filled)
        swap = full & (torch.rand(1, device=new.device) < 0.5)
        old = self.images.index_select(0, slot)

        keep = swap | ~full
        if self.only_finite:
            sound = torch.isfinite(new).all()
            swap, keep = swap & sound, keep & sound
        self.images.index_copy_(0, slot, torch.where(keep, new.to(old.dtype), old))
        self.filled.add_(keep & ~full)
        return torch.where(swap, old.to(new.dtype), new)

    def get_extra_state(self) -> dict[str, Any]:
        """The images, and how many there are; no buffers, since their size may not be known yet."""
        return {"images": self.images, "filled": self.filled}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on with saved images: as many as there is room for, none where the size of images has changed."""
        saved = state["images"]
        if saved is None or self.size == 0:
            return

        if self.images is None:
            self.images = torch.zeros(self.size, *saved.shape[1:], device=self.filled.device)
        if self.images.shape[1:] == saved.shape[1:]:
            count = min(self.size, len(saved))
            self.images[:count] = saved[:count]
            self.filled.copy_(state["filled"].clamp(max=self.size))
