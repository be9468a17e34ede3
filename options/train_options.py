"""Flags of train.py: schedule, optimiser, logs and checkpoints."""

from argparse import Namespace
from typing import Any

from models.idle import Idle, refuse_forgotten
from models.losses.gan import OBJECTIVES
from models.networks.init import INITIALIZERS
from options.base_options import DATA, SPEED, TRAINING, BaseOptions
from util.errors import UserError
from util.metrics.features import LAYERS
from util.metrics.measures import KINDS
from util.metrics.suite import find_measures, of_kind
from util.parser import (
    OptionParser,
    fraction,
    name_list,
    natural,
    positive_float,
    positive_int,
    switch,
    whole,
)
from util.run.schedule import POLICIES

OF_EVALUATION = ("eval_metrics", "eval_split", "eval_images", "eval_feature", "inception")
MEASURABLE = ("unaligned", "aligned")  # --dataset_mode with two sets of images


class TrainOptions(BaseOptions):
    """The command line of train.py."""

    is_train = True
    description = "Train one model on two folders of images. The same command again continues an interrupted run."

    def add_phase(self, parser: OptionParser) -> None:
        self.add_schedule(parser)
        self.add_logs(parser)
        self.add_evaluation(parser)
        self.add_checkpoints(parser)
        parser.group(DATA).add("--phase", "train", "reads DATAROOT/<phase>A and <phase>B")

    @staticmethod
    def add_schedule(parser: OptionParser) -> None:
        """How long, how fast, with what objective."""
        group = parser.group(TRAINING)
        group.add("--n_epochs", 200, "epochs at the initial learning rate", natural)
        text = "further epochs, in which it falls to zero (no random crops then)"
        group.add("--n_epochs_decay", 200, text, natural)
        group.add("--lr", 0.0002, "initial learning rate of Adam", positive_float)
        group.add("--beta1", 0.5, "first momentum of Adam", fraction)
        group.add("--beta2", 0.999, "second momentum of Adam", fraction)
        text = "when the learning rate falls; docs/training.md"
        group.add("--lr_policy", "linear", text, choices=POLICIES)
        text = "epochs between falls for --lr_policy step, steps for halving"
        group.add("--lr_decay_iters", 50, text, positive_int)

        group.add("--gan_mode", "lsgan", "adversarial objective", choices=tuple(OBJECTIVES))
        text = "initial weights of G and D"
        group.add("--init_type", "xavier", text, choices=tuple(INITIALIZERS))
        group.add("--init_gain", 0.02, "scale of the initial weights", positive_float)
        text = (
            "batches per step: the step of a batch N times as large, in the memory of one, except that "
            "losses which compare images see one batch at a time; docs/training.md"
        )
        group.add("--accumulate", 1, text, positive_int)
        text = "decay of a moving average of G, 0.999 say, which test.py then uses; 0 is off"
        group.add("--ema", 0.0, text, fraction)

        text = (
            "a loss that is NaN or infinite stops the run before that step, or the step is skipped "
            "and counted, until 100 are in a row"
        )
        group.add("--on_nonfinite", "stop", text, choices=("stop", "skip"))

        text = "stop after N steps in total, for a trial"
        group.add("--max_steps", None, text, positive_int, metavar="N")
        text = "stop after N minutes with the run saved; the same command continues"
        group.add("--max_minutes", None, text, positive_float, metavar="N")

        speed = parser.group(SPEED)
        text = (
            "record the whole training step once and replay it, without launch costs; "
            "auto: on for a GPU"
        )
        speed.add("--cuda_graph", "auto", text, switch)
        text = (
            "let a GPU do parts of a step at the same time that do not need each other: patchgcl's "
            "VGG16 and graph head beside G and D; not measured yet"
        )
        speed.add("--overlap", False, text)
        text = (
            "compute residual blocks twice instead of keeping what they compute: equal gradients in "
            "less memory, a step up to a third longer"
        )
        speed.add("--grad_checkpoint", False, text)
        text = "trace N steps, from the tenth on, for Perfetto or chrome://tracing"
        speed.add("--profile", 0, text, natural)

    @staticmethod
    def add_logs(parser: OptionParser) -> None:
        """What a run shows, and how often (all frequencies in images)."""
        group = parser.group("logs")
        group.add("--print_freq", 100, "images between two lines of losses", positive_int)
        group.add("--display_freq", 400, "images between two pictures in visdom", positive_int)
        text = "images between two rows of pictures on the page"
        group.add("--update_html_freq", 1000, text, positive_int)
        group.add("--no_html", False, "no page in CHECKPOINTS_DIR/NAME/web")

        text = "first visdom window; 0: no visdom. Default: visdom, if its server answers"
        group.add("--display_id", None, text, whole)
        group.add("--display_server", "http://localhost", "address of the visdom server")
        group.add("--display_port", 8097, "port of the visdom server")
        group.add("--display_env", "main", "visdom environment")
        text = "pictures per row in visdom; 0 gives each a window"
        group.add("--display_ncols", 4, text, natural)
        text = "width of pictures on page and panel, in pixels"
        group.add("--display_winsize", 256, text, positive_int)

        text = "losses and pictures for TensorBoard too, in CHECKPOINTS_DIR/NAME/tensorboard"
        group.add("--use_tensorboard", False, text)
        text = "losses and pictures to Weights & Biases too; WANDB_MODE=offline keeps them here"
        group.add("--use_wandb", False, text)
        group.add("--wandb_project_name", "patchgcl", "project in Weights & Biases")

    @staticmethod
    def add_evaluation(parser: OptionParser) -> None:
        """How a run is measured while it trains."""
        group = parser.group("evaluation")
        text = "images between two measurements of the generator; 0 measures nothing"
        group.add("--eval_freq", 0, text, natural)
        text = (
            "what to measure, the first decides which checkpoint is the best: "
            f"{', '.join(measure.name for measure in of_kind(*KINDS))}"
        )
        group.add("--eval_metrics", ["kid"], text, name_list, metavar="NAME,NAME")
        text = "images to measure on: kept out of training, or DATAROOT/valA and valB, or testA and testB"
        group.add("--eval_split", "holdout", text, choices=("holdout", "val", "test"))
        text = "images of each domain that holdout keeps out of training, at most a tenth of them"
        group.add("--eval_images", 100, text, positive_int)
        text = "layer of Inception-v3 that FID, KID and the like compare"
        group.add("--eval_feature", "2048", text, choices=LAYERS)
        text = (
            "weights of Inception-v3 in torch-fidelity's layout; default: its own, downloaded once"
        )
        group.add("--inception", None, text, metavar="PATH")

    @staticmethod
    def add_checkpoints(parser: OptionParser) -> None:
        """What a run saves, and what it starts from."""
        group = parser.group("checkpoints")
        text = "images between two saves of the run's full state"
        group.add("--save_latest_freq", 5000, text, positive_int)
        text = "epochs between two sets of weights that are kept"
        group.add("--save_epoch_freq", 5, text, positive_int)
        text = "keep a set of weights, named by the image count, at each --save_latest_freq"
        group.add("--save_by_iter", False, text)

        text = "delete the weights of all but the last N epochs and image counts that were kept"
        group.add("--keep_last", None, text, positive_int, metavar="N")

        text = "go on from weights alone (an interrupted run continues without this flag)"
        group.add("--continue_train", False, text)
        text = "first epoch, when training goes on from weights alone"
        group.add("--epoch_count", 1, text, positive_int)
        group.add("--epoch", "latest", "which weights to go on from, when there is no full state")
        text = "start from the weights of another run in CHECKPOINTS_DIR"
        group.add("--pretrained_name", None, text, metavar="NAME")
        text = (
            "start anew: an earlier run of this name is moved aside, never deleted; a job that is "
            "started again by itself goes on"
        )
        group.add("--from_scratch", False, text)
        group.add("--dry_run", False, "print the resolved options and stop")

    def resolve(
        self, parser: OptionParser, given: dict[str, Any], saved: dict[str, Any]
    ) -> Namespace:
        opt = super().resolve(parser, given, saved)
        holds_out = opt.eval_freq and opt.eval_split == "holdout"
        opt.held_out = opt.eval_images if holds_out else 0  # images of each domain

        # these groups of flags only watch a run, but for what is not learned from and where it starts
        if opt.held_out:
            opt.recipe += f", up to {opt.held_out} images of each domain kept out of training"
        if opt.pretrained_name:
            opt.recipe += f", from weights {opt.epoch} of run {opt.pretrained_name}"
        return opt

    def idle(self, opt: Namespace) -> list[Idle]:
        found = super().idle(opt)
        if not opt.eval_freq:
            found.append(Idle(OF_EVALUATION, ("eval_freq",)))
        return found

    def check(self, opt: Namespace) -> None:
        super().check(opt)
        last_epoch = opt.n_epochs + opt.n_epochs_decay
        if last_epoch < opt.epoch_count:
            raise UserError(
                f"--epoch_count {opt.epoch_count} is past the last epoch, {last_epoch} "
                "(n_epochs + n_epochs_decay): nothing would be trained"
            )

        self.check_evaluation(opt)
        refuse_forgotten(opt.idle)
        if opt.from_scratch and opt.continue_train:
            raise UserError(
                "--from_scratch and --continue_train contradict each other: give one of them"
            )
        if opt.continue_train and opt.pretrained_name:
            raise UserError(
                "--continue_train goes on with this run, --pretrained_name starts from another: "
                "give one of them"
            )

    @staticmethod
    def check_evaluation(opt: Namespace) -> None:
        """Raise UserError where a run cannot be measured as it asks to be."""
        if not opt.eval_freq:
            return
        measures = find_measures(opt.eval_metrics, "--eval_metrics")

        if opt.dataset_mode not in MEASURABLE:
            raise UserError(
                f"--eval_freq {opt.eval_freq}: --dataset_mode {opt.dataset_mode} has no two sets of images "
                "to compare; leave --eval_freq out"
            )
        needs_truth = [measure.name for measure in measures if measure.kind == "truths"]
        if needs_truth and opt.dataset_mode != "aligned":
            raise UserError(
                f"--eval_metrics {needs_truth[0]} compares with a truth, which only --dataset_mode aligned has"
            )
