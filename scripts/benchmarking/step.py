"""The whole step and its parts: contestants built, compared, counted and timed in turns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from scripts.benchmarking import checks
from scripts.benchmarking.captured import Captured
from scripts.benchmarking.checks import Agreements
from scripts.benchmarking.contest import Contestant, Settings
from scripts.benchmarking.counting import count, count_syncs, trace_kernels
from scripts.benchmarking.official import Released
from scripts.benchmarking.ours import Ours
from scripts.benchmarking.release import Release
from scripts.benchmarking.survival import Failures
from scripts.benchmarking.timing import SETUP_STEPS, Timing, speed_up, time_in_turns

REFERENCE = "fp32"
AS_PUBLISHED, WITH_OUR_HEAD = "released (A)", "released, our head (B)"
# what ratios are taken against; the other released rows are for the record
BASELINES = (AS_PUBLISHED, WITH_OUR_HEAD)
RELEASED = {  # name -> how the released step is run; the last two on a GPU only
    AS_PUBLISHED: {},
    WITH_OUR_HEAD: {"dense_head": True},
    "released (A), no TF32": {"tf32": False},
    "released, our head, bf16": {"dense_head": True, "bf16": True},
}


@dataclass
class Turns:
    """How long each contestant runs: `rounds` times `iterations`, after `warm_up` steps."""

    iterations: int
    rounds: int
    warm_up: int


@dataclass
class Contest:
    """All contestants, the reference first, and what the checks say of them.

    Attributes:
        failed: contestant -> why it takes no part, where the contest goes on without it.
        first: contestant -> seconds of its first step of full size, a whole one, in which code is compiled (for later
            contestants too).
    """

    settings: Settings
    agreements: Agreements
    failed: Failures = field(default_factory=lambda: Failures(keep_going=False))
    contestants: dict[str, Contestant] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)

    @property
    def reference(self) -> Ours:
        """Our plain float32 step."""
        return self.contestants[REFERENCE]

    def admit(
        self,
        variants: Sequence[str],
        release: Release | None,
        batch: int = 1,
        released: Sequence[str] = BASELINES,
    ) -> None:
        """Build and compare; raises Refused where a comparison fails, unless the contest keeps going without it."""
        self.contestants[REFERENCE] = Ours(REFERENCE, self.settings, batch)
        ids = self.reference.draw_positions()
        wanted = self._first_probe(self.reference, ids)
        self.agreements.compare(REFERENCE, wanted, wanted, "fp32")  # refuses NaN

        for name in variants:
            if name != REFERENCE:
                self._admit(name, self._variant, batch, ids, wanted)

        if release is not None:
            exact = checks.small_positions(self.reference)
            wanted_in_double = checks.probe_in_double(self.reference, exact)
            for name in released:
                self._admit(name, self._released, release, ids, wanted, exact, wanted_in_double)

    def _admit(self, name: str, build: Callable[..., Contestant], *given: Any) -> None:
        with self.failed.around(name):
            self.contestants[name] = build(name, *given)

    def _variant(self, name: str, batch: int, ids: list[Tensor], wanted: checks.Probe) -> Ours:
        contestant = Ours(name, self.settings, batch)
        checks.copy_weights(self.reference, contestant)
        probe = self._first_probe(contestant, ids)
        self.agreements.compare(name, wanted, probe, contestant.precision)

        if contestant.runtime.capture:
            partner = Ours(name, self.settings, batch)
            checks.copy_weights(self.reference, partner)
            checks.compare_recorded(partner, contestant, ids, self.agreements)
            checks.copy_weights(self.reference, contestant)
        contestant.restart()
        return contestant

    def _released(
        self, name: str, release: Release, ids: list[Tensor], wanted: checks.Probe,
        exact: list[Tensor], wanted_in_double: checks.Probe,
    ) -> Released:  # fmt: skip
        contestant = Released(name, release, self.reference, **RELEASED[name])
        checks.copy_weights(self.reference, contestant)

        if contestant.precision != "bf16":
            in_double = checks.probe_in_double(contestant, exact)
            self.agreements.compare_in_double(name, wanted_in_double, in_double)

        probe = self._first_probe(contestant, ids)
        self.agreements.compare(name, wanted, probe, contestant.precision)
        return contestant

    def _first_probe(self, contestant: Contestant, ids: list[Tensor]) -> checks.Probe:
        """The probe that is the first step of a contestant at full size, timed."""
        with self.settings.device.measure() as span:
            probe = checks.take_probe(contestant, ids)
        self.first[contestant.name] = span.wall
        return probe

    def start_up(self, timings: dict[str, Timing]) -> dict[str, float]:
        """Contestant -> seconds that its first steps took beyond as many settled ones: the very first, and those before
        the timed rounds."""
        found = {}
        for name, timing in timings.items():
            beyond = max(0.0, self.first[name] - min(timing.wall)) if name in self.first else 0.0
            found[name] = beyond + timing.setup
        return found

    def count(self) -> dict[str, dict[str, Any]]:
        """What each contestant does in a step; operators of compiled and recorded steps cannot be seen from Python."""
        found = {}
        for name, contestant in self.contestants.items():
            with self.failed.around(name):
                found[name] = count_step(contestant)
        return found

    def time(self, turns: Turns) -> dict[str, Timing]:
        """Time all that were admitted, in turns."""
        work = {
            name: contestant.step_alone
            for name, contestant in self.contestants.items()
            if name not in self.failed
        }
        device = self.settings.device
        return time_in_turns(
            device, work, turns.iterations, turns.rounds, turns.warm_up, self.failed
        )

    def ratios(self, timings: dict[str, Timing]) -> dict[str, dict[str, dict[str, float | None]]]:
        """How many times as fast as each baseline; raises Refused where a comparison is missing."""
        bases = [name for name in (REFERENCE, *BASELINES) if name in timings]
        found: dict[str, dict] = {}
        for name, timing in timings.items():
            for base in bases:
                if base != name:
                    self.agreements.require(name, base)
                    found.setdefault(name, {})[base] = speed_up(timings[base], timing)
        return found


def count_step(contestant: Contestant) -> dict[str, Any]:
    """What a contestant does in a step."""
    contestant.enter()
    contestant.step()

    row: dict[str, Any] = {}
    if _is_plain(contestant):
        row |= count(contestant.step)
    else:
        for _ in range(SETUP_STEPS):
            contestant.step()

    row["synchronisations"] = count_syncs(contestant.step)
    return row | trace_kernels(contestant.step)


def _is_plain(contestant: Contestant) -> bool:
    """Whether Python runs every operator of its steps."""
    if not isinstance(contestant, Ours):
        return True
    return not (contestant.runtime.compile or contestant.runtime.capture)


def measure_parts(contest: Contest, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Part -> contestant -> milliseconds, GFLOP, GB moved and operators; only plain steps can be taken apart.

    The parts of a step are timed one by one, each after a wait for the device, so that their sum is not the step. On a
    GPU a part that can be is recorded, since its launches would take longer than its kernels.
    """
    device = contest.settings.device
    known = contest.contestants
    chosen = [known[name] for name in (REFERENCE, AS_PUBLISHED) if name in known]
    taken_apart = [contestant.parts() for contestant in chosen]

    found: dict[str, dict[str, Any]] = {}
    for parts in zip(*taken_apart, strict=True):
        # how each is run
        ways: dict[str, Captured] = {}
        for contestant, part in zip(chosen, parts, strict=True):
            contestant.enter()
            contestant.forget()
            ways[contestant.name] = Captured(device, part.work, part.prepare)

        # time, in turns
        times: dict[str, list[float]] = {contestant.name: [] for contestant in chosen}
        for turn in range(rounds + 1):
            for contestant, part in zip(chosen, parts, strict=True):
                contestant.enter()
                way = ways[contestant.name]
                run = way.run if way.recorded else partial(part.work, part.prepare())
                with device.measure() as span:
                    run()
                if turn:  # the first one warms up
                    times[contestant.name].append(1e3 * span.best)

        # work
        recorded = {name: way.recorded for name, way in ways.items()}
        ways.clear()
        for contestant, part in zip(chosen, parts, strict=True):
            contestant.forget()
            counted = count(partial(part.work, part.prepare()))
            row = {
                "ms": float(torch.tensor(times[contestant.name]).median()),
                "recorded": recorded[contestant.name],
                "gflop": counted["flops"] / 1e9,
                "gbytes": counted["bytes"] / 1e9,
                "operators": counted["operators"],
            }
            found.setdefault(part.name, {})[contestant.name] = row
    return found
