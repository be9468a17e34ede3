"""Flags of test.py, which takes everything it can from the options saved by the training run."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import models
from options.base_options import ARCHITECTURE, DATA, BaseOptions
from options.test_sizes import (
    GEOMETRY,
    SIZES,
    as_trained,
    check_effect,
    check_sizes,
    describe_sizes,
    size_of,
)
from options.train_options import TrainOptions
from util.errors import UserError
from util.hardware.devices import plans_gpu
from util.parser import OptionParser, size_limit
from util.registry import did_you_mean
from util.run.folder import check_run_exists, is_other_data, run_dir, runs_in, saved_record

OWN_AT_TEST = (
    *GEOMETRY,
    "batch_size",
    "num_threads",
    "max_dataset_size",
    "no_flip",
    "serial_batches",
    "cache",
    "skip_bad_images",
    "phase",
    "pairs",
)
# images that share a pass on a GPU unless --batch_size says otherwise: one alone does not fill it
TOGETHER = 8
# a model that only applies weights may apply any run's
CHOSEN_BY_MODEL = ("model", "preset", "dataset_mode")


def unpublished(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a record that no preset of its method sets so."""
    presets = models.find_model(options["model"]).PRESETS.values()
    return {
        name: value
        for name, value in options.items()
        if not any(name in preset and preset[name] == value for preset in presets)
    }


class TestOptions(BaseOptions):
    """The command line of test.py."""

    __test__ = False  # not a pytest class
    is_train = False
    description = "Translate images with a trained model. Only --name is needed: the rest comes from the training run."

    def add_phase(self, parser: OptionParser) -> None:
        group = parser.group("results")
        group.add("--results_dir", "./results", "results go to RESULTS_DIR/NAME/PHASE_EPOCH")
        text = "which weights: latest, best (--eval_freq), the number of a saved epoch, or iter_N (--save_by_iter)"
        group.add("--epoch", "latest", text)
        text = "translate only the first N images (of each domain, where both are translated)"
        group.add("--num_test", float("inf"), text, size_limit, metavar="N")
        text = "evaluation mode: batch norm uses its running statistics, dropout is off"
        group.add("--eval", False, text)
        group.add("--no_ema", False, "use the plain weights although the run kept a moving average")

        group = parser.group(DATA)
        group.add("--phase", "test", "reads DATAROOT/<phase>A (<phase>B for BtoA)")
        text = (
            "at which size images are translated: scaled as in the run's last epochs, or each at its "
            "own. Default: trained, where there is a run"
        )
        group.add("--size", None, text, choices=SIZES)
        parser.set_defaults(preprocess="none", load_size=parser.get_default("crop_size"))

    def saved_options(self, first: Namespace) -> dict[str, Any]:
        """What the training run recorded, as far as it still means something at test."""
        if not models.find_model(first.model).USES_RUN:
            self.saved_recipe = self.saved_pairs = None
            return {}
        record = saved_record(run_dir(first))
        self.saved_recipe = record.get("recipe")
        self.saved_pairs = record.get("options", {}).get("pairs")
        if not record:  # published weights come without one; flags and defaults describe them
            return {}

        options = record["options"]
        if not {"model", "dataset_mode"} <= options.keys():
            raise UserError(
                f"{run_dir(first)}/train_opt.json names no model or dataset_mode; "
                "restore or delete it"
            )

        chosen = Namespace(model=options["model"], dataset_mode=options["dataset_mode"])
        record_file = f"{run_dir(first)}/train_opt.json"
        TrainOptions().build_parser(chosen).check_saved(unpublished(options), record_file)
        parser = self.build_parser(chosen)
        own = set(OWN_AT_TEST)
        if not models.find_model(first.model).TRAINABLE:
            own.update(CHOSEN_BY_MODEL)

        kept = {}
        for group in (ARCHITECTURE, DATA, options["model"]):
            for name in parser.members(group):
                if name in options and name not in own:
                    kept[name] = options[name]
        return kept | as_trained(options)

    def check(self, opt: Namespace) -> None:
        if not opt.dataroot and models.find_model(opt.model).USES_RUN:
            check_run_exists(opt.checkpoints_dir, opt.name)
        super().check(opt)

    def explain_failure(self, first: Namespace) -> None:
        """A mistyped name explains more than what follows from it."""
        runs = runs_in(Path(first.checkpoints_dir))
        if models.find_model(first.model).USES_RUN and did_you_mean(first.name, runs):
            check_run_exists(first.checkpoints_dir, first.name)

    def of_phase(self, published: dict[str, Any]) -> dict[str, Any]:
        """A preset says how images are cut for training; at test they are whole."""
        return {name: value for name, value in published.items() if name not in OWN_AT_TEST}

    def resolve(
        self, parser: OptionParser, given: dict[str, Any], saved: dict[str, Any]
    ) -> Namespace:
        for name in parser.members(ARCHITECTURE):
            if name in given and name in saved and given[name] != saved[name]:
                raise UserError(
                    f"--{name} {given[name]} contradicts the training run, "
                    f"which used {saved[name]}; leave the flag out"
                )

        if "direction" in saved and given.get("direction") not in (None, saved["direction"]):
            raise UserError(
                f"--direction {given['direction']} contradicts the training run, which translates "
                f"{saved['direction']}; leave the flag out, or train a run for the other direction"
            )

        check_sizes(given, has_record="preprocess" in saved)
        if given.get("size") == "own":
            saved = {name: value for name, value in saved.items() if name not in GEOMETRY}

        opt = super().resolve(parser, given, saved)
        check_effect(given, opt)
        opt.size = size_of(opt, given, saved)
        opt.rounded = opt.size == "trained" and saved.get("rounded", False)
        opt.sizes = describe_sizes(opt)
        opt.trained_pairs = self.saved_pairs
        opt.other_data = is_other_data(opt.dataroot, saved.get("dataroot"))
        opt.max_dataset_size = min(opt.max_dataset_size, opt.num_test)
        opt.recipe = self.saved_recipe or opt.recipe

        model = models.find_model(opt.model)
        if "batch_size" not in given and not model.COSTLY and plans_gpu(opt.gpu_ids):
            opt.batch_size = TOGETHER
        return opt
