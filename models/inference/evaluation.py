"""How good the generator is in the middle of training: held-out images translated as test.py would, and measured."""

import hashlib
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data import create_loader
from data.transforms import scaled_as_trained
from util.errors import UserError
from util.hardware.batch_norm import by_itself
from util.hardware.runtime import Runtime
from util.images import to_uint8
from util.metrics.features import Inception
from util.metrics.measures import Measure
from util.metrics.suite import find_measures

BATCH = 4  # images at once
OF_SETS = ("sets", "members")


@dataclass(frozen=True)
class Evaluation:
    """What one measurement found.

    Attributes:
        figures: name of the measure -> value, in the order of --eval_metrics.
        counts: how many outputs, and how many real images.
        seconds: how long it took.
    """

    figures: dict[str, float]
    counts: dict[str, int]
    seconds: float


class Evaluator:
    """Measures a model under training; leaves its weights, statistics and random numbers as they are.

    One process measures, and sees all images: the others of a run have no part in it.

    Args:
        opt: of the run, with --eval_freq and so on.
        runtime: of the run.

    Raises:
        UserError: no such images or measures, or Inception's weights are missing.
    """

    def __init__(self, opt: Namespace, runtime: Runtime) -> None:
        self.measures = find_measures(opt.eval_metrics, "--eval_metrics")
        self.runtime = runtime.alone()
        self.opt, self.split = opt, opt.eval_split

        self.inception = None
        if any(measure.kind in OF_SETS for measure in self.measures):
            path = Path(opt.inception) if opt.inception else None
            self.inception = Inception(path, opt.eval_feature, device=self.runtime.device)

        self.loader = create_loader(evaluation_options(opt), self.runtime)
        roles = self.loader.dataset.domains
        if "B" not in roles:
            raise UserError(
                f"--eval_split {opt.eval_split}: {opt.dataroot} has no images of the target domain there"
            )
        if min(len(domain.paths) for domain in roles.values()) < 2:
            raise UserError(f"--eval_split {opt.eval_split} has one image; figures need at least 2")
        self.files = checksum(self.loader.dataset.fingerprint())
        self._reals: np.ndarray | None = None

    def title(self, measure: Measure) -> str:
        """What a figure is called."""
        suffix = self.inception.suffix if measure.kind in OF_SETS else ""
        return measure.title + suffix

    def yardstick(self) -> dict[str, str]:
        """What the deciding figure must have in common with another one to be compared with it.

        `scaled` and `files` say on which pixels it was measured: how images are scaled, and a checksum of their names
        and sizes in bytes.
        """
        first = self.measures[0]
        facts = {"decides": first.name, "split": self.split}
        facts |= {"scaled": self.scaled(vars(self.opt)), "files": self.files}
        if first.kind in OF_SETS:
            facts |= {"feature": self.inception.layer, "inception": self.inception.sha256[:12]}
        return facts

    @staticmethod
    def scaled(options: Mapping[str, Any]) -> str:
        """In words, how the images are scaled in a run with these options of training."""
        found = scaled_as_trained(options)
        mode = found["preprocess"]
        words = mode if mode == "none" else f"{mode} to {found['load_size']}"
        return f"{words}, {found['crop_size']} high at least" if mode == "scale_width" else words

    def __call__(self, model: Any) -> Evaluation:
        """Translate all images and measure them."""
        began = time.perf_counter()
        pictures = {"fake": [], "input": [], "real": []}
        plain = self.runtime.uncompiled()  # its batches have sizes of their own
        with torch.no_grad(), left_alone(model), plain, self.runtime.autocast():
            for batch in self.loader.epoch(1):
                self._take(model, batch, pictures)

        figures = self._measure(pictures)
        counts = {name: len(pictures[name]) for name in ("fake", "real")}
        return Evaluation(figures, counts, time.perf_counter() - began)

    def _take(self, model: Any, batch: dict[str, Any], pictures: dict[str, list]) -> None:
        """Translate the inputs of a batch, and keep what is real in it."""
        sizes = batch.get("A_size", batch.get("B_size"))
        if "A" in batch:
            pictures["fake"] += cut(model.translate(batch["A"]), sizes)
            pictures["input"] += cut(batch["A"], sizes)
        if "B" in batch:
            pictures["real"] += cut(batch["B"], batch["B_size"])

    def _measure(self, pictures: dict[str, list[np.ndarray]]) -> dict[str, float]:
        """The value of every measure."""
        fakes = reals = None
        if self.inception:
            fakes = self._features(pictures["fake"])
            if self._reals is None:
                self._reals = self._features(pictures["real"])
            reals = self._reals

        beside = {"pairs": pictures["input"], "truths": pictures["real"]}
        figures = {}
        for measure in self.measures:
            if measure.kind in OF_SETS:
                values = measure.function(fakes, reals)
            else:
                pairs = zip(pictures["fake"], beside[measure.kind], strict=True)
                values = [measure.function(one / 255, other / 255) for one, other in pairs]
            figures[measure.name] = float(np.mean(values))
        return figures

    def _features(self, pictures: list[np.ndarray]) -> np.ndarray:
        tensors = (torch.from_numpy(picture).permute(2, 0, 1) for picture in pictures)
        return self.inception.encode(tensors, BATCH)


def create_evaluator(opt: Namespace, runtime: Runtime) -> Evaluator | None:
    """What measures the run now and then, on the main process; None without --eval_freq.

    Raises:
        UserError: as `Evaluator`.
    """
    return Evaluator(opt, runtime) if opt.eval_freq and runtime.is_main else None


def evaluation_options(opt: Namespace) -> Namespace:
    """The options with which the images to measure on are read: as the last epochs of training see theirs, uncut."""
    found = Namespace(**vars(opt))
    found.is_train = False
    found.test_roles = "AB"
    found.batch_size, found.num_threads, found.cache = BATCH, 0, "none"
    found.phase = opt.phase if opt.eval_split == "holdout" else opt.eval_split
    found.only_held_out = opt.eval_split == "holdout"

    vars(found).update(scaled_as_trained(vars(opt)))
    return found


def checksum(prints: Mapping[str, str]) -> str:
    """Of what tells the images of each domain from others."""
    text = "\n".join(f"{role} {prints[role]}" for role in sorted(prints))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def cut(images: Tensor, sizes: list[tuple[int, int]]) -> list[np.ndarray]:
    """A batch of images as (H,W,3) uint8, without what they were filled up with."""
    pictures = []
    for image, (height, width) in zip(to_uint8(images.float()), sizes, strict=True):
        grey_or_rgb = image[:height, :width]
        pictures.append(np.broadcast_to(grey_or_rgb, (height, width, 3)).copy())
    return pictures


@contextmanager
def left_alone(model: Any) -> Iterator[None]:
    """While entered, what translating changes by the way is put back at the end: random numbers, batch statistics.

    Nor do the other processes of a run notice it.
    """
    networks = [*model.networks.values(), *model.averages.values()]
    buffers = [buffer for net in networks for buffer in net.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())), by_itself(networks):
            yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
