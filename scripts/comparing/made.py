"""Results that test.py has written before, as columns of a comparison, such as those of a method that has no run."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.image_file import read_size
from scripts.comparing.page import Column
from util.errors import UserError
from util.pages.files import Picture
from util.pages.gallery import FACTS

LEFT_OUT = ("command", "recipe", "python", "torchvision", "data", "preprocess")


def made_column(
    source: Path, folder: Path, number: int, names: Sequence[str]
) -> tuple[Column, dict[str, Picture]]:
    """The pictures of a result folder, copied below the comparison, and the column that shows them.

    Args:
        source: what test.py wrote into.
        folder: of the comparison.
        number: of the column, among methods.
        names: of the inputs that are compared; other pictures are left out.

    Raises:
        UserError: no result folder, or none of its pictures is of one of these inputs.
    """
    record = _read(source)
    target = folder / f"made_{number}"
    pictures = {}
    for name in names:
        made = source / "images" / "fake_B" / f"{name}.png"
        if not made.is_file():
            continue
        copy = target / f"{name}.png"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made, copy)
        inside = copy.relative_to(folder).as_posix()
        pictures[name] = Picture("fake_B", inside, *read_size(str(made)))

    if not pictures:
        raise UserError(
            f"--with {source} has no picture of the inputs compared, such as {names[0]}.png; "
            "let test.py read the same --dataroot and --phase"
        )
    facts = {name: text for name, text in record["facts"].items() if name not in LEFT_OUT}
    column = Column(record["title"], "method", number, record["facts"].get("recipe", ""), facts)
    return column, pictures


def _read(source: Path) -> Mapping:
    """Title and facts of a result folder."""
    try:
        return json.loads((source / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"--with {source} is not a folder that test.py has finished ({error}); "
            "give the folder that its last line names"
        ) from None
