"""A run's state on disk: found, checked and loaded at the start, written whole at every save."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from util.errors import UserError, first_line, is_out_of_memory
from util.files import explain_os_error, try_folder
from util.hardware.runtime import Runtime
from util.lock import LOCK, FolderLock
from util.run.changes import (
    FIRST_WEIGHTS,
    another_name,
    check_first_weights,
    compare_options,
    refuse_changes,
)
from util.run.first_save import ANEW, FirstSave
from util.run.folder import (
    RECORD,
    changed_versions,
    check_run_exists,
    check_suffix,
    epoch_of,
    is_other_data,
    move_aside,
    plain_options,
    run_dir,
    save_record,
    saved_record,
    weights_file,
    weights_in,
)
from util.run.progress import Progress
from util.run.restarts import BEGUN_BY, begun_by_this_job, note_job
from util.run.same_data import changed_parts
from util.run.state_file import Found, find_state, ways_out, write_state
from util.run.weights import load_weights, or_not_saved, remove, save_together


class Saved(Protocol):
    """What a checkpoint needs of a model."""

    FIRST_WEIGHTS: tuple[str, ...]
    networks: Mapping[str, nn.Module]
    averages: Mapping[str, nn.Module]

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""

    def check_finite(self, last_checkpoint: str) -> None:
        """Raise UserError after a loss that was not finite."""

    def check_weights(self, last_checkpoint: str) -> None:
        """Raise UserError where a weight is not finite."""


class Checkpoint:
    """Saves and restores one run.

    `latest_state.pt` holds everything the next step depends on, `previous_state.pt` what it held at the save before.
    Beside them lie plain weights, `<epoch>_net_<name>.pth`, which test.py reads and which have the released code's
    keys. One process at a time trains a run, see `FolderLock`.
    """

    def __init__(
        self,
        opt: Namespace,
        runtime: Runtime,
        model: Saved,
        progress: Progress,
        data: dict[str, str] | None = None,
    ) -> None:
        """`data`: what tells the images of each domain from others, as `BaseDataset.fingerprint` gives it."""
        self.opt, self.runtime, self.model, self.progress = opt, runtime, model, progress
        self.data = data or {}
        self.folder = run_dir(opt)
        self.last_saved = "none yet"
        self.notes: list[str] = []  # on how the folder was found
        self.lock = FolderLock(self.folder, "is training this run", "give another --name")
        self.first_save = FirstSave(self.folder)
        self._recorded = False

    def begin(self) -> list[str]:
        """Find the run's folder as the options want it; returns what to tell the user.

        Raises:
            UserError: as `resume`; another process trains this run; its folder cannot be written to.
        """
        self.runtime.as_one(self._open_folder)

        notes = [*self.notes, *self.resume()]
        if self.progress.images == 0:
            self.record()
        return notes

    def _open_folder(self) -> None:
        """Lock the folder of the run, and see that it can be written to before hours go into it."""
        try:
            self.lock.take()
            if self.opt.from_scratch:
                self._begin_anew()
            try_folder(self.folder)
        except OSError as error:
            reason = explain_os_error(error, self.folder)
            raise UserError(
                f"the run cannot be saved in {self.folder}: {reason}; "
                "see to that folder, or give another --checkpoints_dir or --name"
            ) from error

    def _begin_anew(self) -> None:
        """Move an earlier run aside, but for one that this job has begun: it was started again and goes on."""
        if begun_by_this_job(self.folder):
            text = "--from_scratch: an earlier start of this job has begun this run, which goes on"
            self.notes.append(text)
            return

        if any(path.name not in (LOCK, BEGUN_BY) for path in self.folder.iterdir()):
            move_aside(self.folder)
            self.lock.take()
        note_job(self.folder)

    def close(self) -> None:
        """Let others train this run."""
        self.lock.drop()

    def record(self) -> None:
        """Write, once, what trains from here on; a run that goes on does so when its first step is done.

        Raises:
            NotSaved: it could not be written; the next call tries again.
        """
        if self._recorded or not self.runtime.is_main:
            return
        began = self.progress.images_at_start
        with or_not_saved(f"write {self.folder / RECORD}", self.folder):
            save_record(self.opt, self.runtime.versions(), began)
        self._recorded = True

    def resume(self) -> list[str]:
        """Go on where the run stopped, or from the weights that the options name; returns what to tell the user.

        Raises:
            UserError: the saved run contradicts the options, --continue_train finds nothing, or weights would be
                overwritten that nothing tells to be this run's.
        """
        opt = self.opt
        found = find_state(self.folder)
        if found:
            return [*found.notes, *self._resume_state(found)]
        if opt.continue_train:
            return self._continue_from_weights()

        notes = self._check_weights_without_state()
        if opt.pretrained_name:
            notes += self._load_all(Path(opt.checkpoints_dir) / opt.pretrained_name)
        return notes

    def _continue_from_weights(self) -> list[str]:
        """Go on from the weights in the run's folder."""
        notes = [
            *self._load_all(self.folder),
            f"optimisers start afresh, at epoch {self.opt.epoch_count} (--epoch_count)",
        ]
        if self.first_save.cut_off():
            notes.append(
                "warning: an earlier start was cut off in its first save; these may be weights that it trained"
            )
        return notes

    def _check_weights_without_state(self) -> list[str]:
        """Raise UserError before weights are overwritten, unless this run has left them in its first save."""
        if not weights_in(self.folder):
            return []
        if self.first_save.cut_off() == ANEW:
            return ["an earlier start was cut off in its first save: training begins anew"]
        raise UserError(
            f"{self.folder} holds weights but no training state: --continue_train trains on from them, "
            "--from_scratch moves them aside, another --name leaves them alone"
        )

    def _resume_state(self, found: Found) -> list[str]:
        state, path, _ = found
        try:
            return self._take_up(state, path)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            raise UserError(
                f"{path} does not fit this run ({type(error).__name__}: {first_line(error)}). "
                f"{ways_out(self.folder)}"
            ) from error

    def _take_up(self, state: dict[str, Any], path: Path) -> list[str]:
        first_weights = (*FIRST_WEIGHTS, *self.model.FIRST_WEIGHTS)
        check_first_weights(state["options"], self.opt, first_weights)
        for name in first_weights:  # left out or not, records keep what the run began with
            if hasattr(self.opt, name):
                setattr(self.opt, name, state["options"].get(name, getattr(self.opt, name)))

        notes = compare_options(state["options"], self.opt)
        about_data = self._compare_data(state)
        for name in ("steps_per_epoch", "images_per_step"):
            then, now = state[name], getattr(self.progress, name)
            if then != now:
                raise UserError(
                    f"{path} was trained with {name.replace('_', ' ')} {then}, this command gives {now}: use the same "
                    "images, --batch_size and --accumulate, or another --name (--pretrained_name keeps the weights)"
                )
        self.model.load_state_dict(state["model"])
        self.progress.load_state_dict(state["progress"])
        self.runtime.set_rng_state(state["rng"])
        self.last_saved = str(path)
        if self.progress.all_steps_done:
            refuse_changes(state["options"], self.opt, self.progress.epoch)
        if self.progress.finished:
            return ["already complete: nothing was trained", *about_data]

        where = f"continuing at epoch {self.progress.epoch}, image {self.progress.images}"
        return [where, *notes, *self._compare_versions(), *about_data]

    def _compare_versions(self) -> list[str]:
        """A line where commit, libraries or device are others than at the last start; raises as `saved_record`."""
        then = saved_record(self.folder).get("versions", {})
        changes = changed_versions(then, self.runtime.versions())
        return [f"changed since the last start: {', '.join(changes)}"] if changes else []

    def _compare_data(self, state: dict[str, Any]) -> list[str]:
        """Lines on images that lie elsewhere or were mended since; raises UserError where they are others."""
        notes, before = [], state["options"].get("dataroot")
        if is_other_data(self.opt.dataroot, before):
            notes.append(f"the same images, at another place: {before} -> {self.opt.dataroot}")
        for role, then in state["data"].items():
            changed = changed_parts(then, self.data.get(role, then))
            if changed is None:
                raise UserError(
                    f"--dataroot {self.opt.dataroot} holds other images of domain {role} than "
                    f"{state['options']['dataroot']}, which the run in {self.folder} learns from: "
                    f"{another_name(self.opt)}, or --from_scratch to move that run aside"
                    f"{self._about_held_out(state['options'])}"
                )
            if changed:
                notes.append(f"a few files of domain {role} have changed since the last start")
        return notes

    def _about_held_out(self, saved: dict[str, Any]) -> str:
        """A hint where it is the images kept out of training that make the difference."""
        names = ("eval_freq", "eval_split", "eval_images")
        if all(saved.get(name) == getattr(self.opt, name, None) for name in names):
            return ""
        return (
            ". --eval_freq keeps images out of training: give it from the start and as it was, "
            "or measure on others (--eval_split val)"
        )

    def _load_all(self, folder: Path) -> list[str]:
        loaded = []
        for name, net in self.model.networks.items():
            path = weights_file(folder, self.opt.epoch, name)
            if path.is_file() or name.startswith("G"):
                load_weights(net, path)
                loaded.append(path.name)
        for name, average in self.model.averages.items():
            average.load_state_dict(self.model.networks[name].state_dict())
        return [f"weights from {folder}: {', '.join(loaded)}"]

    def save_latest(self) -> None:
        """Write the full state and the current weights.

        Raises:
            NotSaved: on the main process, which alone writes; training may go on.
            UserError: on all, and nothing is written, after a loss or with weights that are not finite.
        """
        self._save(["latest"])

    def save_epoch(self, epoch: int) -> None:
        """Write the full state, and weights that are kept as <epoch>_net_<name>.pth; raises as `save_latest`."""
        self._save([str(epoch), "latest"])

    def save_weights(self, label: str) -> None:
        """Write weights alone, which are kept as <label>_net_<name>.pth; raises as `save_latest`."""
        self._check_finite()
        if self.runtime.is_main:
            self._renew_folder()
            self._write_weights(label)

    def _check_finite(self) -> None:
        self.model.check_finite(self.last_saved)
        self.model.check_weights(self.last_saved)

    def _save(self, labels: list[str]) -> None:
        self._check_finite()
        state = {
            "model": self.model.state_dict(),
            "progress": self.progress.state_dict(),
            "steps_per_epoch": self.progress.steps_per_epoch,
            "images_per_step": self.progress.images_per_step,
            "rng": self.runtime.rng_state(),
            "options": plain_options(self.opt),
            "data": self.data,
        }
        if not self.runtime.is_main:
            return

        self._renew_folder()
        if self.opt.save_by_iter:
            labels = [*labels, f"iter_{self.progress.images}"]
        for label in labels:
            self._write_weights(label)
        self.last_saved = str(write_state(state, self.folder))  # last: what it stands for is there
        self.first_save.end()
        remove_older(self.folder, self.opt.keep_last)

    def _renew_folder(self) -> None:
        """Where somebody has deleted the folder, what tells how the weights were made is written again."""
        if self._recorded and not (self.folder / RECORD).exists():
            self.lock.take()
            self._recorded = False
            self.record()

    def _write_weights(self, label: str) -> None:
        self.first_save.announce(from_weights=self.opt.continue_train)
        files, stale = {}, []
        for name, net in self.model.networks.items():
            files[weights_file(self.folder, label, name)] = net.state_dict()

            of_average = weights_file(self.folder, label, name, average=True)
            if name in self.model.averages:
                files[of_average] = self.model.averages[name].state_dict()
            else:
                stale.append(of_average)

        save_together(files)
        for path in (
            stale
        ):  # left by a start with --ema; test.py would take them for those of these weights
            remove(path)


