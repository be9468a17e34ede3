"""An argparse parser that never guesses: no abbreviations, one-line errors with a did-you-mean, groups by title."""

import argparse
import difflib
import math
import re
import shutil
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

from util.errors import UserError

_UNSET = object()
LARGEST = 2**31 - 1  # of a count; what is larger is a slip, and overflows somewhere
LONGEST = 30  # digits that are looked at
NEGATIVE = re.compile(r"-\.?\d")  # begins a value such as -1, -1e3 or -1000,3000


def boolean(text: str) -> bool:
    """Read true/false, yes/no or 1/0; raises ArgumentTypeError otherwise."""
    lowered = text.lower()
    if lowered in ("true", "yes", "y", "t", "1"):
        return True
    if lowered in ("false", "no", "n", "f", "0"):
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")


def switch(text: str) -> str:
    """Read auto, on or off; a boolean stands for the latter two."""
    if text.lower() in ("auto", "on", "off"):
        return text.lower()
    try:
        return "on" if boolean(text) else "off"
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"expected auto, on or off, got {text!r}") from None


def _number_list(text: str, number: type) -> list:
    try:
        return [number(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected numbers separated by commas, such as 4,7,9; got {text!r}"
        ) from None


def int_list(text: str) -> list[int]:
    """Read "4,7,9" as [4, 7, 9]."""
    return [whole(str(number)) for number in _number_list(text, int)]


def float_list(text: str) -> list[float]:
    """Read "1,0.5" as [1.0, 0.5]."""
    return [finite(str(number)) for number in _number_list(text, float)]


def value_range(text: str) -> list[float]:
    """Read "0,4095", a lower and a higher number, as [0.0, 4095.0]."""
    numbers = float_list(text)
    if len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise argparse.ArgumentTypeError(
            f"expected two numbers, the lower one first, such as 0,4095; got {text!r}"
        )
    return numbers


def name_list(text: str) -> list[str]:
    """Read "fid,kid" as ["fid", "kid"]."""
    return [part.strip() for part in text.split(",") if part.strip()]


def whole(text: str, lowest: int = -LARGEST, highest: int = LARGEST) -> int:
    """Read a whole number between two bounds, which are included."""
    digits = text.removeprefix("-")
    known = digits.isdecimal() and len(digits) <= LONGEST
    if known and lowest <= int(text) <= highest:
        return int(text)

    limit = "" if lowest == -LARGEST else f" of at least {lowest}"
    if digits.isdecimal() and (not known or int(text) > highest):
        limit = f" up to {highest}"
    raise argparse.ArgumentTypeError(f"expected a whole number{limit}, got {text!r}")


def positive_int(text: str) -> int:
    """Read a whole number of at least 1."""
    return whole(text, 1)


def finite(text: str, lowest: float = -math.inf, wanted: str = "a finite number") -> float:
    """Read a number of at least `lowest` that is neither NaN nor infinite."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < lowest:
        raise argparse.ArgumentTypeError(f"expected {wanted}, got {text!r}")
    return number


def weight(text: str) -> float:
    """Read the weight of a loss, which is never negative."""
    return finite(text, 0.0, "a weight of at least 0 (0 switches the term off)")


def positive_float(text: str) -> float:
    """Read a finite number above 0."""
    return finite(text, math.ulp(0.0), "a number above 0")


def positive_or_inf(text: str) -> float:
    """Read a number above 0, or "inf"."""
    return math.inf if text == "inf" else positive_float(text)


def fraction(text: str) -> float:
    """Read a share from 0 to below 1, such as a momentum."""
    number = finite(text, 0.0, "a number from 0 to below 1")
    if number >= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to below 1, got {text!r}")
    return number


def seed_number(text: str) -> int:
    """Read a whole number that a random number generator can start from."""
    return whole(text, 0, 2**63 - 1)


def power_of_two(text: str) -> int:
    """Read 8, 16, 32 and so on."""
    if not text.isdecimal() or int(text) < 8 or int(text).bit_count() != 1:
        raise argparse.ArgumentTypeError(f"expected a power of two of at least 8, got {text!r}")
    return int(text)


def natural(text: str) -> int:
    """Read a whole number of at least 0."""
    return whole(text, 0)


def size_limit(text: str) -> float:
    """Read a whole number of at least 1, or "inf"."""
    return float("inf") if text == "inf" else positive_int(text)


def show_value(value: Any) -> str:
    """The value as one would type it on the command line."""
    if isinstance(value, (list, tuple)):
        return ",".join(str(part) for part in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


class _Help(argparse.HelpFormatter):
    """Help that ends with the default, as wide as the terminal allows."""

    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size().columns, 120)
        super().__init__(prog, max_help_position=34, width=width)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, "", argparse.SUPPRESS) or action.nargs == 0:
            return action.help

        shown = show_value(action.default).replace("%", "%%")
        return f"{action.help} (default: {shown})"


def type_of(name: str, default: Any) -> Callable:
    """What reads an option's value, by its default and, for weights of losses, by its name."""
    if isinstance(default, float):
        return weight if name.startswith("--lambda_") else finite
    if isinstance(default, int):
        return whole
    return str if default is None else default.__class__


class _Declarations:
    """What a parser and its groups have in common: a short way to declare an option, beside argparse's own."""

    def add(
        self, name: str, default: Any, help: str, type: Callable | None = None, **settings: Any
    ) -> None:
        """Declare an option whose type is that of its default; a boolean takes `--x`, `--x true` and `--x false`.

        A number with a point is finite, and a weight (`--lambda_...`) is not negative.

        With type `switch` it takes `--x` as well, which means on.
        """
        if isinstance(default, bool):
            settings |= {"type": boolean, "nargs": "?", "const": True, "metavar": "true|false"}
        elif type is switch:
            settings |= {"type": switch, "nargs": "?", "const": "on", "metavar": "auto|on|off"}
        elif type is not None:
            settings["type"] = type
        else:
            settings["type"] = type_of(name, default)

        self.add_argument(name, default=default, help=help, **settings)


class _Group(_Declarations, argparse._ArgumentGroup):
    pass


def script_parser(text: str) -> argparse.ArgumentParser:
    """A command line that the docstring of its script describes, as it is written; flags cannot be shortened."""
    parser = argparse.ArgumentParser(
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    take_negative_values(parser)
    return parser


def take_negative_values(parser: argparse.ArgumentParser) -> None:
    """What begins like a negative number is a value and no flag, as from Python 3.14 on: -1 always was, -1,1 not."""
    parser._negative_number_matcher = NEGATIVE


class OptionParser(_Declarations, argparse.ArgumentParser):
    """ArgumentParser with groups found by title; errors are UserErrors of one line."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Help, **settings)
        take_negative_values(self)
        self._groups: dict[str, _Group] = {}

    def group(self, title: str) -> _Group:
        """The group of that title, made when it is new."""
        if title not in self._groups:
            group = _Group(self, title)
            self._action_groups.append(group)
            self._groups[title] = group
        return self._groups[title]

    def retitle(self, title: str, new: str) -> None:
        """Rename a group: a method built on another one has that one's flags as its own."""
        group = self._groups.pop(title)
        group.title = new
        self._groups[new] = group

    def alias(self, flag: str, name: str) -> None:
        """A further spelling of a declared option, as a release has it."""
        action = self.declared()[name]
        action.option_strings.append(flag)
        self._option_string_actions[flag] = action

    def members(self, title: str) -> list[str]:
        """Names of the options declared in a group; none for a group that nobody declared."""
        if title not in self._groups:
            return []
        return [action.dest for action in self._groups[title]._group_actions]

    def declared(self) -> dict[str, argparse.Action]:
        """Every option by name, `help` left out."""
        return {action.dest: action for action in self._actions if action.dest != "help"}

    def defaults(self) -> dict[str, Any]:
        """The default of every option."""
        return {name: self.get_default(name) for name in self.declared()}

    def check_saved(self, values: dict[str, Any], source: str) -> None:
        """See that saved values are such as their options take; those of unknown options are left to others.

        Raises:
            UserError: one is not; the message names it and the `source`.
        """
        for name, action in self.declared().items():
            saved = values.get(name, action.default)
            if saved == action.default:
                continue
            text = show_value(saved)
            try:
                value = action.type(text) if action.type else text
            except (argparse.ArgumentTypeError, ValueError, TypeError, OverflowError):
                value = _UNSET
            if value != saved or (action.choices and value not in action.choices):
                raise UserError(
                    f"{source}: {name} is {text!r}, which --{name} does not take; restore or delete it"
                )

    def flags(self) -> list[str]:
        """Every flag, in all its spellings."""
        return list(self._option_string_actions)

    def parse_given(
        self, argv: Sequence[str], elsewhere: Callable[[], dict[str, str]] = dict
    ) -> dict[str, Any]:
        """Only what the command line says, by option name; raises UserError on anything it cannot place.

        `elsewhere` is asked only then: flags that are not for this command line -> whose they are, in words.
        """
        given, unknown = self.parse_known(argv)
        if unknown:
            self.error(self.explain_unknown(unknown, elsewhere()))
        return given

    def parse_known(self, argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """What the command line says, by option name, and the arguments that no option takes."""
        blank = Namespace(**dict.fromkeys(self.declared(), _UNSET))
        known, unknown = self.parse_known_args(argv, namespace=blank)
        given = {name: value for name, value in vars(known).items() if value is not _UNSET}
        return given, unknown

    def explain_unknown(self, unknown: Sequence[str], elsewhere: dict[str, str]) -> str:
        """One line on arguments that no option takes: whose the first is, or else the nearest flag, if there is one."""
        flags = dict.fromkeys(text.split("=")[0] for text in unknown if text.startswith("--"))
        if not flags and not unknown[0].startswith("-"):
            return (
                f"unknown argument {' '.join(unknown)}: a flag takes one value, so several images go into one folder "
                "and a name with spaces stands in quotes"
            )
        flag, *others = flags or unknown

        if flag in elsewhere:
            alike = [other for other in others if elsewhere.get(other) == elsewhere[flag]]
            like = f" (like {', '.join(alike)})" if alike else ""
            return f"{flag}{like} {elsewhere[flag]}"

        # the nearest of ours comes first, so that it wins where one elsewhere is as near
        near = difflib.get_close_matches(flag, self.flags(), n=1)
        near += difflib.get_close_matches(flag, elsewhere, n=1)
        arguments = " ".join(unknown)
        if not near:
            return f"unknown argument {arguments}; --help lists all flags"

        def likeness(name: str) -> float:
            return difflib.SequenceMatcher(None, name, flag).ratio()

        nearest = max(near, key=likeness)
        owner = f" It {elsewhere[nearest]}" if nearest in elsewhere else ""
        return f"unknown argument {arguments}; did you mean {nearest}?{owner}"

    def error(self, message: str) -> None:
        raise UserError(message)
