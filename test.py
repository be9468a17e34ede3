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
from options import TestOptions
from options.base_options import run_dir
from util.checkpoint import load_for_inference
from util.errors import UserError
from util.gallery import Gallery, unique_names
from util.runtime import Runtime


def main() -> int:
    """Run the command line; returns the exit status."""
    try:
        translate(TestOptions().parse())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def translate(opt: Namespace) -> None:
    """Translate every image of the phase, each at its own size, and write the gallery."""
    runtime = Runtime.from_options(opt)
    loader = create_loader(opt, runtime)
    model = create_model(opt, runtime)
    weights = load_for_inference(model, run_dir(opt), opt.epoch, use_average=not opt.no_ema)
    if opt.eval:
        model.eval()
    source = loader.dataset.domains["A"]
    names = dict(zip(source.paths, unique_names(source.paths, source.folder), strict=True))
    folder = Path(opt.results_dir) / opt.name / f"{opt.phase}_{opt.epoch}"
    facts = {
        "command": shlex.join(["python", *sys.argv]),
        "recipe": opt.recipe,
        "weights": ", ".join(weights),
        **runtime.versions(),
    }
    print(f"{opt.recipe}: {len(names)} images, weights {', '.join(weights)}, on {runtime.describe()}")

    began = time.perf_counter()
    bar = tqdm(total=len(names), unit="img", disable=None)
    with (
        torch.inference_mode(),
        bar,
        Gallery(folder, opt.easy_label or opt.name, ("real_A", "fake_B"), facts) as gallery,
    ):
        for batch in loader.epoch(1):
            fake_B = model.translate(batch["A"])
            for path, (height, width), real, fake in zip(
                batch["A_paths"], batch["A_size"], batch["A"], fake_B, strict=True
            ):
                pictures = {"real_A": real[:, :height, :width], "fake_B": fake[:, :height, :width]}
                gallery.add(names[path], pictures)
            bar.update(len(fake_B))
    seconds = time.perf_counter() - began
    print(f"{len(names)} images in {seconds:.1f} s ({len(names) / seconds:.1f} images/s): {folder / 'index.html'}")


if __name__ == "__main__":
    sys.exit(main())
