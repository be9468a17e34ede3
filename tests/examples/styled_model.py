"""One image, many translations: the style is a colour, drawn at random or read from a reference."""

import torch
from torch import Tensor

from models.base_model import BaseModel
from models.inference.styles import ManyStyles, add_style_options


class StyledModel(ManyStyles, BaseModel):
    """G(A) + style, where a style is (C,1,1); G learns to leave B's images as they are, less their mean colour."""

    TEST_ROLES = "AB"
    PRESETS = {"official": {}, "shared": {}}

    @staticmethod
    def modify_commandline_options(parser, is_train: bool):
        if not is_train:
            add_style_options(parser)
        return parser

    def __init__(self, opt, runtime) -> None:
        super().__init__(opt, runtime)
        self.netG = self.add_network("G", self.new_generator(3, 3), average=True)
        if self.is_train:
            self.visual_names = ["real_A", "fake_B"]
            self.add_optimizer("G", self.netG)

    def forward(self) -> None:
        self.fake_B = self.netG(self.real_A) + torch.randn(3, 1, 1, device=self.device)

    def optimize_parameters(self) -> None:
        self.update("G", loss=self.compute_G_loss)

    def compute_G_loss(self) -> dict[str, Tensor]:
        return {"rest": (self.fake_B - self.real_B).square().mean()}

    def draw_styles(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.rand(count, 3, 1, 1, generator=generator) - 0.5

    def encode_styles(self, role: str, images: Tensor) -> Tensor:
        return images.mean((2, 3), keepdim=True)

    def translate_with(self, role: str, images: Tensor, styles: Tensor) -> Tensor:
        return self.inference_net("G")(images) * 0 + styles
