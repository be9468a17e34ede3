"""Kill training again and again at random moments, and compare what comes out with a run that nobody disturbed.

    python scripts/kill_runs.py                               30 kills of patchgcl and cycle_gan, one process and two
    python scripts/kill_runs.py --models cut --kills 100      another method, more kills

With two processes one of them is killed too, and the other must end by itself, with words.

Each run is tiny and saves after every second step, so that a good part of the kills falls into a save. Each time the
same command goes on. At the end the state must be equal to that of the undisturbed run, bit for bit. The processes are
forked from this one, so that a start costs a fraction of a second.
"""

import argparse
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch

import train
from options import TrainOptions, parse
from scripts.checking.pictures import draw_pictures
from util.errors import BAD_INPUT, UserError, exit_status
from util.parser import script_parser
from util.run.state_file import STATE, find_state

IMAGES = 6  # of each domain
OF_TRAINING = ("trainA", "trainB")
TINY = (
    "--netG resnet_4blocks --ngf 4 --ndf 4 --load_size 36 --crop_size 32 --num_threads 0 --gpu_ids -1 --display_id 0 "
    "--no_html --print_freq 2 --save_latest_freq 4 --save_epoch_freq 3 --ema 0.9 --seed 3"
)
OF_MODEL = {
    "patchgcl": "--graph_features generator --num_patches 64",
    "cycle_gan": "--pool_size 4",
}
PEEK = os.WEXITED | os.WNOHANG | os.WNOWAIT  # whether a process has ended, without taking note
NO_PART = ("options",)  # of a state, beside which everything must be equal


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, this process's by default."""
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("--models", nargs="+", default=list(OF_MODEL), help="default: patchgcl cycle_gan")
    add("--processes", nargs="+", type=int, default=[1, 2], help="of a run; default: 1 2")
    add("--kills", type=int, default=30, help="of each run (default: 30)")
    add("--epochs", type=int, default=20, help=f"of {IMAGES} images (default: 20)")
    add("--seed", type=int, default=0, help="of the moments at which runs are killed")
    add("--patience", type=float, default=60, help="seconds for the other process (default: 60)")
    add("--folder", type=Path, help="for the runs (default: a temporary one, removed at the end)")
    return parser.parse_args(argv)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Command:
    """A training command that is started again and again, by one process or several.

    Args:
        folder: where the data lie and the runs go.
        name: of the run.
        flags: of the command, beside those for all.
        processes: that train it together.
    """

    def __init__(self, folder: Path, name: str, flags: Sequence[str], processes: int) -> None:
        where = ["--dataroot", str(folder / "data"), "--checkpoints_dir", str(folder)]
        batch = ["--batch_size", str(processes)]
        self.argv = [*where, "--name", name, *TINY.split(), *batch, *flags]
        self.processes = processes
        self.log = folder / f"{name}.log"
        self.run_folder = folder / name

    def start(self) -> list[int]:
        """Fork the processes; returns their numbers."""
        opt = parse(TrainOptions(), self.argv)  # here, so that no process imports the methods again
        return start(lambda: train.train(opt), self.processes, self.log)

    def finish(self) -> None:
        """Start, and wait for the end; raises RuntimeError where that is none."""
        statuses = wait_for(self.start())
        if any(statuses):
            raise RuntimeError(f"exit statuses {statuses}:\n{self.log.read_text()[-3000:]}")


def start(work: Callable[[], int | None], processes: int, log: Path) -> list[int]:
    """Fork processes that do the work of a command together, as torchrun starts them; returns their numbers.

    `log`: what they print is added to it.
    """
    port = free_port()
    children = []
    for rank in range(processes):
        place = {"RANK": rank, "WORLD_SIZE": processes, "LOCAL_RANK": rank}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        child = os.fork()
        if not child:
            do_and_exit(work, place if processes > 1 else {}, log)
        children.append(child)
    return children


