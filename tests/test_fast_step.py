"""The fast step computes what the plain step computes: recorded steps, mixed precision, layouts, compiled parts."""

import copy
import gzip
import json
import re
import weakref
from functools import partial
from itertools import cycle, islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from data.deferred import Deferred
from models import find_model
from models.adversary import gradient_penalty, r1_penalty
from models.networks import chain as chain_module
from models.networks import create_discriminator
from models.networks import graph as graph_module
from models.networks.chain import Chain, run_layers
from models.step.cuda_graph import WARM_UP, RecordedStep
from models.step.runners import CompiledStep, PlainStep, Step, create_step
from models.step.trial import NO_ROOM, UNTOLD
from options import TestOptions, TrainOptions, parse
from scripts.on_gpu.recorded import compare
from tests.helpers import run_command, train_flags
from tests.recorder import CpuRecorder
from tests.test_models import RECIPES, TRAINED, build, weights
from util.errors import UserError
from util.hardware import devices
from util.hardware.devices import choose_precision, planned_precision
from util.hardware.loss_scale import FIRST_SCALE, DynamicLossScale
from util.hardware.runtime import Runtime


def capturing(monkeypatch):
    """Make models as for recorded steps, although there is no GPU."""
    real = Runtime.__init__

    def init(self, *args, **kwargs):
        real(self, *args, **kwargs)
        self.capture, self.no_capture = True, None

    monkeypatch.setattr(Runtime, "__init__", init)


def run(tmp_path, monkeypatch, name, preset, recorded, extra):
    """Train two cycles of steps in each of five epochs; returns the model, losses and pictures of each step."""
    with monkeypatch.context() as patches:
        capturing(patches)
        _, _, loader, model = build(tmp_path, name, preset, *extra)
    recorder = CpuRecorder(model.changing_tensors)
    work = RecordedStep(PlainStep(model), recorder, pytest.fail) if recorded else PlainStep(model)
    step = Step(model, work)
    torch.manual_seed(5)
    seen = []
    for epoch in range(1, 6):
        for batch in islice(cycle(loader.epoch(epoch)), 2 * model.CYCLE):
            step(batch)
            losses = {key: value.item() for key, value in model.get_current_losses().items()}
            seen.append(
                (losses, {key: value.clone() for key, value in model.get_current_visuals().items()})
            )
        model.end_epoch()
    assert recorder.recorded == recorded * model.CYCLE
    return model, seen


def drawing(name) -> list[str]:
    """Flags that let a method draw positions, of which tiny images have fewer than it would take."""
    options = TrainOptions()
    declared = options.build_parser(options.peek(["--model", name])).declared()
    return ["--num_patches", "8"] if "num_patches" in declared else []


SCHEDULE = ["--n_epochs", "2", "--n_epochs_decay", "3"]


def falling(name: str, preset: str | None) -> list[str]:
    """Flags with which the learning rate of a recipe falls within a test, whatever its policy."""
    by_step = find_model(name).PRESETS.get(preset, {}).get("lr_policy") == "halving"
    return [*SCHEDULE, "--lr_decay_iters", "4"] if by_step else SCHEDULE


