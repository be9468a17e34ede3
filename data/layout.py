"""What the folders of a data set are called, and what to say to one who calls them otherwise."""

import os
import re
import shlex
from collections import Counter

_DOMAIN_FOLDER = re.compile(r"(train|test|val)[AB]")
_PHASES = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_PHASES |= {"val": "val", "valid": "val", "validation": "val"}
_SEPARATORS = str.maketrans("", "", "_-. /")
SHOWN = 8  # folders that a line names


def phase_folder(dataroot: str, phase: str, letter: str = "") -> str | None:
    """The folder of a domain's images, without `letter` that of files with both domains; None if there is none."""
    for name in folder_names(phase, letter):
        folder = os.path.join(dataroot, name)
        if os.path.isdir(folder):
            return folder
    return None


def folder_names(phase: str, letter: str = "") -> list[str]:
    """What that folder may be called, the first choice first: val stands in for a missing test folder."""
    names = [phase + letter]
    if phase == "test":
        names.append("val" + letter)
    return names


def has_domains(dataroot: str) -> bool:
    """Whether this is a folder with images by domain (trainA, testB, ...), not an image or a folder of inputs alone."""
    if not os.path.isdir(dataroot):
        return False
    return any(_DOMAIN_FOLDER.fullmatch(name) for name in os.listdir(dataroot))


def means_domains(dataroot: str) -> bool:
    """Whether the folder holds images by domain, be it under names that are only like the right ones.

    Of those both domains of a phase must be there: a folder train/a alone is one of many letters, say.
    """
    domains = Counter(phase for phase, letter in folders_by_meaning(dataroot) if letter)
    return has_domains(dataroot) or 2 in domains.values()


def means_phases(dataroot: str) -> bool:
    """Whether the folder is divided by phase, with or without domains: train, valid, testA, ..."""
    return has_domains(dataroot) or bool(folders_by_meaning(dataroot))


def undivided(dataroot: str) -> dict[str, str]:
    """Folders that are probably one phase each, whatever their domain: {"train": "train", "test": "Testing"}."""
    found = folders_by_meaning(dataroot)
    return {phase: name for (phase, letter), name in found.items() if not letter}


def wanted(phase: str, is_train: bool) -> str:
    """What --dataroot should name, in words."""
    pair = f"a folder that holds {phase}A and {phase}B, the images of the two domains"
    if is_train:
        return pair
    return f"one image, a folder of images, or {pair} (only the input domain is needed)"


def explain_layout(dataroot: str, phase: str, letter: str) -> str:
    """What is there instead of <phase><letter>, and what to rename, up to a "; "; empty without any folder."""
    if not os.path.isdir(dataroot):
        return ""
    place = os.path.realpath(dataroot)
    if _DOMAIN_FOLDER.fullmatch(os.path.basename(place)):
        return f"it is such a folder itself: give the one above, --dataroot {shlex.quote(os.path.dirname(place))}; "

    name = phase + letter
    there = folders_by_meaning(dataroot)
    if (phase, letter) in there:
        return f"rename {there[phase, letter]} to {name}; "
    if (phase, "") in there and letter:
        return (
            f"but {there[phase, '']}: files with A and B side by side take --dataset_mode aligned; "
            "else "
        )

    below = one_set_below(dataroot)
    if below:
        return f"but there is a data set below it: --dataroot {shlex.quote(below)}; "
    folders = sorted(entry.name for entry in os.scandir(dataroot) if entry.is_dir())
    if not folders:
        return ""
    shown = ", ".join(folders[:SHOWN]) + (", ..." if len(folders) > SHOWN else "")
    return f"it has {shown}; "


def folders_by_meaning(dataroot: str) -> dict[tuple[str, str], str]:
    """(phase, letter) -> the folder that is probably meant by it, such as train_A, TrainA, A/train or train/a."""
    found = {}
    for name in sorted(os.listdir(dataroot)):
        if not os.path.isdir(os.path.join(dataroot, name)):
            continue
        meaning = meaning_of(name)
        if meaning in found:
            continue
        if meaning:
            found[meaning] = name

        for inner in sorted(os.listdir(os.path.join(dataroot, name))):
            nested = meaning_of(name + "/" + inner)
            if nested and os.path.isdir(os.path.join(dataroot, name, inner)):
                found.setdefault(nested, f"{name}/{inner}")
    return found


def meaning_of(name: str) -> tuple[str, str] | None:
    """The phase and the domain that the name of a folder speaks of; None for any other name, such as test-2."""
    joined = name.lower().translate(_SEPARATORS)
    for word, phase in _PHASES.items():
        rest = joined.removeprefix(word) if joined.startswith(word) else joined.removesuffix(word)
        rest = rest.removeprefix("domain").removesuffix("domain")
        if rest != joined and rest in ("", "a", "b"):
            return phase, rest.upper()
    return None


def one_set_below(dataroot: str) -> str | None:
    """The one folder below that is a data set, as an archive unpacked into a folder of its own name leaves it."""
    below = [entry.path for entry in os.scandir(dataroot) if entry.is_dir()]
    sets = [path for path in below if has_domains(path)]
    return sets[0] if len(sets) == 1 else None
