"""No training: a picture is optimised at test, content and style side by side in one sample."""

import torch
from torch import Tensor

from models.base_model import BaseModel
from util.parser import natural


class PainterModel(BaseModel):
    """Moves the content's pixels towards the style's mean colour by gradient steps."""

    TRAINABLE = False
    WITH_GRADIENTS = True
    COSTLY = True
    USES_RUN = False

    @staticmethod
    def modify_commandline_options(parser, is_train: bool):
        parser.set_defaults(dataset_mode="content_style")
        parser.group("painter").add("--iterations", 50, "gradient steps", natural)
        return parser

    def forward(self) -> None:
        """Nothing: there is no training step."""

    def optimize_parameters(self) -> None:
        """Nothing."""

    def translate(self, real_A: Tensor) -> Tensor:
        return real_A

    def facts(self) -> dict[str, str]:
        return {"paint": "oil"}

    def show(self, batch) -> dict[str, Tensor]:
        content, style = batch["A"], batch["B"]
        picture = content.clone().requires_grad_()
        wanted = style.mean((2, 3))
        for _ in range(self.opt.iterations):
            apart = (picture.mean((2, 3)) - wanted).square().sum()
            (slope,) = torch.autograd.grad(apart, picture)
            picture = (picture - 0.1 * slope.numel() / 3 * slope).detach().requires_grad_()
        self.tell(1, self.runtime.alone().mean({"apart": apart}))
        return {"real_A": content, "real_B": style, "fake_B": picture.detach()}
