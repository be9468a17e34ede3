"""Measure the training step, beside the released code if there is a checkout of it: `python scripts/benchmark.py`.

    python scripts/benchmark.py --device cpu --size 128 --iters 3
    python scripts/benchmark.py --official ../PatchGCL --part step,parts,head --json result.json

Nothing is called faster before it was shown to compute the same (scripts/benchmarking/checks.py). Results are written
after each section, so that an error in one loses no other. Exit status 0; 1 when a check fails, and then no ratio of
that step is printed, or when a section has no figure; 2 for a command line that cannot be followed. What is measured,
how, and with which results: docs/benchmarks.md.
"""

import argparse
import json
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.benchmarking import head, levers, report, sweep
from scripts.benchmarking.checks import LOSS, Agreements, Refused, copy_weights
from scripts.benchmarking.contest import Settings
from scripts.benchmarking.device import Device
from scripts.benchmarking.official import Released
from scripts.benchmarking.ours import LADDER, ON_CPU, ON_GPU, Ours
from scripts.benchmarking.release import GRAPH_PATHS, Release
from scripts.benchmarking.step import (
    AS_PUBLISHED,
    BASELINES,
    REFERENCE,
    RELEASED,
    Contest,
    Turns,
    measure_parts,
)
from scripts.benchmarking.survival import Failures, Sections
from util.errors import UserError
from util.hardware.provenance import git_commit
from util.parser import int_list, positive_int, script_parser

PARTS = ("step", "parts", "levers", "memory", "head", "sweep", "files", "translation")
TURNS = {"cuda": (50, 5, 20), "cpu": (3, 3, 1)}  # iterations a round, rounds, steps of warm-up
BATCHES = {"cuda": [1, 2, 4, 8, 16, 32], "cpu": [1, 2]}

# flags that a step in a process of its own gets too
SHARED = ("device", "size", "iters", "warm_up", "threads", "nonzero_th", "vgg_weights", "preset")
SHARED += ("official", "graph_path")


def names(allowed: tuple[str, ...]) -> Any:
    """Reads names separated by commas."""

    def read(text: str) -> list[str]:
        given = text.split(",")
        wrong = [name for name in given if name not in allowed]
        if wrong:
            known = ", ".join(allowed)
            raise argparse.ArgumentTypeError(f"unknown {wrong[0]!r}; known are {known}")
        return given

    return read


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = script_parser(__doc__)
    add = parser.add_argument

    # what is measured, and how long
    text = f"what to measure: {', '.join(PARTS)}"
    add("--part", type=names(PARTS), default=["step", "parts"], help=text)
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--size", type=positive_int, default=256, help="side of the pictures")
    add("--iters", type=positive_int, help="steps in a round; 50 on a GPU, 3 on a CPU")
    add("--rounds", type=positive_int, help="rounds in turns; 5 on a GPU, 3 on a CPU")
    add("--warm_up", type=positive_int, help="steps before; 20 on a GPU, 1 on a CPU")
    add("--threads", type=positive_int, help="CPU threads of torch")

    # our steps
    add("--variants", type=names(tuple(LADDER)), help=f"our steps: {', '.join(LADDER)}")
    text = "batch size of the step; the released code takes 1"
    add("--batch", type=positive_int, default=1, help=text)
    add("--batches", type=int_list, help="batch sizes of sweep and translation")
    add("--head_batches", type=int_list, default=[1, 2, 4, 8, 16], help="batch sizes of the head")
    text = "threshold of the graphs, which decides their density"
    add("--nonzero_th", type=float, default=0.1, help=text)
    add("--vgg_weights", default="random", help="as in train.py")
    text = "as in train.py; to compare with the release it must be official"
    add("--preset", default="official", help=text)
    text = "further flags that train.py and the release share"
    add("--flags", type=shlex.split, default=[], help=text)

    # the released step, and files
    add("--official", type=Path, metavar="PATH", help="your checkout of the released PatchGCL")
    add("--graph_path", choices=GRAPH_PATHS, default="auto", help="what runs its graphs")
    add("--dataroot", type=Path, help="folder of trainA and trainB, for --part files")
    text = "worker processes, for --part files"
    add("--loader_threads", type=int_list, default=[0, 8], help=text)

    # checks, and a limit
    text = "largest relative difference of losses in float32"
    add("--loss_tolerance", type=float, default=LOSS, help=text)
    text = "leave out what fails a check or cannot run, measure the rest, exit with 1"
    add("--keep_going", action="store_true", help=text)
    add("--limit", type=float, default=240, help="seconds for each process of memory and sweep")

    # results
    add("--json", type=Path, help="write all figures to this file")
    text = "put the tables into this file, between the markers of --section"
    add("--markdown", type=Path, help=text)
    add("--section", default="results", help="name of the markers")
    add("--alone", help=argparse.SUPPRESS)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = build_parser().parse_args(argv)
    release = None
    try:
        device = Device(args.device)
        iterations, rounds, warm_up = TURNS[device.torch.type]
        turns = Turns(args.iters or iterations, args.rounds or rounds, args.warm_up or warm_up)
        if args.threads:
            torch.set_num_threads(args.threads)

        settings = Settings(
            device, args.size, args.preset, args.nonzero_th, args.vgg_weights, tuple(args.flags)
        )
        if "files" in args.part and args.dataroot is None:
            raise UserError("--part files: give --dataroot, a folder that holds trainA and trainB")

        release = open_release(args, settings)
        if args.alone:
            found = sweep.measure_alone(args.alone, settings, release, args.batch, turns)
            print(json.dumps(found))
            return 0

        contest = Contest(settings, Agreements(args.loss_tolerance), Failures(args.keep_going))
        result = {"facts": gather_facts(args, settings, release)}
        sections = Sections(result, partial(publish, args), args.keep_going)
        measure(args, settings, turns, release, contest, sections)

        result["facts"]["after"] = device.state()
        publish(args, result)
        print(report.to_markdown(result))
        require_complete(sections, contest)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, Refused) else 2
    finally:
        if release is not None:
            release.close()
    return 0


