"""What a benchmark found, as Markdown tables for docs/benchmarks.md; no figure is computed here but products of shown
ones."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.benchmarking.checks import DOUBLE_SIDE
from scripts.benchmarking.step import AS_PUBLISHED, REFERENCE, WITH_OUR_HEAD
from util.errors import UserError

Rows = Sequence[Sequence[Any]]
MATMUL = {"fp32": "matmul_fp32_tflops", "tf32": "matmul_tf32_tflops", "bf16": "matmul_bf16_tflops"}


def number(value: Any, digits: int = 3) -> str:
    """A figure as a cell: three significant digits, a dash for what was not measured."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def table(head: Sequence[str], rows: Rows) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *([number(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def show_facts(facts: dict[str, Any]) -> str:
    """Where, when and how."""
    hardware, rates, state = facts["hardware"], facts["rates"], facts["before"]
    where = (
        hardware.get("gpu")
        or f"{hardware['cpu']}, {hardware['threads']} threads, {hardware['simd']}"
    )
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    measured = ", ".join(
        f"{name.replace('_', ' ')} {number(value)}" for name, value in rates.items()
    )
    lines = [
        f"{state['time']}, commit {facts['commit']}, {where}; {versions}. Load before: {number(state['load_1min'])}.",
        f"Command: `{facts['command']}`.",
        f"Measured on the same machine in the same run: {measured}.",
    ]
    if facts.get("graph_path"):
        patches = "; ".join(facts["patches"]) or "none"
        lines.append(
            f"Released code with {facts['graph_path']}. Changes made for it to run: {patches}."
        )
    return "\n".join(lines)


def show_step(found: dict[str, Any], rates: dict[str, float]) -> str:
    """The ladder: times, ratios, work."""
    timings, counts, ratios = found["timings"], found["counts"], found["ratios"]
    bases = [base for base in (REFERENCE, AS_PUBLISHED, WITH_OUR_HEAD) if base in timings]
    head = [
        "step",
        "ms (median)",
        "least",
        "IQR",
        "wall ms",
        "CPU ms",
        *(f"x {base}" for base in bases),
    ]
    rows = []
    for name, row in timings.items():
        against = [ratios.get(name, {}).get(base) for base in bases]
        shown = [_range(ratio) if ratio else "1" for ratio in against]
        rows.append(
            [
                name,
                row["ms"],
                row["ms_min"],
                row["ms_iqr"],
                row["wall_ms"],
                row["process_ms"],
                *shown,
            ]
        )
    rows += [
        [name, f"no figure: {reason}"] + [""] * (len(head) - 2)
        for name, reason in found["failed"].items()
    ]
    text = [table(head, rows), "", _conditions(found), "", show_work(found, counts, timings, rates)]
    return "\n".join(text)


def _range(ratio: dict[str, float | None]) -> str:
    text = f"**{ratio['ratio']:.2f}** ({ratio['ratio_low']:.2f} to {ratio['ratio_high']:.2f})"
    return text if ratio["ratio_process"] is None else f"{text}, CPU {ratio['ratio_process']:.2f}"


def _conditions(found: dict[str, Any]) -> str:
    t, s = found["turns"], found["settings"]
    doubles = [check for check in found["checks"].values() if "double_loss" in check]
    worst = {
        key: max((check[key] for check in doubles), default=None)
        for key in ("double_loss", "double_gradient")
    }
    same = (
        f" In float64, on crops of {DOUBLE_SIDE}, losses of the released steps differ from ours by at most "
        f"{number(worst['double_loss'])}, gradients of G by {number(worst['double_gradient'])}, relative."
    )
    return (
        f"{s['size']}x{s['size']}, batch {s['batch']}, preset {s['preset']}, threshold {s['nonzero_th']}, VGG16 "
        f"{s['vgg_weights']}, adjacency density {number(found['density'])}; {t['warm_up']} steps of warm-up, then "
        f"{t['rounds']} rounds in turns of {t['iterations']} steps each. A ratio is that of medians, in brackets its "
        "extremes over rounds; CPU: by the process's own seconds, least over rounds."
    ) + (same if doubles else "")


def show_work(found: dict[str, Any], counts: dict, timings: dict, rates: dict[str, float]) -> str:
    """What a step does, and the share of the measured matrix rate that it reaches."""
    head = ["step", "GFLOP", "share of matmul rate", "GB through operators", "operators", "host reads",
            "kernels", "GPU idle", "first steps s", "pay after steps", "loss", "cosine of G's gradient"]  # fmt: skip
    rows = []
    for name, row in timings.items():
        work, check = counts[name], found["checks"].get(name, {})
        flops = work.get("flops", counts[REFERENCE]["flops"])
        rate = rates.get(MATMUL[found["precisions"][name]], rates["matmul_fp32_tflops"])
        share = flops / (row["ms"] / 1e3) / (rate * 1e12)
        moved = work["bytes"] / 1e9 if "bytes" in work else None
        reads = work.get("synchronisations")
        reads = work.get("host_reads") if reads is None else reads
        first = found["first_step_s"].get(name, 0.0) + row["setup_s"]
        paid = _break_even(first, row, timings[REFERENCE])
        cosine = f"{check['cosine']:.6f}" if "cosine" in check else None
        rows.append([name, flops / 1e9, f"{share:.0%}", moved, work.get("operators"), reads, work.get("kernels"),
                     work.get("gpu_idle"), first, paid, check.get("loss"), cosine])  # fmt: skip
    return table(head, rows)


