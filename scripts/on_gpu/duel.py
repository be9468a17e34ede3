"""Two methods that train in turns of equal numbers of steps, and what becomes of them."""

import contextlib
import io
import json
import tarfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data import create_loader
from data.image_file import in_threads
from models import create_model
from models.inference.translate import translate
from models.step.runners import create_step
from options import TestOptions, TrainOptions, parse
from scripts import evaluate
from scripts.benchmarking.report import table
from util.errors import UserError
from util.files import atomic_path
from util.hardware.runtime import Runtime
from util.images import grid
from util.run.checkpoint import Checkpoint
from util.run.progress import Progress

SHOWN = 6  # test images on the sheet
SAVE_AFTER = 60.0  # seconds of training between two saves
FEATURE = "768"  # of Inception: the layer whose weights are small enough to travel


class Fighter:
    """One method: its run, as train.py would have it, and its own random numbers.

    Attributes:
        finished: all its epochs are done.
        sound: its state is that of whole steps with finite losses, and so worth saving.
        told: what it has said, such as why steps are not recorded.
    """

    def __init__(
        self, name: str, flags: Sequence[str], data: Path, states: Path, seed: int
    ) -> None:
        self.name = name
        line = ["--dataroot", str(data), "--model", name, "--name", name, "--seed", str(seed)]
        self.opt = parse(TrainOptions(), [*line, "--checkpoints_dir", str(states), *flags])
        self.runtime = Runtime.from_options(self.opt)
        self.loader = create_loader(self.opt, self.runtime)
        self.model = create_model(self.opt, self.runtime)
        steps = self.loader.images_per_step
        self.progress = Progress.from_options(self.opt, self.loader, steps)

        fingerprint = self.loader.dataset.fingerprint()
        about = (self.opt, self.runtime, self.model, self.progress)
        self.checkpoint = Checkpoint(*about, fingerprint)
        self.notes = self.checkpoint.begin()
        self.model.prepare_once(self.loader.dataset)
        self.step = create_step(self.model, self.runtime, self.notes.append)
        self.random = self.runtime.rng_state()
        self.batches = self._batches()
        self.seconds = 0.0
        self.finished, self.sound = False, True
        self.told: list[str] = []

    @property
    def steps(self) -> int:
        """Since the run began, by whatever call."""
        return self.model.steps

    def _batches(self) -> Iterator[dict[str, Any]]:
        """Batches from where the run is, epoch after epoch; what ends an epoch is done in between."""
        progress = self.progress
        for epoch in progress.epochs():
            yield from self.loader.epoch(epoch, start=progress.step)
            self.model.end_epoch()
            progress.finish_epoch()

    def run(self, count: int) -> dict[str, float]:
        """So many steps, or as many as are left, with the random numbers that a run of its own would draw.

        Returns:
            Losses of the last one.

        Raises:
            UserError: a loss is no longer finite.
        """
        self.runtime.set_rng_state(self.random)
        began = time.perf_counter()
        self.sound = False
        try:
            for _ in range(count):
                batch = next(self.batches, None)
                if batch is None:
                    self.finished = True
                    break
                self.step(batch)
                self.progress.advance()
            self.model.check_finite(self.checkpoint.last_saved)
        finally:
            self.tell()
        self.sound = True
        losses = self.runtime.mean(self.model.get_current_losses())  # waits for the device
        self.seconds += time.perf_counter() - began
        self.random = self.runtime.rng_state()
        return losses

    def tell(self) -> None:
        """Print what has been noted, and keep it for the results."""
        for note in self.notes:
            print(f"{self.name}: {note}", flush=True)
        self.told += self.notes
        self.notes.clear()

    def save(self) -> None:
        """Its whole state."""
        self.runtime.set_rng_state(self.random)
        self.checkpoint.record()
        self.checkpoint.save_latest()


