"""NEGCUT: CUT against an adversary that makes the negatives (Wang et al., ICCV 2021, arXiv 2108.04547).

    L_G = lambda_GAN * L_GAN(G, D) + lambda_NCE * ( NCE(A, G(A)) + NCE(B, G(B)) ) / 2
    L_N = - lambda_NCE * ( NCE(A, G(A)) + NCE(B, G(B)) ) / 2 - lambda_MS * |n - n'|

NCE is CUT's, but its negatives n = N(c, z) are made by the network N from what the patches of the input are like on
average, c, and from noise z: none comes from the image itself. c is seen through a momentum copy of the patch head F.
FastNEGCUT (`--preset fast`, or `--CUT_mode FastCUT`) is the same with FastCUT's settings.
"""

from argparse import Namespace
from typing import Any

import torch
from torch import Tensor

from models.cut_model import CUTModel
from models.losses.generated_nce import generated_nce_loss, spread
from models.networks.negative_generator import NegativeGenerator
from models.networks.passes import translate_and_encode
from models.networks.patch_sampler import PatchSampler
from util.errors import UserError
from util.hardware.runtime import Runtime
from util.parser import fraction, positive_int

NAMES = ("NCE", "NCE_Y")  # of the losses of both domains
# options about negatives that are patches of images
OF_IMAGES = (
    *("nce_weights", "HDCE_gamma", "src", "lambda_SRC"),
    "nce_includes_all_negatives_from_minibatch",
)


