"""LSeSim: FSeSim with a similarity that is learned beside the translation (Zheng, Cham, Cai; CVPR 2021, 2104.00854).

    L_G = L_GAN(G, D) + lambda_spatial * L_s(A, G(A)),  L_s on features of VGG16 that have passed the filter F
    L_F = mean over (s, t, o) of - log softmax( [ s.t | s.o | t.o ] / T )  at the pair s, t of one place

s, t and o are self-similarities of three images at the same places: A, its translation and a mirrored B; with --augment
also A, A in other colours and a mirrored B in other colours. So F learns structure and forgets appearance.
"""

from argparse import Namespace
from collections.abc import Iterator

import torch
from torch import Tensor

from data.base_dataset import BaseDataset
from data.inspection import check_one_size
from models import self_similar
from models.colour_jitter import ColourJitter
from models.losses.self_similarity import spatial_contrast
from models.networks.similarity_filter import SimilarityFilter
from models.self_similar import OFFICIAL, SelfSimilarModel
from util.errors import UserError
from util.hardware.runtime import Runtime
from util.parser import positive_float


class LSeSimModel(SelfSimilarModel):
    """One-sided translation A -> B with the learned spatially-correlative loss; F moves first, then D, then G."""

    PRESETS = {
        "official": OFFICIAL,
        "patch32": {**OFFICIAL, "patch_size": 32},  # the author's advice, F-LSeSim issue 1
        "shared": {},  # the common schedule, learning rate and data; no pool
    }
    ALIASES = {"sc": ("--learned_attn",)}

    @staticmethod
    def modify_commandline_options(parser, is_train: bool):
        """Flags of the method, spelled as in the release."""
        self_similar.add_options(parser, "lsesim", is_train)
        group = parser.group("lsesim")
        group.add("--learned_attn", True, "accepted for released commands: LSeSim learns")
        group.add("--augment", True, "contrast A with itself in other colours too")
        group.add("--T", 0.07, "temperature of the contrast", positive_float)
        return parser

    @staticmethod
    def check_options(opt: Namespace) -> None:
        """The checks of all such methods, and those of the contrast."""
        SelfSimilarModel.check_options(opt)
        if not opt.learned_attn:
            raise UserError("--learned_attn false is the fixed similarity: give --model fsesim")

    def __init__(self, opt: Namespace, runtime: Runtime) -> None:
        super().__init__(opt, runtime)
        if not self.is_train:
            return

        self.netF = self.add_network("F", SimilarityFilter(self.vgg.channels))
        self.add_optimizer("F", self.netF)
        self.jitter = ColourJitter(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.3)

    def optimize_parameters(self) -> None:
        """First F, on what G makes now; then D; then G, judged by the new F and D."""
        self.update("F", loss=self.compute_F_loss)
        super().optimize_parameters()

    def embed(self, feats: list[Tensor]) -> list[Tensor]:
        """What similarity is taken of: the features (B,C,H,W) of each layer after F, (B,D,H,W)."""
        return self.netF(feats)

    def compute_F_loss(self) -> dict[str, Tensor]:
        """Tell similarities of one structure, in two appearances, from those of another."""
        source = self.embed(self.features_A)
        ids = self.draw_positions(source)
        source = self.similarities(source, ids)

        losses = []
        for target, other in self.triples():
            target = self.similarities(self.embed(self.vgg(target)), ids)
            other = self.similarities(self.embed(self.vgg(other)), ids)
            for src_BNK, tgt_BNK, other_BNK in zip(source, target, other, strict=True):
                losses.append(spatial_contrast(src_BNK, tgt_BNK, other_BNK, self.opt.T))
        return {"contrast": torch.stack(losses).mean()}

    def check_data(self, dataset: BaseDataset) -> None:
        """Places of A are compared with places of B."""
        super().check_data(dataset)
        check_one_size(dataset, "LSeSim compares places of A and B, which takes", "")

    def triples(self) -> Iterator[tuple[Tensor, Tensor]]:
        """What A is contrasted with: images (B,C,H,W) of its structure, and of another one."""
        yield self.fake_B.detach(), mirrored(self.real_B)
        if self.opt.augment:
            yield self.jitter(self.real_A), mirrored(self.jitter(self.real_B))


def mirrored(images: Tensor) -> Tensor:
    """(B,C,H,W), left and right exchanged, and top and bottom."""
    return images.flip((2, 3))
