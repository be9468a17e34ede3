"""Batches of an epoch, from any batch on: the same for any number of workers, any cache and any resume."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.util import Finalize
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from data.base_dataset import BaseDataset
from data.cache import PixelCache
from data.deferred import Deferred
from data.inspection import unlike_in_batch
from data.transforms import Source, View, cut_view, read_source
from data.workers import (
    check_shared_memory,
    raise_lost_worker,
    shared_memory_is_short,
    stop_workers,
)
from util.errors import UserError, first_line
from util.hardware.cores import cpu_count
from util.hardware.runtime import Runtime
from util.run.stop import SIGNALS

Keys = list[tuple[int, int]]  # (epoch, index) of each sample of a batch
Batch = dict[str, Any]
# views of equal size -> uint8 (B, C, H, W), now or later
Cut = Callable[[Sequence[View]], Tensor | list[View]]
PLANNED = 1024  # batches whose cuts go to the device in one message


class Loader:
    """Turns a data set into batches on the device.

    A batch is a dict: "A" (and "B" when training) float32 (B, C, H, W) in [-1, 1] on the device, "A_paths" list of
    str, "A_size" list of (height, width): the part of each image that is not filled up (all of it in training), and
    "index", the samples' numbers in the data set.

    Args:
        dataset: which images, and how they are cut.
        runtime: the device, and which part of each batch is this process's.
        images_per_step: global images per step, over all processes.
        num_threads: worker processes that decode; 0 decodes in this one. With a cache there is nothing left for workers
            to do but copy, which is faster without them.
        cache: "none", "ram" or "device".
        deferred: with a cache on the device, leave cutting to the step: "A" and "B" are then `Deferred` images.
    """

    def __init__(
        self, dataset: BaseDataset, runtime: Runtime, images_per_step: int, num_threads: int, cache: str,
        deferred: bool = False,
    ) -> None:  # fmt: skip
        self.dataset = dataset
        self.images_per_step = images_per_step
        self._runtime = runtime
        self._pin = runtime.device.type == "cuda"
        self._deferred = deferred

        self._cache_kind = cache
        self._cache: PixelCache | None = None
        self._cached: list[Source] = []  # what it holds
        self._cached_size = 0  # the `load_size` that was last asked for

        self._host = None
        if cache == "none":
            self._host = self._make_host(min(num_threads, cpu_count()))

        self._steps = len(self._index_batches(epoch=1))
        for note in dataset.notes:
            self._say(note)

    def __len__(self) -> int:
        """Steps per epoch; training drops the last images when they fill no batch."""
        return self._steps

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This process's batches of an epoch (counted from 1); the first `start` are skipped without being decoded.

        Raises:
            UserError: an image that cannot be read, is too small for its crop, or differs in size
                from its batch.
        """
        part = self.images_per_step // self._runtime.world_size
        first = part * self._runtime.rank
        keys = []
        for batch in self._index_batches(epoch)[start:]:
            own = batch[first : first + part]
            if own:
                keys.append([(epoch, index) for index in own])

        cached = self._host is None
        fetched = self._fetch_cached(epoch, keys) if cached else self._fetch_decoded(keys)
        for batch in fetched:
            images = {role: self._finish(pixels) for role, pixels in batch.pixels.items()}
            yield images | batch.facts

    def _finish(self, pixels: Tensor | Deferred) -> Tensor | Deferred:
        if isinstance(pixels, Deferred):
            return pixels
        return self._runtime.images(pixels)

    def _index_batches(self, epoch: int) -> list[list[int]]:
        order, size = self.dataset.order(epoch), self.images_per_step
        if self.dataset.is_train:
            starts = range(0, len(order) - size + 1, size)
            return [order[first : first + size] for first in starts]
        return self._batches_of_one_size(epoch, order)

    def _batches_of_one_size(self, epoch: int, order: list[int]) -> list[list[int]]:
        """Batches of images of one size, so that none affects another; full ones come first."""
        groups: dict[Any, list[int]] = {}
        full = []
        for index in order:
            key = None
            plan = self.dataset.plan(epoch, index)
            if self.images_per_step > 1:
                key = tuple((role, *view.box[2:]) for role, view in plan.items())

            group = groups.setdefault(key, [])
            group.append(index)
            if len(group) == self.images_per_step:
                full.append(groups.pop(key))
        return full + list(groups.values())

    def _fetch_decoded(self, keys: list[Keys]) -> Iterator["RawBatch"]:
        self._host.sampler.keys = keys
        if self._host.num_workers and self._host._iterator is None and keys:
            check_shared_memory(self.dataset, keys[0], self._host)
        with signals_held():
            batches = iter(self._host)  # starts the workers, the first time
            # Torch would raise the loss of a worker anywhere in a step; asked for a batch it raises it as well.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)

        try:
            for batch in batches:
                if isinstance(batch, UserError):
                    raise batch
                yield batch
        except (RuntimeError, OSError, EOFError) as error:  # a batch cannot be had from the dead
            raise_lost_worker(self._host, error)

    def _fetch_cached(self, epoch: int, keys: list[Keys]) -> Iterator["RawBatch"]:
        on_device = self._cache_kind == "device"
        size = self.dataset.load_size(epoch)
        if size != self._cached_size:
            self._fill_cache(self.dataset.sources(epoch))
            self._cached_size = size

        if on_device:
            yield from self._cut_on_device(keys)
            return

        for batch in keys:
            raw = make_batch(self.dataset, batch, partial(cut_views, self._cache.pixels))
            yield raw.pin_memory() if self._pin else raw

    def _fill_cache(self, sources: list[Source]) -> None:
        """Decode what an epoch is cut from, unless it is there already: not every --preprocess heeds a new size."""
        if sources == self._cached:
            return

        self._cache, self._cached = None, []  # before the new one takes its place in memory
        on_device = self._cache_kind == "device"
        device = self._runtime.device if on_device else torch.device("cpu")
        self._cache = PixelCache(sources, device, self._cache_kind)
        self._cached = sources
        self._say(f"cache {self._cache_kind}: {self._cache.describe()}")

    def _cut_on_device(self, keys: list[Keys]) -> Iterator["RawBatch"]:
        """Many batches are planned at a time, so that a step waits for no plan to reach the device."""
        for first in range(0, len(keys), PLANNED):
            batches = [make_batch(self.dataset, k, list) for k in keys[first : first + PLANNED]]
            parts = [views for batch in batches for views in batch.pixels.values()]
            plans = self._cache.plan([view for views in parts for view in views])

            plans = iter(plans.split([len(views) for views in parts]))
            for batch in batches:
                cut = {role: self._cut(next(plans), v) for role, v in batch.pixels.items()}
                yield RawBatch(cut, batch.facts)

    def _cut(self, plan: Tensor, views: Sequence[View]) -> Tensor | Deferred:
        first = views[0]
        _, _, width, height = first.box
        size = (first.source.channels, height, width)
        if self._deferred:
            return Deferred(plan, size, self._cache, self._runtime.images)
        return self._cache.cut(plan, size)

    def _make_host(self, workers: int) -> DataLoader:
        settings = {"persistent_workers": True, "prefetch_factor": 4} if workers else {}
        host = DataLoader(
            HostBatches(self.dataset),
            batch_size=None,
            sampler=KeySampler(),
            num_workers=workers,
            worker_init_fn=ignore_signals,
            pin_memory=self._pin,
            # of its own, so that loading does not move the model's random numbers
            generator=torch.Generator(),
            **settings,
        )

        # At exit this must come before the queues to the workers close, which have priority 10.
        Finalize(self, stop_workers, args=(host,), exitpriority=20)
        return host

    def _say(self, text: str) -> None:
        if self._runtime.is_main:
            print(text)