@pytest.mark.parametrize(("name", "preset"), RECIPES)
def test_recorded_steps_are_plain_steps_bit_for_bit(tmp_path, monkeypatch, name, preset):
    """Losses, pictures, weights, averages and memories, over a falling learning rate."""
    if find_model(name).not_recordable:
        pytest.skip(find_model(name).not_recordable)
    extra = ["--ema", "0.9", "--batch_size", "2", *falling(name, preset), *drawing(name)]
    plain, expected = run(tmp_path, monkeypatch, name, preset, False, extra)
    fast, found = run(tmp_path, monkeypatch, name, preset, True, extra)
    assert len(found) > WARM_UP + 4
    for number, ((losses, pictures), (fast_losses, fast_pictures)) in enumerate(
        zip(expected, found, strict=True)
    ):
        assert fast_losses == losses, f"step {number}"
        assert all(torch.equal(fast_pictures[key], value) for key, value in pictures.items()), (
            f"step {number}"
        )
    assert fast.learning_rate == plain.learning_rate < 0.9 * plain.opt.lr
    for a, b in zip(fast.changing_tensors(), plain.changing_tensors(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("extra", ["--accumulate 2", "--gan_mode wgangp --normD none"])
def test_recorded_steps_accumulate_and_penalize(tmp_path, monkeypatch, extra):
    plain, expected = run(
        tmp_path, monkeypatch, "patchgcl", None, False, [*extra.split(), *SCHEDULE]
    )
    fast, found = run(tmp_path, monkeypatch, "patchgcl", None, True, [*extra.split(), *SCHEDULE])
    assert [losses for losses, _ in found] == [losses for losses, _ in expected]
    for a, b in zip(fast.changing_tensors(), plain.changing_tensors(), strict=True):
        assert torch.equal(a, b)


def test_recorded_steps_scale_losses(tmp_path, monkeypatch):
    """As float16 needs it, with overflows at first (in float32, since a CPU takes minutes in float16)."""
    scale = DynamicLossScale()
    scale.factor.fill_(torch.finfo(torch.float32).max / 2)
    monkeypatch.setattr(
        "models.step.training_step.create_loss_scale", lambda *_: copy.deepcopy(scale)
    )
    plain, expected = run(tmp_path, monkeypatch, "patchgcl", None, False, SCHEDULE)
    fast, found = run(tmp_path, monkeypatch, "patchgcl", None, True, SCHEDULE)
    assert [losses for losses, _ in found] == [losses for losses, _ in expected]
    assert fast._loss_scale.factor == plain._loss_scale.factor < scale.factor
    for a, b in zip(fast.changing_tensors(), plain.changing_tensors(), strict=True):
        assert torch.equal(a, b)


def test_a_bad_loss_stops_recorded_steps_too(tmp_path, monkeypatch):
    capturing(monkeypatch)
    _, _, loader, model = build(tmp_path, "patchgcl", None)
    step = RecordedStep(PlainStep(model), CpuRecorder(model.changing_tensors), pytest.fail)
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
    capturing(monkeypatch)
    _, _, loader, model = build(tmp_path, "patchgcl", None)
    step = RecordedStep(PlainStep(model), CpuRecorder(model.changing_tensors), pytest.fail)
    batch = next(iter(loader.epoch(1)))
    small = {
        key: value[..., :24] if isinstance(value, torch.Tensor) else value
        for key, value in batch.items()
    }
    for _ in range(WARM_UP + 2):
        step(batch)
        step(small)
    assert len(step.recordings) == 2
    step(batch)
    assert model.get_current_visuals()["fake_B"].shape[-1] == 32
    step(small)
    assert model.get_current_visuals()["fake_B"].shape[-1] == 24


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("operation not permitted\nmore"), "operation not permitted"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), NO_ROOM),
    ],
)
def test_where_recording_fails_training_goes_on(tmp_path, monkeypatch, error, reason):
    capturing(monkeypatch)
    _, _, loader, model = build(tmp_path, "patchgcl", None)
    recorder, said = CpuRecorder(model.changing_tensors), []

    def fail(work):
        raise error

    recorder.record = fail
    step = RecordedStep(PlainStep(model), recorder, said.append)
    for _ in range(2):
        for batch in loader.epoch(1):
            before = weights(model)
            step(batch)
            assert any(not torch.equal(value, before[key]) for key, value in weights(model).items())
    [line] = said
    assert "--cuda_graph" in line and line.endswith(f"recording failed: {reason}")


def test_pictures_are_cut_within_recorded_steps_also_when_the_cache_is_made_anew(
    tmp_path, monkeypatch
):
    """From epoch 3 on images are cut from a cache of another size; what was recorded on the old one is let go."""
    extra = ["--n_epochs", "2", "--n_epochs_decay", "2", "--load_size", "36", *drawing("patchgcl")]
    found = {}
    for cache in ("none", "device"):
        with monkeypatch.context() as patches:
            capturing(patches)
            _, _, loader, model = build(tmp_path, "patchgcl", None, *extra, "--cache", cache)
        recorder = CpuRecorder(model.changing_tensors)
        step = (
            RecordedStep(PlainStep(model), recorder, pytest.fail)
            if cache == "device"
            else PlainStep(model)
        )
        torch.manual_seed(5)
        losses = found[cache] = []
        for epoch in range(1, 5):
            for batch in [*loader.epoch(epoch)]:
                assert isinstance(batch["A"], Deferred) == (cache == "device")
                step(batch)
                losses.append(
                    {key: value.item() for key, value in model.get_current_losses().items()}
                )
            del batch
            model.end_epoch()
    assert found["device"] == found["none"]
    assert recorder.recorded == 2 and len(step.recordings) == 1


