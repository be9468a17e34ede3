"""Translate images with a trained model: `python test.py --name RUN`; writes a folder of images and a page."""

import shlex
import sys
import time
from argparse import Namespace
from pathlib import Path

import torch
from tqdm import tqdm

from data import create_loader
from models import create_model
from options import TestOptions, parse
from util.errors import UserError
from util.hardware.runtime import Runtime
from util.pages.gallery import Gallery, unique_names
from util.run.checkpoint import load_for_inference
from util.run.folder import run_dir


def main() -> int:
    """Run the command line; returns the exit status."""
    try:
        translate(parse(TestOptions()))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def translate(opt: Namespace) -> Gallery:
    """Translate every image of the phase, each at its own size; returns the gallery, written."""
    runtime = Runtime.from_options(opt)
    loader = create_loader(opt, runtime)
    model = create_model(opt, runtime)
    weights = load_for_inference(model, run_dir(opt), opt.epoch, use_average=not opt.no_ema)
    if opt.eval:
        model.eval()
    names = {}
    for domain in loader.dataset.domains.values():
        names.update(zip(domain.paths, unique_names(domain.paths, domain.folder), strict=True))
    folder = Path(opt.results_dir) / opt.name / f"{opt.phase}_{opt.epoch}"
    facts = {
        "command": shlex.join(["python", *sys.argv]),
        "recipe": opt.recipe,
        "weights": ", ".join(weights),
        **runtime.versions(),
    }
    count = len(loader.dataset)
    print(f"{opt.recipe}: {count} images, weights {', '.join(weights)}, on {runtime.describe()}")

    began = time.perf_counter()
    bar = tqdm(total=count, unit="img", disable=None)
    with torch.inference_mode(), bar, Gallery(folder, opt.easy_label or opt.name, facts) as gallery:
        for batch in loader.epoch(1):
            role = "A" if "A" in batch else "B"
            with runtime.autocast():
                pictures = model.show(batch)
            for index, path in enumerate(batch[f"{role}_paths"]):
                height, width = batch[f"{role}_size"][index]
                row = {label: images[index, :, :height, :width].float() for label, images in pictures.items()}
                gallery.add(names[path], row, *model.explain(row))
            bar.update(len(batch[role]))
    seconds = time.perf_counter() - began
    print(f"{count} images in {seconds:.1f} s ({count / seconds:.1f} images/s): {folder / 'index.html'}")
    return gallery


if __name__ == "__main__":
    sys.exit(main())
