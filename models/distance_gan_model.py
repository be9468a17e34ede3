"""DistanceGAN: translation that keeps how far images are from each other (Benaim, Wolf; NeurIPS 2017, 1706.00826).

    L_G = L_GAN(G_A, D_A) + lambda_distance_A * L_dist(A, G_A(A))
          + L_GAN(G_B, D_B) + lambda_distance_B * L_dist(B, G_B(B))
    L_dist(x, y) = mean over pairs i < j of | (d(x_i, x_j) - mu_x) / sd_x - (d(y_i, y_j) - mu_y) / sd_y |

d is the mean absolute difference of two images; mu and sd are its mean and deviation in the domain of either side,
measured before the first step. G_A translates A into B and is judged by D_A among images of B; G_B and D_B the other
way round. Names of networks are those of the release.
"""

from argparse import Namespace
from functools import partial

import torch
from torch import Tensor, nn

from data.base_dataset import BaseDataset
from data.image_file import in_threads
from models.idle import Idle
from models.inference.modes import add_test_options
from models.losses.distance import (
    all_pair_distances,
    distance_loss,
    half_distances,
    moments,
    pair_distances,
)
from models.losses.gan import generator_loss
from models.losses.reconstruction import l1_distance
from models.two_sided import TwoSidedModel
from util.errors import UserError
from util.hardware.runtime import Runtime
from util.hardware.team import print_once
from util.parser import natural, positive_int
from util.words import counted

LEVEL = 2 / 255  # of grey, in images from -1 to 1

OFFICIAL = {
    "padG": "zero",
    "normG": "instance_affine",
    "normD": "instance_affine",
    "no_antialias": True,
    "no_antialias_up": True,
    "init_type": "normal",
    "n_epochs": 100,
    "n_epochs_decay": 100,
    "finetune_resize": False,
    "preprocess": "resize_shortside_and_crop",
    "batch_size": 2,
    "distance_items": "batch",
}


