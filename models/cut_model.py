"""CUT and FastCUT: contrastive unpaired translation (Park, Efros, Zhang, Zhu; ECCV 2020, arXiv 2007.15651).

    CUT:      L_G = lambda_GAN * L_GAN(G, D) + lambda_NCE * ( NCE(A, G(A)) + NCE(B, G(B)) ) / 2
    FastCUT:  L_G = lambda_GAN * L_GAN(G, D) + lambda_NCE * NCE(A, G(A))

NCE is the mean of PatchNCE over layers of G itself, read by the patch head F. `--CUT_mode FastCUT` means
`--preset fastcut`.
"""

from argparse import ArgumentTypeError, Namespace
from typing import Any

import torch
from torch import Tensor

from models.losses.patch_nce import patch_nce_loss
from models.networks.passes import mixes_images, translate_and_encode
from models.networks.patch_sampler import KINDS, PatchSampler, mirrored
from models.one_sided import OneSidedModel, check_equal_channels
from util.errors import UserError
from util.hardware.runtime import Runtime
from util.parser import int_list, natural, positive_int

MODES = {"cut": "CUT", "fastcut": "FastCUT"}


def cut_mode(text: str) -> str:
    """Read CUT or FastCUT in any case."""
    if text.lower() not in MODES:
        raise ArgumentTypeError(f"expected CUT or FastCUT, got {text!r}")
    return MODES[text.lower()]


