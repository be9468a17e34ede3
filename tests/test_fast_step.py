"""The fast step computes what the plain step computes: recorded steps, mixed precision, layouts, compiled parts."""

import copy
import gzip
import json
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from models import find_model
from models.networks.chain import Chain
from tests.helpers import run_command, train_flags
from tests.recorder import CpuRecorder
from tests.test_models import RECIPES, TRAINED, build, weights
from util.cuda_graph import WARM_UP, PlainStep, RecordedStep
from util.loss_scale import FIRST_SCALE, DynamicLossScale
from util.runtime import Runtime, choose_precision


def everything(model) -> list[torch.Tensor]:
    """All tensors that a step may change in place."""
    parts = [*model.networks.values(), *model.averages.values(), *model.memories.values(), model._loss_scale]
    found = [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]
    for optimizer in model.optimizers.values():
        found += [value for state in optimizer.state.values() for value in state.values()]
    return [*found, model._tripped, model._epoch_loss, *model._not_finite.values()]


def capturing(monkeypatch, value):
    """Make models as for recorded steps, although there is no GPU."""
    monkeypatch.setattr(Runtime, "no_capture", None, raising=False)
    real = Runtime.__init__

    def init(self, *args, **kwargs):
        real(self, *args, **kwargs)
        self.capture = value

    monkeypatch.setattr(Runtime, "__init__", init)


def run(tmp_path, monkeypatch, name, preset, recorded, extra):
    """Train two steps in each of five epochs; returns the model, losses and pictures of each step."""
    with monkeypatch.context() as patches:
        capturing(patches, True)
        _, _, loader, model = build(tmp_path, name, preset, *extra)
    recorder = CpuRecorder(lambda: everything(model))
    step = RecordedStep(model, recorder, pytest.fail) if recorded else PlainStep(model)
    torch.manual_seed(5)
    seen = []
    for epoch in range(1, 6):
        for batch in islice(loader.epoch(epoch), 2):
            step(batch)
            losses = {key: value.item() for key, value in model.get_current_losses().items()}
            seen.append((losses, {key: value.clone() for key, value in model.get_current_visuals().items()}))
        model.end_epoch()
    assert recorder.recorded == recorded
    return model, seen


SCHEDULE = ["--n_epochs", "2", "--n_epochs_decay", "3"]


