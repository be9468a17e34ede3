"""Hneg-SRC: CUT with hard negatives and semantic relations (Jung, Kwon, Ye; CVPR 2022, arXiv 2203.01532).

    L_G = lambda_GAN * L_GAN(G, D) + lambda_HDCE * ( HDCE(A, G(A)) + HDCE(B, G(B)) ) / 2 + lambda_SRC * SRC(A, G(A))

HDCE is a contrast without the positive in its denominator, whose negatives count the more the more alike the patches
are in the input; gamma, which says how much more, falls over the run. SRC keeps how patches of an image are related.
"""

import math
from argparse import Namespace
from typing import Any

import torch
from torch import Tensor, nn

from models.cut_model import CUTModel
from models.idle import Idle
from util.errors import UserError
from util.hardware.runtime import Runtime
from util.parser import natural, positive_float

OF_GAMMA = ("use_curriculum", "HDCE_gamma_min", "step_gamma", "step_gamma_epoch")


class HnegSRCModel(CUTModel):
    """CUT with both ingredients of Hneg-SRC, and the schedule of gamma.

    gamma of epoch e, counted from 1 to E: HDCE_gamma + (HDCE_gamma_min - HDCE_gamma) * e / E with --use_curriculum, and
    1 after epoch step_gamma_epoch with --step_gamma.
    """

    SHARES_POSITIONS = True
    PRESETS = {
        "horse2zebra": {
            "lambda_NCE": 0.1,
            "lambda_SRC": 0.05,
            "use_curriculum": True,
            "HDCE_gamma": 50.0,
            "HDCE_gamma_min": 10.0,
        },
        "cityscapes": {
            "lambda_NCE": 0.1,
            "lambda_SRC": 0.1,
            "use_curriculum": True,
            "HDCE_gamma": 50.0,
            "HDCE_gamma_min": 10.0,
            "step_gamma": True,
        },
    }
    PRESETS["shared"] = PRESETS["horse2zebra"]  # the common networks and schedule are its own
    ALIASES = {"cut": ("--lambda_HDCE",)}  # --model and --CUT_mode of the release
    IMPLIED_BY = ("--lambda_HDCE",)

    @staticmethod
    def modify_commandline_options(parser, is_train: bool):
        """CUT's flags, some under the names of the release too, and those of gamma's schedule."""
        CUTModel.modify_commandline_options(parser, is_train)
        parser.retitle("cut", "hneg_src")

        parser.alias("--lambda_HDCE", "lambda_NCE")
        parser.alias("--dce_idt", "nce_idt")
        parser.set_defaults(nce_weights="hdce", src=True)

        group = parser.group("hneg_src")
        group.add("--use_curriculum", False, "let gamma go from HDCE_gamma to HDCE_gamma_min")
        text = "gamma of the last epoch, with --use_curriculum"
        group.add("--HDCE_gamma_min", 1.0, text, positive_float)
        group.add("--step_gamma", False, "with --use_curriculum: gamma is 1 after some epoch")
        group.add("--step_gamma_epoch", 200, "that epoch", natural)
        group.add("--no_Hneg", False, "negatives all have weight 1, as with --HDCE_gamma inf")
        return parser

    @classmethod
    def default_preset(cls, given: dict[str, Any]) -> str:
        """That of cityscapes with --step_gamma, which its printed command has, else that of horse2zebra."""
        return "cityscapes" if given.get("step_gamma") else "horse2zebra"

    @classmethod
    def check_options(cls, opt: Namespace) -> None:
        """CUT's checks, and those of gamma's schedule."""
        super().check_options(opt)
        if opt.use_curriculum and opt.HDCE_gamma == math.inf:
            raise UserError(
                "--HDCE_gamma inf cannot fall over the run: give --use_curriculum false, or --no_Hneg"
            )
        if opt.step_gamma and not opt.use_curriculum:
            raise UserError("--step_gamma is a part of gamma's schedule: add --use_curriculum")

    @classmethod
    def check_ingredients(cls, opt: Namespace) -> None:
        """Raise UserError where nothing of the method is left; weights of what is off may be the preset's."""
        if opt.nce_weights == "none" and not opt.src:
            raise UserError(
                "--nce_weights none --src false leave out all that Hneg-SRC adds to CUT: give one of them at most"
            )

    @classmethod
    def idle(cls, opt: Namespace) -> list[Idle]:
        """gamma and its schedule, where nothing is weighed by it, or where it stays as it is."""
        found = super().idle(opt)
        if opt.nce_weights == "none":
            found.append(Idle((*OF_GAMMA, "no_Hneg"), ("nce_weights",)))
        elif opt.no_Hneg:
            found.append(Idle(("HDCE_gamma", *OF_GAMMA), ("no_Hneg",)))

        if not opt.use_curriculum:
            found.append(Idle(("HDCE_gamma_min", "step_gamma_epoch"), ("use_curriculum",)))
        elif not opt.step_gamma:
            found.append(Idle(("step_gamma_epoch",), ("step_gamma",)))
        return found

    def __init__(self, opt: Namespace, runtime: Runtime) -> None:
        super().__init__(opt, runtime)
        if self.is_train:
            self.schedule = self.add_memory("gamma", self.new_schedule())

    def new_schedule(self) -> "GammaSchedule":
        """How gamma falls, as the options describe it."""
        opt = self.opt

        if opt.no_Hneg:
            return GammaSchedule(math.inf)
        if not opt.use_curriculum:
            return GammaSchedule(opt.HDCE_gamma)

        return GammaSchedule(
            opt.HDCE_gamma,
            opt.HDCE_gamma_min,
            epochs=opt.n_epochs + opt.n_epochs_decay,
            epoch=opt.epoch_count,
            step_after=opt.step_gamma_epoch if opt.step_gamma else None,
        )

    @property
    def gamma(self) -> Tensor:
        """gamma of this epoch, 0-d on the device: a recorded step reads what is there."""
        return self.schedule.gamma

    def compute_G_loss(self) -> dict[str, Tensor]:
        """Fool D, keep patches apart from their negatives and related as in the input."""
        if self.opt.nce_weights == "hdce" and self.schedule.last is not None:
            self.log("gamma", self.gamma.clone())  # the tensor itself changes with the epoch
        return super().compute_G_loss()

    def end_epoch(self) -> None:
        """Move learning rates and gamma on."""
        super().end_epoch()
        self.schedule.next_epoch()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; flags of gamma's schedule that changed take effect."""
        super().load_state_dict(state)
        self.schedule.refresh()