class DistanceGANModel(TwoSidedModel):
    """Translation A -> B and, unless --A_to_B is given, B -> A.

    The release takes mu and sd of distances between batches, each of which is one mean over the images of the batch;
    their sd is smaller than that of single images, which the paper has. --distance_items says which.
    """

    PRESETS = {
        "official": OFFICIAL,
        "one_sided": {**OFFICIAL, "A_to_B": True},
        "shared": {"batch_size": 2},  # the common networks and schedule, but a pair is two images
    }

    @staticmethod
    def modify_commandline_options(parser, is_train: bool):
        """Flags of the method, spelled as in the release."""
        fixed = parser.group("architecture")  # also what is measured once in the life of a run
        fixed.add("--A_to_B", False, "train G_A alone, with its discriminator")
        fixed.add("--use_self_distance", False, "the same as --model self_distance")
        fixed.add("--unnormalized_distances", False, "compare distances as they are")
        text = "items among which distances are measured before the first step"
        fixed.add("--max_items", 900, text, type=positive_int)
        text = "an item is an image (paper), or a batch, whose distances are one mean (release)"
        fixed.add("--distance_items", "image", text, choices=("image", "batch"))

        group = parser.group("distance_gan")
        group.add("--lambda_distance_A", 1.0, "weight of keeping the distances of A; 0: off")
        group.add("--lambda_distance_B", 1.0, "weight of keeping the distances of B; 0: off")
        group.add("--use_cycle_loss", False, "add the cycles of CycleGAN")
        group.add("--lambda_A", 10.0, "weight of the cycle A -> B -> A")
        group.add("--lambda_B", 10.0, "weight of the cycle B -> A -> B")
        text = "earlier translated images that a discriminator is shown too; 0: none"
        group.add("--pool_size", 50, text, type=natural)
        group.add("--B_to_A", False, "of the release: here --A_to_B --direction BtoA")
        add_test_options(group)
        return parser

    @staticmethod
    def check_options(opt: Namespace) -> None:
        """A pair needs two images, a cycle both generators."""
        if opt.B_to_A:
            raise UserError("--B_to_A: give --A_to_B --direction BtoA, which trains the same")
        if not opt.is_train:
            return
        if opt.use_cycle_loss and opt.A_to_B:
            raise UserError("--use_cycle_loss needs the way back, which --A_to_B leaves out")
        check_batch(opt, opt.batch_size)

    @classmethod
    def idle(cls, opt: Namespace) -> list[Idle]:
        """Terms that are off, and what belongs to them."""
        found = super().idle(opt)
        if not opt.use_cycle_loss:
            found.append(Idle(("lambda_A", "lambda_B"), ("use_cycle_loss",)))
        if opt.A_to_B:
            found.append(Idle(("lambda_distance_B",), ("A_to_B",)))
        if opt.unnormalized_distances:
            found.append(Idle(("max_items",), ("unnormalized_distances",)))
        return found

    def __init__(self, opt: Namespace, runtime: Runtime) -> None:
        if opt.is_train:
            check_batch(opt, opt.batch_size // runtime.world_size)
        super().__init__(opt, runtime, pool_size=opt.pool_size, two_sided=not opt.A_to_B)
        if not self.is_train:
            return

        if opt.use_cycle_loss:
            self.visual_names += ["rec_A", "rec_B"]
        self.moments_A = self.add_memory("moments_A", DomainDistances())
        self.moments_B = self.add_memory("moments_B", DomainDistances())

    # -- before the first step -------------------------------------------------------------------------------------

    def prepare(self, dataset: BaseDataset) -> None:
        """Measure the distances in either domain, on the first samples of the first epoch.

        Raises:
            UserError: too few images, images of several sizes, or distances that do not vary.
        """
        opt = self.opt
        if opt.unnormalized_distances:
            return
        per_process = opt.batch_size // self.runtime.world_size  # what a step's distances are of
        size = per_process if opt.distance_items == "batch" else 1
        order = dataset.order(epoch=1)
        count = min(opt.max_items, len(order) // size)
        print_once(
            f"measuring distances in both domains, on {counted(count, 'item')} of {counted(size, 'image')} each"
        )

        # the same images on every process, and so the same moments
        read = partial(grey_levels, dataset)
        samples = list(in_threads(read, order[: count * size]))
        for role, memory in (("A", self.moments_A), ("B", self.moments_B)):
            levels = [sample[role] for sample in samples]
            found = moments(LEVEL * self.distances_of_items(levels, size))
            if not found[1] > 0:
                raise UserError(
                    f"domain {role}, {counted(count, 'item')} of {counted(size, 'image')}: the distances do not vary, "
                    "so there is no unit for them; give more images, --distance_items image or "
                    "--unnormalized_distances"
                )
            memory.value.copy_(found)

    def distances_of_items(self, levels: list[Tensor], size: int) -> Tensor:
        """uint8 images (C,H,W), `size` to an item -> distances (P,), float64, in grey levels."""
        if self.opt.use_self_distance:
            halves = [half_distances(image[None].double()) for image in levels]
            return torch.cat(halves).reshape(-1, size).mean(1)

        if len({image.shape for image in levels}) > 1:
            raise UserError(
                f"--preprocess {self.opt.preprocess} leaves images of several sizes, which have no "
                "distance: take one that crops, or --model self_distance"
            )
        return all_pair_distances(torch.stack(levels).reshape(len(levels) // size, -1), self.device)

    def describe(self) -> str:
        """Also the distances that were measured."""
        if self.opt.unnormalized_distances:
            return super().describe()
        lines = [super().describe()]
        for role, memory in (("A", self.moments_A), ("B", self.moments_B)):
            mean, deviation = memory.value
            lines.append(f"distances in {role}: mean {mean:.4f}, deviation {deviation:.4f}")
        return "\n".join(lines)

    # -- one step --------------------------------------------------------------------------------------------------

    def forward(self) -> None:
        """Translate A and, unless one-sided, B; with cycles also the way back."""
        super().forward()
        if self.opt.use_cycle_loss:
            self.rec_A, self.rec_B = self.netG_B(self.fake_B), self.netG_A(self.fake_A)

    def optimize_parameters(self) -> None:
        """G, then D on images of the same forward, as in CycleGAN.

        Neither gradient depends on the other's move, so both are taken first.
        """
        self.update_at_once(G=self.compute_G_loss, D=self.compute_D_loss)

    def compute_G_loss(self) -> dict[str, Tensor]:
        """Fool the discriminators, and keep distances; with --use_cycle_loss come back too."""
        opt = self.opt
        terms = {"G_A": generator_loss(self.netD_A(self.fake_B), opt.gan_mode)}
        if opt.lambda_distance_A:
            kept = self.distance_loss(self.real_A, self.fake_B, self.moments_A, self.moments_B)
            terms["dist_A"] = opt.lambda_distance_A * kept

        if self.two_sided:
            terms["G_B"] = generator_loss(self.netD_B(self.fake_A), opt.gan_mode)
        if self.two_sided and opt.lambda_distance_B:
            kept = self.distance_loss(self.real_B, self.fake_A, self.moments_B, self.moments_A)
            terms["dist_B"] = opt.lambda_distance_B * kept

        if opt.use_cycle_loss:
            terms["cycle_A"] = opt.lambda_A * l1_distance(self.rec_A, self.real_A)
            terms["cycle_B"] = opt.lambda_B * l1_distance(self.rec_B, self.real_B)
        return terms

    def distance_loss(
        self,
        real: Tensor,
        fake: Tensor,
        moments_real: "DomainDistances",
        moments_fake: "DomainDistances",
    ) -> Tensor:
        """How far distances of images (B,C,H,W) differ from those of their translations, 0-d."""
        real_P, fake_P = self.distances(real), self.distances(fake)
        return distance_loss(real_P, fake_P, moments_real.value, moments_fake.value)

    def distances(self, images: Tensor) -> Tensor:
        """(B,C,H,W) -> (P,): of pairs of images, or of the halves of each."""
        if not self.opt.use_self_distance:
            return pair_distances(images)
        halves = half_distances(images)
        return halves.mean(0, keepdim=True) if self.opt.distance_items == "batch" else halves


class DomainDistances(nn.Module):
    """Mean and deviation of a domain's distances, (2,); until they are measured 0 and 1, which change nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor([0.0, 1.0]))


def grey_levels(dataset: BaseDataset, index: int) -> dict[str, Tensor]:
    """The images of a sample as in the first epoch: uint8 (C,H,W) by role."""
    images = dataset.sample(index)
    return {role: ((x + 1) / LEVEL).round().to(torch.uint8) for role, x in images.items()}


def check_batch(opt: Namespace, images: int) -> None:
    """Raise UserError where a process has fewer than two images of a domain to compare."""
    weights = (opt.lambda_distance_A, 0 if opt.A_to_B else opt.lambda_distance_B)
    if images < 2 and not opt.use_self_distance and any(weights):
        raise UserError(
            f"--batch_size {opt.batch_size} leaves {images} image per process, which makes no pair: "
            "give at least 2 for each process (the release's value), or take --model self_distance"
        )
