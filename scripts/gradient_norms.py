"""How hard each term of a loss pulls at the networks it moves: the norms of its gradients, nothing trained.

    python scripts/gradient_norms.py --steps 20 <the flags of a training command>

It takes the same flags as train.py. Where that run has a saved state, its weights are read (and left as they are);
else the weights are those of a first step. Every step begins at the same weights and sees the run's next images, so
that with other weights of terms, say --lambda_GNN 0.3, the same command answers what they would change. All is computed
in float32, without compiled or recorded steps.

For each network and each term of the losses that move it:

    value    the term, as it is weighted in the loss
    norm     of its gradient with respect to the network's parameters, mean and standard deviation over steps
    share    its norm in the sum of the norms of all terms; 0 where none of them pulls
    along    cosine of its gradient with that of the whole loss; below 0 the other terms outvote it
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
from torch import Tensor, nn

from data import Loader, create_loader
from models import create_model
from models.base_model import BaseModel
from models.step.trial import direction
from options import TrainOptions, parse
from util.errors import UserError, exit_status
from util.files import atomic_path
from util.hardware.runtime import Runtime
from util.parser import positive_int, script_parser
from util.run.folder import run_dir
from util.run.state_file import find_state
from util.words import counted

PLAIN = ["--amp", "off", "--compile", "off", "--cuda_graph", "off"]


@dataclass(frozen=True)
class Pull:
    """One term's gradient at one network in one step."""

    network: str
    term: str
    value: float
    norm: float
    along: float


@dataclass(frozen=True)
class Row:
    """One term's pull at one network over all steps; see the head of this file."""

    network: str
    term: str
    value: float
    norm: float
    sd: float
    share: float
    along: float


class Meter:
    """Notes the gradients of every loss that a model is about to go down."""

    def __init__(self, model: BaseModel) -> None:
        self.model = model
        self.pulls: list[Pull] = []
        model.watch = self.note

    def note(self, terms: Mapping[str, Tensor]) -> None:
        """Take the gradients of each term at each network that can move now, all others being frozen."""
        for name, net in self.model.networks.items():
            weights = [weight for weight in net.parameters() if weight.requires_grad]
            found = {term: gradient(loss, weights) for term, loss in terms.items()}
            reaching = {term: row for term, row in found.items() if row is not None}
            if not reaching:
                continue

            whole = sum(reaching.values())
            for term, row in reaching.items():
                value, norm, along = terms[term].item(), row.norm().item(), direction(row, whole)
                self.pulls.append(Pull(name, term, value, norm, along))


def gradient(loss: Tensor, weights: Sequence[nn.Parameter]) -> Tensor | None:
    """The gradient of a loss in one row (n,), None where it reaches none of these weights; the graph is kept."""
    if not weights or not loss.requires_grad:
        return None
    found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    if all(grad is None for grad in found):
        return None

    rows = []
    for weight, grad in zip(weights, found, strict=True):
        rows.append(torch.zeros_like(weight).flatten() if grad is None else grad.flatten())
    return torch.cat(rows)


def measure(model: BaseModel, batches: Iterator[dict], steps: int) -> list[Pull]:
    """The pulls of so many steps, each from the weights that are there; the model is left as it was."""
    meter = Meter(model)
    try:
        for batch in islice(batches, steps):
            restore = model.remember()
            model.set_input(batch)
            model.optimize_parameters()
            model.finish_step()
            restore()
    finally:
        model.watch = None
    return meter.pulls


def batches_from(loader: Loader, epoch: int, step: int) -> Iterator[dict]:
    """Those that training would see next, without end."""
    yield from loader.epoch(epoch, start=step)
    for later in count(epoch + 1):
        yield from loader.epoch(later)


def summary(pulls: Sequence[Pull]) -> list[Row]:
    """A row per network and term, in the order in which they came."""
    found: dict[tuple[str, str], list[Pull]] = {}
    for pull in pulls:
        found.setdefault((pull.network, pull.term), []).append(pull)
    norms = {place: float(np.mean([pull.norm for pull in ones])) for place, ones in found.items()}

    rows = []
    for (network, term), ones in found.items():
        whole = sum(norm for (where, _), norm in norms.items() if where == network)
        rows.append(
            Row(
                network=network,
                term=term,
                value=float(np.mean([pull.value for pull in ones])),
                norm=norms[network, term],
                sd=float(np.std([pull.norm for pull in ones], ddof=1)) if len(ones) > 1 else 0.0,
                share=norms[network, term] / whole if whole else 0.0,
                along=float(np.mean([pull.along for pull in ones])),
            )
        )
    return rows


def table(rows: Sequence[Row]) -> str:
    """Rows as Markdown."""
    lines = ["| network | term | value | norm | share | along |", "|---|---|---|---|---|---|"]
    for row in rows:
        lines.append(
            f"| {row.network} | {row.term} | {row.value:.4g} | {row.norm:.4g} ± {row.sd:.2g} "
            f"| {row.share:.1%} | {row.along:.2f} |"
        )
    return "\n".join(lines)


def parse_arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, argparse.Namespace]:
    """The command line, this process's by default: this script's own flags, and those of train.py; raises UserError."""
    parser = script_parser(__doc__)
    parser.add_argument("--steps", type=positive_int, default=20, help="to measure (default: 20)")
    parser.add_argument("--out", type=Path, help="a JSON file for the rows")
    args, flags = parser.parse_known_args(argv)
    return args, parse(TrainOptions(), [*flags, *PLAIN])


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (default: this process's); returns the exit status."""
    args, opt = parse_arguments(argv)
    with Runtime.from_options(opt) as runtime:
        loader = create_loader(opt, runtime)
        model = create_model(opt, runtime)
        images, epoch, step = take_up(opt, model)
        model.prepare_once(loader.dataset)
        rows = summary(measure(model, batches_from(loader, epoch, step), args.steps))

    state = (
        f"after {counted(images, 'image')}" if images else "with first weights: nothing is saved"
    )
    print(f"{run_dir(opt)}, {state}; {counted(args.steps, 'step')}\n\n{table(rows)}")
    if args.out:
        record = {"run": opt.name, "images": images, "steps": args.steps}
        record["rows"] = [asdict(row) for row in rows]
        with atomic_path(args.out) as temporary:
            temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
    return 0


def take_up(opt: argparse.Namespace, model: BaseModel) -> tuple[int, int, int]:
    """Read the run's weights, if it has saved any; returns images seen, the epoch, and its steps that are done.

    Raises:
        UserError: the state is damaged, or of other networks than the flags describe.
    """
    found = find_state(run_dir(opt))
    if found is None:
        return 0, 1, 0
    try:
        model.load_state_dict(found.state["model"])
    except (KeyError, RuntimeError, ValueError) as error:
        text = f"{found.path} does not fit these flags: give those of the run's training command"
        raise UserError(text) from error
    progress = found.state["progress"]
    return progress["images"], progress["epoch"], progress["step"]


if __name__ == "__main__":
    sys.exit(exit_status(main))
