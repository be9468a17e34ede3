"""FSeSim: translation that keeps the self-similarity of an image (Zheng, Cham, Cai; CVPR 2021, arXiv 2104.00854).

    L_G = L_GAN(G, D) + lambda_spatial * L_s(A, G(A))

L_s compares, in features of a frozen VGG16, which places of the output look alike with which places of the input do.
"""

from models import self_similar
from models.self_similar import SelfSimilarModel


class FSeSimModel(SelfSimilarModel):
    """One-sided translation A -> B with the fixed spatially-correlative loss."""

    PRESETS = {
        "official": self_similar.OFFICIAL,
        "shared": {},  # the common schedule, learning rate and data; no pool
    }
    ALIASES = {"sc": ()}

    @staticmethod
    def modify_commandline_options(parser, is_train: bool):
        """Flags of the method, spelled as in the release."""
        self_similar.add_options(parser, "fsesim", is_train)
        return parser
