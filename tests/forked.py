"""Runs `python FILE ...` in processes forked from one that has imported the libraries: a start costs a tenth of one.

What is forked knows the libraries and nothing of the project, so each command imports the project's files by itself,
runs as `__main__` and ends as the interpreter would. `Forks` asks; this file, run as a program, is what is forked.
"""

import atexit
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

LIBRARIES = ("numpy", "PIL.Image", "torch", "torchvision", "torch.distributed.run")
OUTPUT = ("stdout", "stderr")
OF_A_START = ("OMP_NUM_THREADS", "PYTHONPATH")  # read before a fork could change them


class Ended(NamedTuple):
    """A command that has ended, run by one process or several."""

    statuses: list[int]
    stdout: str
    stderr: str


class Forks:
    """Has commands run, one at a time.

    Args:
        environment: of the process that is forked.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, __file__], env=environment, stdin=pipe, stdout=pipe, text=True
        )

    def can_run(self, args: Sequence[str], environment: dict[str, str]) -> bool:
        """Whether a fork does what a start would."""
        return args[0].endswith(".py") and all(
            environment.get(name) == self.environment.get(name) for name in OF_A_START
        )

    def run(
        self,
        args: Sequence[str],
        cwd: Path,
        timeout: float,
        environments: Sequence[dict[str, str]],
        missing: Sequence[str] = (),
    ) -> Ended:
        """Run `python ARGS` in as many processes at once as environments are given.

        Args:
            missing: packages that it cannot import.

        Raises:
            subprocess.TimeoutExpired: they took longer, and were killed.
        """
        with tempfile.TemporaryDirectory() as folder:
            order = [args, str(cwd), folder, timeout, environments, missing]
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
            statuses = json.loads(self.process.stdout.readline())
            ended = Ended(statuses, *((Path(folder) / name).read_text() for name in OUTPUT))

        if None in statuses:
            raise subprocess.TimeoutExpired(list(args), timeout, ended.stdout, ended.stderr)
        return ended

    def close(self) -> None:
        """End the process that is forked."""
        self.process.terminate()  # the end of its input may be held open by workers of a loader
        self.process.communicate()


def serve() -> None:
    """Do what is asked, until nobody asks any more."""
    on_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # those who ask end this one
    while line := sys.stdin.readline():
        args, cwd, output, timeout, environments, missing = json.loads(line)
        children = []
        for environment in environments:
            child = os.fork()
            if not child:
                signal.signal(signal.SIGINT, on_interrupt)  # ignored, where a shell's & began all
                become(environment, cwd, output)
                sys.modules.update(dict.fromkeys(missing))
                run(args)
            children.append(child)
        print(json.dumps(wait_for(children, timeout)), flush=True)


def become(environment: dict[str, str], cwd: str, output: str) -> None:
    """Take over what a process is started with."""
    import numpy as np

    for number, path in enumerate((os.devnull, *(f"{output}/{name}" for name in OUTPUT))):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    np.random.seed()  # of its own, as after a start


def run(args: list[str]) -> NoReturn:
    """What `python ARGS` does; the interpreter is not taken apart at the end, which takes a second."""
    sys.argv = args
    sys.path[0] = str(Path(args[0]).resolve().parent)
    status = 0
    try:
        runpy.run_path(args[0], run_name="__main__")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int | None) else 1
        if status != end.code:
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1

    threading._shutdown()  # waits for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)


def wait_for(children: Sequence[int], timeout: float) -> list[int | None]:
    """Exit statuses, minus the signal for those that one ended; None for those that took too long and were killed."""
    late = []

    def kill(number: int, frame: FrameType | None) -> None:
        for child in set(children) - ended.keys():
            os.kill(child, signal.SIGKILL)
            late.append(child)

    ended = {}
    signal.signal(signal.SIGALRM, kill)
    signal.setitimer(signal.ITIMER_REAL, timeout)
    for child in children:
        ended[child] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    return [None if child in late else status for child, status in ended.items()]


if __name__ == "__main__":
    for library in LIBRARIES:
        __import__(library)
    serve()
