"""What is refused of a grid before anything runs: flags, labels, data, and what could not be measured at the end."""

import contextlib
import io
import os
from argparse import Namespace
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import combinations
from pathlib import Path

import torch

from data.image_folder import find_images
from options import TestOptions, TrainOptions, parse
from scripts import evaluate
from scripts.evaluating.folders import find_reference
from scripts.evaluating.pairs import pair_measures
from scripts.experiments.grid import FLAG_TABLES, Grid, Job
from util.errors import UserError
from util.metrics.features import Inception
from util.registry import did_you_mean
from util.run.folder import plain_options

# Flags that a file may not give, and why.
OURS = {
    "name": "the grid names its runs",
    "seed": "seeds = [0, 1] at the head of the file, or in a row, says which",
    "checkpoints_dir": "the grid has a folder of its own (--out)",
    "results_dir": "the grid has a folder of its own (--out)",
    "max_minutes": "scripts/experiment.py takes it",
    "gpu_ids": "scripts/experiment.py --devices says which",
    "from_scratch": "it would undo the work of an earlier start",
}


def check_grid(grid: Grid) -> None:
    """Raise UserError for flags that a run sets itself, labels that name one run, and commands that are refused."""
    where = str(grid.file)
    for place, seeds in {"": grid.seeds, **grid.row_seeds}.items():
        if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
            table = f"[rows.{place}] " if place else ""
            raise UserError(f"{where}: {table}seeds is a list of whole numbers, such as [0, 1, 2]")
    if grid.baseline not in grid.rows:
        hint = did_you_mean(grid.baseline, grid.rows)
        raise UserError(
            f"{where}: baseline {grid.baseline!r} is no row; {hint}there are: {', '.join(grid.rows)}"
        )

    for figure, by_data in grid.paper.items():
        for data, values in by_data.items():
            check_known(grid, f"paper.{figure}.{data}", [data], grid.data)
            check_known(grid, f"paper.{figure}.{data}", values, grid.rows)

    tables = {table: getattr(grid, table) for table in FLAG_TABLES}
    tables |= {f"rows.{label}": flags for label, flags in grid.rows.items()}
    tables |= {f"data.{label}": flags for label, flags in grid.data.items()}
    for table, flags in tables.items():
        for name in flags:
            if name in OURS:
                raise UserError(f"{where}: [{table}] {name}: leave it out, {OURS[name]}")

    jobs = grid.jobs()
    for job in jobs:
        if sum(other.run == job.run for other in jobs) > 1:
            raise UserError(
                f"{where}: two runs would be called {job.run}; give labels that differ in letters"
            )
    resolved = {}
    for job in but_for_seeds(jobs):
        try:
            resolved[job.row, job.data] = options_of(tuple(job.train))
        except UserError as error:
            raise UserError(f"{where}: row {job.row!r}, data {job.data!r}: {error}") from None
    check_rows_differ(grid, resolved)
    check_test_flags(grid)
    check_evaluate_flags(grid, jobs[0])


@cache
def options_of(train: tuple[str, ...]) -> Namespace:
    """What train.py makes of the flags of a run, which are read once; raises UserError."""
    return parse(TrainOptions(), train)


def but_for_seeds(jobs: Iterable[Job]) -> list[Job]:
    """The first job of each row and data set: the others have the same commands but for their seeds."""
    first: dict[tuple[str, str], Job] = {}
    for job in jobs:
        first.setdefault((job.row, job.data), job)
    return list(first.values())


def check_rows_differ(grid: Grid, resolved: Mapping[tuple[str, str], Namespace]) -> None:
    """Raise UserError for two rows that differ only in options without effect; `resolved` are the options of each."""
    for ((row, data), one), ((other_row, other_data), other) in combinations(resolved.items(), 2):
        if data != other_data:
            continue
        values, other_values = plain_options(one), plain_options(other)
        names = (values.keys() | other_values.keys()) - OURS.keys()
        differing = {name for name in names if values.get(name) != other_values.get(name)}

        idle = {option.name: option for option in (*one.idle, *other.idle)}
        if differing and differing <= idle.keys():
            why = "; ".join(str(idle[name]) for name in sorted(differing))
            raise UserError(f"{grid.file}: rows {row!r} and {other_row!r} train the same: {why}")


def check_known(grid: Grid, table: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise UserError for a label in a table that is none of the file's."""
    for name in names:
        if name not in known:
            raise UserError(
                f"{grid.file}: [{table}] {name!r} is no label of the file; {did_you_mean(name, known)}"
                f"there are: {', '.join(known)}"
            )


def check_data(grid: Grid) -> None:
    """Raise UserError where a data set is not there; a report alone does not need it."""
    for label, flags in grid.data.items():
        where = flags.get("dataroot", grid.flags.get("dataroot", ""))
        if not os.path.isdir(where):
            raise UserError(f"{grid.file}: [data.{label}] dataroot {where} is not a folder")


def check_evaluate_flags(grid: Grid, job: Job) -> None:
    """Raise UserError for a flag of [evaluate] that scripts/evaluate.py does not take."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            evaluate.parse_arguments(job.evaluate)
    except SystemExit:
        reason = said.getvalue().strip().splitlines()[-1].partition("error: ")[2]
        raise UserError(f"{grid.file}: [evaluate]: {reason}") from None


def check_test_flags(grid: Grid) -> None:
    """Raise UserError for a flag of [test] that test.py does not know."""
    options = TestOptions()
    known = set()
    for flags in grid.rows.values():
        model = str(flags.get("model", grid.flags.get("model", "patchgcl")))
        known |= {*options.build_parser(options.peek(["--model", model])).declared()}
    for name in grid.test:
        if name not in known:
            raise UserError(
                f"{grid.file}: [test] {name} is no flag of test.py; {did_you_mean(name, known)}"
            )


def check_measuring(grid: Grid, jobs: Iterable[Job]) -> None:
    """Raise UserError where jobs could be trained and not measured: said now, not after days of training.

    Finds the test images and what they are compared with, and opens every judge once. A data set of pairs, of one image
    or of contents and styles has its test images in places of its own, and is left to test.py.
    """
    against_sets = False
    for job in but_for_seeds(jobs):
        options = options_of(tuple(job.train))
        if options.dataset_mode != "unaligned":
            continue
        args = evaluate.parse_arguments(job.evaluate)
        try:
            check_test_images(grid, options, args)
        except UserError as error:
            raise UserError(f"{grid.file}: [data.{job.data}]: {error}") from None
        against_sets |= args.real is not None
    open_judges(grid, against_sets)


def check_test_images(grid: Grid, options: Namespace, args: Namespace) -> None:
    """Find what test.py translates and what scripts/evaluate.py compares it with; fills in `args` as that does.

    Raises:
        UserError: one of them is not there.
    """
    source = options.direction.partition("to")[0]
    phase = grid.test.get("phase", args.phase)
    find_images(grid.test.get("dataroot", options.dataroot), phase, source, is_train=False)

    args.dataroot = args.dataroot or Path(options.dataroot)
    if not (args.real or args.truth):
        find_reference(args, vars(options), args.results_dir / "not translated yet")


def open_judges(grid: Grid, against_sets: bool) -> None:
    """Read the weights of all that measures, and let them go again; raises UserError."""
    args = evaluate.parse_arguments(grid.jobs()[0].evaluate)
    cpu = torch.device("cpu")
    try:
        if against_sets:
            Inception(args.inception, args.feature, device=cpu)
        for kind in ("pairs", "truths"):
            pair_measures(args, kind, cpu)
    except UserError as error:
        raise UserError(f"{grid.file}: [evaluate]: {error}") from None
