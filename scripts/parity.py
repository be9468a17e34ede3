"""Check a loss against an export of the released module: `python scripts/parity.py --loss NAME --reference FILE.npz`.

What the file holds stands with each loss in scripts/checking/; without --loss it is PatchGCL's graph head. All is
computed in double precision. Prints one JSON line: the loss here and there, and the largest differences of loss and
gradients. Exit status 0 when everything agrees within the tolerance, 1 when not, 2 when the file cannot be used.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.checking import contrast, self_similarity
from scripts.checking.agreement import report
from scripts.checking.export import Export
from scripts.checking.graph_head import TOLERANCE, graph_head
from scripts.checking.similarity_head import simdcl_head
from util.errors import exit_status
from util.parser import script_parser

GRAPH = "graph"
CHECKS = {
    GRAPH: graph_head,
    "hdce": contrast.hdce,
    "src": contrast.src,
    "spatial": self_similarity.spatial,
    "lsesim": self_similarity.lsesim,
    "dcl_nce": contrast.dcl_nce,
    "simdcl_head": simdcl_head,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (default: this process's); returns the exit status."""
    parser = script_parser(__doc__)
    parser.add_argument("--loss", choices=CHECKS, default=GRAPH, help="what the export is of")
    parser.add_argument("--reference", type=Path, required=True, help="the export, an .npz file")
    parser.add_argument(
        "--tolerance",
        type=float,
        help="largest relative difference (default: 1e-5 of a loss, 1e-4 of a gradient; 1e-4 of all for the graph)",
    )
    args = parser.parse_args(argv)

    compared = CHECKS[args.loss](Export(args.reference))
    tolerance = args.tolerance or (TOLERANCE if args.loss == GRAPH else None)
    result = report(compared, tolerance)

    print(json.dumps(result))
    return 0 if result["agrees"] else 1


if __name__ == "__main__":
    sys.exit(exit_status(main))
