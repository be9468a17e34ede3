"""All that the stages found, as one page of Markdown and as lines."""

from collections.abc import Sequence
from typing import Any

from scripts.benchmarking.report import table


def page(result: dict[str, Any]) -> str:
    """The stages and how they ended, what they found, their tables."""
    rows = []
    for name, stage in result["stages"].items():
        rows.append([name, stage["title"], stage.get("seconds"), stage["state"]])
    text = ["# GPU check", f"Command: `{result['command']}`."]
    text.append(table(["stage", "what", "s", "how it ended"], rows))

    lines = findings(result)
    text += ["## Findings", "\n".join(f"- {line}" for line in lines) or "None."]
    for name, stage in result["stages"].items():
        for title, (head, *cells) in stage.get("tables", {}).items():
            text += [f"## {name}: {title}", table(head, plain(cells))]
    return "\n\n".join(text) + "\n"


def plain(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Cells without what would end a cell."""
    return [
        [c.replace("|", "/").replace("\n", " ") if isinstance(c, str) else c for c in row]
        for row in rows
    ]


def findings(result: dict[str, Any]) -> list[str]:
    """A line each, what is amiss first."""
    amiss, fine = [], []
    for name, stage in result["stages"].items():
        if stage["state"] not in ("done", "waits", "runs"):
            amiss.append(f"AMISS {name}: {stage['state']}")
        for good, line in stage.get("findings", []):
            (fine if good else amiss).append(f"{'ok' if good else 'AMISS'} {name}: {line}")
    return amiss + fine
