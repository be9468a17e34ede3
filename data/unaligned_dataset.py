"""Two folders of unpaired images; at test only the input domain is read."""

from argparse import Namespace

from data.base_dataset import BaseDataset
from data.transforms import View


class UnalignedDataset(BaseDataset):
    """A in random order, each with a B drawn uniformly at random (CUT, section 4); with --serial_batches both in order.

    The two are cut and mirrored independently. The smaller domain is gone through again until the epoch ends.
    """

    def __init__(self, opt: Namespace) -> None:
        super().__init__(opt, roles="AB" if opt.is_train else "A")

    def plan(self, epoch: int, index: int) -> dict[str, View]:
        rng = self.rng(epoch, index)
        views = {"A": self.view("A", index, epoch, rng)}
        if "B" in self.domains:
            number = index if self.opt.serial_batches else int(rng.integers(len(self.domains["B"].paths)))
            views["B"] = self.view("B", number, epoch, rng)
        return views
