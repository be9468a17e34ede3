"""The folder of a run: where its files lie, what they are called, and the record of the options that made it."""

import datetime
import hashlib
import json
import math
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from util.errors import UserError
from util.files import atomic_path
from util.parser import show_value
from util.registry import did_you_mean

RECORD = "train_opt.json"  # for test.py; train_opt.txt beside it is for people
OF_NO_RECORD = (
    "continue_train",
    "dry_run",
    "from_scratch",
    "max_minutes",
)  # said once, not what trains


def run_dir(opt: Namespace) -> Path:
    """The folder that holds everything of one run."""
    return Path(opt.checkpoints_dir) / opt.name


def weights_file(folder: Path, epoch: str | int, name: str, average: bool = False) -> Path:
    """Where the weights of network `name` lie, as in the released code; `average`: those of its moving average."""
    return folder / f"{epoch}_net_{name}{'_ema' if average else ''}.pth"


def weights_in(folder: Path, epoch: str = "*", name: str = "*") -> list[Path]:
    """The weights that lie in a folder, of one epoch or one network or of all, sorted by name."""
    return sorted(folder.glob(f"{epoch}_net_{name}.pth"))


def runs_in(checkpoints_dir: Path) -> list[str]:
    """The names of the runs that have weights or a record, sorted."""
    found = {path.parent for path in checkpoints_dir.glob("*/*_net_*.pth")}
    found |= {path.parent for path in checkpoints_dir.glob(f"*/{RECORD}")}
    return sorted(folder.name for folder in found)


def check_run_exists(checkpoints_dir: Path | str, name: str, flag: str = "--name") -> None:
    """Raise UserError with a did-you-mean where there is no run of this name."""
    top = Path(checkpoints_dir)
    if (top / name).is_dir():
        return
    runs = runs_in(top)
    hint = did_you_mean(name, runs)
    raise UserError(
        f"{flag} {name}: no run of this name in {top}; {hint}there are: {', '.join(runs) or 'none'}"
    )


def check_suffix(path: Path) -> None:
    """Raise UserError for weights that are not there while generators of both directions are, as CycleGAN's are."""
    if path.exists():
        return
    others = sorted(path.parent.glob(f"{path.stem}_*{path.suffix}"))
    others = [other for other in others if not other.stem.endswith("_ema")]
    if others:
        suffix = others[0].stem.removeprefix(path.stem)
        raise UserError(
            f"{path} does not exist, but {', '.join(other.name for other in others)} does: "
            f"apply it with --model test --model_suffix {suffix}"
        )


def epoch_of(weights: Path) -> str:
    """The epoch that a file of weights is named after."""
    return weights.name.split("_net_")[0]


def result_dir(opt: Namespace) -> Path:
    """The folder into which test.py translates: by phase and epoch, and by data where they are not the run's own.

    So pictures of other data never lie among those of the run's test set.
    """
    where = f"{opt.phase}_{opt.epoch}"
    if opt.other_data:
        where += f"_on_{data_label(opt.dataroot)}"
    return Path(opt.results_dir) / opt.name / where


def is_other_data(dataroot: str | None, trained_on: str | None) -> bool:
    """Whether a data root is not the one that a run was trained on, where that is known."""
    if not dataroot or not trained_on:
        return False
    return os.path.realpath(dataroot) != os.path.realpath(trained_on)


def data_label(dataroot: str) -> str:
    """A short name of a data root for a folder: its own name, and a checksum of its place."""
    place = os.path.realpath(dataroot)
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in os.path.basename(place))
    return f"{name[:40]}-{hashlib.sha256(os.fsencode(place)).hexdigest()[:6]}"


def plain_options(opt: Namespace) -> dict[str, Any]:
    """The options alone, by name, without what resolving them added."""
    return {name: getattr(opt, name) for names in opt.groups.values() for name in names}


def describe_options(opt: Namespace) -> str:
    """All options group by group, one a line; those that differ from the default are starred, and idle ones told."""
    lines = []
    for title, names in opt.groups.items():
        lines.append(f"{title}:")
        for name in names:
            star = "*" if name in opt.changed else " "
            lines.append(f"  {star} {name:>20}: {show_value(getattr(opt, name))}")
    lines += [f"warning: {option}" for option in opt.idle]
    return "\n".join(lines)


def record_of(opt: Namespace, versions: Mapping[str, str], images: int = 0) -> dict[str, Any]:
    """What trains from image `images` on: options, recipe, versions, and the history of all starts.

    The options are those of the newest steps. `history` has an entry for each start that changed something: the image
    from which on it holds, its versions, and the options that changed, as name -> [then, now].
    """
    earlier = saved_record(run_dir(opt)) if images else {}
    record = {"options": plain_options(opt), "recipe": opt.recipe, "versions": dict(versions)}
    record["history"] = [*earlier.get("history", []), *new_chapter(record, earlier, images)]
    return record


