"""The loop of test.py: every image of a phase translated, pictures and page written."""

import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from data import Loader, create_loader
from data.loader import Batch
from models import create_model
from models.base_model import BaseModel
from models.inference.bar import Bar
from models.inference.memory import does_not_fit
from util.errors import UnfitImage, UserError, is_out_of_memory
from util.hardware.runtime import Runtime
from util.hardware.team import print_once
from util.pages.finished import Finished
from util.pages.gallery import Gallery
from util.run.checkpoint import load_for_inference
from util.run.folder import (
    describe_history,
    describe_versions,
    plain_options,
    result_dir,
    run_dir,
    saved_record,
)
from util.words import counted

# Options and facts without a part in what a picture looks like: where things lie, and which images are asked for. The
# files that a picture is made of count by their content.
NO_PART = {
    *("name", "suffix", "checkpoints_dir", "results_dir", "easy_label", "verbose"),
    *("dataroot", "phase", "style", "pair_by", "content_labels", "style_labels", "vgg_weights"),
    *("max_dataset_size", "num_test", "num_threads", "cache", "skip_bad_images", "batch_size"),
    *("command", "data", "device", "gpu_ids", "parameters"),
}


def translate(opt: Namespace) -> Gallery:
    """Translate every image of the phase, at the sizes that the options ask for; returns the gallery, written.

    Several processes share the images, and the first one writes the pages.

    Raises:
        UserError: no image could be translated, on any process.
    """
    with Runtime.from_options(opt) as runtime:
        return translate_on(runtime, opt)


