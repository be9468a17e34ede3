"""SelfDistance: DistanceGAN on the two halves of each image instead of pairs (Benaim, Wolf; NeurIPS 2017, 1706.00826).

    L_dist(x, y) = mean_i | (h(x_i) - mu_x) / sd_x - (h(y_i) - mu_y) / sd_y |

h is the mean absolute difference between the upper and the lower half of an image; mu and sd are its mean and deviation
in the domain of either side. A step works on a single image.
"""

from argparse import Namespace

from models.distance_gan_model import OFFICIAL, DistanceGANModel
from util.errors import UserError


class SelfDistanceModel(DistanceGANModel):
    """DistanceGAN with h in the place of d.

    The release takes h as one mean over the images of a batch, in the loss too; --distance_items says which.
    """

    PRESETS = {
        "official": OFFICIAL,
        "one_sided": {**OFFICIAL, "A_to_B": True},
        "shared": {},  # the common networks, schedule and batch
    }

    @staticmethod
    def modify_commandline_options(parser, is_train: bool):
        """DistanceGAN's flags, with its --use_self_distance."""
        DistanceGANModel.modify_commandline_options(parser, is_train)
        parser.retitle("distance_gan", "self_distance")
        parser.set_defaults(use_self_distance=True)
        return parser

    @staticmethod
    def check_options(opt: Namespace) -> None:
        """DistanceGAN's checks; pairs are another --model."""
        if not opt.use_self_distance:
            raise UserError("--use_self_distance false: that is --model distance_gan")
        DistanceGANModel.check_options(opt)
