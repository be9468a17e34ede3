"""SimDCL: DCLGAN with a similarity loss against mode collapse (Han et al., CVPRW 2021, arXiv 2104.07689, section 3.3).

    L_G = L_G of DCLGAN + lambda_SIM * ( |H3(real_A) - H6(fake_A)| + |H4(fake_B) - H5(real_B)| )

H3 to H6 are four heads that make one unit vector of the embedded patches of an image, which F1 or F2 gives. Patches
of fake images are drawn anew, not those that the contrast has seen. Nothing is detached: heads, F and both G learn.
|.| is the mean absolute difference; eq. 6 of the paper speaks of a sum.
"""

from argparse import Namespace

from torch import Tensor, nn

from models.dclgan_model import DCLGANModel, Direction
from models.losses.reconstruction import l1_distance
from models.networks.adjacency import sample_positions
from models.networks.similarity_head import SMALLEST, SimilarityHead
from util.errors import UserError

# of real_A, fake_B, real_B, fake_A; named as the release names their files
HEADS = ("F3", "F4", "F5", "F6")


class SimDCLModel(DCLGANModel):
    """DCLGAN in which real and translated images of a domain are also alike as a whole."""

    PRESETS = {
        "release": {"gan_mode": "hinge_both"},
        "paper": {
            "gan_mode": "hinge_both",
            "n_epochs": 100,
            "n_epochs_decay": 100,
            "lambda_NCE": 2.0,
            "pool_size": 50,
        },
        "shared": {},
    }
    ALIASES = {}
    KEYS_LEARN = True

    @staticmethod
    def modify_commandline_options(parser, is_train: bool):
        """DCLGAN's flags and the weight of the similarity loss."""
        DCLGANModel.modify_commandline_options(parser, is_train)
        parser.retitle("dclgan", "simdcl")
        group = parser.group("simdcl")
        group.add("--lambda_SIM", 10.0, "weight of the similarity loss")
        # the release has this flag with the value 2, but never applies it
        parser.set_defaults(lambda_NCE=1.0)
        return parser

    @staticmethod
    def check_options(opt: Namespace) -> None:
        """DCLGAN's checks, and what the heads need."""
        DCLGANModel.check_options(opt)
        if not opt.is_train:
            return

        if min(opt.lambda_SIM, opt.lambda_NCE) <= 0:
            raise UserError(
                f"--lambda_SIM {opt.lambda_SIM} --lambda_NCE {opt.lambda_NCE}: SimDCL takes positive weights; without "
                "the similarity loss it is --model dclgan"
            )

        if opt.netF == "sample":
            raise UserError(
                "--netF sample: SimDCL's heads need patches of one width for all layers; leave it out"
            )

        if 0 < opt.num_patches < SMALLEST:
            raise UserError(
                f"--num_patches {opt.num_patches}: SimDCL's heads take at least {SMALLEST}"
            )

    def build_heads(self) -> None:
        """Patch heads and similarity heads, which one optimiser moves with the settings of all others."""
        self.add_patch_heads()
        layers = len(self.opt.nce_layers)
        self.heads = [
            self.add_network(name, self.initialized(SimilarityHead(layers))) for name in HEADS
        ]
        self.add_optimizer("F", self.netF1, self.netF2, *self.heads)
        self.players.append("F")

    def embed(
        self, head: nn.Module, feats: list[Tensor], ids: list[Tensor] | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As in DCLGAN, with patches in random order: a similarity head mixes neighbours in that order."""
        if ids is None:
            ids = [self.draw_shuffled(feat) for feat in feats]
        return head(feats, ids=ids)

    def draw_shuffled(self, feat_BCHW: Tensor) -> Tensor:
        """Positions of one layer, ids_N."""
        positions = feat_BCHW.shape[2] * feat_BCHW.shape[3]
        count = self.opt.num_patches or positions
        return sample_positions(1, positions, count, feat_BCHW.device, shuffled=True)[0]

    def contrastive_terms(self, A_to_B: Direction, B_to_A: Direction) -> dict[str, Tensor]:
        """PatchNCE of both directions, and the similarity of real and translated images in both domains."""
        terms = super().contrastive_terms(A_to_B, B_to_A)

        fake_B, _ = self.embed(self.netF2, A_to_B.translated)
        fake_A, _ = self.embed(self.netF1, B_to_A.translated)
        patches = (A_to_B.key, fake_B, B_to_A.key, fake_A)
        real_A, fake_B, real_B, fake_A = (
            head(of_image) for head, of_image in zip(self.heads, patches, strict=True)
        )

        similarity = l1_distance(real_A, fake_A) + l1_distance(fake_B, real_B)
        return terms | {"sim": self.opt.lambda_SIM * similarity}
