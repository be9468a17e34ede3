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
    lines = [head, ["---"] * len(head)]
    for row in rows:
        lines.append([number(cell) for cell in row])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def columns(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> Rows:
    """The cells under these keys, None where a row has none."""
    return [[row.get(key) for key in keys] for row in rows]


def show_facts(facts: dict[str, Any]) -> str:
    """Where, when and how."""
    hardware, rates, state = facts["hardware"], facts["rates"], facts["before"]
    processor = f"{hardware['cpu']}, {hardware['threads']} threads, {hardware['simd']}"
    where = hardware.get("gpu") or processor
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    shown = [f"{name.replace('_', ' ')} {number(value)}" for name, value in rates.items()]

    lines = [
        f"{state['time']}, commit {facts['commit']}, {where}; {versions}. "
        f"Load before: {number(state['load_1min'])}.",
        f"Command: `{facts['command']}`.",
        f"Measured on the same machine in the same run: {', '.join(shown)}.",
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
    head = ["step", "ms (median)", "least", "IQR", "wall ms", "CPU ms"]
    head += [f"x {base}" for base in bases]

    keys = ("ms", "ms_min", "ms_iqr", "wall_ms", "process_ms")
    rows = []
    for name, row in timings.items():
        against = [ratios.get(name, {}).get(base) for base in bases]
        shown = [_range(ratio) if ratio else "1" for ratio in against]
        rows.append([name, *(row[key] for key in keys), *shown])
    rows += _missing(found["failed"], len(head))

    work = show_work(found, counts, timings, rates)
    return "\n".join([table(head, rows), "", _conditions(found), "", work])


def _range(ratio: dict[str, float | None]) -> str:
    text = f"**{ratio['ratio']:.2f}** ({ratio['ratio_low']:.2f} to {ratio['ratio_high']:.2f})"
    if ratio["ratio_process"] is None:
        return text
    return f"{text}, CPU {ratio['ratio_process']:.2f}"


def _conditions(found: dict[str, Any]) -> str:
    t, s = found["turns"], found["settings"]
    text = (
        f"{s['size']}x{s['size']}, batch {s['batch']}, preset {s['preset']}, "
        f"threshold {s['nonzero_th']}, VGG16 {s['vgg_weights']}, "
        f"adjacency density {number(found['density'])}; {t['warm_up']} steps of warm-up, "
        f"then {t['rounds']} rounds in turns of {t['iterations']} steps each. "
        "A ratio is that of medians, in brackets its extremes over rounds; "
        "CPU: by the process's own seconds, least over rounds."
    )

    doubles = [check for check in found["checks"].values() if "double_loss" in check]
    if doubles:
        loss = max(check["double_loss"] for check in doubles)
        gradient = max(check["double_gradient"] for check in doubles)
        text += (
            f" In float64, on crops of {DOUBLE_SIDE}, losses of the released steps differ from "
            f"ours by at most {number(loss)}, gradients of G by {number(gradient)}, relative."
        )
    return text


def show_work(found: dict[str, Any], counts: dict, timings: dict, rates: dict[str, float]) -> str:
    """What a step does, and the share of the measured matrix rate that it reaches."""
    head = ["step", "GFLOP", "share of matmul rate", "GB through operators", "operators"]
    head += ["host reads", "kernels", "GPU idle", "first steps s", "pay after steps"]
    head += ["loss", "cosine of G's gradient"]

    rows = []
    for name, row in timings.items():
        work, check = counts.get(name, {}), found["checks"].get(name, {})

        # what it does
        flops = work.get("flops", counts.get(REFERENCE, {}).get("flops", 0))
        rate = rates.get(MATMUL[found["precisions"][name]], rates["matmul_fp32_tflops"])
        share = flops / (row["ms"] / 1e3) / (rate * 1e12)
        moved = work["bytes"] / 1e9 if "bytes" in work else None
        reads = work.get("synchronisations")
        reads = work.get("host_reads") if reads is None else reads

        # what its first steps cost, and what it computes
        start_up = found["start_up_s"]
        paid = _break_even(name, start_up, timings) if REFERENCE in timings else None
        cosine = f"{check['cosine']:.6f}" if "cosine" in check else None

        cells = [name, flops / 1e9, f"{share:.0%}", moved, work.get("operators")]
        cells += [reads, work.get("kernels"), work.get("gpu_idle"), start_up[name], paid]
        cells += [check.get("loss"), cosine]
        rows.append(cells)
    return table(head, rows)


def _break_even(
    name: str, start_up: dict[str, float], timings: dict[str, dict[str, Any]]
) -> float | None:
    """Steps after which first steps that are slower than the reference's have paid; None where they never do."""
    gain = (timings[REFERENCE]["ms"] - timings[name]["ms"]) / 1e3
    if gain <= 0:
        return None
    return max(0.0, start_up[name] - start_up[REFERENCE]) / gain


def show_parts(parts: dict[str, dict[str, dict[str, float]]]) -> str:
    """The step taken apart."""
    names = list(next(iter(parts.values()), {}))
    shown = {"ms": "ms", "gflop": "GFLOP", "gbytes": "GB", "operators": "operators"}

    head = ["part"]
    for name in names:
        head += [f"{name}: {title}" for title in shown.values()]

    rows = []
    for part, by_name in parts.items():
        cells = [part]
        for name in names:
            cells += [by_name[name][key] for key in shown]
        rows.append(cells)
    return table(head, rows)


def show_levers(levers: dict[str, Any]) -> str:
    """Each lever beside the form that it replaces."""
    head = ["lever", "form", "ms (median)", "least", "IQR", "ours is so many times as fast"]
    keys = ("form", "ms", "ms_min", "ms_iqr")

    rows = []
    for lever, forms in levers["forms"].items():
        ours, *others = forms
        rows.append([lever, *(ours[key] for key in keys), "ours"])
        for form in others:
            rows.append(["", *(form[key] for key in keys), _range(form["ratio"])])
    rows += _missing(levers["failed"], len(head))
    return table(head, rows)


def _missing(failed: dict[str, str], columns: int) -> list[list[str]]:
    """Rows of what could not be measured."""
    return [[name, f"no figure: {why}"] + [""] * (columns - 2) for name, why in failed.items()]


def show_alone(rows: Sequence[dict[str, Any]]) -> str:
    """Steps in processes of their own: memory, and throughput by batch."""
    head = ["step", "batch", "peak GB", "of them recorded", "reserved GB"]
    head += ["ms", "ms a pair", "pairs/s"]
    keys = ("allocated_gb", "recorded_gb", "reserved_gb", "ms", "ms_per_pair", "pairs_per_s")

    cells = []
    for row in rows:
        found = [row.get(key) for key in keys]
        if "failed" in row:
            found = [f"no figure: {row['failed']}", *[None] * (len(keys) - 1)]
        cells.append([row["step"], row["batch"], *found])
    return table(head, cells)


def show_head(head: dict[str, Any]) -> str:
    """Growth of the head with the batch, and beside the released one."""
    text = _head_growth(head["growth"]) if "growth" in head else []
    if "released" in head:
        text += ["", *_head_beside_released(head["released"])]
    text += [f"{name}: no figure: {why}" for name, why in head["failed"].items()]
    return "\n".join(text)


def _head_growth(growth: dict[str, Any]) -> list[str]:
    titles = ["batch", "pairs of graphs", "ms (median)", "IQR", "least", "x the line before"]
    titles += ["peak MB", "x the line before"]
    keys = ["batch", "pairs", "ms", "ms_iqr", "ms_min", "time_ratio", "memory_mb", "memory_ratio"]
    rows = columns(growth["rows"], keys)

    text = f"Density of the graphs: {number(growth['density'])}."
    if len(rows) > 1:
        exponents = growth["exponents"]
        text += (
            " Best fit over all lines: the least time grows as "
            f"batch^{number(exponents['ms_min'])}, memory as "
            f"batch^{number(exponents['memory_mb'])} (1 is linear); each further image of both "
            f"domains adds {number(growth['memory_mb_per_image'])} MB."
        )
    return [table(titles, rows), "", text]


def _head_beside_released(both: dict[str, Any]) -> list[str]:
    titles = ["head, batch 1, forward and backward", "ms (median)", "least", "IQR", "CPU ms"]
    keys = ("ms", "ms_min", "ms_iqr", "process_ms")
    rows = [[name, *(row[key] for key in keys)] for name, row in both["heads"].items()]

    text = (
        f"Ours is {_range(both['ratio'])} times as fast as the released head with "
        f"{both['graph_path']}, at density {number(both['density'])}."
    )
    return [table(titles, rows), "", text]


def show_files(rows: Sequence[dict[str, Any]]) -> str:
    """Training from files."""
    keys = ("step", "cache", "num_threads", "ms", "data_ms", "pairs_per_s")
    head = ["step", "cache", "num_threads", "ms a step", "of them waiting for data", "pairs/s"]
    return table(head, columns(rows, keys))


def show_translation(rows: Sequence[dict[str, Any]]) -> str:
    """Translation."""
    keys = ("batch", "ms", "ms_iqr", "images_per_s")
    head = ["batch", "ms", "IQR", "images/s"]
    return table(head, columns(rows, keys))


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
        reason = result.get("failed", {}).get(key)
        if reason:
            text += [f"**{title}**", f"No figure: {reason}"]
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
            f"--markdown {path}: no lines {first} and {last} in it; "
            "add them where the tables should stand"
        )

    def section_anew(_: re.Match) -> str:  # a function: text may hold backslashes
        return f"{first}\n{text}{last}"

    pattern = re.compile(re.escape(first) + ".*?" + re.escape(last), re.DOTALL)
    path.write_text(pattern.sub(section_anew, old))
