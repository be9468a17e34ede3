"""One folder of images, or one image, to be translated; there is no second domain."""

from argparse import Namespace

from data.base_dataset import BaseDataset
from data.transforms import View
from util.errors import UserError


class SingleDataset(BaseDataset):
    """The images of the input domain alone, in order."""

    def __init__(self, opt: Namespace) -> None:
        if opt.is_train:
            raise UserError(
                "--dataset_mode single has no second domain; train with --dataset_mode unaligned"
            )
        super().__init__(opt, roles="A")

    def plan(self, epoch: int, index: int) -> dict[str, View]:
        return {"A": self.view("A", index, epoch, self.rng(epoch, index))}