@pytest.mark.parametrize(
    "defect",
    [
        "does nothing",
        "forgets the batch",
        "draws nothing new",
        "spoils a weight",
        "makes a weight NaN",
    ],
)
def test_a_recording_that_is_not_the_step_is_found_and_not_used(tmp_path, monkeypatch, defect):
    """Training is then that of plain steps to the bit, and one line says why."""

    class Defective(CpuRecorder):
        def record(self, work):
            replay, place = super().record(work), model.real_A

            def spoiled():
                if defect == "forgets the batch":
                    place.copy_(first["A"])
                random = torch.get_rng_state()
                if defect != "does nothing":
                    replay()
                if defect == "draws nothing new":
                    torch.set_rng_state(random)
                if defect == "spoils a weight":
                    with torch.no_grad():
                        model.netG.model[1].weight.neg_()
                if defect == "makes a weight NaN":
                    with torch.no_grad():
                        model.netG.model[1].weight[0, 0].fill_(torch.nan)

            return spoiled

    capturing(monkeypatch)
    results = []
    for recorded in (False, True):
        _, _, loader, model = build(tmp_path, "patchgcl", None, *SCHEDULE, *drawing("patchgcl"))
        batches, said = [*loader.epoch(1), *loader.epoch(2)], []
        first = batches[0]
        recorder = Defective(model.changing_tensors) if recorded else None
        step = (
            RecordedStep(PlainStep(model), recorder, said.append) if recorded else PlainStep(model)
        )
        torch.manual_seed(5)
        for batch in batches:
            step(batch)
        results.append(weights(model))
    assert recorder.recorded == 1
    [line] = said
    assert line.startswith(
        "--cuda_graph: steps are run one by one, since a recorded step failed its trial: "
    )
    assert all(torch.equal(results[1][key], value) for key, value in results[0].items())


class Full(CpuRecorder):
    """Steps that Python runs find too little memory as long as a recording is kept; they notice in their middle."""

    def __init__(self, model) -> None:
        super().__init__(model.changing_tensors)
        self.kept: dict | None = None
        self.held = lambda: None

    def run(self, work):
        assert self.held() is None, "what an earlier try has kept is gone"
        work()
        if self.kept:
            computed = torch.nn.Linear(1, 1)
            self.held = weakref.ref(computed)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize("tried", [False, True], ids=["at the trial", "at another shape"])
def test_a_plain_step_that_does_not_fit_beside_a_recording_ends_the_recording(
    tmp_path, monkeypatch, tried
):
    """Training goes on without it, with the weights of plain steps to the bit, and one line says why."""
    capturing(monkeypatch)
    results = []
    for recorded in (False, True):
        _, _, loader, model = build(tmp_path, "patchgcl", None, *drawing("patchgcl"))
        batch, said = next(iter(loader.epoch(1))), []
        small = {
            key: value[..., :24] if isinstance(value, torch.Tensor) else value
            for key, value in batch.items()
        }
        recorder = Full(model)
        step = (
            RecordedStep(PlainStep(model), recorder, said.append) if recorded else PlainStep(model)
        )
        torch.manual_seed(5)
        for number in range(WARM_UP + 5):
            step(small if tried and number == WARM_UP + 2 else batch)
            fits = tried and number <= WARM_UP
            recorder.kept = step.recordings if recorded and not fits else None
        results.append(weights(model))
    assert recorder.recorded == 1 and not step.recordings
    reason = "other steps do not fit into memory beside what a recorded one keeps"
    if not tried:
        reason = f"a recorded step failed its trial: {NO_ROOM}"
    assert said == [f"--cuda_graph: steps are run one by one, since {reason}"]
    assert all(torch.equal(results[1][key], value) for key, value in results[0].items())


def scaling_losses(monkeypatch) -> None:
    """Scale losses as float16 needs it, in float32."""
    scale = DynamicLossScale()
    monkeypatch.setattr(
        "models.step.training_step.create_loss_scale", lambda *_: copy.deepcopy(scale)
    )


