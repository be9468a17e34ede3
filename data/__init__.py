"""Data sets, one file each: `--dataset_mode NAME` is the one BaseDataset subclass in data/NAME_dataset.py."""

import sys
from argparse import Namespace

from data.base_dataset import BaseDataset
from data.cache import choose_cache
from data.inspection import inspect
from data.loader import Loader
from util.errors import UserError
from util.hardware.runtime import Runtime
from util.registry import find_class, names_in
from util.words import counted


def dataset_modes() -> list[str]:
    """Every name that --dataset_mode takes."""
    return [name for name in names_in(sys.modules[__name__], "_dataset") if name != "base"]


def find_dataset(mode: str) -> type[BaseDataset]:
    """The data set class for a mode; raises UserError with a did-you-mean for an unknown one."""
    return find_class(sys.modules[__name__], "_dataset", BaseDataset, mode, "--dataset_mode")


def create_loader(opt: Namespace, runtime: Runtime) -> Loader:
    """Find the images that the options ask for and build the loader of their batches.

    A step takes batch_size * accumulate images when training; each of W processes gets its W-th part
    of them, and so of every batch. At test each process gets batch_size images at once.

    Raises:
        UserError: missing or unreadable images, or options that do not fit the images or each other.
    """
    dataset = find_dataset(opt.dataset_mode)(opt)
    batches = opt.accumulate if opt.is_train else runtime.world_size
    count = opt.batch_size * batches

    if opt.is_train and opt.batch_size % runtime.world_size:
        raise UserError(
            f"--batch_size {opt.batch_size} cannot be shared by {runtime.world_size} processes; "
            f"make it a multiple of {runtime.world_size}"
        )
    if opt.is_train and len(dataset) < count:
        raise UserError(
            f"batch_size * accumulate = {opt.batch_size} * {opt.accumulate} = {count}, but "
            f"{opt.dataroot} has only {counted(len(dataset), 'image')} per epoch; "
            "lower --batch_size or --accumulate"
        )

    dataset.notes += inspect(dataset, count)

    cache = choose_cache(opt.cache, dataset, runtime.device)
    if cache != "none" and not dataset.cacheable:
        raise UserError(
            f"--cache {cache} cannot hold images that are resized anew for each sample, "
            f"as --preprocess {opt.preprocess} does; use --cache none"
        )

    deferred = opt.is_train and cache == "device" and runtime.capture
    return Loader(dataset, runtime, count, opt.num_threads, cache, deferred)
