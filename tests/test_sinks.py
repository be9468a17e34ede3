"""TensorBoard and Weights & Biases as sinks: what arrives there, over a resume too, and that a lack is said early."""

import inspect
import json
import math
import sys
from argparse import Namespace
from io import BytesIO
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from options import TrainOptions, parse
from tests.helpers import run_command, train_flags
from train import main
from util.errors import UserError, exit_status
from util.logs.sink import Frame
from util.logs.tensorboard_display import TensorBoardDisplay
from util.logs.visualizer import Visualizer
from util.logs.wandb_display import WandbDisplay

TIMES = {"time": 0.25, "data": 0.125}
RECORD = {
    "options": {
        "lr": 0.0002,
        "max_dataset_size": float("inf"),
        "attn_layers": [4, 7],
    },
    "recipe": "patchgcl, preset paper",
    "versions": {"torch": "2"},
}


def visualizer(folder, **changes) -> Visualizer:
    quiet = {
        "name": "my run",
        "no_html": True,
        "display_id": 0,
        "display_winsize": 256,
        "wandb_project_name": "mine",
    }
    made = {**RECORD["options"], "groups": {"training": RECORD["options"]}}
    made |= {"recipe": RECORD["recipe"], "checkpoints_dir": folder.parent}
    opt = Namespace(**{**made, **quiet, "use_tensorboard": False, "use_wandb": False, **changes})
    return Visualizer(opt, folder, total_images=1000, versions=RECORD["versions"])


def train(log: Visualizer, first: int, last: int, resume_at: int = 0, scale: float = 1.0) -> None:
    """Log every 100 images, show every 100 and keep every 200."""
    log.start(resume_at)
    for images in range(first, last + 1, 100):
        value = float("nan") if images == 300 else scale * images
        log.print_losses(1 + images // 500, images, {"G_GAN": value, "GNN": 2.0}, TIMES)
        pictures = {
            "fake_B": torch.full((2, 3, 6, 8), images / 1000),
            "grey": torch.zeros(2, 1, 6, 8),
        }
        log.display(pictures, 1, images, save=images % 200 == 0)
    log.close()


def run_train(monkeypatch, root, *flags: str) -> int:
    """train.py in this process; returns its exit status."""
    monkeypatch.setattr(sys, "argv", ["train.py", *train_flags(root, *flags, model="cut")])
    return exit_status(main)


def sinks(folder) -> tuple[WandbDisplay, TensorBoardDisplay]:
    """Both, for a run of this folder."""
    record = RECORD.copy  # the sink may take it apart
    shown = lambda images: record()  # noqa: E731
    return WandbDisplay("project", "run", folder, shown), TensorBoardDisplay(folder, shown)


def no_warnings(folder) -> str:
    text = (folder / "loss_log.txt").read_text()
    assert "warning" not in text, text
    return text


# --- TensorBoard ------------------------------------------------------------------------------------------------------


def events(folder):
    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0})
    return found.Reload()


def points(found, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in found.Scalars(name)]


def test_tensorboard_reads_back_losses_pictures_and_options(tmp_path):
    train(visualizer(tmp_path / "run", use_tensorboard=True), 100, 400)
    assert f"tensorboard --logdir {tmp_path}" in no_warnings(tmp_path / "run")
    found = events(tmp_path / "run")
    assert set(found.Tags()["scalars"]) == {"G_GAN", "GNN", "run/epoch", "run/time", "run/data"}
    assert [step for step, _ in points(found, "G_GAN")] == [100, 200, 300, 400]
    assert [value for _, value in points(found, "G_GAN")] == pytest.approx(
        [100, 200, math.nan, 400], nan_ok=True
    )
    assert points(found, "run/time")[0] == (100, 0.25)
    assert set(found.Tags()["images"]) == {"fake_B", "grey"}
    assert [image.step for image in found.Images("fake_B")] == [200, 400]
    with Image.open(BytesIO(found.Images("fake_B")[1].encoded_image_string)) as image:
        assert (
            image.size == (8, 6)
            and np.asarray(image)[0, 0].tolist() == [round((0.4 + 1) * 127.5)] * 3
        )
    texts = {
        tag: found.Tensors(tag)[0].tensor_proto.string_val[0].decode()
        for tag in found.Tags()["tensors"]
    }
    assert texts["recipe/text_summary"] == "patchgcl, preset paper"
    assert (
        "| lr | `0.0002` |" in texts["options/text_summary"]
        and "torch" in texts["versions/text_summary"]
    )


