"""Stage: each lever beside the plain form that it replaces, as recorded graphs.

Which levers there are, scripts/benchmarking/levers.py says: a further one is one more entry of its table.
"""

from scripts.benchmarking.levers import measure_levers
from scripts.benchmarking.survival import Failures
from scripts.on_gpu.notes import Notes
from scripts.on_gpu.setup import Setup


def run(setup: Setup, notes: Notes) -> None:
    """All of them."""
    failures = Failures(keep_going=True)
    for lever, forms in measure_levers(setup.settings(), setup.turns, failures).items():
        ours, *others = forms
        for form in forms:
            ratio = form["ratio"]["ratio"] if "ratio" in form else None
            row = {"lever": lever, "form": form["form"], "us": 1e3 * form["ms"]}
            notes.row("levers", **row, **{"ours is so many times as fast": ratio})
        beside = ", ".join(f"{o['ratio']['ratio']:.2f} times {o['form']}" for o in others)
        notes.find(all(form["recorded"] for form in forms), f"{lever}: {ours['form']} is {beside}")
    for lever, why in failures.items():
        notes.find(False, f"{lever}: {why}")
