"""FSeSim learned from a single image of each domain (Zheng, Cham, Cai; CVPR 2021, arXiv 2104.00854).

    L_G = L_GAN(G, D) + lambda_spatial * L_s(A, G(A))
    L_D = L_GAN(G, D) + lambda_gradient * mean ( |dD(x)/dx| - 1 )^2,  x between B and G(A)

on crops of 128 pixels of the two images, zoomed at random as for SinCUT.
"""

from models import self_similar, single_image
from models.self_similar import SelfSimilarModel
from models.single_image import TiledTranslation

SCHEDULE = {"n_epochs": 4, "n_epochs_decay": 4}  # of 100,000 crops each


class SinSCModel(TiledTranslation, SelfSimilarModel):
    """FSeSim on crops of one image per domain; the name is the release's."""

    PRESETS = {
        "official": {
            **single_image.OFFICIAL,
            **SCHEDULE,
            "netG": "stylegan2_tanh",
            "stylegan2_G_num_downsampling": 2,
            "ngf": 8,
            "netD": "stylegan2_8x8",
            "lr": 0.001,
        },
        "shared": SCHEDULE,  # the common networks and optimiser, on the same crops
    }

    @staticmethod
    def modify_commandline_options(parser, is_train: bool):
        """FSeSim's flags, with the values that the release has for single images."""
        self_similar.add_options(parser, "sinsc", is_train)
        single_image.set_up_crops(parser, is_train, crop_size=128)
        parser.set_defaults(lambda_gradient=1.0)
        return parser
