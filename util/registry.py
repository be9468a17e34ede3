"""Find a class by the name of its file, so that a new model or data set is one new file and no list is edited."""

import difflib
import importlib
import inspect
import pkgutil
from types import ModuleType

from util.errors import UserError


def names_in(package: ModuleType, suffix: str) -> list[str]:
    """Every NAME with a file NAME<suffix>.py in the package, sorted."""
    modules = pkgutil.iter_modules(package.__path__)
    return sorted(m.name.removesuffix(suffix) for m in modules if m.name.endswith(suffix) and m.name[: -len(suffix)])


def find_class(package: ModuleType, suffix: str, base: type, name: str, flag: str) -> type:
    """The one subclass of `base` in NAME<suffix>.py; raises UserError (naming `flag`) when there is none."""
    available = [n for n in names_in(package, suffix) if n != "base"]
    if name not in available:
        near = difflib.get_close_matches(name, available, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(available)}"
        raise UserError(f"{flag} {name}: no such {suffix.strip('_')}; {hint}")
    module = importlib.import_module(f"{package.__name__}.{name}{suffix}")
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, base) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} must define exactly one subclass of {base.__name__}, found {len(found)}")
    return found[0]
