"""Stage: every recipe, recorded against plain steps, in float32 and bfloat16; then what is odd about recording.

Tiny steps are bound by the host, so several processes share the recipes.
"""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from models.step.cuda_graph import CudaRecorder
from scripts.checking.pictures import draw_pictures
from scripts.on_gpu import recorded
from scripts.on_gpu.notes import Notes
from scripts.on_gpu.setup import Setup
from util.hardware.cores import cpu_count

ON = "--gpu_ids 0 --compile off --cuda_graph on --deterministic"
ODD = {  # what is odd -> method, flags
    "wgangp in bf16": ("patchgcl", "--amp bf16 --gan_mode wgangp --normD none"),
    "float16": ("patchgcl", "--amp fp16"),
    "images on the device": ("patchgcl", "--cache device"),
    "batch norm": ("cut", "--normG batch --normD batch"),
}
CORES_EACH, MOST = 3, 5  # a process for so many cores, and at most so many processes


def run(setup: Setup, notes: Notes) -> None:
    """All recipes, then the odd ones, then a recording that must fail."""
    data = draw_pictures(setup.folder / "data")
    count = max(1, min(MOST, cpu_count() // CORES_EACH))
    shares = [setup.folder / f"share_{number}.jsonl" for number in range(count)]
    expected = cases(one_each=setup.tiny)
    command = [sys.executable, "-m", "scripts.on_gpu.recipes", str(data), str(int(setup.tiny))]
    processes = []
    for number, path in enumerate(shares):
        whole = [*command, str(number), str(count), str(path)]
        processes.append(subprocess.Popen(whole))

    for process in processes:
        while process.poll() is None:
            take_over(shares, notes)
            with_patience(process)
        if process.returncode:
            notes.find(False, f"a process of this stage ended with {process.returncode}")
    take_over(shares, notes)
    summarize(notes, len(expected))
    with notes.around("a recording that must fail"):
        fail_to_record(notes)


def with_patience(process: subprocess.Popen) -> None:
    """Wait a while for a process."""
    try:
        process.wait(timeout=3)
    except subprocess.TimeoutExpired:
        return


def take_over(shares: list[Path], notes: Notes) -> None:
    """Note what the processes have found so far."""
    rows = []
    for path in shares:
        lines = path.read_text().splitlines() if path.exists() else []
        rows += [json.loads(line) for line in lines if line.endswith("}")]
    notes.tables.pop("recipes", None)
    for row in rows:
        notes.row("recipes", **row)


def summarize(notes: Notes, expected: int) -> None:
    """A line for each recipe that is not as it should be, and one for all."""
    head, *rows = notes.tables.get("recipes", [["recipe"]])
    found = [dict(zip(head, row, strict=True)) for row in rows]
    bits = sum(row["same_bits"] for row in found)
    notes.find(len(found) == expected, f"recipes compared: {len(found)} of {expected}")
    good = [row for row in found if row["good"]]
    line = f"recorded as plain: {len(good)} of {len(found)}, {bits} of them to the last bit"
    notes.find(len(good) == len(found), line)

    for row in found:
        if not row["good"]:
            text = row["said"] or f"a loss is {row['worst']:.2g} off, relative"
            notes.find(False, f"{row['recipe']}: {text}")


def cases(one_each: bool = False) -> list[tuple[str, str, str | None, str]]:
    """Title, method, preset and flags of all that is compared; in a rehearsal one preset of each method."""
    recipes = recorded.recipes()
    if one_each:
        recipes = list({name: (name, preset) for name, preset in reversed(recipes)}.values())

    found = []
    for name, preset in recipes:
        for amp in ("off", "bf16"):
            found.append((f"{name} {preset or ''} {amp}", name, preset, f"--amp {amp}"))
    return found + [(title, name, None, flags) for title, (name, flags) in ODD.items()]


def compare_case(data: Path, title: str, name: str, preset: str | None, flags: str) -> dict:
    """One of them, as a row."""
    line = [*recorded.tiny_flags(data, name, preset), *ON.split(), *flags.split()]
    row: dict[str, Any] = {"recipe": title, "worst": None, "same_bits": False, "good": False}
    try:
        likeness = recorded.compare(partial(recorded.build, *line))
    except Exception as error:
        first = str(error).strip().splitlines() or [""]
        return row | {"said": f"{type(error).__name__}: {first[0][:200]}"}
    row |= {"worst": likeness.worst, "same_bits": likeness.same_bits, "good": likeness.good}
    said = "; ".join(likeness.said) or ("" if likeness.recorded else "no step was recorded")
    return row | {"said": said}


def fail_to_record(notes: Notes) -> None:
    """After a recording that reads a value, as none may, training must be able to go on."""
    before, x = torch.cuda.current_stream(), torch.rand(4, device="cuda")
    try:
        CudaRecorder().record(lambda: x.sum().item())
        notes.find(False, "a recording that reads a value on the host was not refused")
    except RuntimeError:
        pass
    same = torch.cuda.current_stream() == before
    notes.find(same, "after a recording that failed work goes on where it was")
    replay = CudaRecorder().record(lambda: x.add_(1))
    replay()
    torch.cuda.synchronize()
    notes.find(True, "and the next recording replays")


def main() -> None:
    """One process's share: every so many cases one, a line of JSON each."""
    data, one_each, number, count, path = sys.argv[1:]
    own = cases(one_each == "1")[int(number) :: int(count)]
    with open(path, "a") as file:
        for case in own:
            file.write(json.dumps(compare_case(Path(data), *case)) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