def test_tensorboard_goes_on_in_the_same_folder_and_hides_what_was_redone(tmp_path):
    train(visualizer(tmp_path, use_tensorboard=True), 100, 800)
    train(visualizer(tmp_path, use_tensorboard=True), 500, 700, resume_at=400, scale=2)
    found = events(tmp_path)
    assert points(found, "G_GAN")[3:] == [(400, 400), (500, 1000), (600, 1200), (700, 1400)]
    assert [image.step for image in found.Images("fake_B")] == [200, 400, 600]


def test_tensorboard_switched_on_late_gets_the_earlier_losses(tmp_path):
    train(visualizer(tmp_path), 100, 400)
    train(visualizer(tmp_path, use_tensorboard=True), 500, 600, resume_at=400)
    assert [step for step, _ in points(events(tmp_path), "GNN")] == [100, 200, 300, 400, 500, 600]


def test_a_tensorboard_that_cannot_write_does_not_stop_training(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "checkpoints" / "run"
    folder.mkdir(parents=True)
    (folder / "tensorboard").write_text("a file where the folder should be")
    assert run_train(monkeypatch, tmp_path, "--max_steps", "2", "--use_tensorboard") == 0
    assert capsys.readouterr().out.count("warning: TensorBoard is off") == 1
    assert (folder / "latest_net_G.pth").exists()


# --- Weights & Biases -------------------------------------------------------------------------------------------------


class RecordedWandb(ModuleType):
    """Stands for the library where it is not installed: notes what is asked of it, and holds the same signatures."""

    def __init__(self, fails_in: str | None = None) -> None:
        super().__init__("wandb")
        self.fails_in, self.calls, self.logged = fails_in, [], []

    def _note(self, call: str, **arguments) -> None:
        self.calls.append((call, arguments))
        if call == self.fails_in:
            raise RuntimeError(f"{call} fails")

    def Settings(self, silent=False, console="auto", init_timeout=90.0):
        return {"silent": silent, "console": console, "init_timeout": init_timeout}

    def Image(self, data_or_path):
        assert data_or_path.dtype == np.uint8 and data_or_path.ndim == 3
        return ("image", data_or_path.shape)

    def setup(self, settings):
        self._note("setup", settings=settings)

    def init(self, *, project, name, id, resume, dir, config, allow_val_change, settings):
        self._note(
            "init",
            **{key: value for key, value in locals().items() if key not in ("self", "__class__")},
        )
        return SimpleNamespace(
            url="https://wandb.example/run", dir=f"{dir}/files", log=self.log, define_metric=self.define_metric,
            finish=lambda: self._note("finish"),
        )  # fmt: skip

    def define_metric(self, name, step_metric=None):
        self._note("define_metric", name=name, step_metric=step_metric)

    def log(self, data):
        self.logged.append(data)
        self._note("log")

    def only(self, name: str) -> dict:
        (arguments,) = (arguments for call, arguments in self.calls if call == name)
        return arguments


def recorded(monkeypatch, **settings) -> RecordedWandb:
    module = RecordedWandb(**settings)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_wandb_gets_losses_pictures_and_options(tmp_path, monkeypatch):
    wandb = recorded(monkeypatch)
    train(visualizer(tmp_path, use_wandb=True), 100, 400)
    assert "W&B: https://wandb.example/run" in no_warnings(tmp_path)
    begun = wandb.only("init")
    assert (begun["project"], begun["name"], begun["resume"], begun["dir"]) == (
        "mine",
        "my run",
        "allow",
        str(tmp_path),
    )
    assert begun["config"] == RECORD["options"] | {
        "recipe": RECORD["recipe"],
        "versions": RECORD["versions"],
        "history": [{"from_image": 0, "changes": {}, "versions": RECORD["versions"]}],
    }
    assert begun["settings"]["silent"] and begun["settings"]["console"] == "off"
    assert begun["settings"]["init_timeout"] <= 30
    losses = [values for values in wandb.logged if "G_GAN" in values]
    assert [values["images"] for values in losses] == [100, 200, 300, 400]
    assert losses[0] == {
        "images": 100,
        "G_GAN": 100.0,
        "GNN": 2.0,
        "run/epoch": 1,
        "run/time": 0.25,
        "run/data": 0.125,
    }
    assert math.isnan(losses[2]["G_GAN"])
    pictures = [values for values in wandb.logged if "fake_B" in values]
    assert pictures[0] == {
        "images": 200,
        "fake_B": ("image", (6, 8, 3)),
        "grey": ("image", (6, 8, 1)),
    }
    assert [values["images"] for values in pictures] == [200, 400]
    assert wandb.calls[-1][0] == "finish"


def test_wandb_goes_on_in_the_same_run(tmp_path, monkeypatch):
    ids = []
    for resume_at in (0, 400):
        wandb = recorded(monkeypatch)
        train(visualizer(tmp_path, use_wandb=True), resume_at + 100, resume_at + 400, resume_at)
        ids.append(wandb.only("init")["id"])
        assert next(v["images"] for v in wandb.logged if "GNN" in v) == resume_at + 100, (
            "nothing is sent twice"
        )
    assert ids[0] == ids[1] and len(ids[0]) >= 8
    wandb = recorded(monkeypatch)
    train(visualizer(tmp_path / "other", use_wandb=True), 100, 100)
    assert wandb.only("init")["id"] != ids[0]


def test_a_resumed_run_shows_its_own_options_and_not_those_of_the_start_before(
    tmp_path, monkeypatch
):
    """The record on the disk is that of the start before until a step is done with the new options."""
    earlier = RECORD | {"options": RECORD["options"] | {"lr": 0.1}, "history": []}
    folder = tmp_path / "my run"
    folder.mkdir()
    (folder / "train_opt.json").write_text(json.dumps(earlier))
    wandb = recorded(monkeypatch)
    train(visualizer(folder, use_wandb=True, use_tensorboard=True), 500, 500, resume_at=400)
    no_warnings(folder)

    config = wandb.only("init")["config"]
    assert config["lr"] == 0.0002
    assert config["history"][-1]["changes"] == {"lr": [0.1, 0.0002]}
    [text] = events(folder).Tensors("options/text_summary")
    assert b"| lr | `0.0002` |" in text.tensor_proto.string_val[0]


def test_wandb_switched_on_late_gets_the_earlier_losses(tmp_path, monkeypatch):
    train(visualizer(tmp_path), 100, 400)
    wandb = recorded(monkeypatch)
    train(visualizer(tmp_path, use_wandb=True), 500, 500, resume_at=400)
    assert [values["images"] for values in wandb.logged if "GNN" in values] == [
        100,
        200,
        300,
        400,
        500,
    ]


@pytest.mark.parametrize("fails_in", ["setup", "init", "log", "finish"])
def test_a_wandb_that_fails_is_one_warning(tmp_path, monkeypatch, fails_in):
    recorded(monkeypatch, fails_in=fails_in)
    train(visualizer(tmp_path, use_wandb=True), 100, 400)
    text = (tmp_path / "loss_log.txt").read_text()
    assert (
        text.count("warning") == 1
        and f"warning: W&B is off for the rest of this run: {fails_in} fails" in text
    )
    assert text.count("iters:") == 4


def test_the_stand_in_holds_the_signatures_of_the_library():
    wandb = pytest.importorskip("wandb")
    for call in ("init", "setup"):
        asked = set(inspect.signature(getattr(RecordedWandb, call)).parameters) - {"self"}
        assert asked <= set(inspect.signature(getattr(wandb, call)).parameters), call
    assert set(inspect.signature(RecordedWandb.Settings).parameters) - {"self"} <= set(
        wandb.Settings.model_fields
    )
    for call in ("log", "define_metric"):
        asked = set(inspect.signature(getattr(RecordedWandb, call)).parameters) - {"self"}
        assert asked <= set(inspect.signature(getattr(wandb.Run, call)).parameters), call


@pytest.mark.slow
def test_the_real_wandb_runs_offline_through_train_and_resumes(tmp_path):
    pytest.importorskip("wandb")
    flags = train_flags(
        tmp_path, "--print_freq", "1", "--update_html_freq", "2", "--use_wandb", model="cut"
    )
    folder = tmp_path / "checkpoints" / "run"
    for steps in ("2", "4"):
        result = run_command(
            ["train.py", *flags, "--max_steps", steps], env={"WANDB_MODE": "offline"}
        )
        assert result.returncode == 0, result.stderr
        assert "warning" not in result.stdout and "W&B: offline, in " in result.stdout, (
            result.stdout
        )
        assert not any(
            line.startswith("wandb:") for line in (result.stdout + result.stderr).splitlines()
        )
    number = (folder / "wandb_id.txt").read_text().strip()
    runs = sorted((folder / "wandb").glob("offline-run-*"))
    assert len(runs) == 2 and all(run.name.endswith(f"-{number}") for run in runs)
    for run in runs:
        logged = next(run.glob("*.wandb")).read_bytes()
        assert b"G_GAN" in logged and b"recipe" in logged
        assert list(run.glob("files/media/images/fake_B*.png"))


@pytest.mark.slow
def test_wandb_without_a_key_neither_asks_nor_stops_training(tmp_path):
    pytest.importorskip("wandb")
    env = {
        "HOME": str(tmp_path),
        "WANDB_API_KEY": "",
        "WANDB_MODE": "online",
        "NETRC": str(tmp_path / "none"),
    }
    flags = train_flags(tmp_path, "--max_steps", "2", "--use_wandb", model="cut")
    result = run_command(["train.py", *flags], env=env)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("warning: W&B is off for the rest of this run: ") == 1, result.stdout
    assert "wandb login" in result.stdout


def test_frames_that_are_not_kept_are_left_out(tmp_path, monkeypatch):
    """A live log such as visdom beside them has such frames pass through."""
    wandb = recorded(monkeypatch)
    frame = Frame(1, 100, {"fake_B": np.zeros((6, 8, 3), np.uint8)}, save=False)
    for sink in sinks(tmp_path):
        sink.start([], 0)
        sink.pictures(frame)
        sink.close()
    assert wandb.logged == [] and events(tmp_path).Tags()["images"] == []


# --- a lack is said before training -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "module", "package"),
    [
        ("--use_tensorboard", "torch.utils.tensorboard", "tensorboard"),
        ("--use_wandb", "wandb", "wandb"),
    ],
)
def test_a_missing_package_is_one_line_before_training(
    tmp_path, monkeypatch, capsys, flag, module, package
):
    monkeypatch.setitem(sys.modules, module, None)
    assert run_train(monkeypatch, tmp_path, "--max_steps", "2", flag) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {flag}: ") and f"pip install {package}" in line
    assert not (tmp_path / "checkpoints" / "run" / "latest_state.pt").exists()


def test_a_folder_named_wandb_is_no_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", ModuleType("wandb"))
    with pytest.raises(UserError, match="pip install wandb"):
        WandbDisplay("project", "run", tmp_path, RECORD.get)


def test_sinks_write_nothing_before_they_start(tmp_path, monkeypatch):
    recorded(monkeypatch)
    sinks(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_released_commands_are_understood(tmp_path):
    command = [
        "--dataroot",
        "./datasets/maps",
        "--name",
        "maps_cyclegan",
        "--model",
        "cycle_gan",
        "--use_wandb",
    ]
    opt = parse(TrainOptions(), [*command, "--checkpoints_dir", str(tmp_path)])
    assert opt.use_wandb and opt.wandb_project_name == "patchgcl" and not opt.use_tensorboard
    assert (
        parse(TrainOptions(), [*command, "--wandb_project_name", "CycleGAN"]).wandb_project_name
        == "CycleGAN"
    )
