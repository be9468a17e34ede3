"""Train one model on two folders of images: `python train.py --dataroot FOLDER --name RUN`; again to continue."""

import sys
from argparse import Namespace

from data import create_loader
from models import create_model
from models.step.runners import create_step
from options import TrainOptions, parse
from util.errors import UserError
from util.hardware.runtime import Runtime, print_once
from util.logs.visualizer import Visualizer
from util.run.checkpoint import Checkpoint
from util.run.folder import describe_options, move_aside, run_dir, save_record
from util.run.profiler import StepProfiler
from util.run.progress import Progress
from util.run.stop_signal import StopSignal


def main() -> int:
    """Run the command line; returns the exit status."""
    try:
        opt = parse(TrainOptions())
        print_once(describe_options(opt), f"recipe: {opt.recipe}")
        return 0 if opt.dry_run else train(opt)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def train(opt: Namespace) -> int:
    """Train until the last epoch, or until a signal asks to stop; returns the exit status."""
    runtime = Runtime.from_options(opt)
    loader = create_loader(opt, runtime)
    model = create_model(opt, runtime)
    progress = Progress(
        opt.epoch_count, opt.n_epochs + opt.n_epochs_decay, len(loader), loader.images_per_step, opt.max_steps
    )
    if opt.from_scratch and runtime.is_main:
        move_aside(run_dir(opt))
    runtime.barrier()
    checkpoint = Checkpoint(opt, runtime, model, progress)
    notes = checkpoint.resume()
    if runtime.is_main:
        save_record(opt, runtime.versions())

    visualizer = Visualizer(opt, run_dir(opt), progress.total_images, enabled=runtime.is_main)
    visualizer.start(progress.images)
    visualizer.message(f"{model.describe()}\n{len(loader.dataset)} images per epoch, on {runtime.describe()}")
    for note in notes:
        visualizer.message(note)
    step = create_step(model, runtime, visualizer.message)
    profiler = StepProfiler(opt.profile, run_dir(opt), visualizer.message)
    try:
        with StopSignal() as stop:
            signal = run_epochs(opt, runtime, loader, model, step, progress, checkpoint, visualizer, profiler, stop)
    finally:
        profiler.close()
        visualizer.close()
        runtime.close()
    if signal:
        print_once(f"stopped at epoch {progress.epoch}, image {progress.images}; the same command continues")
        return 128 + signal
    print_once(f"training is complete: {checkpoint.folder}; now: python test.py --name {opt.name}")
    return 0


def run_epochs(opt, runtime, loader, model, step, progress, checkpoint, visualizer, profiler, stop) -> int:
    """The training loop; returns the number of the signal that ended it, 0 for none."""
    for epoch in progress.epochs():
        for batch in progress.timed(loader.epoch(epoch, start=progress.step)):
            step(batch)
            progress.advance()
            profiler.advance()
            visualizer.advance(loader.images_per_step)
            if progress.due(opt.print_freq):
                model.check_finite(checkpoint.last_saved)
                losses = runtime.mean(model.get_current_losses())
                visualizer.print_losses(epoch, progress.images, losses, progress.times() | runtime.memory())
            if progress.due(opt.display_freq) or progress.due(opt.update_html_freq):
                pictures = model.get_current_visuals()
                visualizer.display(pictures, epoch, progress.images, save=progress.due(opt.update_html_freq))

            signal = runtime.agree(stop.requested, confer=progress.due(opt.print_freq))
            stopping = signal or progress.cut_short
            if progress.due(opt.save_latest_freq) or stopping:
                checkpoint.save_latest()
            if stopping:
                return signal
        visualizer.message(f"end of epoch {epoch} of {progress.last_epoch}, learning rate {model.learning_rate:.2g}")
        model.end_epoch()
        progress.finish_epoch()
        if epoch % opt.save_epoch_freq == 0 or progress.finished:
            checkpoint.save_epoch(epoch)
    return 0


if __name__ == "__main__":
    sys.exit(main())
