"""Players that do not move in every step: D alone in two of three, G and its critic of contents in the third."""

from torch import Tensor, nn

from models.adversary import discriminator_terms
from models.base_model import BaseModel
from models.losses.gan import generator_loss
from models.step.training_step import Move


class CyclicModel(BaseModel):
    """D has weight decay and a clipped gradient, E rates and momenta of its own; G goes down two losses in one step."""

    CYCLE = 3
    PRESETS = {"official": {}, "shared": {}}

    def __init__(self, opt, runtime) -> None:
        super().__init__(opt, runtime)
        runtime.keep_graphs()  # G's move goes through what the move before it has kept
        self.netG = self.add_network("G", self.new_generator(3, 3), average=True)
        if not self.is_train:
            return

        self.visual_names = ["real_A", "fake_B"]
        self.netD = self.add_network("D", self.new_discriminator(3))
        self.netE = self.add_network("E", nn.Conv2d(3, 3, 1))
        self.add_optimizer("D", self.netD, weight_decay=1e-2, clip_norm=0.1)
        self.add_optimizer("G", self.netG)
        self.add_optimizer("E", self.netE, lr=0.001, betas=(0.9, 0.99))

    def forward(self) -> None:
        self.fake_B = self.netG(self.real_A)
        self.code = self.netE(self.fake_B)

    def optimize_parameters(self) -> None:
        if self.turn < 2:
            self.update("D", loss=self.compute_D_loss)
        else:
            content = Move(("G", "E"), self.compute_content_loss, keep_graph=True)
            self.update_at_once(content, Move(("G",), self.compute_G_loss))

    def compute_D_loss(self) -> dict[str, Tensor]:
        return discriminator_terms(self.netD, self.real_B, self.fake_B, self.opt.gan_mode)

    def compute_content_loss(self) -> dict[str, Tensor]:
        return {"content": (self.code - self.real_A).abs().mean()}

    def compute_G_loss(self) -> dict[str, Tensor]:
        fooled = generator_loss(self.netD(self.fake_B), self.opt.gan_mode)
        return {"G_GAN": fooled + self.code.square().mean()}

    def translate(self, real_A: Tensor) -> Tensor:
        return self.inference_net("G")(real_A)
