"""The loop of test.py: every image of a phase translated, pictures and page written."""

import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from data import create_loader
from models import create_model
from models.base_model import BaseModel
from util.hardware.runtime import Runtime
from util.pages.gallery import Gallery
from util.run.checkpoint import load_for_inference
from util.run.folder import describe_history, result_dir, run_dir, saved_record


def translate(opt: Namespace) -> Gallery:
    """Translate every image of the phase, each at its own size; returns the gallery, written."""
    runtime = Runtime.from_options(opt)
    loader = create_loader(opt, runtime)
    model = create_model(opt, runtime)
    weights = load_for_inference(model, run_dir(opt), opt.epoch, use_average=not opt.no_ema)
    if opt.eval:
        model.eval()

    facts = {
        "command": shlex.join(["python", *sys.argv]),
        "recipe": opt.recipe,
        "trained": "; ".join(describe_history(saved_record(run_dir(opt)))),
        "weights": ", ".join(weights) or "none",
        "data": f"{opt.dataroot}, phase {opt.phase}, {opt.direction}",
        "preprocess": opt.preprocess,
        **runtime.versions(),
    }
    facts = {name: fact for name, fact in facts.items() if fact}
    count, names = len(loader.dataset), loader.dataset.result_names()
    print(f"{opt.recipe}: {count} images, weights {facts['weights']}, on {runtime.describe()}")

    began = time.perf_counter()
    folder = result_dir(opt)
    bar = tqdm(total=count, unit="img", disable=None)
    with gradients(model), bar, Gallery(folder, opt.easy_label or opt.name, facts) as gallery:
        for batch in loader.epoch(1):
            with runtime.autocast():
                pictures = model.show(batch)
            for place, index in enumerate(batch["index"]):
                row = cut_row(pictures, batch, place)
                gallery.add(names[index], row, *model.explain(row))
            bar.update(len(batch["index"]))

    seconds = time.perf_counter() - began
    speed = f"{count} images in {seconds:.1f} s ({count / seconds:.1f} images/s)"
    print(f"{speed}: {folder / 'index.html'}")
    return gallery


def gradients(model: BaseModel) -> AbstractContextManager:
    """The mode in which a model translates: with gradients where it asks for them."""
    return torch.enable_grad() if model.WITH_GRADIENTS else torch.inference_mode()


def cut_row(
    pictures: Mapping[str, Tensor], batch: Mapping[str, Any], place: int
) -> dict[str, Tensor]:
    """The pictures (C,H,W) of one sample of a batch, without what its image was filled up with.

    A picture of a domain's real image has that image's size, every other one the size of the input.
    """
    row = {}
    for label, images in pictures.items():
        role = label.removeprefix("real_")
        if f"{role}_size" not in batch:
            role = "A" if "A" in batch else "B"
        height, width = batch[f"{role}_size"][place]
        row[label] = images[place, :, :height, :width].float()
    return row
