"""A forked command is a started one: the same words, paths and ends (tests/forked.py)."""

import os
import subprocess

import pytest

from tests.helpers import run_command, run_together

FACTS = """
import atexit, os, signal, sys, threading, time
from pathlib import Path
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

print(__name__, Path(__file__).resolve(), sys.argv, os.getcwd(), os.environ.get("WORD"), sys.stdin.read())
print([Path(folder).name for folder in sys.path[:2]], sys.modules["__main__"].__dict__ is globals())
print([name for name in sys.modules if name.split(".")[0] in ("models", "data", "options", "util", "tests")])
print(signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGALRM))
print("for people", file=sys.stderr)
atexit.register(print, "at the end")
threading.Thread(target=lambda: time.sleep(0.2) or print("a thread ends before")).start()
"""

ENDS = {
    "its end": "",
    "nothing": "sys.exit()",
    "a number": "sys.exit(3)",
    "words": "sys.exit('bad input')",
    "an interrupt": "os.kill(os.getpid(), signal.SIGTERM)",
}


@pytest.fixture
def script(tmp_path):
    (tmp_path / "scripts").mkdir()
    return tmp_path / "scripts" / "script.py"


@pytest.mark.parametrize("end", ENDS)
def test_it_runs_and_ends_as_a_started_one(script, end):
    script.write_text(FACTS + ENDS[end])
    where = {"cwd": script.parent.parent, "env": {"WORD": "given"}}
    command = ["scripts/script.py", "--flag", 1]
    forked, started = (run_command(command, fresh=fresh, **where) for fresh in (False, True))
    assert vars(forked) == vars(started)
    assert "--flag" in forked.stdout and "for people" in forked.stderr


def test_an_error_is_shown_with_its_place(script):
    script.write_text("\n\n1 / 0\n")
    result = run_command([script])
    assert result.returncode == 1 and result.stdout == ""
    assert f'"{script}", line 3' in result.stderr and "ZeroDivisionError" in result.stderr


def test_packages_can_be_missing_for_one_command(script):
    script.write_text("import dominate\n")
    assert "ModuleNotFoundError" in run_command([script], missing=["dominate"]).stderr
    assert run_command([script]).returncode == 0


def test_random_numbers_differ_from_command_to_command(script):
    script.write_text("import random, numpy\nprint(random.random(), numpy.random.random())\n")
    one, two = (run_command([script]).stdout.split() for _ in range(2))
    assert one[0] != two[0] and one[1] != two[1]


def test_what_takes_too_long_is_killed(script, tmp_path):
    script.write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(100)\n")
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        run_command([script], timeout=1)
    with pytest.raises(ProcessLookupError):
        os.kill(int(caught.value.stdout), 0)


def test_processes_run_at_once_and_know_their_place(script):
    """Each waits for the file of the other."""
    script.write_text(
        "import os, sys, time\n"
        "rank = int(os.environ['RANK'])\n"
        "open(f'{sys.argv[1]}/{rank}', 'w')\n"
        "while not os.path.exists(f'{sys.argv[1]}/{1 - rank}'): time.sleep(0.01)\n"
        "print(os.environ['WORLD_SIZE'], os.environ['LOCAL_RANK'] == str(rank))\n"
        "sys.exit(rank)\n"
    )
    ended = run_together([script, script.parent], 2, timeout=60)
    assert ended.statuses == [0, 1] and ended.stdout == "2 True\n2 True\n", ended.stderr
