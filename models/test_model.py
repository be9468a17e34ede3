"""Apply one generator, such as a published one, to a folder of images; nothing can be trained with it."""

from argparse import Namespace

from torch import Tensor

from models.base_model import BaseModel
from models.inference.modes import add_test_options, translate_each
from util.errors import UserError
from util.hardware.runtime import Runtime


class TestModel(BaseModel):
    """One generator, whose file is <epoch>_net_G<model_suffix>.pth; flags and defaults are those of CycleGAN's release.

    Where the weights lie beside options saved by a training run, the architecture comes from there.
    """

    __test__ = False  # not a pytest class
    TRAINABLE = False

    @staticmethod
    def modify_commandline_options(parser, is_train: bool):
        """Defaults of the release: strided networks with dropout, unless --no_dropout is given."""
        parser.set_defaults(dataset_mode="single")
        parser.set_defaults(no_antialias=True, no_antialias_up=True, no_dropout=False)
        parser.alias("--norm", "normG")

        group = parser.group("test")
        group.add("--model_suffix", "", "which generator: _A for <epoch>_net_G_A.pth")
        add_test_options(group)
        return parser

    @staticmethod
    def check_options(opt: Namespace) -> None:
        """There is nothing to train."""
        if opt.is_train:
            text = (
                "--model test only applies weights, in test.py: train with the --model of a method"
            )
            raise UserError(text)

    def __init__(self, opt: Namespace, runtime: Runtime) -> None:
        super().__init__(opt, runtime)
        self.name = f"G{opt.model_suffix}"
        generator = self.new_generator(opt.input_nc, opt.output_nc)
        self.netG = self.add_network(self.name, generator)

    def forward(self) -> None:
        """Nothing: there is no training step."""

    def optimize_parameters(self) -> None:
        """Nothing."""

    def translate(self, real_A: Tensor) -> Tensor:
        """(B,C,H,W) in [-1,1] -> the same size, each image by itself."""
        net = self.inference_net(self.name)
        return translate_each(net, real_A, self.opt.test_norm, self.opt.test_dropout)