def do_and_exit(work: Callable[[], int | None], place: Mapping[str, Any], log: Path) -> NoReturn:
    """In a forked process: do the work, and never come back."""
    status = 1
    try:
        with open(log, "a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.environ.update({name: str(value) for name, value in place.items()})
        status = exit_status(work)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def wait_for(children: Sequence[int]) -> list[int]:
    """Exit statuses, minus the signal for those that one ended."""
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def kill_all(children: Sequence[int]) -> bool:
    """SIGKILL, at once; returns whether any was still alive."""
    for child in children:
        os.kill(child, signal.SIGKILL)  # one that has ended waits for us, so its number is its own
    return any(status == -signal.SIGKILL for status in wait_for(children))


def first_difference(one: Any, two: Any, path: str = "") -> str | None:
    """Where two nested states differ, bit for bit; None where they do not."""
    if isinstance(one, dict) and isinstance(two, dict):
        if one.keys() != two.keys():
            return f"{path}: {sorted(map(str, one.keys() ^ two.keys()))}"
        pairs = [(f"{path}/{key}", one[key], two[key]) for key in one if key not in NO_PART]
    elif isinstance(one, list | tuple) and isinstance(two, list | tuple) and len(one) == len(two):
        pairs = [(f"{path}/{key}", a, b) for key, (a, b) in enumerate(zip(one, two, strict=True))]
    elif isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        return None if torch.equal(one, two) else path
    else:
        return None if one == two else path
    return next(filter(None, (first_difference(a, b, p) for p, a, b in pairs)), None)


class Hunter:
    """Chooses moments and kills: some while a run starts, most between one save and the next, saves included.

    Args:
        command: whose processes are killed.
        seed: of the moments.
    """

    def __init__(self, command: Command, seed: str) -> None:
        self.command, self.random = command, random.Random(seed)
        self.state = command.run_folder / STATE
        self.interval = 0.5  # seconds between two saves, as last seen
        self.images: list[int] = []  # to which the run had come when it was killed

    def strike(self) -> bool:
        """Start the command and kill it; returns whether it was still alive then.

        Raises:
            UserError: what is left of the run does not load.
        """
        children = self.command.start()
        if self.random.random() < 0.2:
            time.sleep(self.random.uniform(0, 2 * self.interval))
        elif self.wait_for_save(children):
            time.sleep(self.random.uniform(0, 1.2 * self.interval))

        alive = kill_all(children)
        found = find_state(self.command.run_folder) if self.command.run_folder.exists() else None
        self.images.append(found.state["progress"]["images"] if found else 0)
        return alive

    def wait_for_save(self, children: Sequence[int]) -> bool:
        """Until the second save of this start; False where a process ends before."""
        seen, times = self._saved_at(), []
        while len(times) < 2:
            if any(os.waitid(os.P_PID, child, PEEK) for child in children):
                return False
            now = self._saved_at()
            if now != seen:
                seen = now
                times.append(time.monotonic())
            time.sleep(0.002)
        self.interval = times[1] - times[0]
        return True

    def _saved_at(self) -> int:
        try:
            return self.state.stat().st_mtime_ns
        except FileNotFoundError:
            return 0


def disturb(model: str, processes: int, args: argparse.Namespace, folder: Path) -> str:
    """Train one run in peace and one under fire; returns a line with the figures.

    Raises:
        RuntimeError: the end differs, or a start failed.
        UserError: a state did not load.
    """
    flags = ["--model", model, *OF_MODEL.get(model, "").split()]
    flags += ["--n_epochs", str(args.epochs - 1), "--n_epochs_decay", "1"]
    quiet = Command(folder, f"{model}_{processes}_quiet", flags, processes)
    quiet.finish()

    hunted = Command(folder, f"{model}_{processes}_hunted", flags, processes)
    hunter = Hunter(hunted, f"{args.seed} {model} {processes}")
    kills = 0
    while kills < args.kills and hunter.strike():
        kills += 1
    hunted.finish()

    one, two = find_state(quiet.run_folder), find_state(hunted.run_folder)
    difference = first_difference(one.state, two.state)
    if difference:
        raise RuntimeError(f"{model}, {processes} processes: the end states differ at {difference}")
    who = f"{model}, {processes} process{'es' if processes > 1 else ''}"
    left = len(set(hunter.images))
    where = f"{left} different states left, of image {min(hunter.images)} to {max(hunter.images)}"
    return f"{who}: {kills} SIGKILLs with {where}; end state equal bit for bit"


def lose_one(model: str, args: argparse.Namespace, folder: Path) -> str:
    """Kill one of two processes; the other must end soon, name it, and the same command must go on.

    Raises:
        RuntimeError: it does not.
    """
    flags = ["--model", model, *OF_MODEL.get(model, "").split(), "--n_epochs", "1000"]
    pair = Command(folder, f"{model}_pair", flags, 2)
    hunter = Hunter(pair, "pair")
    children = pair.start()
    if not hunter.wait_for_save(children):
        raise RuntimeError(f"a process ended by itself:\n{pair.log.read_text()[-2000:]}")

    lost, left = children[1], children[0]
    os.kill(lost, signal.SIGKILL)
    began = time.monotonic()
    os.waitpid(lost, 0)
    [status] = wait_for([left])
    seconds = time.monotonic() - began

    error = pair.log.read_text().strip().splitlines()[-1]
    named = error.startswith("error: process 1 of 2") and f"pid {lost} " in error
    if status != BAD_INPUT or not named or seconds > args.patience:
        raise RuntimeError(f"after {seconds:.0f} s the other ended with status {status}: {error}")

    children = pair.start()
    went_on = hunter.wait_for_save(children)
    kill_all(children)
    if not went_on or "continuing at" not in pair.log.read_text():
        raise RuntimeError("the same command did not go on")
    return f"{model}: one of 2 processes killed, the other ended after {seconds:.0f} s: {error}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse_arguments(argv)
    torch.set_num_threads(1)
    folder = args.folder or Path(tempfile.mkdtemp(prefix="kill_runs_"))
    try:
        draw_pictures(folder / "data", IMAGES, roles=OF_TRAINING)
        for model in args.models:
            for processes in args.processes:
                print(disturb(model, processes, args, folder), flush=True)
            if 2 in args.processes:
                print(lose_one(model, args, folder), flush=True)
    except (RuntimeError, UserError) as error:
        print(f"error: {error}\nthe runs are kept in {folder}", file=sys.stderr)
        return 1
    if args.folder is None:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
