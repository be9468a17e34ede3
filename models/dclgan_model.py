"""DCLGAN: dual contrastive learning, both directions at once (Han et al., CVPRW 2021, arXiv 2104.07689).

    L_G = lambda_GAN / 2 * ( L_GAN(G_A, D_A) + L_GAN(G_B, D_B) ) + lambda_NCE / 2 * ( NCE1 + NCE2 )
          + lambda_IDT / 2 * ( |G_A(B) - B| + |G_B(A) - A| )

    NCE1 = NCE( F1(G_A(A)), F2(G_B(fake_B)) ),  NCE2 = NCE( F2(G_B(B)), F1(G_A(fake_A)) )

Inside F the G stand for features of their layers: images of A, real or fake, are read by G_A and its patch head F1,
images of B by G_B and F2. The first argument gives keys, which do not learn, the second queries. |.| is the mean
absolute difference. The paper writes sums without the halves; they change nothing but the scale of L_G.
"""

from argparse import Namespace
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.idle import Idle
from models.inference.modes import add_test_options
from models.losses.patch_nce import cosine_nce_loss
from models.losses.reconstruction import l1_distance
from models.networks.passes import joins, translate_and_encode
from models.networks.patch_sampler import KINDS, PatchSampler
from models.one_sided import OF_CONTRAST, check_equal_channels, check_negatives, idle_in_contrast
from models.two_sided import TwoSidedModel
from util.errors import UserError
from util.hardware.runtime import Runtime
from util.parser import int_list, natural, positive_float, positive_int

# torch's own settings, which the release leaves to F
LIBRARY_ADAM = {"lr": 1e-3, "betas": (0.9, 0.999)}


class Direction(NamedTuple):
    """One direction of a step: what is contrasted, and what it was read from.

    Attributes:
        key, query: embedded patches of the real images and of their translations at the same places, (B,N,D) per layer.
        translated: features (B,C,H,W) of the translations, one per layer.
    """

    key: list[Tensor]
    query: list[Tensor]
    translated: list[Tensor]


