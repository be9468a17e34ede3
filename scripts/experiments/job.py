"""One run of a grid, in a process of its own: train or go on, translate, measure; what is done is not done again.

    python scripts/experiments/job.py JOB.json [MINUTES]

The run's folder then holds all that its row of the table needs: the training records, measured_last.json and, where
training kept one, measured_best.json, and job.json, which says under which flags and with which weights each was
measured.
"""

import hashlib
import json
import resource
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import train
from models.inference.translate import translate
from options import TestOptions, TrainOptions, parse
from scripts import evaluate
from scripts.experiments.grid import Job
from util.errors import UserError, exit_status
from util.files import atomic_path
from util.hardware.devices import planned_precision
from util.parser import show_value
from util.run.folder import saved_record, weights_in
from util.run.progress import Progress
from util.run.state_file import glance, has_state

RECORD = "job.json"  # in the run's folder
EPOCHS = {"last": "latest", "best": "best"}  # column of the table -> --epoch
PLACES = ("--name", "--checkpoints_dir", "--results_dir")
# flags that decide the precision, and what they were before they were recorded
PRECISION = {"amp": "auto", "tf32": True}
UNFINISHED = 75  # exit status (EX_TEMPFAIL): the time is over, the same job again goes on


def measured_file(folder: Path, column: str) -> Path:
    """Where the figures of a checkpoint lie."""
    return folder / f"measured_{column}.json"


def finished(job: Job) -> bool:
    """Whether a run has done all the training steps that are asked for; not where its state cannot be read.

    Of a run without any state its record tells: nothing is measured before the training has ended.
    """
    if not has_state(job.folder):
        return bool(measurements(job))
    progress = progress_of(job, parse(TrainOptions(), job.train))
    return progress is not None and progress.finished


def progress_of(job: Job, opt: Namespace) -> Progress | None:
    """How far a run is on the way to what its options ask for; None where no state can be read."""
    state = glance(job.folder)
    if state is None:
        return None  # train.py says what is damaged, and what can be done
    steps = range(state["steps_per_epoch"])
    progress = Progress.from_options(opt, steps, state["images_per_step"])
    progress.load_state_dict(state["progress"])
    return progress


def check_trained(job: Job) -> None:
    """See that a finished run is the one that its flags ask for.

    Where nothing is left to train, train.py lets flags pass that say when to stop and how fast to compute: its user has
    the run that was trained. A row of a table must not be called after flags that it was not trained with.

    Raises:
        UserError: it has done more steps than are asked for, or computed in another precision.
    """
    opt = parse(TrainOptions(), job.train)
    progress = progress_of(job, opt)
    if progress is None or not progress.finished:
        return

    ways_out = f"take the flag back, give its row another label, or move {job.folder} away"
    if progress.images > progress.total_images:
        raise UserError(
            f"{job.run} has done {progress.images // progress.images_per_step} steps, more than "
            f"--max_steps {progress.max_steps}: {ways_out}"
        )

    recorded = saved_record(job.folder).get("options", {})  # of the newest steps
    then = PRECISION | recorded
    if recorded and precision(opt.gpu_ids, then) != precision(opt.gpu_ids, vars(opt)):
        changes = [
            f"--{name} {show_value(then[name])}, not {show_value(getattr(opt, name))}"
            for name in PRECISION
            if then[name] != getattr(opt, name)
        ]
        raise UserError(
            f"{job.run} was trained with {' and '.join(changes)}, and has nothing left to train: {ways_out}"
        )


def precision(gpu_ids: str | None, options: Mapping[str, Any]) -> str:
    """What a training with these options computes in, on this machine."""
    return planned_precision(gpu_ids, options["amp"], options["tf32"], training=True)


def missing(job: Job) -> list[str]:
    """What is left to do: "train", or columns that are not measured as they are asked for now.

    A finished run whose flags have changed since is one to train: train.py then goes on, or says what contradicts it.
    """
    if not trained_as_asked(job) or not finished(job):
        return ["train"]
    return [column for column in columns(job) if not measured_as_asked(job, column)]


def columns(job: Job) -> list[str]:
    """The checkpoints that a run has or had: "last", and "best" where training kept one."""
    kept_best = weights_in(job.folder, EPOCHS["best"]) or "best" in measurements(job)
    return ["last", "best"] if kept_best else ["last"]


def trained_as_asked(job: Job) -> bool:
    """Whether training has ended under the flags that the job has now."""
    return read_record(job).get("train") == asked(job.train)


