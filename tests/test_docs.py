"""The documents tell the truth: options are current, the worked example runs, the commands of the README work."""

import re
import shutil

import pytest

from scripts.document_options import document
from tests.helpers import REPO, run_command, train_flags


def test_the_options_page_is_current():
    assert (REPO / "docs" / "options.md").read_text() == document(), "run: python scripts/document_options.py"


@pytest.fixture
def checkout(tmp_path):
    """A copy of the code with the documented example as one new file."""
    for folder in ("models", "data", "options", "util", "tests"):
        shutil.copytree(REPO / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("train.py", "test.py"):
        shutil.copy(REPO / file, tmp_path)
    example = re.search(r"```python\n(.*?)```", (REPO / "docs" / "adding_a_model.md").read_text(), re.DOTALL).group(1)
    (tmp_path / "models" / "recover_model.py").write_text(example)
    return tmp_path


def test_the_worked_example_is_one_new_file(checkout, tmp_path):
    flags = [flag for flag in train_flags(tmp_path) if flag not in ("patchgcl", "--vgg_weights", "random")]
    flags[flags.index("--model") + 1 : flags.index("--model") + 1] = ["recover"]
    trained = run_command(["train.py", *flags, "--preset", "strict", "--max_steps", "2"], cwd=checkout)
    assert trained.returncode == 0, trained.stderr
    assert "recipe: recover, preset strict" in trained.stdout
    where = ["--checkpoints_dir", tmp_path / "checkpoints", "--results_dir", tmp_path / "results", "--gpu_ids", "-1"]
    translated = run_command(["test.py", "--name", "run", *where], cwd=checkout)
    assert translated.returncode == 0, translated.stderr
    assert "--lambda_recover" in run_command(["train.py", "--model", "recover", "--help"], cwd=checkout).stdout
    covered = run_command(["-m", "pytest", "-q", "tests/test_models.py", "-k", "recover and reaches"], cwd=checkout)
    assert covered.returncode == 0 and "4 passed" in covered.stdout, covered.stdout


def test_links_in_the_documents_exist():
    for page in [REPO / "README.md", *(REPO / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", page.read_text()):
            link = target[0] or target[1]
            if not link.startswith(("http://", "https://")):
                assert (page.parent / link).exists(), f"{page.name} points to {link}"
