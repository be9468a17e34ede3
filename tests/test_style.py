"""The house rules that a machine can check: budgets, first sentences, options that stay out of networks and losses."""

import ast
import re

import pytest

from tests.helpers import REPO
from tests.house import product_files, statements

FUNCTION, FILE = (
    45,
    400,
)  # statements; a list of declarations or a table is read at a glance, whatever its length
SOURCES = sorted(product_files().values())
FORWARDS = [path for path in SOURCES if path.parent.name in ("networks", "losses")]


def name(path) -> str:
    return str(path.relative_to(REPO))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_module_opens_with_a_sentence_and_stays_small(path):
    tree = ast.parse(path.read_text())
    assert (ast.get_docstring(tree) or "").split("\n")[0].strip(), (
        f"{name(path)} does not say what it is for"
    )
    found = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    assert len(found) <= FILE, f"{name(path)} has {len(found)} statements (at most {FILE})"
    for node in found:
        if isinstance(node, ast.FunctionDef):
            count = statements(node)
            assert count <= FUNCTION, (
                f"{name(path)}: {node.name} has {count} statements (at most {FUNCTION})"
            )


@pytest.mark.parametrize("path", FORWARDS, ids=name)
def test_networks_and_losses_know_no_options(path):
    tree = ast.parse(path.read_text())
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    arguments = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    assert "opt" not in names | arguments
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "forward":
            assert re.search(r"\([BN\d]?[A-Za-z0-9, ]*\)|_B", ast.get_docstring(node) or ""), (
                f"{name(path)}:{node.lineno}: forward does not say its shapes"
            )


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if p.parent.name in ("models", "networks", "losses")], ids=name
)
def test_the_step_has_no_host_traffic(path):
    """What runs in a training step waits for no device and moves nothing to the host (base class: mean, at a print)."""
    for call in (".item()", ".cpu()", ".tolist()", ".numpy()", ".cuda()", "np.random"):
        assert call not in path.read_text(), f"{name(path)} uses {call}"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_code_is_commented_out(path):
    code = re.compile(r"# \w+(\.\w+)*(\(.*\)| = .+)$|# (return|import|from \w+ import) ")
    for number, line in enumerate(path.read_text().splitlines(), 1):
        comment = line.strip()
        if code.match(comment):
            raise AssertionError(f"{name(path)}:{number} looks like commented-out code: {comment}")


def test_train_and_test_read_like_prose():
    for file in ("train.py", "test.py"):
        text = (REPO / file).read_text()
        assert text.count("\n") < 100, f"{file} has 100 lines or more"
        assert "opt.model ==" not in text


def test_the_top_level_is_what_it_should_be():
    allowed = {
        "models", "data", "options", "util", "scripts", "train.py", "test.py", "requirements.txt", "README.md",
        "LICENSE", "tests", "docs", ".ci", "pyproject.toml", ".gitignore", ".gitattributes",
    }  # fmt: skip
    made_by_use = {
        ".git", ".venv", ".hypothesis", "carried", "checkpoints", "results", "datasets", "weights",
    }  # fmt: skip
    found = {
        path.name
        for path in REPO.iterdir()
        if not path.name.endswith("_cache") and path.name != "__pycache__"
    }
    assert found - made_by_use <= allowed, found - made_by_use - allowed
    assert allowed <= found, allowed - found
