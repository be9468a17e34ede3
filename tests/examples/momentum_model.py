"""A network that follows another by momentum and judges for it."""

from torch import Tensor, nn

from models.one_sided import OneSidedModel


class MomentumModel(OneSidedModel):
    """E reads the output, its follower E_ the input; G and E bring both together."""

    PRESETS = {"official": {}, "shared": {}}

    @staticmethod
    def modify_commandline_options(parser, is_train: bool):
        group = parser.group("momentum")
        group.add("--lambda_GAN", 1.0, "weight of the adversarial loss")
        group.add("--momentum", 0.9, "how slowly E_ follows E")
        return parser

    def __init__(self, opt, runtime) -> None:
        super().__init__(opt, runtime)
        if self.is_train:
            self.netE = self.add_network("E", self.new_reader())
            self.follower = self.add_follower("E_", self.new_reader())
            self.add_optimizer("E", self.netE)
            self.players.append("E")

    def new_reader(self) -> nn.Module:
        return self.initialized(nn.Conv2d(3, 4, 3))

    def optimize_parameters(self) -> None:
        super().optimize_parameters()
        self.follow(self.follower, self.netE, self.opt.momentum)

    def compute_G_loss(self) -> dict[str, Tensor]:
        apart = (self.netE(self.fake_B) - self.follower(self.real_A)).abs().mean()
        return {**self.adversarial_terms(), "apart": apart}
