"""Find out in ten minutes what this project does on a GPU: `python scripts/gpu_check.py --out DIR --limit 570`.

Each stage is a process of its own with a limit of its own. All results lie in DIR and are written anew after each:
results.json, table.md to read, findings.txt (a line each, what is amiss first) and log.txt. compiled.cache is compiled
code, which scripts/gpu_pack.py --weights can carry to the next run. When time is short, the stages that are needed
least are given up. Nothing is fetched; what scripts/gpu_pack.py has gathered is taken from
--carried: weights of VGG16, and a checkout of the released code to be measured beside ours.

Exit status 0 when all stages ran to their ends and found nothing amiss, else 1.
"""

import argparse
import importlib
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.on_gpu.carried import add_carried, use_wheels
from scripts.on_gpu.conduct import Conductor
from scripts.on_gpu.plan import STAGES, WARM
from scripts.on_gpu.table import findings
from util.parser import script_parser

CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    add("--limit", type=float, default=570, metavar="S", help="seconds for all (default: 570)")
    add_carried(parser)
    known = [stage.name for stage in STAGES]
    text = f"stages to run, in their order: {', '.join(known)}"
    add("--stages", nargs="+", choices=known, default=known, metavar="STAGE", help=text)
    add("--no_warm", action="store_true", help="compile nothing beside the first stages")
    text = "small networks and images, to rehearse; its figures mean nothing"
    add("--tiny", action="store_true", help=text)
    text = "how many times as long as planned a stage may take, to rehearse on a slow machine"
    add("--slow", type=float, default=1.0, metavar="TIMES", help=text)
    add("--alone", choices=[*known, WARM.name], help=argparse.SUPPRESS)
    add("--notes", type=Path, help=argparse.SUPPRESS)
    add("--break", dest="broken", default="", help=argparse.SUPPRESS)  # a stage that is to fail
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_args(given)
    if args.alone:
        run_alone(args)
        return 0

    with tempfile.TemporaryDirectory(prefix="gpu_check_") as folder:
        work = Path(folder)
        for name in CACHES:  # of this run alone, so that what is measured is the same each time
            os.environ[name] = str(work / name.lower())
        use_wheels(args.carried, work / "wheels")
        shown = shlex.join(["python", "scripts/gpu_check.py", *given])

        def command(stage: str, notes: Path) -> list[str]:
            whole = [sys.executable, str(Path(__file__).resolve()), *given]
            return [*whole, "--alone", stage, "--notes", str(notes)]

        conductor = Conductor(args.out, work, command, args.limit, shown, args.slow)
        stages = [stage for stage in STAGES if stage.name in args.stages]
        result = conductor.run(stages, warm=not args.no_warm)

    lines = findings(result)
    print("\n" + "\n".join(lines), flush=True)
    print(f"\nall results: {args.out}", flush=True)
    return 1 if any(line.startswith("AMISS") for line in lines) else 0


def run_alone(args: argparse.Namespace) -> None:
    """One stage, in this process."""
    from scripts.on_gpu.notes import Notes
    from scripts.on_gpu.setup import Setup

    if args.alone == args.broken:
        raise RuntimeError(f"--break {args.broken}")
    folder = args.notes.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    notes = Notes(args.notes)
    notes.write()
    module = importlib.import_module(f"scripts.on_gpu.{args.alone}")
    module.run(Setup(args.carried, args.tiny, folder, args.out), notes)


if __name__ == "__main__":
    sys.exit(main())