def save_record(opt: Namespace, versions: Mapping[str, str], images: int = 0) -> None:
    """Write what trains from image `images` on: train_opt.txt for people, train_opt.json for programs.

    JSON knows no infinite numbers: "inf" stands for them, and `infinite` names the options where it does.
    """
    folder = run_dir(opt)
    record = record_of(opt, versions, images)
    record["infinite"] = [name for name, value in record["options"].items() if value == math.inf]

    with atomic_path(folder / RECORD) as temporary:
        text = json.dumps(without_infinity(record), indent=2, allow_nan=False)
        temporary.write_text(text + "\n")
    with atomic_path(folder / "train_opt.txt") as temporary:
        lines = [f"recipe: {opt.recipe}", f"with: {describe_versions(versions)}"]
        lines += [*describe_history(record), describe_options(opt)]
        temporary.write_text("\n".join(lines) + "\n")


def describe_versions(versions: Mapping[str, str]) -> str:
    """Commit, libraries and device in one line."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def without_infinity(value: Any) -> Any:
    """A value of JSON with "inf" in place of infinite numbers."""
    if isinstance(value, dict):
        return {name: without_infinity(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_infinity(part) for part in value]
    return "inf" if value == math.inf else value


def new_chapter(
    record: dict[str, Any], earlier: dict[str, Any], images: int
) -> list[dict[str, Any]]:
    """The entry of the history that a start adds; none where it goes on as before."""
    versions = record["versions"]
    if not earlier:
        return [{"from_image": images, "changes": {}, "versions": versions}]

    before, now = earlier["options"], record["options"]
    changes = {}
    for name, value in now.items():
        if name not in OF_NO_RECORD and before.get(name, value) != value:
            changes[name] = [before[name], value]

    same = not changes and versions == earlier["versions"]
    return [] if same else [{"from_image": images, "changes": changes, "versions": versions}]


def describe_history(record: dict[str, Any]) -> list[str]:
    """The starts of a run that changed an option, the commit, a library or the device, a line each."""
    lines, before = [], {}
    for chapter in record.get("history", []):
        versions = chapter.get("versions", {})
        changes = [
            f"{name} {show_value(then)} -> {show_value(now)}"
            for name, (then, now) in chapter["changes"].items()
        ]
        changes += changed_versions(before, versions)
        if changes:
            lines.append(f"from image {chapter['from_image']} on: {', '.join(changes)}")
        before = versions or before
    return lines


def changed_versions(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What a start is made with that the one before was not, as `name then -> now`."""
    return [
        f"{name} {then[name]} -> {version}"
        for name, version in now.items()
        if then.get(name, version) != version
    ]


def saved_record(folder: Path, remedy: str = "") -> dict:
    """The options, recipe and versions that a training run has saved; nothing for weights that came without them.

    Args:
        folder: the run's.
        remedy: what a user can do about a missing record; without it the caller goes on with an empty one.

    Raises:
        UserError: the record is damaged, or missing where there is a remedy.
    """
    path = folder / RECORD
    if not path.exists():
        if remedy:
            raise UserError(f"{path} does not exist; {remedy}")
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        check_record(record)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not a record of training options ({error}); restore or delete it"
        ) from None

    for name in record.pop("infinite", []):
        if record["options"].get(name) == "inf":
            record["options"][name] = math.inf
    return record


def check_record(record: Any) -> None:
    """Raise ValueError where JSON is no record, as `save_record` writes it."""
    if not isinstance(record, dict) or not {"options", "recipe", "versions"} <= record.keys():
        raise ValueError("it lacks options, recipe or versions")

    kinds = {"options": dict, "recipe": str, "versions": dict, "history": list, "infinite": list}
    for name, kind in kinds.items():
        if not isinstance(record.get(name, kind()), kind):
            raise ValueError(f"its {name} are no {kind.__name__}")
    if not all(isinstance(name, str) for name in record.get("infinite", [])):
        raise ValueError("its infinite has what is no name of an option")
    for chapter in record.get("history", []):
        if not isinstance(chapter, dict) or not isinstance(chapter.get("changes"), dict):
            raise ValueError("its history has an entry without changes")
        if not isinstance(chapter.get("versions", {}), dict):
            raise ValueError("its history has an entry whose versions are no dict")
        pairs = chapter["changes"].values()
        whole = "from_image" in chapter and all(
            isinstance(pair, list) and len(pair) == 2 for pair in pairs
        )
        if not whole:
            raise ValueError("its history has an entry that is cut short")


def move_aside(folder: Path) -> Path | None:
    """Rename a run's folder so that a new run can have its name; returns the new place, None if there was no run."""
    if not folder.is_dir():
        return None
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    target = folder.with_name(f"{folder.name}.before-{stamp}")
    count = 1
    while target.exists():  # two within a second
        count += 1
        target = folder.with_name(f"{folder.name}.before-{stamp}-{count}")
    folder.rename(target)
    return target
