"""Flags shared by train.py and test.py, and how a command line becomes one namespace: default < preset < flag."""

import os
import string
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

import data
import models
from data.transforms import MODES
from models.idle import Idle, find_idle
from models.networks import DISCRIMINATORS, GENERATORS, generator_size_multiple, training_size
from models.networks.blocks import NORMS
from models.networks.resnet_generator import PADDINGS
from util.errors import UserError
from util.hardware.devices import PRECISIONS, planned_precision
from util.parser import (
    OptionParser,
    natural,
    positive_int,
    power_of_two,
    seed_number,
    show_value,
    size_limit,
    switch,
    value_range,
)
from util.registry import find_by_name
from util.run.folder import OF_NO_RECORD

LONGEST_NAME = 200  # bytes: file systems take 255, and names of a run get endings
ARCHITECTURE = "architecture"
DATA = "data"
RUN = "run"
SPEED = "speed"
TRAINING = "training"
# Flags of DATA that say where images lie and how they are fetched, not what is learned from them.
NO_CHOICE = ("dataroot", "phase", "direction", "pairs", "num_threads", "cache", "skip_bad_images")


class BaseOptions:
    """Builds the parser for one phase and resolves the command line; subclasses add the flags of their phase."""

    is_train: bool
    description: str

    def saved_options(self, first: Namespace) -> dict[str, Any]:
        """Options of an earlier run that this command takes up; training starts from none."""
        return {}

    def explain_failure(self, first: Namespace) -> None:
        """Raise UserError where something else is the reason that a command line was refused."""

    def peek(self, argv: Sequence[str], saved: dict[str, Any] | None = None) -> Namespace:
        """Read just the names that decide which other flags exist; everything else waits for the full parse."""
        parser = OptionParser(add_help=False)
        self.add_shared(parser)

        names = ("model", "dataset_mode", "name", "suffix", "checkpoints_dir")
        first = OptionParser(add_help=False)
        for action in parser.declared().values():
            if action.dest in names:
                first.add_argument(*action.option_strings, default=action.default)

        # defaults, each of which gives way to the next
        first.set_defaults(dataset_mode=None)  # unless it is given, the model decides
        if self.is_train:
            first.set_defaults(model=models.implied_model(argv) or first.get_default("model"))
        for name, value in (saved or {}).items():
            if name in first.declared():
                first.set_defaults(**{name: value})

        found, _ = first.parse_known_args(argv)
        found.model = models.resolve_alias(found.model, argv, (saved or {}).get("model"))
        return found

    def build_parser(self, first: Namespace) -> OptionParser:
        """The full parser: shared flags, this phase's, the model's, the data set's."""
        parser = OptionParser(usage="%(prog)s [--flag value ...]", description=self.description)
        self.add_shared(parser)
        self.add_phase(parser)

        parser.set_defaults(model=first.model)
        models.find_model(first.model).modify_commandline_options(parser, self.is_train)
        mode = first.dataset_mode or parser.get_default("dataset_mode")
        data.find_dataset(mode).modify_commandline_options(parser, self.is_train)
        return parser

    def add_shared(self, parser: OptionParser) -> None:
        """Flags of both phases."""
        self.add_run(parser)
        self.add_architecture(parser)
        self.add_data(parser)
        self.add_speed(parser)

    @staticmethod
    def add_run(parser: OptionParser) -> None:
        """Which run, on which device, from which seed."""
        run = parser.group(RUN)
        text = "name of the run; its files go to CHECKPOINTS_DIR/NAME"
        run.add("--name", "experiment_name", text)
        run.add("--suffix", "", "appended to --name; {model}, {netG} and so on are filled in")
        run.add("--checkpoints_dir", "./checkpoints", "where the folders of all runs are")
        run.add("--easy_label", "", "title of the run's pages (default: the name)")

        text = (
            "-1: CPU, 0: first GPU; default: the best. 0,1 starts a process on each; "
            "on several machines: torchrun (docs/scaling.md)"
        )
        run.add("--gpu_ids", None, text)
        text = "seed of the initial weights, the patches and the data order"
        run.add("--seed", 0, text, seed_number)
        text = (
            "bit-identical reruns on a GPU too, at the price of slower convolutions "
            "(on a CPU they are anyway)"
        )
        run.add("--deterministic", False, text)
        run.add("--verbose", False, "print each network layer by layer")

    @staticmethod
    def add_architecture(parser: OptionParser) -> None:
        """What shapes the networks: fixed for the life of a run."""
        net = parser.group(ARCHITECTURE)
        methods = ", ".join(models.model_names())
        text = f"the method: {methods}; --model NAME --help lists the flags of one"
        net.add("--model", "patchgcl", text)
        text = (
            "a published configuration of the model; flags win over it. "
            "Default: the first one it has"
        )
        net.add("--preset", None, text)
        net.add("--input_nc", 3, "channels of input images: 3 RGB, 1 grey", choices=(1, 3))
        net.add("--output_nc", 3, "channels of output images: 3 RGB, 1 grey", choices=(1, 3))

        net.add("--netG", "resnet_9blocks", f"generator: {', '.join(GENERATORS)}")
        text = "filters in the generator's first and last convolution"
        net.add("--ngf", 64, text, positive_int)
        text = f"discriminator: {', '.join(DISCRIMINATORS)}; basic is the PatchGAN of 3 layers"
        net.add("--netD", "basic", text)
        net.add("--ndf", 64, "filters in the discriminator's first convolution", positive_int)
        text = "strided layers n, for --netD n_layers and tilestylegan2 (tiles of 4 * 2^n pixels)"
        net.add("--n_layers_D", 3, text, positive_int)

        net.add("--normG", "instance", "normalisation in G", choices=tuple(NORMS))
        net.add("--normD", "instance", "normalisation in D", choices=tuple(NORMS))
        text = "what a ResNet generator sees beyond the borders of its maps"
        net.add("--padG", "reflect", text, choices=PADDINGS)
        net.add("--no_dropout", True, "no dropout in the generator's residual blocks")
        text = "strided convolutions instead of blurred down-sampling, in G and D"
        net.add("--no_antialias", False, text)
        text = "learned transposed convolutions instead of bilinear up-sampling"
        net.add("--no_antialias_up", False, text)

        text = "image size StyleGAN2 nets are made for; default: by crop_size"
        net.add("--stylegan2_size", None, text, power_of_two)
        text = "halvings in --netG stylegan2"
        net.add("--stylegan2_G_num_downsampling", 1, text, int, choices=(1, 2))

    @staticmethod
    def add_data(parser: OptionParser) -> None:
        """Which images, and how they are read."""
        images = parser.group(DATA)
        text = (
            "folder with trainA, trainB, testA; test.py also takes an image or a folder of images"
        )
        images.add("--dataroot", None, text)
        text = f"how images are read: {', '.join(data.dataset_modes())}; models choose theirs"
        images.add("--dataset_mode", "unaligned", text)
        text = "which domain is translated into which"
        images.add("--direction", "AtoB", text, choices=("AtoB", "BtoA"))
        text = "images per step; the paper uses 1. test.py translates 8 at once on a GPU"
        images.add("--batch_size", 1, text, positive_int)

        text = "images are scaled to this size, before the crop"
        images.add("--load_size", 286, text, positive_int)
        images.add("--crop_size", 256, "side of the square that is cut out", positive_int)
        images.add("--preprocess", "resize_and_crop", f"scaling and cropping: {MODES}")
        text = (
            "LOW,HIGH: the values of grey files that become black and white, such as 0,4095 for 12 bits "
            "in a file of 16, or 0,18 for label numbers"
        )
        images.add("--value_range", None, text, value_range)
        images.add("--no_flip", False, "no random horizontal flips")
        images.add("--serial_batches", False, "take images in order, A and B by the same index")
        text = "use only the first N images of each domain"
        images.add("--max_dataset_size", float("inf"), text, size_limit)

        text = "worker processes that load images; 0 loads in the main process"
        images.add("--num_threads", 4, text, natural)
        text = (
            "keep decoded images in memory, or on the device; "
            "auto: on a GPU to train, if they fill at most a quarter"
        )
        images.add("--cache", "auto", text, choices=("auto", "none", "ram", "device"))
        text = "check all images first, go on without the unreadable ones, say how many"
        images.add("--skip_bad_images", False, text)

    @staticmethod
    def add_speed(parser: OptionParser) -> None:
        """How fast, at equal results up to rounding."""
        speed = parser.group(SPEED)
        text = (
            "precision of the networks; auto: bf16 on a GPU and, to train, on a CPU with "
            "instructions for it (AVX512-BF16, AMX); else off"
        )
        speed.add("--amp", "auto", text, choices=tuple(PRECISIONS))
        speed.add("--tf32", True, "a GPU's float32 convolutions may round factors to 10 bits")

        text = "layout of images and networks; auto: on for a GPU, and for a CPU in bf16"
        speed.add("--channels_last", "auto", text, switch)
        text = (
            "compile the graph head and all between convolutions, in the first step; "
            "auto: to train on a GPU"
        )
        speed.add("--compile", "auto", text, switch)

    def add_phase(self, parser: OptionParser) -> None:
        """Flags of this phase only."""
        raise NotImplementedError

    def of_phase(self, published: dict[str, Any]) -> dict[str, Any]:
        """What of a preset holds in this phase."""
        return published

    def resolve(
        self, parser: OptionParser, given: dict[str, Any], saved: dict[str, Any]
    ) -> Namespace:
        """Layer defaults, the preset, what was saved and what was typed into one namespace."""
        defaults = parser.defaults()
        published, layered = self.layer(defaults, given, saved)
        opt = Namespace(**layered)

        # what follows from the options
        model = models.find_model(opt.model)
        opt.is_train = self.is_train
        data.find_dataset(opt.dataset_mode).check_options(opt)
        opt.size_multiple = model.SIZE_MULTIPLE or generator_size_multiple(opt.netG)
        opt.test_roles = model.TEST_ROLES
        without = {**defaults, **published}
        opt.idle = find_idle(opt, self.idle(opt), given, without)
        opt.recipe = self.recipe(opt, parser, without)
        opt.stylegan2_size = opt.stylegan2_size or training_size(opt.netG, opt.netD, opt.crop_size)

        # what is shown and recorded of them
        opt.changed = sorted(key for key, value in defaults.items() if layered[key] != value)
        opt.architecture = parser.members(ARCHITECTURE)
        opt.groups = {title: parser.members(title) for title in parser._groups}
        return opt

    def idle(self, opt: Namespace) -> list[Idle]:
        """Which options change nothing in this phase, beside the values of others."""
        return models.find_model(opt.model).idle(opt)

    def layer(
        self, defaults: dict[str, Any], given: dict[str, Any], saved: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the preset says, and the value of every option: the default < the preset < what was saved < the flag."""
        model = models.find_model({**defaults, **saved, **given}["model"])
        preset = given.get("preset") or saved.get("preset") or model.default_preset(given)
        published = find_by_name(model.PRESETS, preset, "--preset") if preset else {}
        published = self.of_phase(published)
        return published, {**defaults, **published, **saved, **given, "preset": preset}

    @staticmethod
    def recipe(opt: Namespace, parser: OptionParser, published: dict[str, Any]) -> str:
        """Which recipe a result comes from: model, preset, precision, and every choice that departs from the preset."""
        groups = [ARCHITECTURE, opt.model, TRAINING]
        if opt.is_train:  # at test these flags are about other images
            groups.append(DATA)

        left_out = {"model", "preset", *OF_NO_RECORD, *NO_CHOICE, *(one.name for one in opt.idle)}
        departures = []
        for group in groups:
            for name in parser.members(group):
                value = getattr(opt, name)
                if name not in left_out and value != published[name]:
                    departures.append(f"{name}={show_value(value)}")

        precision = planned_precision(opt.gpu_ids, opt.amp, opt.tf32, opt.is_train)
        text = f"{opt.model}, preset {opt.preset or 'none'}, {precision}"
        if departures:
            text += f", with {', '.join(departures)}"
        return text

    def check(self, opt: Namespace) -> None:
        """Checks across flags, before any data is touched; raises UserError."""
        if not opt.dataroot:
            raise UserError(
                "--dataroot is missing: give the folder that holds trainA and trainB (or testA)"
            )

        check_name(opt.phase, "--phase", "test")
        check_name(str(opt.epoch), "--epoch", "latest")
        if getattr(opt, "pretrained_name", None) is not None:
            check_name(opt.pretrained_name, "--pretrained_name")

        crops_what_it_resizes = "crop" in opt.preprocess and "resize" in opt.preprocess
        if crops_what_it_resizes and opt.load_size < opt.crop_size:
            raise UserError(
                f"--load_size {opt.load_size} is smaller than --crop_size {opt.crop_size}; "
                "make it at least as large"
            )

        models.find_model(opt.model).check_options(opt)


def filled_in(suffix: str, options: Mapping[str, Any]) -> str:
    """--suffix with the values of the options that it names in braces.

    Raises:
        UserError: it names no option, or its braces do not match.
    """
    try:
        return string.Template(suffix.replace("{", "${")).substitute(options)
    except (KeyError, ValueError) as error:
        raise UserError(
            f"--suffix {suffix}: {error} is no option in braces, such as {{model}} or {{ngf}}"
        ) from None


def check_name(name: str, flag: str = "--name", example: str = "horses") -> None:
    """Raise UserError for a name that would lead out of the folder that it is for, or cannot be a file's."""
    parts = name.split("/")
    reason = None
    if not name.strip():
        reason = "it is empty (an unset variable?)"
    elif any(not character.isprintable() for character in name):
        reason = "it holds a control character"
    elif {"", ".", ".."} & set(parts):
        reason = "it would lead out of the folder that it is for"
    elif max(len(os.fsencode(part)) for part in parts) > LONGEST_NAME:
        reason = f"it is longer than {LONGEST_NAME} bytes"
    if reason:
        raise UserError(f"{flag} {name!r}: {reason}; give a plain name, such as {flag} {example}")