class DCLGANModel(TwoSidedModel):
    """Two-sided translation A <-> B with generators G_A, G_B, discriminators D_A, D_B and patch heads F1, F2."""

    PRESETS = {
        "release": {"gan_mode": "hinge_both"},
        "paper": {"gan_mode": "hinge_both", "lr": 1e-4, "pool_size": 50},
        "shared": {},
    }
    ALIASES = {"dcl": ()}
    KEYS_LEARN = False  # whether a loss goes backward through the features of real images

    @staticmethod
    def modify_commandline_options(parser, is_train: bool):
        """Flags of the method, spelled as in the release."""
        net = parser.group("architecture")
        net.add(
            "--netF",
            "mlp_sample",
            "patch heads: with a network, or the features themselves",
            choices=tuple(KINDS),
        )
        net.add("--netF_nc", 256, "width of an embedded patch", type=positive_int)
        net.add("--nce_layers", [4, 8, 12, 16], "layers of G that are contrasted", type=int_list)

        group = parser.group("dclgan")
        group.add("--lambda_GAN", 1.0, "weight of the adversarial loss")
        group.add("--lambda_NCE", 2.0, "weight of the contrast; 0: no contrast, no identity term")
        group.add("--lambda_IDT", 1.0, "weight of the identity terms |G(y) - y|")
        group.add("--nce_idt", True, "identity terms at all; needs equal channels in both domains")
        group.add("--nce_T", 0.07, "temperature of the contrast", positive_float)
        group.add(
            "--num_patches",
            256,
            "patches sampled per image and layer; 0: all positions",
            type=natural,
        )
        group.add(
            "--nce_includes_all_negatives_from_minibatch",
            True,
            "contrast with the patches of all images of the batch, not of the same image only",
        )
        group.add(
            "--pool_size",
            0,
            "earlier translated images that a discriminator is shown too; 0: none",
            natural,
        )
        add_test_options(group)
        return parser

    @staticmethod
    def check_options(opt: Namespace) -> None:
        """Flags that contradict each other, or leave nothing to learn from."""
        if not opt.is_train:
            return
        if opt.lambda_GAN == opt.lambda_NCE == 0:
            raise UserError(
                "--lambda_GAN 0 --lambda_NCE 0 leave nothing to learn: make one positive"
            )
        if keeps_identity(opt):
            check_equal_channels(opt, "the identity terms need", "give --nce_idt false")
        if opt.lambda_NCE:
            check_negatives(opt, opt.batch_size)

    @classmethod
    def idle(cls, opt: Namespace) -> list[Idle]:
        """The contrast and the identity terms, where they are off."""
        found = super().idle(opt)
        if not opt.lambda_NCE:
            found.append(Idle((*OF_CONTRAST, "nce_idt", "lambda_IDT"), ("lambda_NCE",)))
        if not opt.nce_idt:
            found.append(Idle(("lambda_IDT",), ("nce_idt",)))
        return found + idle_in_contrast(opt)

    def __init__(self, opt: Namespace, runtime: Runtime) -> None:
        if opt.is_train and opt.lambda_NCE:
            check_negatives(opt, opt.batch_size // runtime.world_size)
        super().__init__(opt, runtime, identity=keeps_identity(opt), pool_size=opt.pool_size)
        self.players = ["G"]
        self.real_features: dict[str, list[Tensor] | None] = {}
        if self.is_train and opt.lambda_NCE:
            self.build_heads()

    def build_heads(self) -> None:
        """The patch heads, with an optimiser of their own."""
        self.add_patch_heads()
        if self.netF1.embeds:
            self.add_optimizer("F", self.netF1, self.netF2, **LIBRARY_ADAM)
            self.players.append("F")

    def add_patch_heads(self) -> None:
        """F1 for images of A, F2 for images of B; networks unless --netF says that features are taken as they are."""
        opt = self.opt
        for name, netG in (("F1", self.netG_A), ("F2", self.netG_B)):
            head = PatchSampler(netG.feature_channels(opt.nce_layers), opt.netF_nc, opt.netF)
            setattr(self, f"net{name}", self.initialized(head))
            if head.embeds:
                self.add_network(name, head)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; raises UserError where only one of both runs has patch heads."""
        if ("F1" in state["networks"]) != ("F1" in self.networks):
            raise UserError(
                f"--lambda_NCE {self.opt.lambda_NCE}: a run cannot gain or lose its patch heads F1 and F2; keep the "
                "weight positive or 0 as it was, or give a new --name"
            )
        super().load_state_dict(state)

    def generate(self, side: str, *batches: Tensor) -> Sequence[Tensor]:
        """The passes of one generator, with the features of the images that it translates."""
        if not self.opt.lambda_NCE:
            return super().generate(side, *batches)
        netG, layers = self.networks[f"G_{side}"], self.opt.nce_layers
        real, *others = batches

        joined = torch.cat(batches) if joins(netG, batches) else real
        made, feats = translate_and_encode(netG, joined, layers, detach=not self.KEYS_LEARN)

        if feats is not None:  # else `features_of_real` makes them
            feats = [feat[: len(real)] for feat in feats]
        self.real_features[side] = feats

        if len(joined) > len(real):
            return made.chunk(len(batches))
        return [made, *(netG(images) for images in others)]

    def optimize_parameters(self) -> None:
        """Both discriminators, then both generators with the heads."""
        self.update("D", loss=self.compute_D_loss)
        self.update(*self.players, loss=self.compute_G_loss)

    def compute_G_loss(self) -> dict[str, Tensor]:
        """Fool both discriminators, keep patches closest to their own, leave the target domain as it is."""
        terms = self.adversarial_terms(self.opt.lambda_GAN / 2)
        if self.opt.lambda_NCE:
            terms |= self.contrastive_terms(*self.directions())
        return terms | self.identity_terms()

    def directions(self) -> tuple[Direction, Direction]:
        """Features and patches of A -> B and of B -> A; positions are drawn afresh."""
        layers = self.opt.nce_layers
        real_A = self.features_of_real("A", self.real_A)
        real_B = self.features_of_real("B", self.real_B)
        fake_B = self.netG_B.encode(self.fake_B, layers)
        fake_A = self.netG_A.encode(self.fake_A, layers)
        return (
            self.direction(self.netF1, real_A, self.netF2, fake_B),
            self.direction(self.netF2, real_B, self.netF1, fake_A),
        )

    def direction(
        self, key_head: nn.Module, real: list[Tensor], query_head: nn.Module, fake: list[Tensor]
    ) -> Direction:
        """Patches of features (B,C,H,W) of real images and of their translations, each by the head of their domain."""
        with torch.set_grad_enabled(self.KEYS_LEARN):
            key, ids = self.embed(key_head, real)
        query, _ = self.embed(query_head, fake, ids)
        return Direction(key, query, fake)

    def features_of_real(self, side: str, images: Tensor) -> list[Tensor]:
        """Features of untranslated images; from the pass that translated them where that is the same."""
        known = self.real_features[side]
        if known is not None:
            return known
        with torch.set_grad_enabled(self.KEYS_LEARN):
            return self.networks[f"G_{side}"].encode(images, self.opt.nce_layers)

    def embed(
        self, head: nn.Module, feats: list[Tensor], ids: list[Tensor] | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Patches (B,N,D) of features (B,C,H,W), and their positions, at `ids` or drawn afresh."""
        return head(feats, self.opt.num_patches, ids)

    def contrastive_terms(self, A_to_B: Direction, B_to_A: Direction) -> dict[str, Tensor]:
        """PatchNCE of both directions."""
        weight = self.opt.lambda_NCE / 2
        return {"NCE1": weight * self.nce_loss(A_to_B), "NCE2": weight * self.nce_loss(B_to_A)}

    def nce_loss(self, direction: Direction) -> Tensor:
        """PatchNCE of one direction, mean over layers, patches and images."""
        opt = self.opt
        across_batch = opt.nce_includes_all_negatives_from_minibatch

        losses = []
        for q_BND, k_BND in zip(direction.query, direction.key, strict=True):
            losses.append(cosine_nce_loss(q_BND, k_BND, opt.nce_T, across_batch))
        return torch.stack(losses).mean()

    def identity_terms(self) -> dict[str, Tensor]:
        """What a generator changes in images of its own target domain."""
        if not self.identity:
            return {}
        weight = self.opt.lambda_IDT / 2
        return {
            "idt_A": weight * l1_distance(self.idt_A, self.real_B),
            "idt_B": weight * l1_distance(self.idt_B, self.real_A),
        }


def keeps_identity(opt: Namespace) -> bool:
    """Whether there are identity terms; as in the release only beside the contrast."""
    return bool(opt.nce_idt and opt.lambda_IDT and opt.lambda_NCE)