def overflow(model, on: bool) -> None:
    """Let the gradients of further steps overflow, so that no weight moves, or not."""
    model._loss_scale.factor.fill_(torch.finfo(torch.float32).max / 2 if on else 1024.0)


def test_a_recorded_step_is_relied_on_only_after_a_step_that_moves_weights(tmp_path, monkeypatch):
    capturing(monkeypatch)
    scaling_losses(monkeypatch)
    _, _, loader, model = build(tmp_path, "patchgcl", None)
    step = RecordedStep(PlainStep(model), CpuRecorder(model.changing_tensors), pytest.fail)
    batch = next(iter(loader.epoch(1)))
    overflow(model, False)
    for _ in range(WARM_UP):
        step(batch)
    [recording] = step.recordings.values()

    before = weights(model)
    for tried in (False, False, True):
        overflow(model, not tried)
        step(batch)
        assert recording.tried == tried
        moved = any(not torch.equal(value, before[key]) for key, value in weights(model).items())
        assert moved == tried


def test_compiled_code_is_relied_on_only_after_a_step_that_moves_weights(tmp_path, monkeypatch):
    """Until then networks run as they are; where none comes, they go on so."""
    pretend_to_compile(monkeypatch, run_layers)
    scaling_losses(monkeypatch)
    for comes in (True, False):
        _, runtime, loader, model = build(tmp_path, "patchgcl", None, "--compile")
        said = []
        step = create_step(model, runtime, said.append)
        batch = next(iter(loader.epoch(1)))
        overflow(model, True)
        step(batch)
        assert not step.work.tried and not any(part.compiled for part in runtime.compiled)

        overflow(model, not comes)
        monkeypatch.setattr("models.step.runners.TRIALS", 2)
        step(batch)
        assert step.work.tried and all(part.compiled == comes for part in runtime.compiled)
        assert len(said) == (not comes) and all(line.endswith(UNTOLD) for line in said)


def one_of(processes: int, fault: Exception) -> CompiledStep:
    """A compiled step of one weight, on the second of so many processes: compiled code raises this."""
    net = torch.nn.Linear(1, 1)
    runtime = SimpleNamespace(
        rank=1, world_size=processes, compiled=False, rng_state=list, mean=lambda losses: losses
    )
    runtime.run_compiled = lambda on: setattr(runtime, "compiled", on)

    def optimize() -> None:
        if runtime.compiled:
            raise fault

    model = SimpleNamespace(
        runtime=runtime, networks={"G": net}, optimizers={}, get_current_losses=dict,
        remember=lambda: lambda: None, set_input=lambda batch: None, optimize_parameters=optimize,
    )  # fmt: skip
    return CompiledStep(model, lambda line: None)


def test_compiling_that_fails_on_one_of_several_processes_ends_all():
    """That one cannot go on by itself, as the others are within the step that it has left."""
    fault = RuntimeError("no compiler was found")
    alone = one_of(1, fault)
    alone({})
    assert alone.failure == str(fault)
    message = "--compile failed on process 1 of 2: no compiler was found; give --compile off"
    with pytest.raises(UserError, match=message):
        one_of(2, fault)({})

    full = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        one_of(2, full)({})
    alone = one_of(1, full)
    alone({})
    assert alone.failure == NO_ROOM


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("flags", ["--amp bf16", "--amp fp16", "--channels_last on"])
def test_other_precisions_and_layouts_stay_close(tmp_path, name, flags):
    """Losses of the first step, from the same weights: to a few per cent in half precision.

    In another layout dropout, where there is any, falls on other values."""
    losses = []
    for extra in ([], flags.split()):
        _, _, loader, model = build(tmp_path, name, None, "--no_dropout", *extra)
        torch.manual_seed(1)
        step, batch = Step(model, PlainStep(model)), next(iter(loader.epoch(1)))
        for _ in range(model.CYCLE):
            step(batch)
        losses.append({key: value.item() for key, value in model.get_current_losses().items()})
        assert all(
            p.dtype == torch.float32 for net in model.networks.values() for p in net.parameters()
        )
    tolerance = (
        {"rel": 1e-2, "abs": 1e-5} if "channels_last" in flags else {"rel": 0.1, "abs": 0.02}
    )
    for key in model.optimizers.keys() & losses[0].keys():
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
    assert (
        scale.unscale(grads, torch.ones(())) == 1
    )  # a loss that was not finite still stops the step


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