class NEGCUTModel(CUTModel):
    """CUT with a generator of negatives N and a momentum copy of F.

    Each step moves D, then N up the contrastive loss, then G and F down it, then the copy: F' <- m F' + (1 - m) F.
    F' has initial weights of its own. When G and F move, N is frozen but its negatives are not detached: G learns
    through what they are made from, too.

    Attributes:
        sources, outputs: features of the input as it was, unmirrored, and of what G has made of it, for each domain one
            (B,C,H,W) per layer.
        contexts: c, the mean over all positions of F'(sources), for each domain one (B,D) per layer.
    """

    CONTRASTS_PATCHES = False
    PRESETS = {
        "official": {},
        "shared": {},  # the common networks and schedule are its own
        "fast": CUTModel.PRESETS["fastcut"],
    }
    IMPLIED_BY = ()

    @staticmethod
    def modify_commandline_options(parser, is_train: bool):
        """CUT's flags, and those of N and of the copy of F."""
        CUTModel.modify_commandline_options(parser, is_train)
        parser.retitle("cut", "negcut")
        parser.declared()["lambda_NCE"].help = "weight of the contrastive loss, above 0"

        net = parser.group("architecture")
        net.add(
            "--netN_noise", 64, "length of the noise z that N makes a negative from", positive_int
        )

        group = parser.group("negcut")
        group.add("--num_negatives", 256, "negatives made per image and layer", type=positive_int)
        group.add(
            "--lambda_MS", 1.0, "weight of N's spread, which keeps negatives unlike each other"
        )
        text = "momentum m of the copy of F that N sees the image through"
        group.add("--momentum_F", 0.9, text, fraction)
        return parser

    @classmethod
    def default_preset(cls, given: dict[str, Any]) -> str:
        """FastNEGCUT's with --CUT_mode FastCUT."""
        return "fast" if given.get("CUT_mode") == "FastCUT" else "official"

    @classmethod
    def check_options(cls, opt: Namespace) -> None:
        """CUT's checks, and what makes no sense with negatives that are made."""
        super().check_options(opt)
        if not opt.is_train:
            return

        if opt.netF == "sample":
            raise UserError(
                "--netF sample: N makes vectors of the network F; give --netF mlp_sample"
            )

        if opt.num_negatives % 2:
            raise UserError(
                f"--num_negatives {opt.num_negatives}: pairs are told apart; give an even number"
            )

    @classmethod
    def check_ingredients(cls, opt: Namespace) -> None:
        """Raise UserError for flags about negatives from images, and without a contrast."""
        if not opt.lambda_NCE:
            raise UserError(
                "--lambda_NCE 0 leaves N nothing to make negatives for: give --model cut"
            )

        given = [f"--{name}" for name in OF_IMAGES if name in opt.changed]
        if given:
            raise UserError(
                f"{', '.join(given)}: such flags are about negatives from images, NEGCUT makes its own: "
                "leave them out, or give --model cut"
            )

    def __init__(self, opt: Namespace, runtime: Runtime) -> None:
        super().__init__(opt, runtime)
        if not self.is_train:
            return

        channels = self.netG.feature_channels(opt.nce_layers)
        copy = self.initialized(PatchSampler(channels, opt.netF_nc))
        self.netF_copy = self.add_follower("F_copy", copy)

        makes = NegativeGenerator(len(channels), opt.netF_nc, opt.netN_noise)
        self.netN = self.add_network("N", self.initialized(makes))
        self.add_optimizer("N", self.netN)

    def forward(self) -> None:
        """Translate, and read with G what all losses are made of."""
        super().forward()
        if self.real_features is None:
            self.sources = self.features(self.real)
        else:
            self.sources = self.by_domain(self.real_features)
        self.outputs = self.features(self.fake)
        self.contexts = [self.context(source) for source in self.sources]

    def generate(self, real: Tensor) -> Tensor:
        """CUT's pass of G, but gradients flow through the features of the input."""
        if self.opt.flip_equivariance:
            return super().generate(real)
        fake, self.real_features = translate_and_encode(
            self.netG, real, self.opt.nce_layers, detach=False
        )
        return fake

    def context(self, source: list[Tensor]) -> list[Tensor]:
        """What the patches of an image are like on average, (B,D) per layer, from features (B,C,H,W)."""
        patches_BND, _ = self.netF_copy(source, num_patches=0)
        return [x_BND.mean(1) for x_BND in patches_BND]

    def keys(self) -> list[list[Tensor]]:
        """Features of the input."""
        return self.sources

    def queries(self) -> list[list[Tensor]]:
        """Features of the output."""
        return self.outputs

    def optimize_parameters(self) -> None:
        """D, then N, then G with F, then the copy of F."""
        self.update("D", loss=self.compute_D_loss)
        self.update("N", loss=self.compute_N_loss)
        self.update(*self.players, loss=self.compute_G_loss)
        self.follow(self.netF_copy, self.netF, self.opt.momentum_F)

    def compute_N_loss(self) -> dict[str, Tensor]:
        """Make each output's patches hard to tell from negatives, and negatives unlike each other.

        The spread is that of the last domain, B with --nce_idt, as in the release.
        """
        opt = self.opt
        with torch.no_grad():
            pairs = self.pairs()

        terms = {}
        for name, pair, context in zip(NAMES, pairs, self.contexts, strict=False):
            negatives = self.netN([c_BD.detach() for c_BD in context], opt.num_negatives)
            terms[f"N_{name}"] = -self.weight * self.generated_loss(pair, negatives)

        if opt.lambda_MS:
            distances = [spread(negative_BMD) for negative_BMD in negatives]
            terms["N_spread"] = -opt.lambda_MS * torch.stack(distances).mean()
        return terms

    def compute_G_loss(self) -> dict[str, Tensor]:
        """Fool D, and keep each output's patches apart from the negatives that N makes."""
        terms = self.adversarial_terms()
        for name, pair, context in zip(NAMES, self.pairs(), self.contexts, strict=False):
            negatives = self.netN(context, self.opt.num_negatives)
            terms[name] = self.weight * self.generated_loss(pair, negatives)
        return terms

    @property
    def weight(self) -> float:
        """Of the contrastive loss of one domain."""
        return self.opt.lambda_NCE / self.domains

    def generated_loss(
        self, pair: tuple[list[Tensor], list[Tensor]], negatives: list[Tensor]
    ) -> Tensor:
        """The contrast of one domain with negatives (B,M,D) per layer: mean over layers, patches and images."""
        losses = []
        for query_BND, key_BND, negative_BMD in zip(*pair, negatives, strict=True):
            losses.append(generated_nce_loss(query_BND, key_BND, negative_BMD, self.opt.nce_T))
        return torch.stack(losses).mean()
