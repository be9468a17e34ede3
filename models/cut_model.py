"""CUT and FastCUT: contrastive unpaired translation (Park, Efros, Zhang, Zhu; ECCV 2020, arXiv 2007.15651).

    CUT:      L_G = lambda_GAN * L_GAN(G, D) + lambda_NCE * ( NCE(A, G(A)) + NCE(B, G(B)) ) / 2
    FastCUT:  L_G = lambda_GAN * L_GAN(G, D) + lambda_NCE * NCE(A, G(A))

NCE is the mean of PatchNCE over layers of G itself, read by the patch head F. `--CUT_mode FastCUT` means
`--preset fastcut`. The two ingredients of Hneg-SRC can be tried alone: `--nce_weights hdce` exchanges PatchNCE for a
contrast with hard negatives, `--src` adds lambda_SRC * SRC(A, G(A)), which keeps how patches of an image are related.
"""

from argparse import ArgumentTypeError, Namespace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from models.idle import Idle
from models.losses.hdce import hdce_loss
from models.losses.patch_nce import patch_nce_loss
from models.losses.semantic_relation import semantic_relation_loss
from models.networks.passes import mixes_images, translate_and_encode
from models.networks.patch_sampler import KINDS, PatchSampler, mirrored
from models.one_sided import (
    OF_CONTRAST,
    OneSidedModel,
    check_equal_channels,
    check_negatives,
    check_weights,
    idle_in_contrast,
)
from util.errors import UserError
from util.hardware.runtime import Runtime
from util.parser import int_list, natural, positive_float, positive_int, positive_or_inf, show_value

MODES = {"cut": "CUT", "fastcut": "FastCUT"}
CONTRASTS = {"none": "NCE", "hdce": "HDCE"}  # values of --nce_weights -> how the loss is called
LAMBDA_SRC, GAMMA = 0.05, 1.0
OF_HEAD = ("lambda_NCE", "src", "lambda_SRC")  # options that say whether there is a patch head


def cut_mode(text: str) -> str:
    """Read CUT or FastCUT in any case."""
    if text.lower() not in MODES:
        raise ArgumentTypeError(f"expected CUT or FastCUT, got {text!r}")
    return MODES[text.lower()]