def _break_even(first: float, row: dict[str, Any], reference: dict[str, Any]) -> float | None:
    """Steps after which slow first steps have paid, beside the reference."""
    gain = (reference["ms"] - row["ms"]) / 1e3
    return first / gain if gain > 0 else None


def show_parts(parts: dict[str, dict[str, dict[str, float]]]) -> str:
    """The step taken apart."""
    names = list(next(iter(parts.values())))
    head = [
        "part",
        *(f"{name}: {what}" for name in names for what in ("ms", "GFLOP", "GB", "operators")),
    ]
    rows = []
    for part, by_name in parts.items():
        cells = [
            by_name[name][key] for name in names for key in ("ms", "gflop", "gbytes", "operators")
        ]
        rows.append([part, *cells])
    return table(head, rows)


def show_levers(levers: dict[str, list[dict[str, Any]]]) -> str:
    """Each lever beside the form that it replaces."""
    cells = []
    for lever, forms in levers.items():
        for place, row in enumerate(forms):
            ratio = _range(row["ratio"]) if place else "ours"
            cells.append(
                [
                    lever if not place else "",
                    row["form"],
                    row["ms"],
                    row["ms_min"],
                    row["ms_iqr"],
                    ratio,
                ]
            )
    return table(
        ["lever", "form", "ms (median)", "least", "IQR", "ours is so many times as fast"], cells
    )


def show_alone(rows: Sequence[dict[str, Any]]) -> str:
    """Steps in processes of their own: memory, and throughput by batch."""
    head = ["step", "batch", "peak allocated GB", "reserved GB", "ms", "ms a pair", "pairs/s"]
    keys = ("allocated_gb", "reserved_gb", "ms", "ms_per_pair", "pairs_per_s")
    cells = []
    for row in rows:
        found = (
            [row.get(key) for key in keys]
            if "failed" not in row
            else [f"no figure: {row['failed']}", *[None] * 4]
        )
        cells.append([row["step"], row["batch"], *found])
    return table(head, cells)


def show_head(head: dict[str, Any]) -> str:
    """Growth of the head with the batch, and beside the released one."""
    rows = [
        [
            r["batch"],
            r["pairs"],
            r["ms"],
            r["ms_iqr"],
            r["ms_min"],
            r.get("time_ratio"),
            r["memory_mb"],
            r.get("memory_ratio"),
        ]
        for r in head["growth"]["rows"]
    ]
    titles = [
        "batch",
        "pairs of graphs",
        "ms (median)",
        "IQR",
        "least",
        "x the line before",
        "peak MB",
        "x the line before",
    ]
    growth, exponents = head["growth"], head["growth"]["exponents"]
    text = [table(titles, rows), "", f"Density of the graphs: {number(growth['density'])}."]
    if len(rows) > 1:
        text[-1] += (
            f" Best fit over all lines: the least time grows as batch^{number(exponents['ms_min'])}, memory as "
            f"batch^{number(exponents['memory_mb'])} (1 is linear); each further image of both domains adds "
            f"{number(growth['memory_mb_per_image'])} MB."
        )
    if "released" in head:
        both = head["released"]
        rows = [
            [n, h["ms"], h["ms_min"], h["ms_iqr"], h["process_ms"]]
            for n, h in both["heads"].items()
        ]
        shown = table(
            ["head, batch 1, forward and backward", "ms (median)", "least", "IQR", "CPU ms"], rows
        )
        text += ["", shown, "", f"Ours is {_range(both['ratio'])} times as fast as the released head with "
                 f"{both['graph_path']}, at density {number(both['density'])}."]  # fmt: skip
    return "\n".join(text)


def show_files(rows: Sequence[dict[str, Any]]) -> str:
    """Training from files."""
    keys = ("step", "cache", "num_threads", "ms", "data_ms", "pairs_per_s")
    head = ["step", "cache", "num_threads", "ms a step", "of them waiting for data", "pairs/s"]
    return table(head, [[row[key] for key in keys] for row in rows])


def show_translation(rows: Sequence[dict[str, Any]]) -> str:
    """Translation."""
    return table(
        ["batch", "ms", "IQR", "images/s"],
        [[r["batch"], r["ms"], r["ms_iqr"], r["images_per_s"]] for r in rows],
    )


SECTIONS = {
    "step": ("One training step", show_step),
    "parts": ("Its parts, one by one", show_parts),
    "levers": ("Levers, forward and backward", show_levers),
    "memory": ("Memory, each step in a process of its own", show_alone),
    "head": ("The graph head alone", show_head),
    "sweep": ("Larger batches", show_alone),
    "files": ("From files", show_files),
    "translation": ("Translation", show_translation),
}


def to_markdown(result: dict[str, Any]) -> str:
    """All that was measured."""
    text = [show_facts(result["facts"])]
    for key, (title, show) in SECTIONS.items():
        if key in result:
            more = (result["facts"]["rates"],) if key == "step" else ()
            text += [f"**{title}**", show(result[key], *more)]
    return "\n\n".join(text) + "\n"


def insert(path: Path, section: str, text: str) -> None:
    """Put the text between the markers of its section in a Markdown file.

    Raises:
        UserError: the file has no such section.
    """
    first, last = f"<!-- benchmark: {section} -->", f"<!-- end of benchmark: {section} -->"
    old = path.read_text() if path.is_file() else f"{first}\n{last}\n"
    if first not in old or last not in old:
        raise UserError(
            f"--markdown {path}: no lines {first} and {last} in it; add them where the tables should stand"
        )
    pattern = re.compile(re.escape(first) + ".*?" + re.escape(last), re.DOTALL)
    path.write_text(pattern.sub(lambda _: f"{first}\n{text}{last}", old))
