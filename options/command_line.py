"""From a command line to one namespace of options; the only file that knows whose a misplaced flag is."""

import sys
from argparse import Namespace
from collections.abc import Sequence

from options.base_options import BaseOptions, check_name
from options.flag_owners import flags_elsewhere
from util.errors import UserError


def parse(options: BaseOptions, argv: Sequence[str] | None = None) -> Namespace:
    """Read a command line (default: this process's) once, for the command that `options` describe.

    Raises:
        UserError: bad input, in one line.
    """
    argv = list(sys.argv[1:] if argv is None else argv)

    check_name(options.peek(argv).name)

    # which flags there are depends on a few names, and on what a training run has saved
    saved = options.saved_options(options.peek(argv))
    first = options.peek(argv, saved)
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
    opt = options.resolve(parser, given, saved)
    options.check(opt)
    return opt
