"""Write docs/options.md from the parsers: `python scripts/document_options.py`; a test holds it current."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from models import find_model, model_names
from options import TestOptions, TrainOptions
from util.parser import OptionParser, show_value

HEAD = """# Options

Made by `python scripts/document_options.py` from the parsers; do not edit. A value comes from the default, then the
preset, then the flag. Flags marked true/false may stand alone, which means true.
"""
TEST_HEAD = (
    "Takes the architecture and the method's options from the training run. "
    "What is new or has another default:"
)


def cell(text: str) -> str:
    """Text that stays inside its table cell."""
    return text.replace("|", "\\|").replace("%%", "%")


def row(action: argparse.Action) -> str:
    """One option as a line of a table."""
    default = "" if action.default in (None, "") else f"`{show_value(action.default)}`"
    choices = f" One of: {', '.join(map(str, action.choices))}." if action.choices else ""
    text = (action.help or "").rstrip(".") + "." + choices
    spellings = ", ".join(f"`{flag}`" for flag in action.option_strings)
    return f"| {spellings} | {cell(default)} | {cell(text)} |"


def tables(parser: OptionParser, skip: set[str]) -> list[str]:
    """Every group's options as a Markdown table, without those already shown."""
    head = ["| option | default | what it does |", "|---|---|---|"]

    lines = []
    for group in parser._action_groups:
        actions = [a for a in group._group_actions if a.dest != "help" and a.dest not in skip]
        if actions:
            rows = [row(action) for action in actions]
            lines += [f"### {group.title}", "", *head, *rows, ""]
    return lines


def preset_lines(name: str) -> list[str]:
    """What each preset of a model sets."""
    lines = []
    for preset, values in find_model(name).PRESETS.items():
        settings = ", ".join(f"`--{key} {show_value(value)}`" for key, value in values.items())
        lines.append(f"- `--preset {preset}`: {settings or 'the defaults'}")

    if lines:
        lines.append("")
    return lines


def spelling_lines(parser: OptionParser, shared: OptionParser) -> list[str]:
    """What else a model calls shared options, which stand in the shared tables."""
    known, lines = shared.declared(), []
    for name, action in parser.declared().items():
        first, *others = action.option_strings
        if name in known and others != known[name].option_strings[1:]:
            lines.append(f"`{'`, `'.join(others)}` is another spelling of `{first}`.")

    if lines:
        lines.append("")
    return lines


def of_test_alone(name: str, shared: OptionParser) -> list[str]:
    """Flags that a model has at test and not in training, beside the `shared` ones."""
    train, test = TrainOptions(), TestOptions()
    trained = train.build_parser(train.peek(["--model", name])).declared()
    parser = test.build_parser(test.peek(["--model", name]))

    lines = tables(parser, {*trained, *shared.declared()})
    return ["With test.py:", "", *lines] if lines else []


def document() -> str:
    """The whole page."""
    train, test = TrainOptions(), TestOptions()
    shared = OptionParser()
    train.add_shared(shared)
    train.add_phase(shared)
    at_test = OptionParser()
    test.add_shared(at_test)
    test.add_phase(at_test)

    lines = [HEAD, "## train.py", "", *tables(shared, set())]

    for name in model_names():
        parser = train.build_parser(train.peek(["--model", name]))
        own = tables(parser, set(shared.declared()))
        further = of_test_alone(name, at_test)
        spellings = spelling_lines(parser, shared)
        lines += [f"## --model {name}", "", *preset_lines(name), *spellings, *own, *further]

    trained = train.build_parser(train.peek([])).declared()
    same = set()
    for name, action in at_test.declared().items():
        if name in trained and row(action) == row(trained[name]):
            same.add(name)
    lines += ["## test.py", "", TEST_HEAD, "", *tables(at_test, same)]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "options.md").write_text(document())
