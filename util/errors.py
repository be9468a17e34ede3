"""The error that a user can mend: shown as one line, without a traceback."""

import sys
from collections.abc import Callable

BAD_INPUT = 2  # of a command that a user's error ended


class UserError(Exception):
    """Bad input from outside (a flag, a file, a folder). The message names the culprit and the remedy."""


def exit_status(command: Callable[[], int | None]) -> int:
    """Run a command; returns its exit status. A `UserError` becomes one line on standard error."""
    try:
        return command() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
