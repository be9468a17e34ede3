"""Which image files a command means: folders are searched in depth and sorted, and what is missing is said clearly."""

import os
import re

from util.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".ppm")
_DOMAIN_FOLDER = re.compile(r"(train|test|val)[AB]")


def is_image(path: str) -> bool:
    """Whether the name ends like that of an image, in upper or lower case."""
    return path.lower().endswith(SUFFIXES)


def list_images(folder: str) -> list[str]:
    """All image files in a folder and below it, sorted by path; links are followed, hidden names are left out.

    Raises:
        UserError: the folder cannot be read or holds no image.
    """
    try:
        paths = sorted(_walk(folder, ()))
    except OSError as error:
        raise UserError(
            f"{error.filename}: cannot read this folder ({error.strerror}); check permissions"
        ) from error

    if not paths:
        raise UserError(
            f"{folder} holds no images; looked for {' '.join(SUFFIXES)} in it and in its subfolders"
        )
    return paths


def _walk(folder: str, above: tuple[str, ...]) -> list[str]:
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that contains it
        return []

    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            # .ipynb_checkpoints, and the ._name.jpg that macOS leaves in archives
            if entry.name.startswith("."):
                continue

            if entry.is_dir():
                found += _walk(entry.path, (*above, real))
            elif is_image(entry.name):
                found.append(entry.path)
    return found


def find_images(dataroot: str, phase: str, letter: str, is_train: bool) -> tuple[str, list[str]]:
    """The folder and the images of domain `letter` ("A" or "B"): <dataroot>/<phase><letter> and all below it.

    For phase "test" val<letter> will do, see `folder_names`. Outside training `dataroot` may also
    be one image file or any folder of images.

    Raises:
        UserError: nothing of this is there; the message says what was looked for.
    """
    wanted = _wanted(phase, is_train)
    if not os.path.exists(dataroot):
        raise UserError(f"--dataroot {dataroot} does not exist; give {wanted}")

    if os.path.isfile(dataroot):
        if is_train:
            raise UserError(f"--dataroot {dataroot} is a file; give {wanted}")
        if not is_image(dataroot):
            raise UserError(
                f"--dataroot {dataroot} is not an image; known are {' '.join(SUFFIXES)}"
            )
        return os.path.dirname(dataroot), [dataroot]

    folder = phase_folder(dataroot, phase, letter)
    if folder:
        return folder, list_images(folder)
    if is_train or has_domains(dataroot):
        tried = " or ".join(folder_names(phase, letter))
        raise UserError(f"--dataroot {dataroot} has no folder {tried}; give {wanted}")
    return dataroot, list_images(dataroot)


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


def _wanted(phase: str, is_train: bool) -> str:
    pair = f"a folder that holds {phase}A and {phase}B, the images of the two domains"
    if is_train:
        return pair
    return f"one image, a folder of images, or {pair} (only the input domain is needed)"
