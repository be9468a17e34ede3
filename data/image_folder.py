"""Which image files a command means: folders are searched in depth, and what is missing or left out is said."""

import os
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import lru_cache

from PIL import Image

from data.layout import (
    explain_layout,
    folder_names,
    has_domains,
    means_domains,
    phase_folder,
    undivided,
    wanted,
)
from util.errors import UserError
from util.words import counted

# what Pillow opens but cannot show, or only by another program
NOT_READ = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}
COMMON = (".jpg", ".png", ".webp", ".tif", ".bmp", ".gif", ".avif", ".jp2", ".tga")
NEED_CONVERSION = {".heic", ".heif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw", ".svg", ".npy"}
# files and folders that programs leave behind unasked
OF_THE_SYSTEM = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
THUMBNAILS = {"@eadir", "__macosx", "@__thumb", ".@__thumb", "#recycle", "@recycle", "$recycle.bin"}
SHOWN = 6  # kinds or folders that a line names


@lru_cache(1)
def image_suffixes() -> frozenset[str]:
    """Endings of the files that Pillow reads, in lower case."""
    Image.init()
    known = Image.registered_extensions().items()
    return frozenset(
        suffix for suffix, kind in known if kind in Image.OPEN and kind not in NOT_READ
    )


def is_image(path: str) -> bool:
    """Whether the name ends like that of an image, in upper or lower case."""
    return _suffix(path) in image_suffixes()


@dataclass
class Survey:
    """What lies in a folder: images, in no order, and what is no image."""

    folder: str
    paths: list[str] = field(default_factory=list)
    others: Counter = field(default_factory=Counter)  # by ending
    thumbnails: Counter = field(default_factory=Counter)  # folders of known tools

    def notes(self) -> list[str]:
        """What a user should know about the folder, a line each; nothing where it only holds images."""
        found = [self._left_out(), self._thumbnails(), self._by_folder(), self._equal_names()]
        return [f"{self.folder}: {note}" for note in found if note]

    def left_out(self) -> list[str]:
        """The lines on files that are not read."""
        found = [self._left_out(), self._thumbnails()]
        return [f"{self.folder}: {note}" for note in found if note]

    def _left_out(self) -> str:
        if not self.others:
            return ""
        count = self.others.total()
        kinds = [f"{suffix or 'no ending'} {n}" for suffix, n in self.others.most_common(SHOWN)]
        more = ", ..." if len(self.others) > SHOWN else ""
        text = f"left out {counted(count, 'file')}: {', '.join(kinds)}{more}"
        lost = sorted(NEED_CONVERSION & self.others.keys())
        if lost:
            text += f" (to use {', '.join(lost)}, convert to .png or .jpg)"
        return text

    def _thumbnails(self) -> str:
        if not self.thumbnails:
            return ""
        names = ", ".join(f"{name} {count}" for name, count in sorted(self.thumbnails.items()))
        return f"left out folders of thumbnails or deleted files: {names}"

    def _by_folder(self) -> str:
        places = Counter(os.path.dirname(os.path.relpath(path, self.folder)) for path in self.paths)
        if len(places) < 2:
            return ""
        named = [f"{place or 'the folder itself'} {n}" for place, n in places.most_common(SHOWN)]
        more = f" and {len(places) - SHOWN} others" if len(places) > SHOWN else ""
        return f"{counted(len(self.paths), 'image')}: {', '.join(named)}{more}"

    def _equal_names(self) -> str:
        """A warning where files share a name but for folder and ending, as an image and its mask do."""
        by_stem = defaultdict(list)
        for path in self.paths:
            by_stem[os.path.splitext(os.path.basename(path))[0].casefold()].append(path)
        double = sorted(sorted(paths) for paths in by_stem.values() if len(paths) > 1)
        if not double:
            return ""

        first, second, *_ = (os.path.relpath(path, self.folder) for path in double[0])
        return (
            f"warning: {counted(len(double), 'name')} {'comes' if len(double) == 1 else 'come'} "
            f"more than once, such as {first} and {second}; all are used as images, "
            "so move masks and copies elsewhere"
        )


def survey(folder: str) -> Survey:
    """Look through a folder and all below it; links are followed, hidden names are left out.

    Raises:
        UserError: the folder cannot be read.
    """
    found = Survey(folder)
    try:
        _walk(folder, (), found)
    except OSError as error:
        raise UserError(
            f"{error.filename}: cannot read this folder ({error.strerror}); check permissions"
        ) from error
    return found