def remove_older(folder: Path, keep_last: int | None) -> None:
    """Delete the weights of all but the last `keep_last` epochs, and of as many image counts; None keeps all.

    What is called neither is left alone, such as latest.
    """
    if keep_last is None:
        return
    numbered: dict[str, dict[int, list[Path]]] = {"": {}, "iter_": {}}
    for path in weights_in(folder):
        label = epoch_of(path)
        for kind, found in numbered.items():
            number = label.removeprefix(kind)
            if label.startswith(kind) and number.isdecimal():
                found.setdefault(int(number), []).append(path)

    for found in numbered.values():
        for number in sorted(found)[:-keep_last]:
            for path in found[number]:
                remove(path)


def load_for_inference(
    model: Saved, folder: Path, epoch: str, use_average: bool = True
) -> list[str]:
    """Load the weights that translating needs, moving averages first; returns the names of the files.

    Raises:
        UserError: a file is missing, damaged, or does not fit the network.
    """
    if model.networks:
        check_run_exists(folder.parent, folder.name)

    loaded = []
    for name, net in model.networks.items():
        average = weights_file(folder, epoch, name, average=True)
        path = average if use_average and average.is_file() else weights_file(folder, epoch, name)
        check_suffix(path)
        load_weights(net, path)
        loaded.append(path.name)
    return loaded