def open_release(args: Namespace, settings: Settings) -> Release | None:
    """The released code, where a checkout is given."""
    if args.official is None:
        return None

    if args.preset != "official" or args.batch != 1:
        raise UserError(
            "--official needs --preset official and --batch 1: the released code knows nothing else"
        )
    if settings.size < 128 and "--num_patches" not in args.flags:
        raise UserError(
            f"--size {settings.size}: the released code needs maps of 256 positions, "
            "so --size 128 or more"
        )

    release = Release(args.official, settings, args.graph_path)
    release.options()  # flags that it refuses are better known now
    return release


def gather_facts(args: Namespace, settings: Settings, release: Release | None) -> dict[str, Any]:
    """All that a result depends on."""
    versions = {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
    if settings.device.on_gpu:
        libraries = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        versions |= {name: version for name, version in libraries.items() if version is not None}

    facts = {
        "command": shown_command(sys.argv[1:]),
        "commit": git_commit(),
        "versions": versions,
        "hardware": settings.device.hardware(),
        "before": settings.device.state(),
        "rates": settings.device.rates(),
    }
    if release is not None:
        facts |= {"graph_path": release.graph_path, "patches": release.patches}
    return facts


def shown_command(argv: list[str]) -> str:
    """The command line for the record, without this machine's folders."""
    private = ("--official", "--dataroot")
    shown = ["python", "scripts/benchmark.py"]
    for before, argument in zip(["", *argv], argv, strict=False):
        shown.append(Path(argument).name if before in private else argument)
    return shlex.join(shown)


def measure(
    args: Namespace,
    settings: Settings,
    turns: Turns,
    release: Release | None,
    contest: Contest,
    sections: Sections,
) -> None:
    """Measure each part that was asked for."""
    on_gpu = settings.device.on_gpu
    variants = args.variants or list(ON_GPU if on_gpu else ON_CPU)
    batches = args.batches or BATCHES[settings.device.torch.type]

    def section(name: str, work: Callable[..., Any], *given: Any) -> None:
        if name in args.part:
            sections.measure(name, partial(work, *given))

    # contestants in this process, in turns
    section("step", measure_step, args, contest, turns, variants, release)
    section("parts", take_apart, args, contest, turns, release)
    contest.contestants.clear()  # their memory is needed
    if on_gpu:
        torch.cuda.empty_cache()
    section("levers", measure_levers, settings, turns, args.keep_going)

    # steps in processes of their own
    shared = shared_flags(args)
    steps = dict.fromkeys([REFERENCE, *variants, *(BASELINES if release else ())])
    section("memory", lambda: [alone(args, shared, name, 1) for name in steps])
    steady = uncompiled(variants)
    section("sweep", lambda: [alone(args, shared, steady, batch) for batch in batches])

    # what surrounds the step
    section("head", measure_head, args, settings, turns, release)
    threads = args.loader_threads
    section("files", sweep.measure_files, settings, steady, args.dataroot, threads, release, turns)
    sizes = args.batches or [1, 8]
    section("translation", sweep.measure_translation, settings, steady, sizes, turns)


def uncompiled(variants: Sequence[str]) -> str:
    """The last of the variants that is not compiled, where there is one: each batch size would be compiled anew."""
    plain = [name for name in variants if "compile" not in name]
    return (plain or list(variants))[-1]


def take_apart(
    args: Namespace, contest: Contest, turns: Turns, release: Release | None
) -> dict[str, Any]:
    """The parts of a step, of the contestants that are there or else of the two that can be taken apart."""
    if REFERENCE not in contest.contestants:
        contest.admit([], release, args.batch, [AS_PUBLISHED])
    on_gpu = contest.settings.device.on_gpu
    return measure_parts(contest, 20 if on_gpu else turns.rounds)


def measure_levers(settings: Settings, turns: Turns, keep_going: bool) -> dict[str, Any]:
    """Each lever beside the form that it replaces."""
    failures = Failures(keep_going)
    forms = levers.measure_levers(settings, turns, failures)
    return {"forms": forms, "failed": dict(failures), "turns": asdict(turns)}


def measure_step(
    args: Namespace,
    contest: Contest,
    turns: Turns,
    variants: Sequence[str],
    release: Release | None,
) -> dict[str, Any]:
    """The ladder."""
    on_gpu = contest.settings.device.on_gpu
    contest.admit(variants, release, args.batch, list(RELEASED) if on_gpu else BASELINES)
    counts = contest.count()
    timings = contest.time(turns)

    kept = ("size", "batch", "preset", "nonzero_th", "vgg_weights", "flags")
    precisions = {name: step.precision for name, step in contest.contestants.items()}
    return {
        "settings": {key: getattr(args, key) for key in kept},
        "turns": asdict(turns),
        "density": contest.reference.density(),
        "precisions": precisions,
        "checks": contest.agreements.found,
        "failed": dict(contest.failed),
        "counts": counts,
        "timings": {name: timing.summary() for name, timing in timings.items()},
        "first_step_s": contest.first,
        "start_up_s": contest.start_up(timings),
        "ratios": contest.ratios(timings),
    }


def measure_head(
    args: Namespace, settings: Settings, turns: Turns, release: Release | None
) -> dict[str, Any]:
    """The head alone."""
    ours, agreements = Ours(REFERENCE, settings), Agreements(args.loss_tolerance)
    failures, found = Failures(args.keep_going), {}
    with failures.around("growth"):
        batches = sorted(args.head_batches)
        found["growth"] = head.measure_growth(ours, settings, batches, turns, agreements)

    if release is not None:
        with failures.around("released head"):
            released = Released(AS_PUBLISHED, release, ours)
            copy_weights(ours, released)
            both = head.compare_with_released(ours, released, settings, turns, agreements)
            found["released"] = both

    found |= {"checks": agreements.found, "turns": asdict(turns)}
    return found | {"failed": dict(failures)}


def shared_flags(args: Namespace) -> list[str]:
    """The command line of a process of its own."""
    flags = []
    for name in SHARED:
        value = getattr(args, name)
        if value is not None:
            flags += [f"--{name}", str(value)]

    if args.flags:
        flags.append(f"--flags={shlex.join(args.flags)}")
    return flags


def alone(args: Namespace, flags: list[str], name: str, batch: int) -> dict[str, Any]:
    """A step in a process of its own."""
    if args.official and name not in BASELINES:
        place = flags.index("--official")
        flags = flags[:place] + flags[place + 2 :]

    found = sweep.in_fresh_process(flags, name, batch, args.limit)
    return {"step": name, "batch": batch, **found}


def publish(args: Namespace, result: dict[str, Any]) -> None:
    """Write what was asked for."""
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    if args.markdown:
        report.insert(args.markdown, args.section, report.to_markdown(result))


def require_complete(sections: Sections, contest: Contest) -> None:
    """Raises Refused with the first reason why something has no figure."""
    result = sections.result
    missing = dict(sections.failures) | dict(contest.failed)
    for name in ("levers", "head"):
        missing |= result.get(name, {}).get("failed", {})
    for name, why in missing.items():
        raise Refused(why if why.startswith(name) else f"{name}: {why}")


if __name__ == "__main__":
    sys.exit(main())