def measured_as_asked(job: Job, column: str) -> bool:
    """Whether figures are those of the run's present weights under the flags that the job has now.

    Where a folder was copied without its weights, those that were measured are taken for them.
    """
    done = measurements(job).get(column)
    if not isinstance(done, dict) or not measured_file(job.folder, column).is_file():
        return False  # earlier records held flags alone
    files = weights_in(job.folder, EPOCHS[column])
    same = not files or done["weights"] == checksum(files)
    return same and done["flags"] == [asked(job.test), asked(job.evaluate)]


def asked(flags: Sequence[str]) -> list[str]:
    """A command's flags without those that say where things lie, so that a grid may be moved."""
    pairs = zip(flags[::2], flags[1::2], strict=True)
    return [part for name, value in pairs if name not in PLACES for part in (name, value)]


def checksum(files: Sequence[Path]) -> str:
    """Of files of weights, in this order."""
    found = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


def read_record(job: Job) -> dict[str, Any]:
    """What job.json says; nothing before the first training has ended."""
    path = job.folder / RECORD
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def measurements(job: Job) -> dict[str, Any]:
    """What job.json says of each checkpoint that was measured since the last training."""
    return read_record(job).get("measured", {})


def run_job(job: Job, minutes: float | None = None) -> int:
    """Do what is left of a job; returns 0, UNFINISHED, or the status of the command that failed."""
    began = time.monotonic()
    if missing(job) == ["train"]:
        limit = ["--max_minutes", f"{minutes:g}"] if minutes else []
        status = as_command("train.py", [*job.train, *limit], train_run)
        status = status or exit_status(lambda: check_trained(job))
        if status:
            return status
        note_training(job, time.monotonic() - began)
        if not finished(job):
            return UNFINISHED

    for column in missing(job):
        status = measure(job, column)
        if status:
            return status
    return 0


def measure(job: Job, column: str) -> int:
    """Translate the test images with one checkpoint, and measure what came of them; returns the exit status."""
    where = ["--epoch", EPOCHS[column]]
    weights = weights_in(job.folder, EPOCHS[column])
    before = checksum(weights)
    status = as_command("test.py", [*job.test, *where], lambda argv: translate_run(job, argv))
    out = ["--out", str(measured_file(job.folder, column))]
    status = status or as_command(
        "scripts/evaluate.py", [*job.evaluate, *where, *out], evaluate.main
    )
    if status == 0:
        now = {"flags": [asked(job.test), asked(job.evaluate)], "weights": before}
        note(job, measured={**measurements(job), column: now})
    return status


def train_run(argv: Sequence[str]) -> int:
    """train.py in this process."""
    return exit_status(lambda: train.train(parse(TrainOptions(), argv)))


def translate_run(job: Job, argv: Sequence[str]) -> int:
    """test.py in this process; notes which files of weights it took, and how many parameters translate A to B."""

    def work() -> None:
        gallery = translate(parse(TestOptions(), argv))
        facts = gallery.description
        count = facts.get("parameters")  # none of a method that has no networks of its own
        note(
            job,
            translated_with=facts["weights"].split(", "),
            parameters=int(count.replace(",", "")) if count else None,
        )

    return exit_status(work)


def as_command(script: str, argv: Sequence[str], work: Callable[[Sequence[str]], int]) -> int:
    """Run a command of the project as if it had been typed: records then show it."""
    print(f"--- python {script} {' '.join(argv)}", flush=True)
    sys.argv = [script, *argv]
    return work(argv)


def note_training(job: Job, seconds: float) -> None:
    """Write what this start took; times and memory are over all starts that ended well.

    What was measured before is of other weights now, and forgotten.
    """
    before = read_record(job)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # GB on Linux
    note(
        job,
        train=asked(job.train),
        measured={},
        row=job.row,
        data=job.data,
        seed=job.seed,
        seconds=before.get("seconds", 0.0) + seconds,
        starts=before.get("starts", 0) + 1,
        host_memory_gb=max(before.get("host_memory_gb", 0.0), memory),
    )


def note(job: Job, **facts: Any) -> None:
    """Put facts into job.json."""
    record = read_record(job) | facts
    with atomic_path(job.folder / RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def main(argv: Sequence[str]) -> int:
    """Run the job that a JSON file describes."""
    job = Job(**json.loads(Path(argv[0]).read_text()))
    return run_job(job, float(argv[1]) if len(argv) > 1 else None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