def list_images(folder: str, notes: list[str] | None = None) -> list[str]:
    """All image files in a folder and below it, sorted by path.

    Args:
        folder: where to look; links are followed, hidden names are left out.
        notes: what the user should know about the folder is added here, such as what was left out.

    Raises:
        UserError: the folder cannot be read or holds no image.
    """
    found = survey(folder)
    if not found.paths:
        left_out = "".join(f"; {note}" for note in found.left_out())
        raise UserError(
            f"{folder} holds no images; looked for {' '.join(COMMON)} and what else Pillow reads in it and in "
            f"its subfolders{left_out}"
        )
    if notes is not None:
        notes += found.notes()
    return sorted(found.paths)


def _walk(folder: str, above: tuple[str, ...], found: Survey) -> None:
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that contains it
        return

    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name.lower()
            if entry.is_dir():
                if name in THUMBNAILS:
                    found.thumbnails[entry.name] += 1
                elif not name.startswith("."):
                    _walk(entry.path, (*above, real), found)
                continue

            # .DS_Store, and the ._name.jpg that macOS leaves in archives
            if name.startswith(".") or name in OF_THE_SYSTEM:
                continue
            if is_image(name):
                found.paths.append(entry.path)
            else:
                found.others[_suffix(name)] += 1


def find_images(
    dataroot: str, phase: str, letter: str, is_train: bool, notes: list[str] | None = None
) -> tuple[str, list[str]]:
    """The folder and the images of domain `letter` ("A" or "B"): <dataroot>/<phase><letter> and all below it.

    For phase "test" val<letter> will do, see `folder_names`. Outside training `dataroot` may also
    be one image file or any folder of images.

    Args:
        notes: see `list_images`.

    Raises:
        UserError: nothing of this is there; the message says what was looked for.
    """
    check_dataroot(dataroot, phase, is_train)
    if not os.path.isdir(dataroot):
        return os.path.dirname(dataroot), [dataroot]

    folder = phase_folder(dataroot, phase, letter)
    if folder:
        return folder, list_images(folder, notes)
    if is_train or means_domains(dataroot):
        raise no_folder(dataroot, phase, letter, is_train)
    phases = undivided(dataroot)
    if len(phases) > 1:  # images to train on among those to test on
        one = os.path.join(dataroot, phases.get(phase, next(iter(phases.values()))))
        raise UserError(
            f"--dataroot {dataroot} holds {' and '.join(phases.values())}: name the one to translate, such as "
            f"--dataroot {one}"
        )
    return dataroot, list_images(dataroot, notes)


def check_dataroot(dataroot: str, phase: str, is_train: bool) -> None:
    """Raise UserError for a --dataroot that is neither a folder nor, outside training, an image."""
    if not os.path.exists(dataroot):
        raise UserError(f"--dataroot {dataroot} does not exist; give {wanted(phase, is_train)}")
    if os.path.isdir(dataroot):
        return
    if is_train:
        raise UserError(f"--dataroot {dataroot} is a file; give {wanted(phase, is_train)}")
    check_is_image(dataroot, "--dataroot")


def no_folder(dataroot: str, phase: str, letter: str, is_train: bool) -> UserError:
    """What to raise where a data root lacks the folder of a domain: what it has instead, and what to give."""
    tried = " or ".join(folder_names(phase, letter))
    reason = explain_layout(dataroot, phase, letter)
    return UserError(
        f"--dataroot {dataroot} has no folder {tried}; {reason}give {wanted(phase, is_train)}"
    )


def find_styles(
    style: str, phase: str, letter: str, notes: list[str] | None = None
) -> tuple[str, list[str]]:
    """The folder and the images that --style names: one image, a folder of them, or domain `letter` of a data set.

    Args:
        notes: see `list_images`.

    Raises:
        UserError: it is none of these.
    """
    if os.path.isfile(style) and is_image(style):
        return os.path.dirname(style), [style]
    if not os.path.isdir(style):
        raise UserError(f"--style {style} is no image and no folder of images")

    folder = phase_folder(style, phase, letter)
    if not folder and has_domains(style):
        tried = " or ".join(folder_names(phase, letter))
        raise UserError(
            f"--style {style} is a data set without {tried}, from which styles would be taken: "
            "name an image, or the folder of images itself"
        )
    return folder or style, list_images(folder or style, notes)


def check_is_image(path: str, flag: str) -> None:
    """Raise UserError for a file that does not end like an image."""
    if not is_image(path):
        kinds = " ".join(COMMON)
        raise UserError(
            f"{flag} {path} is not an image by its ending; known are {kinds} and what else Pillow reads"
        )


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()
