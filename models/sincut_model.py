"""SinCUT: translation learned from a single image of each domain (Park et al., ECCV 2020, arXiv 2007.15651, sec. 4.3).

    L_G = L_GAN(G, D) + lambda_NCE * ( NCE(A, G(A)) + NCE(B, G(B)) ) / 2 + lambda_identity * |G(B) - B|
    L_D = L_GAN(G, D) + lambda_R1 / 2 * |dD(B)/dB|^2

on small crops of the two images, zoomed at random. The negatives of a crop's patch are patches of the other crops.
"""

from argparse import Namespace
from typing import Any

from models import single_image
from models.cut_model import CUTModel
from models.single_image import SingleImage


class SinCUTModel(SingleImage, CUTModel):
    """CUT on crops of one image per domain."""

    PRESETS = {
        "official": {**single_image.OFFICIAL, "nce_layers": [0, 2, 4]},
        "shared": single_image.SCHEDULE,  # the common networks, their optimiser and CUT's layers, on the same crops
    }
    IMPLIED_BY = ()

    @staticmethod
    def modify_commandline_options(parser, is_train: bool):
        """CUT's flags and those of single images, with the values of the release."""
        CUTModel.modify_commandline_options(parser, is_train)
        parser.retitle("cut", "sincut")
        single_image.add_options(parser, "sincut", is_train)

        parser.set_defaults(lambda_NCE=4.0, num_patches=1)
        parser.set_defaults(nce_includes_all_negatives_from_minibatch=True)
        return parser

    @classmethod
    def default_preset(cls, given: dict[str, Any]) -> str:
        return "official"

    @classmethod
    def check_options(cls, opt: Namespace) -> None:
        """CUT's checks, and those of single images."""
        super().check_options(opt)
        single_image.check_options(opt, has_identity=bool(opt.nce_idt and opt.lambda_NCE))