@pytest.mark.parametrize(("name", "preset"), RECIPES)
def test_recorded_steps_are_plain_steps_bit_for_bit(tmp_path, monkeypatch, name, preset):
    """Losses, pictures, weights, averages and memories, over a falling learning rate."""
    if find_model(name).not_recordable:
        pytest.skip(find_model(name).not_recordable)
    extra = ["--ema", "0.9", "--batch_size", "2", *SCHEDULE]
    plain, expected = run(tmp_path, monkeypatch, name, preset, False, extra)
    fast, found = run(tmp_path, monkeypatch, name, preset, True, extra)
    assert len(found) > WARM_UP + 4
    for number, ((losses, pictures), (fast_losses, fast_pictures)) in enumerate(zip(expected, found, strict=True)):
        assert fast_losses == losses, f"step {number}"
        assert all(torch.equal(fast_pictures[key], value) for key, value in pictures.items()), f"step {number}"
    assert fast.learning_rate == plain.learning_rate < plain.opt.lr
    for a, b in zip(everything(fast), everything(plain), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("extra", ["--accumulate 2", "--gan_mode wgangp --normD none"])
def test_recorded_steps_accumulate_and_penalize(tmp_path, monkeypatch, extra):
    plain, expected = run(tmp_path, monkeypatch, "patchgcl", None, False, [*extra.split(), *SCHEDULE])
    fast, found = run(tmp_path, monkeypatch, "patchgcl", None, True, [*extra.split(), *SCHEDULE])
    assert [losses for losses, _ in found] == [losses for losses, _ in expected]
    for a, b in zip(everything(fast), everything(plain), strict=True):
        assert torch.equal(a, b)


def test_recorded_steps_scale_losses(tmp_path, monkeypatch):
    """As float16 needs it, with overflows at first (in float32, since a CPU takes minutes in float16)."""
    scale = DynamicLossScale()
    scale.factor.fill_(torch.finfo(torch.float32).max / 2)
    monkeypatch.setattr("models.training_step.create_loss_scale", lambda *_: copy.deepcopy(scale))
    plain, expected = run(tmp_path, monkeypatch, "patchgcl", None, False, SCHEDULE)
    fast, found = run(tmp_path, monkeypatch, "patchgcl", None, True, SCHEDULE)
    assert [losses for losses, _ in found] == [losses for losses, _ in expected]
    assert fast._loss_scale.factor == plain._loss_scale.factor < scale.factor
    for a, b in zip(everything(fast), everything(plain), strict=True):
        assert torch.equal(a, b)


def test_a_bad_loss_stops_recorded_steps_too(tmp_path, monkeypatch):
    capturing(monkeypatch, True)
    _, _, loader, model = build(tmp_path, "patchgcl", None)
    step = RecordedStep(model, CpuRecorder(lambda: everything(model)), pytest.fail)
    batches = list(loader.epoch(1))
    for batch in [*batches, *batches][: WARM_UP + 2]:
        step(batch)
    assert step.recordings
    good = weights(model)
    step({**batches[0], "A": torch.full_like(batches[0]["A"], torch.nan)})
    step(batches[0])
    assert all(torch.equal(value, good[key]) for key, value in weights(model).items())
    with pytest.raises(Exception, match="not finite"):
        model.check_finite("x.pt")


def test_each_shape_is_recorded_for_itself_and_shows_its_own_pictures(tmp_path, monkeypatch):
    capturing(monkeypatch, True)
    _, _, loader, model = build(tmp_path, "patchgcl", None)
    step = RecordedStep(model, CpuRecorder(lambda: everything(model)), pytest.fail)
    batch = next(iter(loader.epoch(1)))
    small = {key: value[..., :24] if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
    for _ in range(WARM_UP + 2):
        step(batch)
        step(small)
    assert len(step.recordings) == 2
    step(batch)
    assert model.get_current_visuals()["fake_B"].shape[-1] == 32
    step(small)
    assert model.get_current_visuals()["fake_B"].shape[-1] == 24


def test_where_recording_fails_training_goes_on(tmp_path, monkeypatch):
    capturing(monkeypatch, True)
    _, _, loader, model = build(tmp_path, "patchgcl", None)
    recorder, said = CpuRecorder(lambda: everything(model)), []

    def fail(work):
        raise RuntimeError("operation not permitted\nmore")

    recorder.record = fail
    step = RecordedStep(model, recorder, said.append)
    for _ in range(2):
        for batch in loader.epoch(1):
            before = weights(model)
            step(batch)
            assert any(not torch.equal(value, before[key]) for key, value in weights(model).items())
    [line] = said
    assert "--cuda_graph" in line and line.endswith("operation not permitted")


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("flags", ["--amp bf16", "--amp fp16", "--channels_last on"])
def test_other_precisions_and_layouts_stay_close(tmp_path, name, flags):
    """Losses of the first step, from the same weights: to a few per cent in half precision.

    In another layout dropout, where there is any, falls on other values."""
    losses = []
    for extra in ([], flags.split()):
        _, _, loader, model = build(tmp_path, name, None, "--no_dropout", *extra)
        torch.manual_seed(1)
        PlainStep(model)(next(iter(loader.epoch(1))))
        losses.append({key: value.item() for key, value in model.get_current_losses().items()})
        assert all(p.dtype == torch.float32 for net in model.networks.values() for p in net.parameters())
    tolerance = {"rel": 1e-2, "abs": 1e-5} if "channels_last" in flags else {"rel": 0.1, "abs": 0.02}
    for key in ("G", "D"):
        assert losses[1][key] == pytest.approx(losses[0][key], **tolerance), key


def test_the_loss_scale_halves_at_overflow_and_grows_again():
    scale, good = DynamicLossScale(), torch.zeros(())
    assert scale.scale(torch.tensor(2.0)) == 2 * FIRST_SCALE
    grads = [torch.full((3,), FIRST_SCALE), torch.tensor([torch.inf])]
    assert scale.unscale(grads, good) == 1
    assert scale.factor == FIRST_SCALE / 2
    for _ in range(2000):
        grads = [torch.full((3,), 3 * FIRST_SCALE / 2)]
        assert scale.unscale(grads, good) == 0
    assert torch.equal(grads[0], torch.full((3,), 3.0))
    assert scale.factor == FIRST_SCALE and scale.good_steps == 0
    assert scale.unscale(grads, torch.ones(())) == 1  # a loss that was not finite still stops the step


def test_an_overflow_in_float16_skips_one_step_and_training_goes_on(tmp_path):
    _, _, loader, model = build(tmp_path, "patchgcl", None, "--amp", "fp16")
    batch = next(iter(loader.epoch(1)))
    PlainStep(model)(batch)
    before = weights(model)
    model._loss_scale.factor.fill_(torch.finfo(torch.float32).max / 2)
    PlainStep(model)(batch)
    assert all(torch.equal(value, before[key]) for key, value in weights(model).items())
    model.check_finite("x.pt")
    model._loss_scale.factor.fill_(1024.0)
    PlainStep(model)(batch)
    assert any(not torch.equal(value, before[key]) for key, value in weights(model).items())


def test_the_log_says_which_networks_are_compiled(tmp_path):
    _, _, _, model = build(tmp_path, "patchgcl", None, "--compile")
    assert all(chain.compiled for chain in model.netG.modules() if isinstance(chain, Chain))
    assert model.describe().splitlines()[-2] == "--compile: netF run as they are, being no chains of layers"


def test_precision_by_name():
    cpu = torch.device("cpu")
    assert choose_precision("auto", cpu) is None and choose_precision("bf16", cpu) == torch.bfloat16


def test_the_command_line_says_what_cannot_be_had_and_writes_a_trace(tmp_path):
    flags = train_flags(tmp_path, "--n_epochs", "4", "--n_epochs_decay", "0", "--cuda_graph", "--profile", "2")
    result = run_command(["train.py", *flags, "--amp", "bf16", "--print_freq", "1"])
    assert result.returncode == 0, result.stderr
    assert "--cuda_graph: steps are run one by one, since it needs a GPU" in result.stdout
    assert "bfloat16" in result.stdout and "images/s: " in result.stdout and "step: " in result.stdout
    trace = tmp_path / "checkpoints" / "run" / "trace.json.gz"
    assert f"trace: {trace}" in result.stdout
    names = {event.get("name") for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]}
    assert "aten::convolution" in names and {"ProfilerStep#10", "ProfilerStep#11"} <= names
    assert "ProfilerStep#12" not in names

    where = ["--name", "run", "--checkpoints_dir", tmp_path / "checkpoints", "--gpu_ids", "-1"]
    for amp in ("off", "bf16"):
        result = run_command(["test.py", *where, "--results_dir", tmp_path / amp, "--amp", amp])
        assert result.returncode == 0, result.stderr
    pictures = [
        [np.asarray(Image.open(path)).astype(int) for path in sorted((tmp_path / amp).rglob("fake_B/*.png"))]
        for amp in ("off", "bf16")
    ]
    difference = [np.abs(a - b) for a, b in zip(*pictures, strict=True)]
    assert len(difference) == 4 and 0 < np.mean(difference) < 2  # of 255: bfloat16 rounds to 8 bits


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", TRAINED)
def test_recorded_steps_on_a_gpu(tmp_path, name):
    """Real CUDA graphs against the same steps run one by one."""
    from util.cuda_graph import CudaRecorder

    results = []
    for recorded in (False, True):
        _, _, loader, model = build(tmp_path, name, None, "--gpu_ids", "0", "--cuda_graph", "--deterministic")
        step = RecordedStep(model, CudaRecorder(), pytest.fail) if recorded else PlainStep(model)
        torch.manual_seed(5)
        seen = []
        for epoch in (1, 2, 3):
            for batch in loader.epoch(epoch):
                step(batch)
                seen.append({key: value.item() for key, value in model.get_current_losses().items()})
            model.end_epoch()
        results.append(seen)
    for number, (plain, fast) in enumerate(zip(*results, strict=True)):
        assert fast == pytest.approx(plain, rel=1e-4), f"step {number}"
