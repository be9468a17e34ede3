"""Stage: the training step, lever by lever, beside the released networks: time, memory, and whether it is the same.

A check that fails is told, and the step is timed all the same: it is here to be looked at, and nothing of it is printed
as a claim.
"""

import contextlib
import copy
import gc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from scripts.benchmarking import checks
from scripts.benchmarking.checks import Agreements, Probe, Refused
from scripts.benchmarking.contest import Contestant, Settings
from scripts.benchmarking.official import Released
from scripts.benchmarking.ours import Ours
from scripts.benchmarking.step import AS_PUBLISHED, REFERENCE, RELEASED, WITH_OUR_HEAD, Turns
from scripts.benchmarking.survival import Failures
from scripts.benchmarking.sweep import gpu_memory
from scripts.benchmarking.timing import Timing, time_in_turns
from scripts.on_gpu.notes import Notes
from scripts.on_gpu.setup import RECORDED, Setup

STEPS = (REFERENCE, "tf32", "bf16", "bf16+nhwc", RECORDED)


def run(setup: Setup, notes: Notes) -> None:
    """All that need no compiler."""
    race = Race(setup, notes)
    for name in STEPS:
        race.enter(name)
    race.enter_released()
    race.time(setup.turns)


class Race:
    """Steps that are built, checked against the plain one, and timed in turns."""

    def __init__(self, setup: Setup, notes: Notes) -> None:
        self.notes, self.device = notes, setup.device
        self.settings: Settings = setup.settings()
        self.setup = setup
        self.contestants: dict[str, Contestant] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self.ids: list[Tensor] = []
        self.wanted: Probe | None = None
        self._weights: Ours | None = None  # the first step, which keeps what all begin with

    def enter(self, name: str) -> None:
        """One of our steps; the first is the reference."""
        self._enter(name, lambda: Ours(name, self.settings))

    def enter_released(self) -> None:
        """The released networks with our head, and the released code as it is, where it was carried."""
        with self.notes.around("the released code"):
            release = self.setup.release(self.settings)
            if release is None:
                self.notes.find(True, "the released code was not carried")
                return
            for name in (WITH_OUR_HEAD, AS_PUBLISHED):
                build = partial(Released, name, release, self._weights, **RELEASED[name])
                self._enter(name, build)
            self.notes.figure("released", {"graphs": release.graph_path, "by": release.patches})

    def _enter(self, name: str, build: Callable[[], Contestant]) -> None:
        with self.notes.around(name):
            with self.device.measure() as span:
                before = held()
                contestant = build()
                if self._weights is None:
                    self._weights = contestant
                    self.ids = contestant.draw_positions()
                checks.copy_weights(self._weights, contestant)
                probe = checks.take_probe(contestant, self.ids)
            self.facts[name] = {"first_s": span.wall}
            self._compare(name, contestant, probe)
            self.contestants[name] = contestant
            with self._as_it_was(contestant):
                self.facts[name] |= memory(contestant, before)

    @contextlib.contextmanager
    def _as_it_was(self, contestant: Contestant) -> Iterator[None]:
        """Put weights back after the block: later steps begin with those of the first, whose own must not move on."""
        networks = contestant.networks().values()
        before = [copy.deepcopy(net.state_dict()) for net in networks]
        yield
        for net, state in zip(networks, before, strict=True):
            net.load_state_dict(state)

    def _compare(self, name: str, contestant: Contestant, probe: Probe) -> None:
        """Note how far the step is from the reference, and a recorded one from its plain form."""
        if self.wanted is None:
            self.wanted = probe
        with self.notes.around(f"{name} against {REFERENCE}"):
            found = checks.measure(self.wanted, probe)
            self.facts[name] |= {"cosine": found["cosine"], "loss": found["loss"]}
            enough = found["cosine"] > checks.COSINE[contestant.precision]
            line = f"{name}: cosine of G's gradient {found['cosine']:.5f}"
            self.notes.find(enough, f"{line}, losses {found['loss']:.1e} off, relative")

        if isinstance(contestant, Ours) and contestant.runtime.capture:
            self._compare_recorded(name, contestant)
        if isinstance(contestant, Ours):
            contestant.restart()

    def _compare_recorded(self, name: str, contestant: Ours) -> None:
        agreements = Agreements(found={name: {}})
        try:
            partner = Ours(name, self.settings)
            checks.copy_weights(self._weights, partner)
            checks.compare_recorded(partner, contestant, self.ids, agreements)
            worst = agreements.found[name]["recorded_loss"]
            line = f"{name}: {checks.STEPS} recorded steps as plain ones, {worst:.1e} off"
            self.notes.find(True, line)
        except Refused as refusal:
            self.notes.find(False, str(refusal))
        finally:
            checks.copy_weights(self._weights, contestant)

    def time(self, turns: Turns, table: str = "step") -> dict[str, Timing]:
        """Time all in turns and note a row for each in a table."""
        failures = Failures(keep_going=True)
        work = {name: one.step_alone for name, one in self.contestants.items()}
        settled = (turns.iterations, turns.rounds, turns.warm_up, failures)
        timings = time_in_turns(self.device, work, *settled)
        for name, why in failures.items():
            self.notes.find(False, f"{name} cannot be timed: {why}")

        for name, timing in timings.items():
            row = timing.summary()
            keys = ("ms", "ms_min", "ms_iqr", "wall_ms", "setup_s")
            self.notes.row(table, step=name, **{k: row[k] for k in keys}, **self._shown(name))
        self._tell(timings)
        return timings

    def _shown(self, name: str) -> dict[str, Any]:
        facts = self.facts[name]
        keys = ("allocated_gb", "recorded_gb", "reserved_gb", "cosine", "loss", "first_s")
        return {key: facts.get(key) for key in keys}

    def _tell(self, timings: dict[str, Timing]) -> None:
        """How many times as fast the fastest of ours is as each other step."""
        ours = [name for name in timings if name in self.facts and name not in RELEASED]
        if not ours:
            return
        best = min(ours, key=lambda name: min(timings[name].best))
        for name in timings:
            if name != best:
                ratio = min(timings[name].best) / min(timings[best].best)
                self.notes.find(True, f"{best} is {ratio:.2f} times as fast as {name}")
        self.notes.figure("rounds", {n: t.summary()["rounds_ms"] for n, t in timings.items()})


def held() -> dict[str, float]:
    """What is in use now, before another step is built."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return gpu_memory()


def memory(contestant: Contestant, before: dict[str, float]) -> dict[str, float]:
    """The peak of a few steps in steady training beyond what other steps held before, in GB."""
    contestant.enter()
    for _ in range(6):
        contestant.step()
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        contestant.step()
    torch.cuda.synchronize()
    return {name: value - before[name] for name, value in gpu_memory().items()}