class GammaSchedule(nn.Module):
    """gamma by epoch, in a tensor that stays in place; the epoch is part of the state.

    Args:
        first, last: gamma is first + (last - first) * epoch / epochs; constant where there is no last.
        epochs: of the whole run.
        epoch: with which the run begins, counted from 1.
        step_after: from the epoch after this one on gamma is 1.
    """

    def __init__(
        self,
        first: float,
        last: float | None = None,
        *,
        epochs: int = 1,
        epoch: int = 1,
        step_after: int | None = None,
    ) -> None:
        super().__init__()
        self.first, self.last, self.epochs, self.step_after = first, last, epochs, step_after

        self.register_buffer("epoch", torch.tensor(float(epoch)))
        self.register_buffer("gamma", torch.tensor(first), persistent=False)  # follows from epoch
        self.refresh()

    def next_epoch(self) -> None:
        """Count an epoch that is done."""
        self.epoch += 1
        self.refresh()

    def refresh(self) -> None:
        """Compute gamma of this epoch, on the device."""
        if self.last is None:
            return

        gamma = self.first + (self.last - self.first) * self.epoch / self.epochs
        if self.step_after is not None:
            gamma = torch.where(self.epoch > self.step_after, 1.0, gamma)
        self.gamma.copy_(gamma)
