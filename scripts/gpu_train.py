"""Train PatchGCL and CUT side by side for ten minutes: `python scripts/gpu_train.py --out DIR --limit 570`.

Both take turns of equal numbers of steps, from one seed, on the same images, so that whatever slows the machine slows
both. The next call with the same DIR goes on where this one stopped: their states lie in DIR/state, as train.py keeps
them, so that `python train.py --checkpoints_dir DIR/state --name cut ...` may go on too. At the end both translate the
test images, and KID-768 and FID-768 are taken where torch-fidelity and Inception's weights are at hand. DIR then holds
results.json, table.md, losses.jsonl, pictures.jpg and the translations of each method, patchgcl.tar and cut.tar (some
10 MiB for 120 pictures), beside the states, which need more.

The data set is --dataroot, or the one that scripts/gpu_pack.py has gathered. Flags after -- go to both methods.
"""

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.on_gpu.carried import (
    DATA,
    INCEPTION,
    MANIFEST,
    VGG,
    add_carried,
    found,
    unpack_data_once,
    use_wheels,
)
from util.errors import UserError, exit_status
from util.parser import script_parser

METHODS = ("patchgcl", "cut")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; flags after -- become `flags`."""
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder of results and states")
    add("--limit", type=float, default=570, metavar="S", help="seconds for all (default: 570)")
    text = "seconds of them for translating and measuring at the end (default: 100)"
    add("--end", type=float, default=100, metavar="S", help=text)
    add("--turn", type=int, default=250, metavar="STEPS", help="steps of a turn (default: 250)")
    text = "stop after so many steps of each method in all (default: when time is over)"
    add("--steps", type=int, metavar="N", help=text)
    add("--dataroot", type=Path, metavar="DIR", help="data set (default: the one carried)")
    add_carried(parser)
    text = "Inception's weights for KID-768 and FID-768 (default: those carried)"
    add("--inception", type=Path, metavar="FILE", help=text)
    text = "VGG16's weights, as in train.py (default: those carried, else imagenet)"
    add("--vgg_weights", metavar="FILE", help=text)
    text = "folder of the states of both (default: DIR/state)"
    add("--state", type=Path, metavar="FOLDER", help=text)
    add("--seed", type=int, default=0, help="of both (default: 0)")
    add("--device", default=None, metavar="GPU", help="as --gpu_ids of train.py; -1 for the CPU")

    given = list(sys.argv[1:] if argv is None else argv)
    cut = given.index("--") if "--" in given else len(given)
    args = parser.parse_args(given[:cut])
    args.flags = given[cut + 1 :]
    args.shown = shlex.join(["python", "scripts/gpu_train.py", *given])
    if args.limit <= args.end:
        parser.error(f"--limit {args.limit:g} leaves nothing beside --end {args.end:g}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; raises UserError where there is no data set."""
    began = time.monotonic()
    args = parse_arguments(argv)
    with tempfile.TemporaryDirectory(prefix="gpu_train_") as folder:
        work = Path(folder)
        use_wheels(args.carried, work / "wheels")
        data = data_of(args)
        from scripts.on_gpu.duel import Duel  # after the libraries that were carried

        states = args.state or args.out / "state"
        duel = Duel(args.out, states, data, flags_of(args), args.seed)
        duel.train(args.turn, args.steps, until=began + args.limit - args.end)
        facts = {"command": args.shown, "data": facts_of(args, data)}
        duel.publish(facts)  # should measuring take too long, this is there
        inception = args.inception or found(args.carried, INCEPTION)
        duel.measure(work / "results", inception, until=began + args.limit)
        duel.publish(facts)
    print(f"results: {args.out}")
    return 0


def data_of(args: argparse.Namespace) -> Path:
    """The folder of the data set.

    One that was carried is unpacked to the same place each time, since states remember where their images lay.
    """
    if args.dataroot is not None:
        return args.dataroot
    if args.carried is None or not (args.carried / DATA).is_file():
        raise UserError("no data set: give --dataroot DIR, or gather one with scripts/gpu_pack.py")
    return unpack_data_once(args.carried, Path(tempfile.gettempdir()) / "gpu_train_data")


def facts_of(args: argparse.Namespace, data: Path) -> dict:
    """What the data set is; a carried one may be a part of another."""
    manifest = args.carried / MANIFEST if args.carried else None
    if args.dataroot is None and manifest.is_file():
        return json.loads(manifest.read_text()).get("data", {})
    return {"name": data.name}


def flags_of(args: argparse.Namespace) -> dict[str, list[str]]:
    """Method -> flags of train.py."""
    shared = ["--preset", "shared", "--display_id", "0", "--no_html", *device_flags(args)]
    vgg = args.vgg_weights or found(args.carried, VGG)
    own = {"patchgcl": ["--vgg_weights", str(vgg)] if vgg else [], "cut": []}
    return {name: [*shared, *own[name], *args.flags] for name in METHODS}


def device_flags(args: argparse.Namespace) -> list[str]:
    """Compiling would take most of the ten minutes."""
    where = [] if args.device is None else ["--gpu_ids", args.device]
    return ["--compile", "off", *where]


if __name__ == "__main__":
    sys.exit(exit_status(main))