def translate_on(runtime: Runtime, opt: Namespace) -> Gallery:
    """`translate`, where a runtime says."""
    loader = create_loader(opt, runtime)
    model = create_model(opt, runtime)
    weights = load_for_inference(model, run_dir(opt), opt.epoch, use_average=not opt.no_ema)
    if opt.eval:
        model.eval()

    record = saved_record(run_dir(opt)) if model.USES_RUN else {}
    parameters = model.count_parameters()
    facts = {
        "command": shlex.join(["python", *sys.argv]),
        "recipe": opt.recipe,
        "trained": "; ".join(describe_history(record)),
        "trained with": describe_versions(record.get("versions", {})),
        "weights": ", ".join(weights) or "none",
        "parameters": f"{parameters:,}" if parameters else "",
        "data": f"{opt.dataroot}, phase {opt.phase}, {opt.direction}",
        "preprocess": opt.preprocess,
        "sizes": opt.sizes,
        **model.facts(),
        **runtime.versions(),
    }
    facts = {name: fact for name, fact in facts.items() if fact}
    count = len(loader.dataset)
    print_once(
        f"{opt.recipe}: {counted(count, 'image')}, weights {facts['weights']}, on {runtime.describe()}"
    )
    print_once(
        f"sizes of images: {opt.sizes}{'; --size own keeps them' if opt.size == 'trained' else ''}"
    )

    began = time.perf_counter()
    bar = Bar(-(-count // runtime.world_size), in_parts=model.COSTLY, shown=runtime.is_main)
    gallery = Gallery(result_dir(opt), opt.easy_label or opt.name, facts, runtime.rank)
    runtime.as_one(gallery.open)
    with gradients(model), bar, gallery:
        known = depends(opt, facts)
        finished = Finished(gallery, known, runtime.rank) if model.COSTLY else None
        left_out = translate_all(loader, model, runtime, gallery, bar, finished)
        left_out += bring_together(runtime, gallery, bar, left_out)
        refuse_if_empty(runtime, gallery, left_out)
        if left_out:
            gallery.description["left out"] = "; ".join(left_out)
        gallery.description |= {f"mean {name}": f"{value:.4g}" for name, value in bar.means.items()}

    seconds = time.perf_counter() - began
    speed = f"{counted(count, 'image')} in {seconds:.1f} s ({count / seconds:.1f} images/s)"
    if gallery.no_page:
        print_once(f"no page: {gallery.no_page}")
    print_once(f"{speed}: {gallery.folder if gallery.no_page else gallery.folder / 'index.html'}")
    return gallery


def translate_all(
    loader: Loader,
    model: BaseModel,
    runtime: Runtime,
    gallery: Gallery,
    bar: Bar,
    finished: Finished | None,
) -> list[str]:
    """Every batch through the model and into the gallery, but for what is `finished`.

    Returns:
        What could not be translated, a line for each image.
    """
    names, left_out = loader.dataset.result_names(), []
    model.tell = bar.tell
    for whole in loader.epoch(1):
        if finished:
            kept = [finished.take_up(*row) for row in rows_of(model, whole, names)]
            if None not in kept:
                for figures in kept:
                    bar.skip(figures)
                continue

        for batch, pictures in show_what_fits(model, whole, runtime):
            rows = rows_of(model, batch, names)
            if isinstance(pictures, UnfitImage):
                lines = [f"{path}: {pictures}" for _, (path, *_) in rows]
                bar.leave_out(len(rows), "\n".join(f"warning: left out {line}" for line in lines))
                left_out += lines
                continue

            for place, (name, sources) in enumerate(rows):
                row = cut_row(pictures, batch, place)
                gallery.add(name, row, *model.explain(row))
                figures = bar.figures | model.measure(row)
                bar.note(figures)
                if finished:
                    finished.note(name, sources, figures)
            bar.finish(len(rows))

    return left_out


def rows_of(model: BaseModel, batch: Batch, names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Of each sample of a batch, the name of its row and the files that its pictures are made from."""
    return [(names[index], model.sources(batch, k)) for k, index in enumerate(batch["index"])]


def show_what_fits(
    model: BaseModel, batch: Batch, runtime: Runtime
) -> Iterator[tuple[Batch, dict[str, Tensor] | UnfitImage]]:
    """A batch and the model's pictures of it; where they cannot be made, image by image, with the error of those unfit.

    Whether an image is unfit may lie in more than its size, which is that of its batch: in its label map, say.
    """
    try:
        with runtime.autocast():
            pictures = show(model, batch)
    except UnfitImage as error:
        pictures = error

    count = len(batch["index"])
    if count == 1 or not isinstance(pictures, UnfitImage):
        yield batch, pictures
        return
    for place in range(count):
        yield from show_what_fits(model, cut_batch(batch, slice(place, place + 1)), runtime)


def show(model: BaseModel, batch: Batch) -> dict[str, Tensor]:
    """The model's pictures of a batch, half by half where it does not fit into memory as a whole.

    Raises:
        UserError: a single image does not.
    """
    count = len(batch["index"])
    try:
        return model.show(batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if count == 1:
            raise UserError(does_not_fit(model.opt, batch, str(error))) from error

    torch.cuda.empty_cache()
    halves = []
    for part in (slice(0, count // 2), slice(count // 2, count)):
        halves.append(show(model, cut_batch(batch, part)))
    return {label: torch.cat([half[label] for half in halves]) for label in halves[0]}


def cut_batch(batch: Batch, part: slice) -> Batch:
    """Some samples of a batch."""
    return {key: entry[part] for key, entry in batch.items()}


def bring_together(runtime: Runtime, gallery: Gallery, bar: Bar, left_out: list[str]) -> list[str]:
    """Let the main process know what the others have written and been told, once it is on the disk.

    Returns what the others have left out.
    """
    gallery.flush()
    own = (gallery.rows, gallery.files, bar.told, left_out)
    further = []
    for rows, files, told, lines in runtime.gather(own)[1:]:
        gallery.rows += rows
        gallery.files |= files
        bar.join(told)
        further += lines
    return further


def refuse_if_empty(runtime: Runtime, gallery: Gallery, left_out: list[str]) -> None:
    """Raise UserError, on all processes, where the main one has no row of any and knows why."""
    nothing = runtime.tell(left_out[0] if left_out and not gallery.rows else None)
    if nothing:
        raise UserError(nothing)


def depends(opt: Namespace, facts: Mapping[str, str]) -> dict[str, Any]:
    """What pictures depend on beside the files they are made of: options and facts."""
    options = {name: value for name, value in plain_options(opt).items() if name not in NO_PART}
    return {"options": options, "facts": {k: v for k, v in facts.items() if k not in NO_PART}}


def gradients(model: BaseModel) -> AbstractContextManager:
    """The mode in which a model translates: with gradients where it asks for them."""
    return torch.enable_grad() if model.WITH_GRADIENTS else torch.inference_mode()


def cut_row(pictures: Mapping[str, Tensor], batch: Batch, place: int) -> dict[str, Tensor]:
    """The pictures (C,H,W) of one sample of a batch, without what its image was filled up with.

    A picture of a domain's real image has that image's size, every other one the size of the
    input. One that differs from its filled-up image in size was made to be so.
    """
    row = {}
    for label, images in pictures.items():
        role = label.removeprefix("real_")
        if f"{role}_size" not in batch:
            role = "A" if "A" in batch else "B"

        picture = images[place].float()
        if picture.shape[1:] == batch[role].shape[2:]:
            height, width = batch[f"{role}_size"][place]
            picture = picture[:, :height, :width]
        row[label] = picture
    return row
