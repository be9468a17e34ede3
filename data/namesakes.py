"""Which image of another folder is called as an image is: by its place below the folder, else by its name alone."""

import os
from collections import defaultdict
from collections.abc import Sequence

from util.errors import UserError


class Namesakes:
    """The images of a folder, to be looked up by images of another one; endings and upper case do not count.

    Args:
        paths: the images.
        folder: that they were looked for in.
    """

    def __init__(self, paths: Sequence[str], folder: str) -> None:
        self.paths = paths
        self._by_place = defaultdict(list)
        self._by_stem = defaultdict(list)
        for number, path in enumerate(paths):
            self._by_place[_place(path, folder)].append(number)
            self._by_stem[_stem(path)].append(number)

    def find(self, path: str, folder: str, flag: str, what: str) -> int | None:
        """The number of the image that lies where `path` lies below `folder`, or else of the only one of its name.

        Args:
            path: an image.
            folder: that it was looked for in.
            flag: begins a message.
            what: is looked for, in a message.

        Returns:
            None where no image is called so.

        Raises:
            UserError: several are.
        """
        found = self._by_place.get(_place(path, folder)) or self._by_stem.get(_stem(path), [])
        if len(found) > 1:
            first, second, *_ = (self.paths[number] for number in found)
            raise UserError(
                f"{flag}: {path} has several {what}s of its name, such as {first} and {second}; leave one there, "
                "or let them lie in subfolders as their partners do"
            )
        return found[0] if found else None


def _place(path: str, folder: str) -> str:
    return os.path.splitext(os.path.relpath(path, folder))[0].casefold()


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0].casefold()
