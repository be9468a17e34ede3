"""The documents tell the truth: options are current, the worked example runs, the commands of the README work."""

import importlib
import json
import re
import shlex
import shutil
from collections import Counter
from pathlib import Path

import pytest

from models import model_names
from options import TestOptions, TrainOptions, parse
from scripts.document_options import document
from scripts.evaluating.words import rounded, scaled
from tests.helpers import REPO, TINY, make_dataset, run_command, train_flags
from util.errors import UserError


def test_the_options_page_is_current():
    assert (REPO / "docs" / "options.md").read_text() == document(), (
        "run: python scripts/document_options.py"
    )


EXAMPLES = ("recover", "reminder")  # the methods of docs/adding_a_model.md, in order


@pytest.fixture
def checkout(tmp_path):
    """A copy of the code with each documented example as one new file."""
    for folder in ("models", "data", "options", "util", "tests"):
        shutil.copytree(
            REPO / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    for file in ("train.py", "test.py"):
        shutil.copy(REPO / file, tmp_path)
    page = (REPO / "docs" / "adding_a_model.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for name, example in zip(EXAMPLES, examples, strict=True):
        (tmp_path / "models" / f"{name}_model.py").write_text(example)
    return tmp_path


def test_the_worked_example_is_one_new_file(checkout, tmp_path):
    root = tmp_path / "runs"
    printed = next(command for command in documented_commands() if "recover" in command)
    dry = run_command([*printed, "--dry_run"], cwd=checkout)
    assert dry.returncode == 0, dry.stderr
    flags = [
        flag for flag in train_flags(root) if flag not in ("patchgcl", "--vgg_weights", "random")
    ]
    flags[flags.index("--model") + 1 : flags.index("--model") + 1] = ["recover"]
    trained = run_command(
        ["train.py", *flags, "--preset", "strict", "--max_steps", "2"], cwd=checkout
    )
    assert trained.returncode == 0, trained.stderr
    assert "recipe: recover, preset strict" in trained.stdout
    where = [
        "--checkpoints_dir",
        root / "checkpoints",
        "--results_dir",
        root / "results",
        "--gpu_ids",
        "-1",
    ]
    translated = run_command(["test.py", "--name", "run", *where], cwd=checkout)
    assert translated.returncode == 0, translated.stderr
    assert (
        "--lambda_recover"
        in run_command(["train.py", "--model", "recover", "--help"], cwd=checkout).stdout
    )
    covered = run_command(
        [
            "-m",
            "pytest",
            "-q",
            "tests/test_models.py",
            "-k",
            f"({' or '.join(EXAMPLES)}) and reaches",
        ],
        cwd=checkout,
    )
    assert covered.returncode == 0 and "6 passed" in covered.stdout, covered.stdout


def documented_commands() -> list[list[str]]:
    """Every `python train.py ...`, of test.py and of the scripts, in code blocks and inline code of the documents."""
    found = []
    for page in [REPO / "README.md", *(REPO / "docs").glob("*.md")]:
        text = page.read_text().replace("\\\n", " ")
        command = r"(?:^|`)python ((?:train|test|scripts/\w+)\.py\b[^`\n#]*)"
        found += re.findall(command, text, re.MULTILINE)
    return [shlex.split(command) for command in found if "..." not in command]


def test_documented_commands_are_understood(tmp_path):
    commands = [
        command
        for command in documented_commands()
        if "recover" not in command and not command[0].startswith("scripts/")
    ]
    assert len(commands) >= 50
    for script, *flags in commands:
        if flags[-1] == "--dataroot":  # the sentence around it goes on in words
            flags = flags[:-1]
        where = ["--dataroot", "x", *flags, "--checkpoints_dir", str(tmp_path)]
        if script == "train.py" or "--model" in flags:
            parse(TrainOptions() if script == "train.py" else TestOptions(), where)
        else:
            assert any(understood([*where, "--model", name]) for name in model_names()), flags


def test_documented_commands_of_scripts_are_understood():
    """By the parsers of those that have a function for it; a shell's $variables are left out."""
    tried = []
    for script, *flags in documented_commands():
        if script.startswith("scripts/"):
            module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
            argv = [flag for flag in flags if not flag.startswith("$")]
            if hasattr(module, "parse_arguments"):
                module.parse_arguments(argv)
            elif hasattr(module, "build_parser"):
                module.build_parser().parse_args(argv)
            else:
                continue
            tried.append(script)
    assert len(tried) >= 25 and len(set(tried)) >= 8


def understood(argv: list[str]) -> bool:
    """Whether test.py takes this command for a run of the method that it names."""
    try:
        parse(TestOptions(), argv)
    except UserError:
        return False
    return True


def test_the_released_commands_of_the_readme_run(tmp_path):
    """The commands as printed, with small networks, then the released test command."""
    trained = next(c for c in documented_commands() if "--pooling_ratio" in c)
    make_dataset(tmp_path / "data")
    where = ["--checkpoints_dir", tmp_path / "checkpoints", "--dataroot", tmp_path / "data"]
    result = run_command([*trained, *TINY, *where, "--vgg_weights", "random", "--max_steps", "2"])
    assert result.returncode == 0, result.stderr
    assert "recipe: patchgcl, preset official, float32, with netG=" in result.stdout
    assert "pooling_ratio=" not in result.stdout, "the README's values are the recipe's own"
    released = ["--CUT_mode", "CUT", "--phase", "test", "--epoch", "latest", "--num_test", "3"]
    where += ["--results_dir", tmp_path / "results", "--gpu_ids", "-1"]
    result = run_command(["test.py", "--name", "h2z", *released, *where])
    assert result.returncode == 0, result.stderr
    assert (
        len(list((tmp_path / "results" / "h2z" / "test_latest" / "images" / "fake_B").iterdir()))
        == 3
    )


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings: small letters, hyphens for spaces, numbers for repetitions."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    found: set[str] = set()
    seen: Counter = Counter()
    for heading in re.findall(r"^#{1,6} +(.*?) *$", text, re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()  # of a link, its words
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def test_anchors_are_those_of_github(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A `--flag`, and *more*\n## Of [CUT](x.md#y): 2 % (less)\n```bash\n# none\n```\n### Twice\n### Twice\n"
    )
    assert anchors(page) == {"a---flag-and-more", "of-cut-2--less", "twice", "twice-1"}


def test_links_in_the_documents_exist():
    with_anchor = 0
    for page in [REPO / "README.md", *(REPO / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)]+)\)|src=\"([^\"]+)\"", page.read_text()):
            link = target[0] or target[1]
            if link.startswith(("http://", "https://")):
                continue
            name, _, anchor = link.partition("#")
            file = page.parent / name if name else page
            assert file.exists(), f"{page.name} points to {link}"
            if anchor and file.suffix == ".md":
                assert anchor in anchors(file), f"{page.name} points to {link}"
                with_anchor += 1
    assert with_anchor >= 20


def test_the_figures_of_the_study_are_those_of_its_records():
    """Lines of docs/results.md beside the records that there are: those of a second seed, and of rows of the first."""
    lines = (REPO / "docs" / "results.md").read_text().splitlines()
    second = [line for line in lines if line.startswith("| | 1 | ")]
    names = ("fid", "kid", "density", "coverage", "edges", "self_similarity")

    recorded = []
    for path in sorted((REPO / "docs" / "study_cpu" / "checkpoints").iterdir()):
        figures = json.loads((path / "measured_last.json").read_text())["figures"]
        cells = []
        for name in names:
            values = (figures[name]["value"], *figures[name]["interval"])
            value, low, high = (rounded(scaled(name, number)) for number in values)
            cells.append(f"{value} [{low}, {high}]")

        line = " | ".join(cells) + " |"
        if path.name.endswith("-seed1"):
            recorded.append(f"| | 1 | {line}")
        else:
            row = json.loads((path / "job.json").read_text())["row"]
            assert f"| {row} | {line}" in lines, row
    assert second and second == recorded