def pretend_to_compile(monkeypatch, between_convolutions):
    """What stands for the compiled code between convolutions; the graph head runs as it is."""
    monkeypatch.setattr(chain_module, "compiled_layers", lambda: between_convolutions)
    monkeypatch.setattr(graph_module, "compiled_group", lambda: graph_module.run_group)


def raising(*arguments):
    raise RuntimeError(
        "backend='inductor' raised:\n  no compiler was found\n\nset VERBOSE=1 for more"
    )


def spoiling(*arguments):
    return run_layers(*arguments) + 3


@pytest.mark.parametrize(
    ("compiled", "reason"),
    [
        (raising, "backend='inductor' raised: no compiler was found"),
        (spoiling, r"loss \w came out as [\d.]+ instead of"),
    ],
)
def test_compiled_code_that_fails_or_computes_something_else_is_not_used(
    tmp_path, monkeypatch, compiled, reason
):
    pretend_to_compile(monkeypatch, compiled)
    results, extra = [], ["--ema", "0.9", *drawing("patchgcl")]
    for flags in (["--compile", "off"], ["--compile"]):
        _, runtime, loader, model = build(tmp_path, "patchgcl", None, *flags, *extra)
        said = []
        step = create_step(model, runtime, said.append)
        torch.manual_seed(5)
        for batch in loader.epoch(1):
            step(batch)
        results.append(weights(model))
        model.check_finite("x.pt")
    [line] = said
    assert re.fullmatch(
        f"--compile: networks run as they are, since compiling failed its trial: {reason}.*", line
    )
    assert all(torch.equal(results[1][key], value) for key, value in results[0].items())

    nets = [*model.networks.values(), *model.averages.values()]
    assert not any(part.compiled for net in nets for part in runtime.compiles(net))


def test_compiled_code_that_rounds_otherwise_is_used_from_the_first_step_on(tmp_path, monkeypatch):
    calls = []

    def rounding(layers, *rest):
        calls.append(len(layers))
        return (1 + 1e-6) * run_layers(layers, *rest)

    pretend_to_compile(monkeypatch, rounding)
    _, runtime, loader, model = build(tmp_path, "patchgcl", None, "--compile")
    step = create_step(model, runtime, pytest.fail)
    counts = []
    for batch in loader.epoch(1):
        step(batch)
        counts.append(len(calls))
    assert type(step.work) is CompiledStep
    assert counts[0] == 2 * (counts[1] - counts[0]) > 0  # trial and step, then steps


def test_second_derivatives_pass_by_compiled_code(monkeypatch):
    """It has none; the penalty and its gradient are those of the plain network."""
    monkeypatch.setattr(
        chain_module, "compiled_layers", lambda: pytest.fail("compiled code was asked for")
    )
    netD = create_discriminator("basic", 3, 4, norm="none")
    real, fake, eps = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32), torch.rand(2, 1, 1, 1)
    other = copy.deepcopy(netD)
    for chain in (module for module in netD.modules() if isinstance(module, Chain)):
        chain.compile_parts()
    for penalty in (
        lambda net: gradient_penalty(net, real, fake, eps=eps),
        lambda net: r1_penalty(net, real),
    ):
        losses = [penalty(net) for net in (netD, other)]
        for loss in losses:
            loss.backward()
        assert losses[0] == losses[1]
    assert all(
        torch.equal(p.grad, q.grad)
        for p, q in zip(netD.parameters(), other.parameters(), strict=True)
        if q.grad is not None
    )
    with pytest.raises(pytest.fail.Exception):
        netD(real)


def test_auto_is_off_on_a_cpu():
    runtime = Runtime("-1")
    assert not runtime.compile and not runtime.capture and not runtime.no_capture
    assert Runtime("-1", cuda_graph="on").no_capture == "it needs a GPU"


def test_the_log_says_which_networks_are_compiled(tmp_path):
    _, _, _, model = build(tmp_path, "patchgcl", None, "--compile")
    assert all(chain.compiled for chain in model.netG.modules() if isinstance(chain, Chain))
    assert (
        model.describe().splitlines()[-2]
        == "the first step waits until netG, netD, netF are compiled in part"
    )


