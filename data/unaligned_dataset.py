"""Two folders of unpaired images; at test only the input domain is read, unless the method translates both."""

from argparse import Namespace

from data.base_dataset import BaseDataset
from data.layout import phase_folder
from data.transforms import View


class UnalignedDataset(BaseDataset):
    """A in random order, each with a B drawn uniformly at random (CUT, section 4); with --serial_batches both in order.

    The two are cut and mirrored independently. The smaller domain is gone through again until the epoch ends.
    At test each sample is one image: those of A, then those of B where the method wants them and they are there.
    """

    def __init__(self, opt: Namespace) -> None:
        letter = "B" if opt.direction == "AtoB" else "A"
        if opt.is_train:
            both = True
        else:
            wanted = opt.test_roles == "AB"
            both = wanted and phase_folder(opt.dataroot, opt.phase, letter) is not None
        super().__init__(opt, roles="AB" if both else "A")

    def plan(self, epoch: int, index: int) -> dict[str, View]:
        if not self.is_train:
            role, number = self._at_test(index)
            return {role: self.view(role, number, epoch, None)}

        rng = self.rng(epoch, index)
        view_A = self.view("A", index, epoch, rng)

        number = index
        if not self.opt.serial_batches:
            number = int(rng.integers(len(self.domains["B"].paths)))
        return {"A": view_A, "B": self.view("B", number, epoch, rng)}

    def __len__(self) -> int:
        if self.is_train:
            return super().__len__()
        return sum(len(domain.paths) for domain in self.domains.values())

    def _at_test(self, index: int) -> tuple[str, int]:
        """The domain of a sample, and its number there."""
        count = len(self.domains["A"].paths)
        if index < count:
            return "A", index
        return "B", index - count
