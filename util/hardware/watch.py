"""Several processes look after each other: one that fails or dies ends all, with words; none waits forever."""

import contextlib
import hashlib
import os
import socket
import sys
import time
from datetime import timedelta
from threading import Event, Thread

import torch.distributed as dist

from util.errors import BAD_INPUT, UserError, first_line

MEETING = timedelta(minutes=30)  # in which all processes of a run have to come
BEAT = 1.0  # seconds between two signs of life
SILENCE = 30.0  # seconds without one after which a process counts as dead
GRACE = 15.0  # seconds in which the main thread may end by itself, once another process is gone
LINGER = 5.0  # seconds in which a first process that fails waits for what the others have to say
LEFT = "left"  # what a process says that ends well
FAILED = "failed: "


class Watch:
    """A thread that tells the other processes that this one lives, and looks whether they do.

    The signs go through the store that brought the processes together. A process that waits inside a collective cannot
    be woken: once another is gone, and GRACE has passed, the thread says why and ends the process.

    Args:
        rank, world_size: this process and how many there are.
    """

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self.lost: str | None = None  # who is gone, and why, in words
        self._store = connect()
        self._stop = Event()

        self._store.set(f"who/{rank}", f"pid {os.getpid()} on {socket.gethostname()}")
        self._store.set(self._key(rank), "0")
        self._thread = Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin, once all processes have been heard of.

        Raises:
            UserError: not all have come.
        """
        try:
            self._store.wait([self._key(rank) for rank in range(self.world_size)], MEETING)
        except RuntimeError as error:
            minutes = MEETING.total_seconds() / 60
            raise UserError(
                f"not all {self.world_size} processes have come within {minutes:.3g} minutes "
                f"({first_line(error)}); look at what those say that are missing, and start all again"
            ) from error
        self._thread.start()

    def leave(self) -> None:
        """This process ends well."""
        self._end(LEFT)

    def fail(self, reason: str) -> bool:
        """This process ends with an error; returns whether it is the first one that says so."""
        first = True
        with contextlib.suppress(Exception):  # the store may be gone with the process that held it
            digest = hashlib.sha256(reason.encode(errors="replace")).hexdigest()
            first = self._store.add(f"said/{digest}", 1) == 1
        self._end(FAILED + reason)
        if self.rank == 0:
            self._linger()
        return first

    def explain(self, seconds: float = SILENCE + GRACE) -> str | None:
        """Who is gone, where a collective has failed; waits until it is known, None where nobody is."""
        deadline = time.monotonic() + seconds
        while self.lost is None and time.monotonic() < deadline:
            time.sleep(BEAT / 4)
        return self.lost

    def _end(self, last_word: str) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(GRACE)
        with contextlib.suppress(Exception):
            self._store.set(self._key(self.rank), last_word)

    def _linger(self) -> None:
        """Keep the store, which may end with this process, until the others have asked it what was said."""
        others = [self._key(rank) for rank in range(self.world_size) if rank != self.rank]
        deadline = time.monotonic() + LINGER
        with contextlib.suppress(Exception):
            while time.monotonic() < deadline:
                signs = [sign.decode() for sign in self._store.multi_get(others)]
                if all(sign == LEFT or sign.startswith(FAILED) for sign in signs):
                    return
                time.sleep(BEAT / 20)

    def _run(self) -> None:
        heard: dict[int, tuple[str, float]] = {}
        beats = 0
        while not self._stop.wait(BEAT):
            beats += 1
            try:
                self._store.set(self._key(self.rank), str(beats))
                signs = self._store.multi_get([self._key(rank) for rank in range(self.world_size)])
                self.lost = self._judge([sign.decode() for sign in signs], heard)
            except Exception as error:  # whatever the store says, it no longer answers
                self.lost = f"the process that holds all together is gone ({first_line(error)})"

            if self.lost:
                self._stop.wait(GRACE) or self._give_up()
                return

    def _judge(self, signs: list[str], heard: dict[int, tuple[str, float]]) -> str | None:
        """Who is gone by these signs; `heard`: rank -> last sign, and when it came."""
        now = time.monotonic()
        for rank, sign in enumerate(signs):
            if rank == self.rank or sign == LEFT:
                continue
            if sign.startswith(FAILED):
                return f"{self._who(rank)} ended: {sign.removeprefix(FAILED)}"
            if heard.get(rank, ("", 0.0))[0] != sign:
                heard[rank] = (sign, now)
            elif now - heard[rank][1] > SILENCE:
                return f"{self._who(rank)} is gone: no sign of it for {SILENCE:.0f} s"
        return None

    def _who(self, rank: int) -> str:
        try:
            where = self._store.get(f"who/{rank}").decode()
        except Exception:  # a name is not worth losing the message for
            where = "place unknown"
        return f"process {rank} of {self.world_size} ({where})"

    def _give_up(self) -> None:
        print(f"error: {lost_text(self.lost or '')}", file=sys.stderr, flush=True)
        os._exit(BAD_INPUT)

    @staticmethod
    def _key(rank: int) -> str:
        return f"alive/{rank}"


def lost_text(who: str) -> str:
    """What a process says that ends because another has."""
    return f"{who}. This process ends too; the same command continues from the last save"


class LostProcess(UserError):
    """Another process of the run is gone."""


def connect() -> dist.Store:
    """A connection of one's own to the store named in the environment, apart from earlier starts by one torchrun."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    timeout = timedelta(seconds=SILENCE)
    store = dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"watch/{attempt}", store)
