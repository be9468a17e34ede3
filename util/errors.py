"""The error that a user can mend: shown as one line, without a traceback."""


class UserError(Exception):
    """Bad input from outside (a flag, a file, a folder). The message names the culprit and the remedy."""
