"""What a method may know of the whole data set: translate to the mean colour of B, learned before the first step."""

import torch
from torch import Tensor, nn

from models.one_sided import OneSidedModel


class Statistics(nn.Module):
    """Mean colour of each domain, (C,) each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean_A", torch.zeros(channels))
        self.register_buffer("mean_B", torch.zeros(channels))


class StatisticsModel(OneSidedModel):
    """L_G = L_GAN + lambda_colour * |mean G(A) - mean A - (mean B - mean A of the whole set)|."""

    PRESETS = {"official": {}, "shared": {}}

    @staticmethod
    def modify_commandline_options(parser, is_train: bool):
        group = parser.group("statistics")
        group.add("--lambda_GAN", 1.0, "weight of the adversarial loss")
        group.add("--lambda_colour", 1.0, "weight of the colour term")
        return parser

    def __init__(self, opt, runtime) -> None:
        super().__init__(opt, runtime)
        if self.is_train:
            self.statistics = self.add_memory("statistics", Statistics(opt.output_nc))
            self.preparations = 0

    def prepare(self, dataset) -> None:
        self.preparations += 1
        samples = [dataset.sample(index) for index in range(len(dataset))]
        for role, mean in (("A", self.statistics.mean_A), ("B", self.statistics.mean_B)):
            mean.copy_(torch.stack([sample[role].mean((1, 2)) for sample in samples]).mean(0))

    def compute_G_loss(self) -> dict[str, Tensor]:
        wanted = self.statistics.mean_B - self.statistics.mean_A
        shift = self.fake_B.mean((2, 3)) - self.real_A.mean((2, 3))
        colour = (shift - wanted).abs().mean()
        return {**self.adversarial_terms(), "colour": self.opt.lambda_colour * colour}
