"""One failure costs one figure: what was measured is published after each section, what failed is told beside it."""

import contextlib
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from util.errors import UserError, first_line

LONGEST = 300  # characters of a reason


class Failures(dict[str, str]):
    """What could not be measured -> why, in a line.

    Args:
        keep_going: whether a failure is noted here; else it is raised.
    """

    def __init__(self, keep_going: bool) -> None:
        super().__init__()
        self.keep_going = keep_going

    @contextlib.contextmanager
    def around(self, name: str) -> Iterator[None]:
        """Note what is raised in the block, be it what it may."""
        try:
            yield
        except Exception as error:
            if not self.keep_going:
                raise
            self.note(name, error)

    def note(self, name: str, error: Exception) -> None:
        """Tell in a line, and where it is not a user's error on standard error whole."""
        if not isinstance(error, UserError):
            traceback.print_exception(error, file=sys.stderr)
        self[name] = reason(error)


def reason(error: Exception) -> str:
    """An error in a line; the kind of one that is not a user's stands before it."""
    text = first_line(error)[:LONGEST]
    kind = type(error).__name__
    return text if isinstance(error, UserError) or text == kind else f"{kind}: {text}"


class Sections:
    """The sections of a result, published after each one.

    Args:
        result: section -> what was measured; `failed` in it says which are missing, and why.
        publish: writes the result.
        keep_going: go on after a user's error too, such as a check that failed. Any other error never stops the next
            section.
    """

    def __init__(
        self, result: dict[str, Any], publish: Callable[[dict[str, Any]], None], keep_going: bool
    ) -> None:
        self.result, self.publish, self.keep_going = result, publish, keep_going
        self.failures = Failures(keep_going=True)

    def measure(self, name: str, work: Callable[[], Any]) -> None:
        """One section; raises UserError where that ends the run."""
        try:
            self.result[name] = work()
        except UserError as error:
            if not self.keep_going:
                raise
            self.failures.note(name, error)
        except Exception as error:  # a defect or a failing device: others may still be had
            self.failures.note(name, error)

        if self.failures:
            self.result["failed"] = dict(self.failures)
        self.publish(self.result)
