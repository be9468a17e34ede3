"""The house keeps its rooms: imports lead down, nothing goes in circles, functions breathe."""

from pathlib import Path

import pytest

from tests.helpers import REPO
from tests.house import Import, breath, circles, imports, product_files

FILES = product_files()
EDGES = imports(FILES)

ROOMS = {
    "models": {"step", "inference", "explain", "networks", "losses"},
    "util": {"hardware", "run", "logs", "pages", "metrics"},
    "scripts": {"benchmarking", "comparing"},
}


def test_imports_lead_downward():
    """scripts, train, test -> options -> models -> data -> util; no exception is listed."""
    assert len(EDGES) > 300, "the reader does not see the house"
    upward = [f"{edge.importer} -> {edge.imported}" for edge in EDGES if edge.runs_upward]
    assert upward == []


def test_no_files_import_each_other_in_a_circle():
    assert circles(EDGES) == []


def test_the_reader_finds_what_it_looks_for(tmp_path):
    """An upward import inside a function, one for type checkers, a circle of three."""
    (tmp_path / "a.py").write_text("def f():\n    from models import x\n")
    (tmp_path / "b.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import options.c\n"
    )
    files = {
        "util.a": tmp_path / "a.py",
        "models": tmp_path / "b.py",
        "options.c": tmp_path / "a.py",
    }
    found = imports(files)
    assert {(e.importer, e.imported, e.runs_upward) for e in found} == {
        ("util.a", "models", True),
        ("models", "options.c", True),
        ("options.c", "models", False),
    }
    ring = {Import("util.a", "util.b"), Import("util.b", "util.c"), Import("util.c", "util.a")}
    assert circles(ring) == [["util.a", "util.b", "util.c"]]
    assert circles({Import("util.a", "util.b"), Import("util.b", "util.c")}) == []


@pytest.mark.parametrize("folder", ROOMS)
def test_the_rooms_are_there_and_say_what_they_are(folder):
    rooms = {path.parent.name: path for path in (REPO / folder).glob("*/__init__.py")}
    assert ROOMS[folder] <= rooms.keys()
    for path in rooms.values():
        assert path.read_text().startswith('"""'), f"{path} does not say what the room is for"


def test_the_bottom_knows_nothing_of_the_project():
    bottom = {"util.errors", "util.files", "util.registry", "util.images", "util.parser"}
    for edge in EDGES:
        assert edge.importer not in bottom or edge.imported in bottom, edge


@pytest.mark.parametrize("share, limit", [("blank", 6), ("airless", 15), ("wide", 5)])
def test_functions_breathe(share, limit):
    """Blank lines in bodies; long functions without a paragraph; lines over 100 characters (all in per cent)."""
    found = breath(FILES)[share]
    assert found >= limit if share == "blank" else found <= limit, f"{share}: {found} %"


def test_breath_is_counted_right(tmp_path):
    body = "".join(f"    a{n} = {n}\n" for n in range(14))
    Path(tmp_path / "x.py").write_text(
        f"def f():\n{body}\n    b = 1\n\ndef g():\n{body}    c = '{'x' * 100}'\n"
    )
    assert breath({"x": tmp_path / "x.py"}) == {"blank": 3.2, "wide": 3.2, "airless": 50.0}
