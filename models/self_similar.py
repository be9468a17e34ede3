"""What FSeSim, LSeSim and their single-image form share: content is kept by the self-similarity of VGG16's features.

    L_G = lambda_GAN * L_GAN(G, D) + lambda_spatial * L_s(A, G(A)) + lambda_spatial_idt * L_s(B, G(B))
          + lambda_identity * |G(B) - B|
    L_D = L_GAN(G, D) + lambda_gradient * mean ( |dD(x)/dx| - 1 )^2,  x between B and G(A)

L_s is the mean over layers of how far the self-similarity of an output is from that of its input, at positions that
are drawn afresh (models/losses/self_similarity.py). Zheng, Cham, Cai, CVPR 2021, arXiv 2104.00854.
"""

from argparse import Namespace

import torch
from torch import Tensor

from data.base_dataset import BaseDataset
from models.adversary import check_sizes_for_penalty, gradient_penalty
from models.idle import Idle
from models.losses.self_similarity import MODES, self_similarity, spatial_loss
from models.networks.adjacency import sample_positions
from models.networks.vgg import VGG16Features, describe_frozen
from models.one_sided import OneSidedModel, check_equal_channels
from util.errors import UserError
from util.hardware.runtime import Runtime
from util.parser import int_list, natural, positive_int, size_limit

OFFICIAL = {"lr": 0.0001, "pool_size": 50, "finetune_resize": False}


def patch_count(text: str) -> int:
    """Read how many positions are drawn; -1 stands for 0, all of them, as in the release."""
    return 0 if text == "-1" else natural(text)


def first_images(text: str) -> float:
    """Read the N of --num_test, for which the release writes 0 where it means all."""
    return float("inf") if text == "0" else size_limit(text)


def add_options(parser, title: str, is_train: bool) -> None:
    """Flags of the loss and of the game, spelled as in the release, in the group `title`."""
    net = parser.group("architecture")
    text = "VGG16 layers compared; 4,7,9: relu3_1, relu4_1, relu4_3"
    net.add("--attn_layers", [4, 7, 9], text, int_list)

    # what is compared, and how
    group = parser.group(title)
    text = "positions per layer that are compared; 0 or -1: all, each with the whole map"
    group.add("--num_patches", 256, text, patch_count)
    parser.alias("--patch_nums", "num_patches")
    text = "side of the square that a position is compared with; smaller maps are taken whole"
    group.add("--patch_size", 64, text, positive_int)
    group.add("--use_norm", False, "similarity is the cosine, not a tanh of the product")
    text = "similarities of output and input are compared by their cosine or entry by entry"
    group.add("--loss_mode", "cos", text, choices=MODES)
    text = "of the frozen VGG16: imagenet, random (demos, tests) or a file"
    group.add("--vgg_weights", "imagenet", text)

    # what it weighs
    group.add("--lambda_GAN", 1.0, "weight of the adversarial loss")
    group.add("--lambda_spatial", 10.0, "weight of the spatially-correlative loss")
    group.add("--lambda_spatial_idt", 0.0, "weight of the same loss between B and G(B); 0: off")
    group.add("--lambda_identity", 0.0, "weight of |G(B) - B|; 0: off")
    text = "weight of D's gradient penalty between real and translated images; 0: off"
    group.add("--lambda_gradient", 0.0, text)
    text = "earlier translated images that D is shown too; 0: none"
    group.add("--pool_size", 0, text, natural)

    if not is_train:
        parser.declared()["num_test"].type = first_images


