"""From a command line to one namespace of options; the only file that knows whose a misplaced flag is."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import models
from options.base_options import BaseOptions, check_name, filled_in
from options.flag_owners import flags_elsewhere
from options.train_options import TrainOptions
from util.errors import UserError


def parse(options: BaseOptions, argv: Sequence[str] | None = None) -> Namespace:
    """Read a command line (default: this process's) once, for the command that `options` describe.

    Raises:
        UserError: bad input, in one line.
    """
    argv = list(sys.argv[1:] if argv is None else argv)

    run = options.peek(argv)
    check_name(run.name)
    run.name = full_name(options, run, argv)
    check_name(run.name)

    # which flags there are depends on a few names, and on what a training run has saved
    saved = options.saved_options(run)
    first = options.peek(argv, saved)
    first.name = run.name
    parser = options.build_parser(first)

    try:
        given = parser.parse_given(
            argv, lambda: flags_elsewhere(options, parser, first, argv, saved)
        )
    except UserError:
        if not saved:
            options.explain_failure(first)
        raise
    if "model" in given:
        given["model"] = first.model  # by its own name
    given |= {"name": run.name, "suffix": ""}
    opt = options.resolve(parser, given, saved)
    options.check(opt)
    return opt


def full_name(options: BaseOptions, run: Namespace, argv: Sequence[str]) -> str:
    """The name of the run with its --suffix, under which its record lies.

    What stands in braces is filled in from the command line, presets and defaults, as when the run was begun: also at
    test with those of training. Its record cannot help: it is found by this name.

    Args:
        options: of the command.
        run: the name, the suffix and the method, as `peek` found them.
        argv: the command line.

    Raises:
        UserError: the suffix names no option, or flags cannot be placed.
    """
    if not {"{", "$"} & set(run.suffix):
        return run.name + run.suffix

    if not options.is_train and models.find_model(run.model).TRAINABLE:
        values = values_in_training(argv)
    else:
        parser = options.build_parser(run)
        given = parser.parse_given(argv, lambda: flags_elsewhere(options, parser, run, argv, {}))
        _, values = options.layer(parser.defaults(), given | {"model": run.model}, {})
    return run.name + filled_in(run.suffix, values)


def values_in_training(argv: Sequence[str]) -> dict[str, Any]:
    """What train.py makes of a command line of test.py: the value of each of its options, flags of test.py left out."""
    options = TrainOptions()
    run = options.peek(argv)
    parser = options.build_parser(run)
    given, _ = parser.parse_known(argv)
    _, values = options.layer(parser.defaults(), given | {"model": run.model}, {})
    return values
