"""Train a small segmenter on the real pairs of a data set, to ask whether labels survive a translation.

    python scripts/train_segmenter.py --dataroot datasets/facades --labels facades --out segmenter.pth

It learns on the pairs of the training phase and is measured on real test pairs, which its file records: at the size of
their label maps, as scripts/segmentation.py measures translations. Its figures compare among themselves only: published
ones come from other networks.
"""

import argparse
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.segmenting.network import (
    OWN_SIZE,
    new_network,
    predict_classes,
    save_segmenter,
    to_tensor,
)
from scripts.segmenting.pairs import Pair, each_pair, read_pairs
from util.errors import UserError, exit_status
from util.hardware import provenance
from util.metrics.segmentation import IGNORED, LABEL_SETS, confusion, segmentation_figures
from util.parser import OptionParser, positive_float, positive_int, seed_number


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, this process's by default; raises UserError."""
    parser = OptionParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    text = "folder with train and test, or trainA, trainB, testA and testB"
    add("--dataroot", type=Path, required=True, metavar="DIR", help=text)
    add("--labels", required=True, choices=tuple(LABEL_SETS), help="what the label maps look like")
    add("--photo", choices=("A", "B"), default="A", help="domain of the photographs (default: A)")
    text = "where the segmenter goes"
    add("--out", type=Path, required=True, metavar="FILE", help=text)

    parser.add(
        "--side", 256, "pictures are scaled to squares of this side, in pixels", positive_int
    )
    parser.add("--steps", 2000, "steps of Adam", positive_int)
    parser.add("--batch_size", 8, "pictures per step", positive_int)
    parser.add("--lr", 0.001, "learning rate, which falls to zero over the steps", positive_float)
    parser.add("--seed", 0, "of initial weights, order and flips", seed_number)
    return parser.parse_args(argv)


def train(args: argparse.Namespace) -> None:
    """Train, measure and write the segmenter."""
    torch.manual_seed(args.seed)
    labels = LABEL_SETS[args.labels]
    pairs = read_pairs(args.dataroot, "train", args.photo, labels, args.side)
    tests = (args.dataroot, "test", args.photo, labels)
    test_count = sum(1 for _ in each_pair(*tests))  # a pair that cannot be read is found now
    if len(pairs) < args.batch_size:
        raise UserError(
            f"--batch_size {args.batch_size}: there are only {len(pairs)} training pairs"
        )

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = new_network(labels).to(device)
    fit(network, pairs, args, device)
    figures = measure(network, each_pair(*tests), args.side, len(labels.classes))

    facts = {
        "command": shlex.join(["python", *sys.argv]),
        "pairs": {"train": len(pairs), "test": test_count},
        "on real test photographs": figures,
        OWN_SIZE: True,
        **provenance.versions(),
    }
    save_segmenter(args.out, network.cpu(), args.labels, args.side, facts)
    shown = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
    print(f"{args.out}: on {test_count} real test photographs {shown}")


def fit(
    network: nn.Module, pairs: Sequence[Pair], args: argparse.Namespace, device: torch.device
) -> None:
    """Minimise the cross entropy, with random flips."""
    images = torch.stack([to_tensor(image) for image, _ in pairs])
    targets = torch.stack([torch.from_numpy(classes).long() for _, classes in pairs])
    optimizer = torch.optim.Adam(network.parameters(), args.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 - done / args.steps)

    network.train()
    bar = tqdm(range(args.steps), unit="step", disable=not sys.stderr.isatty())
    for _ in bar:
        chosen = torch.randperm(len(images))[: args.batch_size]
        flip = torch.rand(args.batch_size) < 0.5
        batch = flipped(images[chosen], flip).to(device)
        truth = flipped(targets[chosen], flip).to(device)

        loss = F.cross_entropy(network(batch)["out"], truth, ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix_str(f"loss {loss.item():.3f}")


def flipped(pictures: Tensor, chosen: Tensor) -> Tensor:
    """(B, ..., W), some of them mirrored."""
    shape = [-1] + [1] * (pictures.dim() - 1)
    return torch.where(chosen.view(shape), pictures.flip(-1), pictures)


def measure(network: nn.Module, pairs: Iterable[Pair], side: int, classes: int) -> dict[str, float]:
    """The figures on real pairs, each at the size of its label map."""
    network.eval()
    counts = 0
    for image, truth in pairs:
        found = predict_classes(network, image, side, truth.shape[::-1])
        counts = counts + confusion(found, truth, classes)
    return segmentation_figures(counts)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return exit_status(lambda: train(parse_arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
