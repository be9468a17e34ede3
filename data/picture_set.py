"""A folder of images as measures take it: 8-bit RGB, all of one size."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.image_file import read_image, read_size
from data.image_folder import list_images
from util.errors import UserError


class PictureSet(Dataset):
    """The images of a folder as torch-fidelity takes them: (3,H,W) uint8, all of one size.

    Raises:
        UserError: no image, only one, or unequal sizes.
    """

    def __init__(self, folder: Path) -> None:
        self.paths = list_images(str(folder))
        if len(self.paths) < 2:
            raise UserError(f"{folder} holds one image; FID and KID compare sets of at least 2")

        first = self.paths[0]
        self.size = read_size(first)
        for path in self.paths:
            size = read_size(path)
            if size != self.size:
                raise UserError(
                    f"{path} is {size} wide and high, {first} {self.size}; give images of one size"
                )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        image = read_image(self.paths[index], channels=3)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)
