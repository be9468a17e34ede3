"""Train one model on two folders of images: `python train.py --dataroot FOLDER --name RUN`; again to continue."""

import sys
from argparse import Namespace
from collections.abc import Sequence

from data import Loader, create_loader
from models import create_model
from models.inference.evaluation import create_evaluator
from models.step.runners import Step, create_step
from options import TrainOptions, parse
from util.errors import exit_status
from util.hardware.launch import start_processes
from util.hardware.out_of_memory import OutOfMemory
from util.hardware.runtime import Runtime
from util.hardware.team import print_once
from util.logs.visualizer import Visualizer
from util.run.checkpoint import Checkpoint
from util.run.folder import describe_options, run_dir
from util.run.progress import Progress
from util.run.reports import Report, Run, end_between_steps, reporting
from util.run.stop import Ending, NoBatch, Stop
from util.words import counted


def main() -> int:
    """Run the command line; returns the exit status."""
    opt = parse(TrainOptions())
    start_processes(opt.gpu_ids)
    print_once(describe_options(opt), f"recipe: {opt.recipe}")
    return 0 if opt.dry_run else train(opt)


def train(opt: Namespace) -> int:
    """Train until the last epoch, a limit, or a signal that asks to stop; returns the exit status."""
    with Runtime.from_options(opt) as runtime, OutOfMemory(opt, runtime.device) as memory:
        # build
        loader = create_loader(opt, runtime)
        model = create_model(opt, runtime)
        memory.consumers = model.memory_use
        progress = Progress.from_options(opt, loader, loader.images_per_step)
        evaluator = create_evaluator(opt, runtime)
        checkpoint = Checkpoint(opt, runtime, model, progress, loader.dataset.fingerprint())

        # begin, or go on
        notes = checkpoint.begin()
        model.prepare_once(loader.dataset)
        versions = runtime.versions()
        visualizer = Visualizer(
            opt, run_dir(opt), progress.total_images, versions, enabled=runtime.is_main
        )
        visualizer.start(progress.images)
        size = f"{counted(len(loader.dataset), 'image')} per epoch, on {runtime.describe()}"
        for line in (model.describe(), size, *notes):
            visualizer.message(line)

        # train
        step = create_step(model, runtime, visualizer.message)
        run = Run(opt, runtime, model, progress, checkpoint, visualizer, evaluator)
        with reporting(run) as reports, Stop(opt, runtime, progress) as stop:
            try:
                ending = run_epochs(loader, step, run, reports, stop)
            except NoBatch as reason:
                ending = end_between_steps(reason, reports, stop)

    print_once(ending.text)
    return ending.status


def run_epochs(
    loader: Loader, step: Step, run: Run, reports: Sequence[Report], stop: Stop
) -> Ending:
    """The training loop; returns why it ended."""
    model, progress = run.model, run.progress
    for epoch in progress.epochs():
        batches = progress.timed(loader.epoch(epoch, start=progress.step))
        for batch in stop.fetch(batches):
            step(batch)
            progress.advance()

            ending = stop.due()
            for report in reports:
                report.after_step(last=ending is not None)
            if ending:
                return ending

        batch = None  # may hold the images of a cache that the next epoch makes anew
        model.end_epoch()
        progress.finish_epoch()
        for report in reports:
            report.after_epoch(epoch)

    return stop.final()


if __name__ == "__main__":
    sys.exit(exit_status(main))
