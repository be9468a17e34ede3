"""PatchGCL learned from a single image of each domain (Jung, Kwon, Ye; AAAI 2024, arXiv 2312.08223, figure 8).

    L_G = L_GAN(G, D) + w * ( L_GNN(G(A), A) + L_GNN(G(B), B) ) + lambda_identity * |G(B) - B|

with SinCUT's data, networks, schedule and further losses, and PatchGCL's graph loss in the place of PatchNCE: one
graph per crop and feature layer. The paper's description is in a supplement that is not public, and its release cannot
run this, so it is a reconstruction; docs/methods.md lists the choices.
"""

from argparse import Namespace

from models import single_image
from models.patchgcl_model import PAPER, PatchGCLModel
from models.single_image import SingleImage


class SinPatchGCLModel(SingleImage, PatchGCLModel):
    """PatchGCL on crops of one image per domain."""

    LOSSES = (*PatchGCLModel.LOSSES, "lambda_identity")
    PRESETS = {
        "official": single_image.OFFICIAL,
        "paper": {**single_image.OFFICIAL, **PAPER, "lambda_GNN": 4 * PAPER["lambda_GNN"]},
        "shared": single_image.SCHEDULE,  # the common networks
    }

    @staticmethod
    def modify_commandline_options(parser, is_train: bool):
        """PatchGCL's flags and those of single images; lambda_GNN is 4 times PatchGCL's, as lambda_NCE is CUT's."""
        PatchGCLModel.modify_commandline_options(parser, is_train)
        parser.retitle("patchgcl", "sinpatchgcl")
        single_image.add_options(parser, "sinpatchgcl", is_train)

        parser.set_defaults(lambda_GNN=0.4)
        parser.declared()["lambda_GNN"].help = (
            "weight lambda_g of the graph contrastive loss (eq. 10); "
            f"{4 * PAPER['lambda_GNN']} with --preset paper"
        )
        return parser

    @classmethod
    def check_options(cls, opt: Namespace) -> None:
        """PatchGCL's checks, and those of single images."""
        super().check_options(opt)
        single_image.check_options(opt, has_identity=opt.gnn_idt)
