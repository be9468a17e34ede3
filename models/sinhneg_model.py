"""Hneg-SRC learned from a single image of each domain (Jung, Kwon, Ye; CVPR 2022, arXiv 2203.01532).

    L_G = L_GAN(G, D) + lambda_HDCE * ( HDCE(A, G(A)) + HDCE(B, G(B)) ) / 2 + lambda_SRC * SRC(A, G(A))
          + lambda_identity * |G(B) - B|

on SinCUT's crops, with its networks, schedule and further losses. One patch per layer and crop is compared with those
of the other crops.
"""

from argparse import Namespace
from typing import Any

from models import single_image
from models.hneg_src_model import HnegSRCModel
from models.single_image import SingleImage


class SinHnegModel(SingleImage, HnegSRCModel):
    """Hneg-SRC on crops of one image per domain.

    In the release the mask that is to hide a patch from itself has one element, for one patch, and hides all: weights
    of negatives are 1 everywhere, whatever gamma. `official` says so, with --no_Hneg; `weighted` is the same setting
    with the weights of the formula.
    """

    PRESETS = {
        "official": {**single_image.OFFICIAL, "nce_layers": [0, 2, 4], "no_Hneg": True},
        "weighted": {**single_image.OFFICIAL, "nce_layers": [0, 2, 4]},
        "shared": single_image.SCHEDULE,  # the common networks, their optimiser and CUT's layers; with weights
    }
    ALIASES = {"sincut": ("--lambda_HDCE",)}  # --model of the release
    IMPLIED_BY = ()

    @staticmethod
    def modify_commandline_options(parser, is_train: bool):
        """Flags of Hneg-SRC and of single images, with the values of the release."""
        HnegSRCModel.modify_commandline_options(parser, is_train)
        parser.retitle("hneg_src", "sinhneg")

        single_image.add_options(parser, "sinhneg", is_train)
        parser.set_defaults(
            lambda_NCE=4.0,
            lambda_SRC=10.0,
            use_curriculum=True,
            HDCE_gamma=200.0,
            HDCE_gamma_min=40.0,
            num_patches=1,
            nce_includes_all_negatives_from_minibatch=True,
        )
        return parser

    @classmethod
    def default_preset(cls, given: dict[str, Any]) -> str:
        return "official"

    @classmethod
    def check_options(cls, opt: Namespace) -> None:
        """Hneg-SRC's checks, and those of single images."""
        super().check_options(opt)
        single_image.check_options(opt, has_identity=bool(opt.nce_idt and opt.lambda_NCE))
