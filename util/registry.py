"""Find things by name: a class by that of its file, so that a new model is one new file, or an entry of a table."""

import difflib
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import TypeVar

from util.errors import UserError

T = TypeVar("T")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest of the known names as the beginning of a hint, empty where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def find_by_name(table: Mapping[str, T], name: str, flag: str) -> T:
    """The entry of a table; raises UserError (naming `flag`) with a did-you-mean for an unknown name."""
    if name not in table:
        hint = did_you_mean(name, table)
        raise UserError(f"{flag} {name}: no such name; {hint}there are: {', '.join(table)}")
    return table[name]


def names_in(package: ModuleType, suffix: str) -> list[str]:
    """Every NAME with a file NAME<suffix>.py in the package, sorted; a folder is read once in the life of a process."""
    return list(names_under(tuple(package.__path__), suffix))


@functools.cache
def names_under(folders: tuple[str, ...], suffix: str) -> list[str]:
    """Every NAME with a file NAME<suffix>.py in one of the folders, sorted."""
    names = []
    for module in pkgutil.iter_modules(folders):
        name = module.name.removesuffix(suffix)
        if module.name.endswith(suffix) and name:
            names.append(name)
    return sorted(names)


def find_class(package: ModuleType, suffix: str, base: type, name: str, flag: str) -> type:
    """The one subclass of `base` in NAME<suffix>.py; raises UserError (naming `flag`) when there is none."""
    files = {}
    for known in names_in(package, suffix):
        if known != "base":
            files[known] = f"{package.__name__}.{known}{suffix}"
    module = importlib.import_module(find_by_name(files, name, flag))

    found = []
    for value in vars(module).values():
        defined_here = inspect.isclass(value) and value.__module__ == module.__name__
        if defined_here and issubclass(value, base):
            found.append(value)
    if len(found) != 1:
        raise TypeError(
            f"{module.__name__} must define exactly one subclass of {base.__name__}, "
            f"found {len(found)}"
        )
    return found[0]