@pytest.mark.parametrize("able", [False, True])
def test_precision_by_name(monkeypatch, able):
    """auto takes bfloat16, and channels last with it, to train on a CPU that computes in it; never to translate."""
    monkeypatch.setattr(devices, "cpu_computes_in_bf16", lambda: able)
    cpu, best = torch.device("cpu"), torch.bfloat16 if able else None
    assert choose_precision("auto", cpu, training=True) == best
    assert choose_precision("auto", cpu) is None and choose_precision("bf16", cpu) == torch.bfloat16
    assert choose_precision("off", cpu, training=True) is None

    runtime = Runtime("-1", training=True)
    assert runtime.amp_dtype == best
    assert (runtime.memory_format == torch.channels_last) == able
    assert planned_precision("-1", "auto", True, training=True) == (
        "bfloat16" if able else "float32"
    )


def test_a_training_command_without_amp_takes_the_precision_of_the_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "cpu_computes_in_bf16", lambda: True)
    opt, runtime, loader, model = build(tmp_path, "patchgcl", None, "--amp", "auto")
    assert runtime.amp_dtype == torch.bfloat16 and "bfloat16" in opt.recipe
    PlainStep(model)(next(iter(loader.epoch(1))))
    model.check_finite("x.pt")

    test = parse(TestOptions(), ["--name", "run", "--dataroot", opt.dataroot, "--gpu_ids", "-1"])
    assert Runtime.from_options(test).amp_dtype is None


def test_the_command_line_says_what_cannot_be_had_and_writes_a_trace(tmp_path):
    flags = train_flags(
        tmp_path, "--n_epochs", "4", "--n_epochs_decay", "0", "--cuda_graph", "--profile", "2"
    )
    result = run_command(["train.py", *flags, "--amp", "bf16", "--print_freq", "1"])
    assert result.returncode == 0, result.stderr
    assert "--cuda_graph: steps are run one by one, since it needs a GPU" in result.stdout
    assert (
        "bfloat16" in result.stdout and "images/s: " in result.stdout and "step: " in result.stdout
    )
    trace = tmp_path / "checkpoints" / "run" / "trace.json.gz"
    assert f"trace: {trace}" in result.stdout
    names = {
        event.get("name")
        for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    }
    assert "aten::convolution" in names and {"ProfilerStep#10", "ProfilerStep#11"} <= names
    assert "ProfilerStep#12" not in names

    where = ["--name", "run", "--checkpoints_dir", tmp_path / "checkpoints", "--gpu_ids", "-1"]
    for amp in ("off", "bf16"):
        result = run_command(["test.py", *where, "--results_dir", tmp_path / amp, "--amp", amp])
        assert result.returncode == 0, result.stderr
    pictures = [
        [
            np.asarray(Image.open(path)).astype(int)
            for path in sorted((tmp_path / amp).rglob("fake_B/*.png"))
        ]
        for amp in ("off", "bf16")
    ]
    difference = [np.abs(a - b) for a, b in zip(*pictures, strict=True)]
    assert len(difference) == 4 and 0 < np.mean(difference) < 2  # of 255: bfloat16 rounds to 8 bits


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    ("name", "flags"),
    [(name, f"--compile off --cache {cache}") for name in TRAINED for cache in ("none", "device")]
    + [("patchgcl", "--compile on"), ("cycle_gan", "--compile on")],
)
def test_recorded_steps_on_a_gpu(tmp_path, name, flags):
    """Real CUDA graphs against the same steps run one by one; neither recording nor compiling fails its trial.

    Both models are made for recording: learning rates as numbers, and copies of weights that autocast keeps, change the
    last bits of plain steps.
    """
    extra = ["--gpu_ids", "0", "--cuda_graph", "on", "--deterministic", *drawing(name)]
    try:
        found = compare(partial(build, tmp_path, name, None, *extra, *flags.split()))
    except UserError as refusal:
        if "--cache" not in str(refusal) or not flags.endswith("--cache device"):
            raise
        pytest.skip(str(refusal))  # by a method whose images are scaled anew each time
    assert found.good, found