@dataclass
class RawBatch:
    """A batch before its bytes become numbers: uint8 (B, C, H, W) by role, and what is known about each image.

    `pixels` may still be what they will be cut from.
    """

    pixels: dict[str, Tensor | Deferred | list[View]]
    facts: dict[str, list]

    def pin_memory(self) -> "RawBatch":
        """The same in page-locked memory; DataLoader calls this."""
        pinned = {role: pixels.pin_memory() for role, pixels in self.pixels.items()}
        return RawBatch(pinned, self.facts)

    def share(self) -> "RawBatch":
        """The same in memory that other processes can read; raises UserError where there is too little of it.

        A worker's queue would do so too, but on a thread, whose error reaches nobody: the batch would never come.
        """
        try:
            shared = {role: pixels.share_memory_() for role, pixels in self.pixels.items()}
        except (RuntimeError, OSError) as error:
            raise UserError(shared_memory_is_short(first_line(error))) from error
        return RawBatch(shared, self.facts)


def make_batch(dataset: BaseDataset, keys: Keys, cut: Cut) -> RawBatch:
    """Plan the samples, and cut each domain's views to one tensor.

    Raises:
        UserError: the images of the batch differ in size.
    """
    plans = [dataset.plan(epoch, index) for epoch, index in keys]
    batch = RawBatch({}, {"index": [index for _, index in keys]})

    for role in plans[0]:
        views = [plan[role] for plan in plans]
        for view in views:
            if view.box[2:] != views[0].box[2:]:
                pair = ((v.source.path, v.box[2:]) for v in (views[0], view))
                raise unlike_in_batch(*pair)

        batch.pixels[role] = cut(views)
        batch.facts[f"{role}_paths"] = [view.source.path for view in views]
        batch.facts[f"{role}_size"] = [view.content_size for view in views]
    return batch


def cut_views(pixels: Callable[..., Tensor], views: Sequence[View]) -> Tensor:
    """Views of equal size, cut on the host from what `pixels(source)` returns: uint8 (B, C, H, W)."""
    return torch.stack([cut_view(pixels(view.source), view) for view in views])


class HostBatches(Dataset):
    """Batches by their keys, decoded from files, for torch's DataLoader."""

    def __init__(self, dataset: BaseDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, keys: Keys) -> RawBatch | UserError:
        """The batch; or the user's error as a value, because raised in a worker it would arrive inside a traceback."""
        try:
            batch = make_batch(self.dataset, keys, partial(cut_views, read_source))
            return batch.share() if get_worker_info() else batch
        except UserError as error:
            return error


class KeySampler:
    """Hands the keys of the current epoch to a DataLoader that outlives the epoch."""

    def __init__(self) -> None:
        self.keys: list[Keys] = []

    def __iter__(self) -> Iterator[Keys]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


@contextmanager
def signals_held() -> Iterator[None]:
    """Signals to stop wait until the block ends, here and in processes started in it: see `ignore_signals`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals(worker: int) -> None:
    """Workers leave signals to stop, which reach the whole process group, to the main process: it stops them.

    A worker is born with all of them held back, so that none can end it before this line is reached.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
