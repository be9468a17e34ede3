"""What is looked at before the first step: the header of every image, and the values of a few."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from data.base_dataset import BaseDataset, Domain
from data.image_file import LARGE, Header, in_threads, opened, read_header, read_image
from data.pixels import Levels, is_grey
from data.transforms import Size, cuts, reduced_in_decay, scaler_of
from util.errors import UserError
from util.words import first_of

SAMPLED = 8  # images of a domain whose values are looked at
READABLE = ("RGB", "RGBA", "LA")  # beside grey: numbers that are shown as they are
NARROW = 4  # a range of less than this part of what the file can hold is told
MOVED = 0.02  # of a side: rounding to a multiple that moves it further is told


def inspect(dataset: BaseDataset, images_per_step: int) -> list[str]:
    """Look through the images of a data set; returns what the user should know, a line each.

    Raises:
        UserError: a file that cannot be read, or an image that does not fit the options, its partner or its batch.
    """
    notes = []
    for domain in dataset.domains.values():
        headers = read_headers(domain.paths)
        for path, header in zip(domain.paths, headers, strict=True):
            dataset.file_sizes[path] = header.size
            if header.mode == "F" and not dataset.levels:
                read_image(path, domain.channels)  # says that their range is not known
        notes += note_several(domain, headers)

    check_sizes(dataset, images_per_step)
    notes += [*dataset.describe_files(), *note_sizes(dataset), *note_values(dataset)]
    return list(dict.fromkeys(notes))  # both domains may be of the same files


def read_headers(paths: Sequence[str]) -> list[Header]:
    """The headers of all files; raises UserError for the first that has none, with the number of others."""

    def look(path: str) -> Header | UserError:
        try:
            return read_header(path)
        except UserError as error:
            return error

    headers = list(in_threads(look, paths))
    faults = [header for header in headers if isinstance(header, UserError)]
    if not faults:
        return headers
    others = f" ({len(faults) - 1} more like it)" if len(faults) > 1 else ""
    raise UserError(f"{faults[0]}{others}")


def note_several(domain: Domain, headers: Sequence[Header]) -> list[str]:
    """A line on files with several pages or frames."""
    found = [path for path, header in zip(domain.paths, headers, strict=True) if header.several]
    if not found:
        return []
    return [
        f"{domain.folder}: {len(found)} of {len(headers)} files hold several pictures, of which the first is "
        f"read: {first_of(found)}"
    ]


def check_sizes(dataset: BaseDataset, images_per_step: int) -> None:
    """Raise UserError for an image too small for its crop, in any epoch, or of another size than its batch."""
    for role, domain in dataset.domains.items():
        for number in range(len(domain.paths)):
            dataset.check_file(role, number)

        for epoch in dataset.unlike_epochs():
            sizes = sizes_in_steps(dataset, role, epoch)
            if dataset.is_train and dataset.cacheable and images_per_step > 1 and len(sizes) > 1:
                (one, path), (other, second), *_ = sizes.items()
                raise unlike_in_batch((path, one), (second, other))


def unlike_in_batch(one: tuple[str, Size], other: tuple[str, Size]) -> UserError:
    """What to raise where two images of a batch, (path, (width, height)), differ in size."""
    shown = ", ".join(f"{path} is {width}x{height}" for path, (width, height) in (one, other))
    return UserError(
        f"images of one batch differ in size: {shown}; use --preprocess resize_and_crop or "
        "scale_shortside_and_crop, or one image per step (--batch_size 1 --accumulate 1)"
    )


def sizes_in_steps(dataset: BaseDataset, role: str, epoch: int) -> dict[Size, str]:
    """(width, height) of a role's images as a step of that epoch sees them -> one of the files.

    Raises:
        UserError: an image too small for its crop.
    """
    sizes = {}
    for path in one_of_each_size(dataset, role).values():
        view = dataset.preprocess.view(dataset.source(role, path, epoch, None), None)
        sizes.setdefault(view.box[2:], path)
    return sizes


def one_of_each_size(dataset: BaseDataset, role: str) -> dict[Size, str]:
    """(width, height) of a role's images in their files -> one of the files."""
    found = {}
    for path in dataset.domains[role].paths:
        found.setdefault(dataset.part_size(role, path), path)
    return found


def note_sizes(dataset: BaseDataset) -> Iterator[str]:
    """What a user should know of the sizes that images are scaled to, beyond what the flags say."""
    opt, mode = dataset.opt, dataset.preprocess.mode
    is_scaled_whole = scaler_of(mode) != "none" and not cuts(mode)
    changes = dataset.is_train and reduced_in_decay(vars(opt)) and opt.load_size != opt.crop_size
    if is_scaled_whole and changes:
        yield (
            f"from epoch {opt.n_epochs + 1} on images are scaled to {opt.crop_size} (--crop_size) instead of "
            f"{opt.load_size}; --finetune_resize false keeps {opt.load_size}"
        )

    for epoch in dataset.unlike_epochs():
        for role in dataset.domains:
            yield from note_rounding(dataset, role, epoch)


