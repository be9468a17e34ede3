"""Run a grid of trainings from one file, and put what comes of them into tables and a page.

    python scripts/experiment.py scripts/reproduce/table1_horse2zebra.toml
    python scripts/experiment.py FILE.toml --max_minutes 120        go on for two hours; again: go on from there
    python scripts/experiment.py FILE.toml --report                 only the table, of what there is
    python scripts/experiment.py FILE.toml --cluster                on SLURM, through submitit

Every run is trained, translated and measured, on the free GPUs of this machine, else on its CPU. The same command again
skips what is done, goes on with what was cut off, and tries again what failed. A run that fails is named and stops no
other. docs/experiments.md describes the file.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.experiments.checks import check_data, check_measuring
from scripts.experiments.cluster import run_on_cluster
from scripts.experiments.figures import write_figures
from scripts.experiments.file import read_grid
from scripts.experiments.grid import Grid, Job
from scripts.experiments.job import missing
from scripts.experiments.latex import as_latex
from scripts.experiments.launch import Launcher, Outcome, free_devices
from scripts.experiments.page import write_grid_page
from scripts.experiments.records import copy_records
from scripts.experiments.table import Table, as_csv, as_markdown, tables
from util.errors import exit_status
from util.files import atomic_path
from util.hardware import provenance
from util.parser import OptionParser, positive_float, positive_int
from util.words import counted

FAILED = 1  # exit status where a run failed


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, this process's by default; raises UserError."""
    parser = OptionParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("file", type=Path, help="what to run, docs/experiments.md")
    text = "where runs, results and the report go (default: results/grids/NAME)"
    parser.add_argument("--out", type=Path, metavar="DIR", help=text)
    text = "cpu, or numbers of GPUs, as in 0,1 (default: the GPUs that are free, else cpu)"
    parser.add_argument("--devices", metavar="LIST", help=text)
    parser.add("--workers", 1, "runs at the same time on each device", positive_int)
    text = "save and stop after N minutes; the same command goes on"
    parser.add("--max_minutes", None, text, positive_float, metavar="N")
    parser.add("--report", False, "run nothing, only write the report of what is there")
    text = (
        "copy what the report is made from to DIR: records without weights and pictures, to publish"
    )
    parser.add_argument("--records", type=Path, metavar="DIR", help=text)
    parser.add("--dry_run", False, "run nothing, print what is left to do, with its commands")
    parser.add(
        "--cluster", False, "hand the runs to the cluster that [cluster] describes (submitit)"
    )
    parser.add("--wait", True, "with --cluster: wait for the runs and write the report")
    return parser.parse_args(argv)


def run(args: argparse.Namespace, grid: Grid) -> Outcome:
    """Run what is left; raises UserError."""
    jobs = grid.jobs()
    left = [job for job in jobs if missing(job)]
    if left:
        check_measuring(grid, left)

    if args.cluster:
        outcome = run_on_cluster(grid, left, args.wait)
    else:
        devices = args.devices.split(",") if args.devices else free_devices()
        outcome = Launcher(grid, devices * args.workers, args.max_minutes).run(left)
    outcome.skipped = [job.run for job in jobs if job not in left]
    return outcome


def report(grid: Grid) -> Path:
    """Write the table as Markdown, CSV and LaTeX, the figures and index.html; returns the page."""
    found = tables(grid)
    texts = {
        "table.md": as_markdown(grid, found),
        "table.csv": as_csv(found),
        "table.tex": as_latex(grid, found),
    }
    for name, text in texts.items():
        with atomic_path(grid.folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    facts = {
        "file": str(grid.file),
        "command": shlex.join(["python", *sys.argv]),
        **provenance.versions(),
    }
    return write_grid_page(grid, found, facts, figures(grid, found))


def figures(grid: Grid, found: Sequence[Table]) -> list[Path]:
    """Draw them where matplotlib is there; returns their files."""
    try:
        return write_figures(grid, found)
    except ImportError as error:
        print(f"no figures: matplotlib cannot be imported ({error})")
        return []


def describe(jobs: Sequence[Job]) -> str:
    """What is left to do, a command a line."""
    lines = []
    for job in jobs:
        left = missing(job)
        lines.append(f"{job.run}: {', '.join(left) or 'done'}")
        if left == ["train"]:
            lines.append(f"    python train.py {shlex.join(job.train)}")
    return "\n".join(lines)


def experiment(argv: Sequence[str] | None) -> int:
    """The whole command; returns the exit status."""
    args = parse_arguments(argv)
    grid = read_grid(args.file, args.out)
    if not args.report:
        check_data(grid)
    if args.dry_run:
        print(describe(grid.jobs()))
        return 0

    outcome = Outcome() if args.report else run(args, grid)
    page = report(grid)
    if args.records:
        copied = copy_records(grid, args.records)
        print(f"records of {counted(len(copied), 'finished run')}: {args.records}")
    if outcome.summary():
        print(outcome.summary())
    for name, lines in outcome.failed.items():
        print(f"failed: {name}\n    " + lines.replace("\n", "\n    "))
    print(f"{grid.folder / 'table.md'}, {grid.folder / 'table.csv'}, {page}")
    return FAILED if outcome.failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return exit_status(lambda: experiment(argv))


if __name__ == "__main__":
    sys.exit(main())