class SelfSimilarModel(OneSidedModel):
    """One-sided translation A -> B that keeps the self-similarity of an image, in features of a frozen VGG16.

    A subclass names the method. One that learns what similarity is taken of overrides `embed`.
    """

    @staticmethod
    def check_options(opt: Namespace) -> None:
        """Flags that contradict each other, or leave nothing to learn from."""
        if not opt.is_train:
            return

        if opt.lambda_GAN == opt.lambda_spatial == 0:
            raise UserError("--lambda_GAN 0 --lambda_spatial 0: G learns nothing; give one of them")

        if translates_B(opt):
            check_equal_channels(
                opt,
                "--lambda_identity and --lambda_spatial_idt need",
                "make both 1 or both 3, or give 0 for these weights",
            )

        if opt.gan_mode == "wgangp" and opt.lambda_gradient:
            raise UserError(
                "--gan_mode wgangp has the penalty of --lambda_gradient, with weight 10: give "
                "--lambda_gradient 0, or choose another --gan_mode"
            )

    @classmethod
    def idle(cls, opt: Namespace) -> list[Idle]:
        """The part of a map that a position is compared with, where that is the whole map."""
        found = super().idle(opt)
        if not opt.num_patches:
            found.append(Idle(("patch_size",), ("num_patches",)))
        return found

    def __init__(self, opt: Namespace, runtime: Runtime) -> None:
        training = opt.is_train
        super().__init__(
            opt,
            runtime,
            identity=training and translates_B(opt),
            pool_size=opt.pool_size if training else 0,
        )
        if training:
            self.vgg = runtime.place(
                VGG16Features(opt.attn_layers, opt.vgg_weights, runtime.amp_dtype)
            )

    def describe(self) -> str:
        """The networks, and whether VGG16 knows anything."""
        if not self.is_train:
            return super().describe()

        vgg = describe_frozen(self.opt.vgg_weights, self.opt.attn_layers)
        return f"{super().describe()}\n{vgg}"

    def forward(self) -> None:
        """Translate, and note VGG16's features of A, which more than one player may ask for."""
        super().forward()
        self.features_A = self.vgg(self.real_A)

    def check_data(self, dataset: BaseDataset) -> None:
        """D's gradient penalty, too, takes images of one size."""
        super().check_data(dataset)
        weight = self.opt.lambda_gradient
        if weight:
            flag = f"--lambda_gradient {weight}"
            check_sizes_for_penalty(dataset, flag, "--lambda_gradient 0")

    def discriminate(self, fake: Tensor) -> dict[str, Tensor]:
        """Tell translated images (B,C,H,W) from real ones, with a slope of 1 between."""
        terms, weight = super().discriminate(fake), self.opt.lambda_gradient
        if weight:
            terms["D_gradient"] = gradient_penalty(self.netD, self.real_B, fake, weight=weight)
        return terms

    def compute_G_loss(self) -> dict[str, Tensor]:
        """Fool D, and keep in an output which of its places look alike."""
        terms, opt = self.adversarial_terms(), self.opt

        if opt.lambda_spatial:
            terms["spatial"] = opt.lambda_spatial * self.spatial(self.features_A, self.fake_B)
        if opt.lambda_spatial_idt:
            features_B = self.vgg(self.real_B)
            terms["spatial_idt"] = opt.lambda_spatial_idt * self.spatial(features_B, self.idt_B)
        if opt.lambda_identity:
            terms["idt"] = opt.lambda_identity * (self.idt_B - self.real_B).abs().mean()
        return terms

    def spatial(self, features: list[Tensor], output: Tensor) -> Tensor:
        """The spatially-correlative loss (0-d): mean over layers and images.

        Args:
            features: VGG16's of the input, one (B,C,H,W) per layer.
            output: images (B,C,H,W), which learn.
        """
        opt = self.opt
        embedded = self.embed(self.vgg(output))
        ids = self.draw_positions(embedded)

        fake = self.similarities(embedded, ids)
        with torch.no_grad():
            real = self.similarities(self.embed(features), ids)

        losses = []
        for real_BNK, fake_BNK in zip(real, fake, strict=True):
            losses.append(spatial_loss(real_BNK, fake_BNK, opt.loss_mode, opt.use_norm))
        return torch.stack(losses).mean()

    def embed(self, feats: list[Tensor]) -> list[Tensor]:
        """What similarity is taken of: the features themselves, one (B,C,H,W) per layer."""
        return feats

    def draw_positions(self, feats: list[Tensor]) -> list[Tensor]:
        """Positions of each layer, row-major, the same for all images: ids_N."""
        drawn = []
        for feat_BCHW in feats:
            positions = feat_BCHW.shape[2] * feat_BCHW.shape[3]
            count = self.opt.num_patches or positions
            drawn.append(sample_positions(1, positions, count, feat_BCHW.device)[0])
        return drawn

    def similarities(self, feats: list[Tensor], ids: list[Tensor]) -> list[Tensor]:
        """Self-similarity (B,N,K) of each layer at positions ids_N."""
        opt = self.opt
        window = opt.patch_size if opt.num_patches else 0  # all positions: whole maps, as released

        found = []
        for feat_BCHW, ids_N in zip(feats, ids, strict=True):
            found.append(self_similarity(feat_BCHW, ids_N, window, opt.use_norm))
        return found


def translates_B(opt: Namespace) -> bool:
    """Whether a term of G's loss needs G(B)."""
    return opt.lambda_identity > 0 or opt.lambda_spatial_idt > 0