def note_rounding(dataset: BaseDataset, role: str, epoch: int) -> Iterator[str]:
    """A line for the first image of a role whose scale is changed by rounding its sides to multiples."""
    steps, load_size = dataset.preprocess, dataset.load_size(epoch)
    for size, path in one_of_each_size(dataset, role).items():
        exact = steps.scaled(size, load_size, None)
        rounded = steps.resized(size, load_size, None)

        moved = [abs(after - side) / side for side, after in zip(exact, rounded, strict=True)]
        if max(moved) > MOVED:
            yield (
                f"images are resized to sides that are multiples of {steps.multiple}, which the networks need: "
                f"{path}, {exact[0]} x {exact[1]} after scaling, becomes {rounded[0]} x {rounded[1]}"
            )
            return


def check_one_size(dataset: BaseDataset, why: str, remedy: str) -> None:
    """Raise UserError where images of A and B would differ in size in one step.

    Args:
        why: what they must have one size for, as the beginning of a sentence.
        remedy: beside a --preprocess that cuts, in the imperative.
    """
    if dataset.ONE_SIZE_A_SAMPLE:  # and a batch has one size, see `check_sizes`
        return

    for epoch in dataset.unlike_epochs():
        sizes = {}
        for role in dataset.domains:
            for size, path in sizes_in_steps(dataset, role, epoch).items():
                sizes.setdefault(size, path)
        if dataset.cacheable and len(sizes) > 1:
            (one, path), (other, second), *_ = sizes.items()
            raise UserError(
                f"{why} images of one size, but {path} is {one[0]}x{one[1]} and {second} "
                f"{other[0]}x{other[1]}: use a --preprocess that crops{remedy}"
            )


class Values(NamedTuple):
    """The range of values of an image, the largest that its kind of file can hold, and whether anything shows."""

    low: float
    high: float
    full: float
    grey: bool
    visible: bool


def note_values(dataset: BaseDataset) -> list[str]:
    """Warnings on images that come out nearly black, nearly white or of one colour; a few of each domain are read."""
    notes, any_grey = [], False
    for domain in dataset.domains.values():
        count = min(SAMPLED, len(domain.paths))
        chosen = [domain.paths[index * len(domain.paths) // count] for index in range(count)]
        found = [values for values in in_threads(read_values, chosen) if values]
        notes += [f"warning: {domain.folder}: {text}" for text in judge(found, dataset.levels)]
        any_grey = any_grey or any(values.grey for values in found)

    if dataset.levels and not any_grey:
        notes.append(
            "warning: --value_range is for grey files, and none was found: it has no effect"
        )
    return notes


def read_values(path: str) -> Values | None:
    """What an image holds; None for a file that cannot be read, which is told when its turn comes."""
    try:
        with opened(path) as image:
            if image.mode not in READABLE and not is_grey(image):
                return None
            if image.width * image.height > LARGE:
                return None
            array = np.asarray(image)
            grey = is_grey(image)
            has_alpha = image.mode in ("LA", "RGBA")
    except UserError:
        return None

    visible = not has_alpha or bool(array[..., -1].any())
    values = array[..., :-1] if has_alpha else array
    full = {"uint8": 255.0, "bool": 1.0}.get(str(array.dtype), 65535.0)
    return Values(float(np.nanmin(values)), float(np.nanmax(values)), full, grey, visible)


def judge(found: Sequence[Values], levels: Levels | None) -> Iterator[str]:
    """What a user should know of the values of a domain's images."""
    hidden = [values for values in found if not values.visible]
    if hidden:
        yield (
            f"{len(hidden)} of {len(found)} images looked at are transparent everywhere, which shows white: "
            "remove their alpha channel"
        )

    for grey in (True, False):
        alike = [values for values in found if values.grey == grey and values.visible]
        if not alike:
            continue
        low, high = min(values.low for values in alike), max(values.high for values in alike)
        full = max(values.full for values in alike)
        if grey and levels:
            if low < levels[0] or high > levels[1]:
                yield f"values {low:g}..{high:g} reach beyond --value_range, and are cut off there"
            if high - low < (levels[1] - levels[0]) / NARROW:
                yield (
                    f"the grey images looked at hold values {low:g}..{high:g} of --value_range "
                    f"{levels[0]:g},{levels[1]:g}, so that they are nearly of one tone: the range is that of all "
                    "grey files, of both domains; convert them to one range"
                )
        elif high - low < full / NARROW and full > 1:
            how = f"--value_range {low:g},{high:g}" if grey else "stretch them before training"
            yield (
                f"the images looked at hold values {low:g}..{high:g} of 0..{full:g}, so that they are nearly of one "
                f"tone (label numbers, or 12 bits in a file of 16?): {how}"
            )
