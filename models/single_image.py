"""What methods that learn from one image per domain share, whatever keeps content: recipe, R1, identity, tiles.

CUT, arXiv 2007.15651, section 4.3 and appendix C, with the values of the release.
"""

from argparse import Namespace

from torch import Tensor

from models.adversary import r1_penalty
from models.inference.modes import translate_each
from models.inference.tiling import translate_in_tiles
from util.errors import UserError, is_out_of_memory
from util.parser import natural

SCHEDULE = {"n_epochs": 8, "n_epochs_decay": 8}  # of 100,000 crops each
OFFICIAL = {
    **SCHEDULE,
    "netG": "stylegan2",
    "ngf": 10,
    "netD": "stylegan2",
    "ndf": 8,
    "gan_mode": "nonsaturating",
    "lr": 0.002,
    "beta1": 0.0,
    "beta2": 0.99,
}


def add_options(parser, title: str, is_train: bool) -> None:
    """Flags of CUT's setting, in the group `title`, and its defaults for data and saving."""
    group = parser.group(title)
    group.add("--lambda_R1", 1.0, "weight of D's gradient penalty on real images; 0: off")
    group.add("--lambda_identity", 1.0, "weight of |G(B) - B|; 0: off")
    set_up_crops(parser, is_train, crop_size=64)


def set_up_crops(parser, is_train: bool, crop_size: int) -> None:
    """Defaults for data and saving, and --tile at test: what every such method has."""
    parser.set_defaults(dataset_mode="singleimage", crop_size=crop_size)
    if is_train:
        parser.set_defaults(batch_size=16, save_epoch_freq=1, save_latest_freq=20_000)
        return

    text = (
        "translate in tiles of N pixels, the same picture in less memory (stylegan2 generators); "
        "0: all at once"
    )
    parser.group("results").add("--tile", 0, text, type=natural, metavar="N")
    parser.set_defaults(phase="train")  # the image to translate is the one that was learned from


def check_options(opt: Namespace, has_identity: bool) -> None:
    """Raise UserError for an identity term without the image that it is about; `has_identity`: G(B) is computed."""
    if opt.is_train and opt.lambda_identity and not has_identity:
        raise UserError(
            "--lambda_identity needs G(B), which the identity half of the contrastive loss "
            "computes: leave that on, or give --lambda_identity 0"
        )


SPARE_TILE = 512  # pixels, where memory is too short for a whole image


class TiledTranslation:
    """Translates with --tile; stands first in a model's list of bases."""

    def translate(self, real_A: Tensor) -> Tensor:
        """(B,C,H,W) in [-1,1] -> the same size in domain B; not bounded with StyleGAN2 networks.

        Where memory is too short for the whole image and tiles give the same, they are taken unasked.
        """
        net = self.inference_net("G")
        if self.is_train:
            return translate_each(net, real_A)
        if self.opt.tile:
            return translate_in_tiles(net, real_A, self.opt.tile)

        random = self.runtime.rng_state()
        try:
            return translate_each(net, real_A)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or not hasattr(net, "reads"):
                raise
        self.runtime.set_rng_state(random)  # the noise is that of the whole image
        return translate_in_tiles(net, real_A, SPARE_TILE)


class SingleImage(TiledTranslation):
    """Terms that both players get beside those of the class after this one in a model's list of bases."""

    def compute_D_loss(self) -> dict[str, Tensor]:
        """Also stay flat on real images (R1)."""
        terms = super().compute_D_loss()
        if self.opt.lambda_R1:
            terms["D_R1"] = r1_penalty(self.netD, self.real_B, self.opt.lambda_R1)
        return terms

    def compute_G_loss(self) -> dict[str, Tensor]:
        """Also leave images of B as they are, mirrored where G has read them so."""
        terms = super().compute_G_loss()
        if self.opt.lambda_identity:
            _, read_B = self.read.chunk(2)
            distance = (self.idt_B - read_B).abs().mean()
            terms["idt"] = self.opt.lambda_identity * distance
        return terms
