"""Which images of a training set are kept out of training, to measure on: the same ones whatever the seed."""

import math

from util.errors import UserError
from util.words import counted

LARGEST_SHARE = 10  # at most one image in so many
FEWEST = 2


def split_held_out(
    paths: list[str], wanted: int, folder: str, limit: float = math.inf
) -> tuple[list[str], list[str]]:
    """Images to train on, and images to measure on: `wanted`, at most a tenth, evenly spread over the sorted names.

    Args:
        paths: of the images, sorted.
        wanted: how many to measure on.
        folder: that the images are of, for messages.
        limit: the --max_dataset_size that `paths` was cut down to.

    Raises:
        UserError: fewer wanted than make a set; too few images to keep any out.
    """
    if wanted < FEWEST:
        raise UserError(f"--eval_images {wanted}: sets are measured, of {FEWEST} images at least")
    count = min(wanted, max(len(paths) // LARGEST_SHARE, FEWEST))
    if len(paths) < 2 * count:
        there = f"{folder} holds {counted(len(paths), 'image')}"
        if len(paths) >= limit:
            there = f"--max_dataset_size {limit} takes {counted(len(paths), 'image')} of {folder}"
        raise UserError(
            f"{there}, too few to keep {FEWEST} of them out of training; "
            "measure on other images (--eval_split val or test), or not at all (--eval_freq 0)"
        )

    places = {(2 * number + 1) * len(paths) // (2 * count) for number in range(count)}
    training = [path for place, path in enumerate(paths) if place not in places]
    return training, [paths[place] for place in sorted(places)]
