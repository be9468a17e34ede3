"""The house read as text: which file imports which, and how its functions breathe. Run it to see the figures."""

import ast
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REPO = Path(__file__).resolve().parent.parent
FLOORS = {"util": 1, "data": 2, "models": 3, "options": 4, "train": 5, "test": 5, "scripts": 6}
LONG = 15  # lines: a function of so many needs paragraphs
WIDE = 100  # characters


class Import(NamedTuple):
    """One file of the product imports another."""

    importer: str
    imported: str

    @property
    def runs_upward(self) -> bool:
        """Whether it leads to a higher floor."""
        return floor(self.imported) > floor(self.importer)


def floor(module: str) -> int:
    """Of a module; imports lead down or stay on their floor."""
    return FLOORS[module.split(".")[0]]


def product_files() -> dict[str, Path]:
    """Every Python file that is no test, by the name of its module."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"]
    listed = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    files = {}
    for name in listed.stdout.split():
        if not name.startswith(("tests/", ".ci/")) and (REPO / name).exists():
            module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            files[module] = REPO / name
    return files


def imports(files: dict[str, Path]) -> set[Import]:
    """All imports between product files, those inside functions and for type checkers too."""
    found = set()
    for module, path in files.items():
        for node in ast.walk(ast.parse(path.read_text())):
            for target in targets(node, files):
                if target != module:
                    found.add(Import(module, target))
    return found


def targets(node: ast.AST, files: dict[str, Path]) -> Iterator[str]:
    """The product modules that a statement imports."""
    names = []
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]

    for name in names:
        while name and name not in files:
            name = name.rpartition(".")[0]
        if name:
            yield name


def circles(edges: set[Import]) -> list[list[str]]:
    """Groups of files each of which leads back to itself through the others."""
    reached = {edge.importer: reachable(edge.importer, edges) for edge in edges}
    groups = {}
    for module, below in reached.items():
        if module in below:
            group = sorted(other for other in below if module in reached.get(other, ()))
            groups[tuple(group)] = group
    return list(groups.values())


def reachable(module: str, edges: set[Import]) -> set[str]:
    """All that a module imports, directly or through others."""
    seen, waiting = set(), [module]
    while waiting:
        here = waiting.pop()
        for edge in edges:
            if edge.importer == here and edge.imported not in seen:
                seen.add(edge.imported)
                waiting.append(edge.imported)
    return seen


def functions(files: dict[str, Path]) -> Iterator[tuple[ast.FunctionDef, list[str]]]:
    """Every function, with the lines of its body."""
    for path in files.values():
        text = path.read_text()
        lines = text.split("\n")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node, lines[node.body[0].lineno - 1 : node.end_lineno]


def statements(function: ast.FunctionDef) -> int:
    """How much a function does: its statements, however they are laid out; its docstring does not count."""
    inside = (node for node in ast.walk(function) if isinstance(node, ast.stmt))
    return sum(1 for _ in inside) - 1 - (ast.get_docstring(function) is not None)


def breath(files: dict[str, Path]) -> dict[str, float]:
    """Shares in per cent: blank lines, wide lines, long functions without a paragraph."""
    lines = blank = wide = long = airless = 0
    for node, body in functions(files):
        lines += len(body)
        blank += sum(not line.strip() for line in body)
        wide += sum(len(line) > WIDE for line in body)
        if node.end_lineno - node.lineno + 1 >= LONG:
            long += 1
            airless += not any(not line.strip() for line in body)
    shares = {"blank": blank / lines, "wide": wide / lines, "airless": airless / max(long, 1)}
    return {name: round(100 * share, 1) for name, share in shares.items()}


if __name__ == "__main__":
    found = product_files()
    edges = imports(found)
    upward = [f"{edge.importer} -> {edge.imported}" for edge in edges if edge.runs_upward]
    print(json.dumps({"upward": upward, "circles": circles(edges), **breath(found)}, indent=2))