class Duel:
    """Both methods on the same images.

    Args:
        out: folder of results.
        states: folder of the runs, as --checkpoints_dir of train.py.
        data: a folder with trainA, trainB, testA and testB.
        flags: method -> flags of train.py.
        seed: of both.
    """

    def __init__(
        self,
        out: Path,
        states: Path,
        data: Path,
        flags: Mapping[str, Sequence[str]],
        seed: int,
    ) -> None:
        self.out, self.data, self.states = out, data, states
        self.fighters = []
        for name, own in flags.items():
            fighter = Fighter(name, own, data, self.states, seed)
            fighter.tell()
            self.fighters.append(fighter)
        self._even_out()
        self.measures: dict[str, dict[str, Any]] = {}
        self.amiss: list[str] = []
        self.folders: dict[str, Path] = {}
        self.earlier = []  # what earlier calls have found
        with contextlib.suppress(OSError, ValueError):
            self.earlier = json.loads((out / "results.json").read_text())["calls"]

    def _even_out(self) -> None:
        """A call that was ended between two saves may have left one behind."""
        most = max(fighter.steps for fighter in self.fighters)
        for fighter in self.fighters:
            if fighter.steps < most:
                fighter.run(most - fighter.steps)
                fighter.save()

    def train(self, turn: int, most: int | None, until: float) -> None:
        """Turns of so many steps, until the time is over, each has done so many, or all epochs are done.

        An error ends the training, not the call: what was reached is saved, and the error is told with the results.
        """
        try:
            self._take_turns(turn, most, until)
        except Exception as error:
            traceback.print_exc()
            self._tell(f"training ended early: {type(error).__name__}: {error}")
        self._save()

    def _take_turns(self, turn: int, most: int | None, until: float) -> None:
        last = 0.0  # the first turn, in which libraries choose their algorithms, says little of the next
        saved = time.monotonic()
        while time.monotonic() + last < until:
            count = turn if most is None else min(turn, most - self.fighters[0].steps)
            if count <= 0:
                return
            began = time.monotonic()
            for fighter in self.fighters:
                losses = fighter.run(count)
                self._log(fighter, losses)
            if any(fighter.finished for fighter in self.fighters):
                self._tell("all epochs are done; give more with -- --n_epochs N")
                return
            last = time.monotonic() - began
            if time.monotonic() - saved > SAVE_AFTER:
                self._save()
                saved = time.monotonic()

    def _save(self) -> None:
        """The state of each method that is worth it; of another, what was saved before stays."""
        for fighter in self.fighters:
            if not fighter.sound:
                self._tell(f"{fighter.name} is as it was saved before")
                continue
            try:
                fighter.save()
            except Exception as error:  # the other one, and the results, are wanted all the same
                self._tell(f"{fighter.name} is not saved: {error}")

    def _tell(self, text: str) -> None:
        """Print a line that also goes into the results."""
        self.amiss.append(text)
        print(text, flush=True)

    def _log(self, fighter: Fighter, losses: Mapping[str, float]) -> None:
        record = {"method": fighter.name, "steps": fighter.steps, "losses": dict(losses)}
        record["seconds"] = fighter.seconds
        self.out.mkdir(parents=True, exist_ok=True)
        with open(self.out / "losses.jsonl", "a") as file:
            file.write(json.dumps(record) + "\n")
        shown = " ".join(f"{name}: {value:.3f}" for name, value in losses.items())
        print(f"{fighter.name} {fighter.steps} steps, {fighter.seconds:.0f} s: {shown}", flush=True)

    def measure(self, results: Path, inception: Path | None, until: float) -> None:
        """Translate the test images, and measure the translations; what cannot be measured is told."""
        for fighter in self.fighters:
            try:
                folder = self._translate(fighter, results)
                self.folders[fighter.name] = folder
                if time.monotonic() > until:
                    raise UserError("no time was left")
                self.measures[fighter.name] = self._evaluate(fighter, folder, inception)
            except Exception as error:  # the states are saved, and the other's figures are wanted
                self._tell(f"{fighter.name} is not measured: {error}")

    def _translate(self, fighter: Fighter, results: Path) -> Path:
        where = ["--checkpoints_dir", str(self.states), "--results_dir", str(results)]
        device = [] if fighter.opt.gpu_ids is None else ["--gpu_ids", fighter.opt.gpu_ids]
        return translate(parse(TestOptions(), ["--name", fighter.name, *where, *device])).folder

    def _evaluate(self, fighter: Fighter, folder: Path, inception: Path | None) -> dict[str, Any]:
        if inception is None:
            raise UserError("Inception's weights are not at hand; give --inception FILE")
        target = self.data / ("testB" if fighter.opt.direction == "AtoB" else "testA")
        out = folder / "measured.json"
        flags = ["--fake", str(folder / "images" / "fake_B"), "--real", str(target)]
        flags += ["--inception", str(inception), "--feature", FEATURE, "--out", str(out)]
        evaluate.evaluate(evaluate.parse_arguments(flags))
        return json.loads(out.read_text())["figures"]

    def publish(self, facts: Mapping[str, Any]) -> None:
        """Write results.json, table.md and, once there are some, pictures; again: the same with what is known now."""
        now = {**facts, "amiss": self.amiss, "versions": self.fighters[0].runtime.versions()}
        now["methods"] = {f.name: self._row(f) for f in self.fighters}
        result = {"calls": [*self.earlier, now]}

        write(self.out / "results.json", json.dumps(result, indent=1) + "\n")
        write(self.out / "table.md", page(result))
        for name, folder in self.folders.items():
            self._pack_pictures(name, folder / "images" / "fake_B")
        if len(self.folders) == len(self.fighters):
            self._write_sheet()

    def _row(self, fighter: Fighter) -> dict[str, Any]:
        return {
            "recipe": fighter.opt.recipe,
            "steps": fighter.steps,
            "seconds": fighter.seconds,
            "told": fighter.told,
            "measures": self.measures.get(fighter.name),
        }

    def _pack_pictures(self, name: str, folder: Path) -> None:
        """All translations of a method in one file, without loss, so that they can be measured elsewhere."""
        files = sorted(folder.rglob("*.png"))
        with (
            atomic_path(self.out / f"{name}.tar") as temporary,
            tarfile.open(temporary, "w") as archive,
        ):
            for path, data in zip(files, in_threads(as_webp, files), strict=True):
                info = tarfile.TarInfo(str(path.relative_to(folder).with_suffix(".webp")))
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))

    def _write_sheet(self) -> None:
        """Inputs in the first row, what each method makes of them below."""
        first, *_ = self.folders.values()
        files = sorted((first / "images" / "fake_B").rglob("*.png"))
        chosen = files[:: max(1, len(files) // SHOWN)][:SHOWN]
        names = [path.relative_to(first / "images" / "fake_B") for path in chosen]
        places = [first / "images" / "real_A"]
        places += [folder / "images" / "fake_B" for folder in self.folders.values()]

        pictures = []
        for place in places:
            for name in names:
                pictures.append(np.asarray(Image.open(place / name).convert("RGB")))
        sheet = Image.fromarray(grid(pictures, len(names)))
        with atomic_path(self.out / "pictures.jpg") as temporary:
            sheet.save(temporary, format="JPEG", quality=90)


def as_webp(path: Path) -> bytes:
    """A picture without loss in less room."""
    buffer = io.BytesIO()
    Image.open(path).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def write(path: Path, text: str) -> None:
    """A whole file or none."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def page(result: Mapping[str, Any]) -> str:
    """A row for each method after each call."""
    rows = []
    for number, call in enumerate(result["calls"], 1):
        for name, row in call["methods"].items():
            found = row["measures"] or {}
            kid, fid = (found[name]["value"] if found else None for name in ("kid", "fid"))
            rows.append([number, name, row["steps"], row["seconds"], kid, fid])
    head = ["call", "method", "steps in all", "s of this call", f"KID-{FEATURE}", f"FID-{FEATURE}"]
    text = ["# PatchGCL and CUT, in turns", table(head, rows)]
    text += [f"- {line}" for call in result["calls"] for line in call["amiss"]]
    return "\n\n".join(text) + "\n"