class CUTModel(OneSidedModel):
    """One-sided translation A -> B with generator G, discriminator D and patch head F."""

    SHARES_POSITIONS = False  # whether B's patches are taken where A's were
    CONTRASTS_PATCHES = True  # whether what a patch differs from are other patches
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
        text = "CUT, or FastCUT: the same as the fast preset, where the method has one"
        group.add("--CUT_mode", "CUT", text, type=cut_mode)
        group.add("--lambda_GAN", 1.0, "weight of the adversarial loss")
        group.add("--lambda_NCE", 1.0, "weight of the contrastive loss; 0: none")
        group.add("--nce_idt", True, "contrast G(B) with B too, and take the mean of both terms")
        group.add("--nce_T", 0.07, "temperature of the contrast", positive_float)
        group.add("--num_patches", 256, "patches per image and layer; 0: all positions", natural)
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

        text = "accepted for released commands: CUT keeps no earlier images"
        group.add("--pool_size", 0, text, natural)
        CUTModel.add_relation_options(group)
        return parser

    @staticmethod
    def add_relation_options(group) -> None:
        """Flags for the ingredients of Hneg-SRC."""
        text = "of negatives: none, or by likeness in the input (hDCE of Hneg-SRC)"
        group.add("--nce_weights", "none", text, choices=tuple(CONTRASTS))
        text = "with hdce: high makes weights alike; inf: all are 1"
        group.add("--HDCE_gamma", GAMMA, text, positive_or_inf)
        group.add("--src", False, "keep the relations among an image's patches (SRC of Hneg-SRC)")
        group.add("--lambda_SRC", LAMBDA_SRC, "with src: weight of that loss")

    @classmethod
    def default_preset(cls, given: dict[str, Any]) -> str:
        """FastCUT's with --CUT_mode FastCUT, else CUT's."""
        return "fastcut" if given.get("CUT_mode") == "FastCUT" else "official"

    @classmethod
    def check_options(cls, opt: Namespace) -> None:
        """Flags that contradict each other, or leave nothing to learn from."""
        if not opt.is_train:
            return
        cls.check_mode(opt)
        if opt.pool_size:
            raise UserError(
                f"--pool_size {opt.pool_size}: CUT keeps no earlier images (released value 0); leave it out"
            )

        cls.check_ingredients(opt)
        check_weights(opt, "lambda_GAN", "lambda_NCE", *(["lambda_SRC"] if opt.src else []))
        if not cls.contrasts(opt):
            return
        check_equal_channels(
            opt, "CUT reads its own output with G, which takes", "make both 1 or both 3"
        )
        if cls.CONTRASTS_PATCHES:
            check_negatives(opt, opt.batch_size)

    @classmethod
    def check_mode(cls, opt: Namespace) -> None:
        """Raise UserError where --CUT_mode and the preset say different things."""
        fast = opt.CUT_mode == "FastCUT"
        if fast and not any(name.startswith("fast") for name in cls.PRESETS):
            raise UserError(
                f"--CUT_mode FastCUT: --model {opt.model} has no such form; leave it out"
            )
        if fast != opt.preset.startswith("fast"):
            raise UserError(
                f"--CUT_mode {opt.CUT_mode} contradicts --preset {opt.preset}: give one of them"
            )

    @classmethod
    def check_ingredients(cls, opt: Namespace) -> None:
        """Raise UserError for flags of Hneg-SRC's ingredients that contradict others."""
        if opt.nce_weights == "hdce" and not opt.lambda_NCE:
            raise UserError(
                "--nce_weights hdce weighs the contrast, which --lambda_NCE 0 leaves out: give one of them"
            )

    @classmethod
    def idle(cls, opt: Namespace) -> list[Idle]:
        """The contrast and the relations, where they are off, and what belongs to them."""
        found = super().idle(opt)
        if not learns_from_patches(opt):
            found.append(Idle(OF_CONTRAST, ("lambda_NCE",)))
        elif not opt.lambda_NCE:
            found.append(Idle(("nce_T",), ("lambda_NCE",)))
        if not opt.lambda_NCE:
            found.append(Idle(("nce_idt",), ("lambda_NCE",)))

        if opt.nce_weights == "none":
            found.append(Idle(("HDCE_gamma",), ("nce_weights",)))
        if not opt.src and opt.lambda_SRC:
            found.append(Idle(("lambda_SRC",), ("src",)))
        return found + idle_in_contrast(opt)

    def __init__(self, opt: Namespace, runtime: Runtime) -> None:
        if self.CONTRASTS_PATCHES and self.contrasts(opt):
            check_negatives(opt, opt.batch_size // runtime.world_size)
        identity = opt.is_train and opt.lambda_NCE > 0 and opt.nce_idt
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
        return opt.is_train and learns_from_patches(opt)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; raises UserError where only one of both runs has F."""
        if ("F" in state["networks"]) != ("F" in self.networks):
            flags = [f"--{name} {show_value(getattr(self.opt, name))}" for name in OF_HEAD]
            raise UserError(
                f"{' '.join(flags)}: a run cannot gain or lose its patch head F; keep these as they were, "
                "or give a new --name"
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
            self.read = torch.where(self.flipped, real.flip(3), real)
            return self.netG(self.read)
        if not self.contrasts(opt):
            return self.netG(real)

        fake, self.real_features = translate_and_encode(self.netG, real, opt.nce_layers)
        return fake

    def compute_G_loss(self) -> dict[str, Tensor]:
        """Fool D, keep each patch of an output closest to its own patch of the input, and patches related as there."""
        terms, opt = self.adversarial_terms(), self.opt
        if not self.contrasts(opt):
            return terms
        pairs = self.pairs()

        if opt.lambda_NCE:
            name = CONTRASTS[opt.nce_weights]
            for label, pair in zip((name, f"{name}_Y"), pairs, strict=False):
                terms[label] = opt.lambda_NCE / self.domains * self.nce_loss(*pair)

        if opt.src and opt.lambda_SRC:
            terms["SRC"] = opt.lambda_SRC * self.src_loss(*pairs[0])
        return terms

    def pairs(self) -> list[tuple[list[Tensor], list[Tensor]]]:
        """Embedded patches of outputs and of inputs at the same places, (B,N,D) per layer, for each domain."""
        pairs, ids = [], None
        keys, queries = self.keys(), self.queries()
        for query, key in zip(queries, keys, strict=True):
            queries_BND, keys_BND, drawn = self.patches(query, key, ids)
            pairs.append((queries_BND, keys_BND))
            ids = drawn if self.SHARES_POSITIONS else None
        return pairs

    @torch.no_grad()
    def keys(self) -> list[list[Tensor]]:
        """Features of the input, as `features` gives them; from the pass that translated it where that is the same."""
        if self.real_features is None:
            return self.features(self.real)
        return self.by_domain(self.real_features)

    def queries(self) -> list[list[Tensor]]:
        """Features of the output, as `features` gives them."""
        return self.features(self.fake)

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

    def patches(
        self, query: list[Tensor], key: list[Tensor], ids: list[Tensor] | None = None
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Embedded patches (B,N,D) of outputs and of inputs at the same places, and these places (N,), each per layer.

        Args:
            query, key: features (B,C,H,W) of output and input, one per layer.
            ids: positions in the input; drawn afresh where none are given.
        """
        with torch.no_grad():
            keys_BND, ids = self.netF(key, self.opt.num_patches, ids)

        places = ids
        if self.opt.flip_equivariance:
            places = []
            for feat, ids_N in zip(query, ids, strict=True):
                across_N = mirrored(ids_N, feat.shape[3])
                places.append(torch.where(self.flipped, across_N, ids_N))

        queries_BND, _ = self.netF(query, ids=places)
        return queries_BND, keys_BND, ids

    def nce_loss(self, queries_BND: list[Tensor], keys_BND: list[Tensor]) -> Tensor:
        """The contrast of one domain's patches, one (B,N,D) per layer: mean over layers, patches and images."""
        opt = self.opt
        loss = patch_nce_loss
        if opt.nce_weights == "hdce":
            loss = partial(hdce_loss, gamma=self.gamma)

        losses = []
        for q_BND, k_BND in zip(queries_BND, keys_BND, strict=True):
            across_batch = opt.nce_includes_all_negatives_from_minibatch
            losses.append(loss(q_BND, k_BND, temperature=opt.nce_T, across_batch=across_batch))
        return torch.stack(losses).mean()

    def src_loss(self, queries_BND: list[Tensor], keys_BND: list[Tensor]) -> Tensor:
        """How far the relations among an output's patches are from those of its input: mean over layers and images."""
        losses = []
        for q_BND, k_BND in zip(queries_BND, keys_BND, strict=True):
            across_batch = self.opt.nce_includes_all_negatives_from_minibatch
            losses.append(semantic_relation_loss(q_BND, k_BND, across_batch))
        return torch.stack(losses).mean()

    @property
    def gamma(self) -> float | Tensor:
        """How alike hdce makes the weights of hard and of easy negatives."""
        return self.opt.HDCE_gamma


def learns_from_patches(opt: Namespace) -> bool:
    """Whether a term of G's loss compares patches."""
    return opt.lambda_NCE > 0 or (opt.src and opt.lambda_SRC > 0)
