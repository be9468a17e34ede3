"""A few random command lines, each of which ends in one line or in success; `python -m tests.fuzz` runs thousands."""

import pytest

from tests.fuzz import __main__ as fuzzing
from tests.fuzz.__main__ import fuzz

COUNT = 40
SECONDS = 6


def test_random_command_lines_end_without_a_traceback(tmp_path):
    fuzzer = fuzz(3, COUNT, tmp_path, SECONDS)
    assert not fuzzer.faults, fuzzer.report()
    assert fuzzer.ends.total() > 5
    assert fuzzer.ends["parse: done"], fuzzer.report()
    assert fuzzer.ends["build: done"] + fuzzer.ends["step: done"], fuzzer.report()


def test_the_same_seed_is_the_same_command_line(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        fuzzing.Fuzzer, "try_out", lambda self, depth, options, argv: drawn.append(argv)
    )
    for name in ("one", "two"):
        fuzz(7, 5, tmp_path / name)
    assert drawn[:5] == drawn[5:] and len(drawn) == 10


@pytest.mark.parametrize(
    "error", [ValueError("wrong"), IndexError("out"), RuntimeError("size 3 must match")]
)
def test_a_traceback_is_reported_with_its_command_line(tmp_path, monkeypatch, error):
    def fail(self, depth, options, argv):
        raise error

    monkeypatch.setattr(fuzzing.Fuzzer, "try_out", fail)
    report = fuzz(7, 2, tmp_path).report()
    assert f"{type(error).__name__} at tests/test_fuzz.py" in report and str(error) in report
    assert "7: t" in report and "--model" in report