class CUTModel(OneSidedModel):
    """One-sided translation A -> B with generator G, discriminator D and patch head F."""

    PRESETS = {
        "official": {},
        "shared": {},  # the common networks and schedule are CUT's own
        "fastcut": {
            "CUT_mode": "FastCUT",
            "nce_idt": False,
            "lambda_NCE": 10.0,
            "flip_equivariance": True,
            "n_epochs": 150,
            "n_epochs_decay": 50,
        },
    }
    IMPLIED_BY = ("--CUT_mode",)

    @staticmethod
    def modify_commandline_options(parser, is_train: bool):
        """Flags of the method, spelled as in the release; the defaults are CUT's."""
        net = parser.group("architecture")
        net.add(
            "--netF",
            "mlp_sample",
            "patch head: with a network, or the features themselves",
            choices=tuple(KINDS),
        )
        net.add("--netF_nc", 256, "width of an embedded patch", type=positive_int)
        net.add(
            "--nce_layers",
            [0, 4, 8, 12, 16],
            "layers of G that are contrasted; docs/methods.md on --no_antialias",
            type=int_list,
        )
        group = parser.group("cut")
        group.add(
            "--CUT_mode", "CUT", "CUT, or FastCUT: the same as --preset fastcut", type=cut_mode
        )
        group.add("--lambda_GAN", 1.0, "weight of the adversarial loss")
        group.add("--lambda_NCE", 1.0, "weight of the contrastive loss; 0 is a GAN without F")
        group.add("--nce_idt", True, "contrast G(B) with B too, and take the mean of both terms")
        group.add("--nce_T", 0.07, "temperature of the contrast")
        group.add(
            "--num_patches",
            256,
            "patches sampled per image and layer; 0: all positions",
            type=natural,
        )
        group.add(
            "--nce_includes_all_negatives_from_minibatch",
            False,
            "contrast with the patches of all images of the batch, not of the same image only",
        )
        group.add(
            "--flip_equivariance",
            False,
            "mirror the input in every other step, at random (FastCUT)",
        )
        group.add(
            "--pool_size",
            0,
            "accepted for released commands: CUT keeps no earlier images",
            type=natural,
        )
        return parser

    @classmethod
    def default_preset(cls, given: dict[str, Any]) -> str:
        """FastCUT's with --CUT_mode FastCUT, else CUT's."""
        return "fastcut" if given.get("CUT_mode") == "FastCUT" else "official"

    @staticmethod
    def check_options(opt: Namespace) -> None:
        """Flags that contradict each other, or leave nothing to learn from."""
        if not opt.is_train:
            return
        if (opt.CUT_mode == "FastCUT") != (opt.preset == "fastcut"):
            raise UserError(
                f"--CUT_mode {opt.CUT_mode} contradicts --preset {opt.preset}: give one of them"
            )
        if opt.pool_size:
            raise UserError(
                f"--pool_size {opt.pool_size}: CUT keeps no earlier images (released value 0); leave it out"
            )
        if min(opt.lambda_GAN, opt.lambda_NCE) < 0 or opt.lambda_GAN == opt.lambda_NCE == 0:
            raise UserError(
                f"--lambda_GAN {opt.lambda_GAN} --lambda_NCE {opt.lambda_NCE}: no weight is negative, one is positive"
            )
        if opt.nce_T <= 0:
            raise UserError(f"--nce_T {opt.nce_T}: a temperature is positive")
        if opt.lambda_NCE:
            check_equal_channels(
                opt, "CUT reads its own output with G, which takes", "make both 1 or both 3"
            )
        others = opt.batch_size if opt.nce_includes_all_negatives_from_minibatch else 1
        if opt.lambda_NCE and opt.num_patches * others == 1:
            raise UserError(
                "--num_patches 1 leaves a patch nothing to differ from: give more, or a --batch_size above 1 with "
                "--nce_includes_all_negatives_from_minibatch"
            )

    def __init__(self, opt: Namespace, runtime: Runtime) -> None:
        identity = self.contrasts(opt) and opt.nce_idt
        super().__init__(opt, runtime, identity=bool(identity))
        if not self.is_train or not self.contrasts(opt):
            return

        channels = self.netG.feature_channels(opt.nce_layers)
        self.netF = self.initialized(PatchSampler(channels, opt.netF_nc, opt.netF))
        if self.netF.embeds:
            self.add_network("F", self.netF)
            self.add_optimizer("F", self.netF)
            self.players.append("F")

    @staticmethod
    def contrasts(opt: Namespace) -> bool:
        """Whether a training step compares patches at all."""
        return opt.is_train and opt.lambda_NCE > 0

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; raises UserError where only one of both runs has F."""
        if ("F" in state["networks"]) != ("F" in self.networks):
            raise UserError(
                f"--lambda_NCE {self.opt.lambda_NCE}: a run cannot gain or lose its patch head F; keep the weight "
                "positive or 0 as it was, or give a new --name"
            )
        super().load_state_dict(state)

    def generate(self, real: Tensor) -> Tensor:
        """One pass of G, with --flip_equivariance on perhaps mirrored images.

        Where nothing is mirrored the pass gives the features of the input too, from which keys are made.
        """
        opt = self.opt
        self.real_features = None

        if opt.flip_equivariance:
            self.flipped = torch.rand((), device=self.device) < 0.5
            return self.netG(torch.where(self.flipped, real.flip(3), real))
        if not opt.lambda_NCE:
            return self.netG(real)

        fake, self.real_features = translate_and_encode(self.netG, real, opt.nce_layers)
        return fake

    def compute_G_loss(self) -> dict[str, Tensor]:
        """Fool D, and keep each patch of an output closest to its own patch of the input."""
        terms, opt = self.adversarial_terms(), self.opt
        if not opt.lambda_NCE:
            return terms

        keys, queries = self.keys(), self.features(self.fake)
        for name, query, key in zip(("NCE", "NCE_Y"), queries, keys, strict=False):
            terms[name] = opt.lambda_NCE / self.domains * self.nce_loss(query, key)
        return terms

    @torch.no_grad()
    def keys(self) -> list[list[Tensor]]:
        """Features of the input, as `features` gives them; from the pass that translated it where that is the same."""
        if self.real_features is None:
            return self.features(self.real)
        return self.by_domain(self.real_features)

    def features(self, images: Tensor) -> list[list[Tensor]]:
        """Features (B,C,H,W) of G's chosen layers, for each domain in `images` (domains * B, C, H, W)."""
        layers = self.opt.nce_layers
        if mixes_images(self.netG):  # as in the release each domain is normalised by itself
            return [self.netG.encode(part, layers) for part in images.chunk(self.domains)]
        return self.by_domain(self.netG.encode(images, layers))

    def by_domain(self, feats: list[Tensor]) -> list[list[Tensor]]:
        """Features of all images, one (domains * B, C, H, W) per layer -> for each domain, one (B,C,H,W) per layer."""
        chunks = [feat.chunk(self.domains) for feat in feats]
        return [list(of_domain) for of_domain in zip(*chunks, strict=True)]

    def nce_loss(self, query: list[Tensor], key: list[Tensor]) -> Tensor:
        """PatchNCE of one domain, mean over layers, patches and images; positions are drawn afresh."""
        opt = self.opt
        queries_BND, keys_BND = self.patches(query, key)
        across_batch = opt.nce_includes_all_negatives_from_minibatch

        losses = []
        for q_BND, k_BND in zip(queries_BND, keys_BND, strict=True):
            losses.append(patch_nce_loss(q_BND, k_BND, opt.nce_T, across_batch))
        return torch.stack(losses).mean()

    def patches(self, query: list[Tensor], key: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Embedded patches of outputs and of inputs at the same places, one (B,N,D) each per layer."""
        with torch.no_grad():
            keys_BND, ids = self.netF(key, self.opt.num_patches)

        if self.opt.flip_equivariance:
            for layer, feat in enumerate(query):
                across_N = mirrored(ids[layer], feat.shape[3])
                ids[layer] = torch.where(self.flipped, across_N, ids[layer])

        queries_BND, _ = self.netF(query, ids=ids)
        return queries_BND, keys_BND
