"""What the contract holds beside a generator and its losses: each point in an example model of tests/examples."""

import sys
from argparse import Namespace

import numpy as np
import pytest
import torch
from PIL import Image

import models
from data import create_loader
from models import create_model, resolve_alias
from models.inference.translate import translate
from options import TestOptions, parse
from tests import test_fast_step, test_models
from tests.helpers import REPO, folder_in_use, make_dataset, make_image_folder, train_options
from tests.test_models import build, step, weights
from util.errors import UserError
from util.hardware.runtime import Runtime
from util.lock import LOCK
from util.run.checkpoint import Checkpoint
from util.run.folder import result_dir, save_record
from util.run.progress import Progress

EXAMPLES = REPO / "tests" / "examples"
TRAINED = ["statistics", "cyclic", "momentum", "styled"]


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """The examples are methods like those of models/, found by file name."""
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(EXAMPLES)])
    yield
    for name in [name for name in sys.modules if name.startswith("models.")]:
        if str(EXAMPLES) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def saved(root, opt, runtime, model, loader):
    """Save as a run does after its first step; returns the checkpoint."""
    progress = Progress(1, 2, len(loader), loader.images_per_step)
    checkpoint = Checkpoint(opt, runtime, model, progress)
    checkpoint.save_latest()
    return checkpoint


# -- every example goes through the registry's tests -----------------------------------------------


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_is_finite_and_reaches_every_parameter(tmp_path, name):
    test_models.test_a_step_is_finite_and_reaches_every_parameter(tmp_path, name, "official", 2)


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_never_waits_for_the_device(tmp_path, name):
    test_models.test_a_step_never_waits_for_the_device(tmp_path, name, "official")


@pytest.mark.parametrize("name", TRAINED)
def test_resume_is_bit_identical(tmp_path, name):
    test_models.test_resume_reproduces_the_next_losses(tmp_path, name, "official")


@pytest.mark.parametrize("name", TRAINED)
def test_recorded_steps_are_plain_steps(tmp_path, monkeypatch, name):
    run = test_fast_step.test_recorded_steps_are_plain_steps_bit_for_bit
    run(tmp_path, monkeypatch, name, "official")


# -- before the first step -------------------------------------------------------------------------


def test_statistics_are_taken_once_and_saved_with_the_run(tmp_path):
    opt, runtime, loader, model = build(tmp_path, "statistics", "official")
    model.prepare_once(loader.dataset)
    model.prepare_once(loader.dataset)
    assert model.preparations == 1
    samples = [loader.dataset.sample(index)["B"] for index in range(len(loader.dataset))]
    expected = np.mean([sample.numpy().mean((1, 2)) for sample in samples], 0)
    assert np.allclose(model.statistics.mean_B, expected, atol=1e-6)
    saved(tmp_path, opt, runtime, model, loader)

    opt, runtime, loader, again = build(tmp_path, "statistics", "official")
    Checkpoint(opt, runtime, again, Progress(1, 2, len(loader), 1)).resume()
    again.prepare_once(loader.dataset)
    assert again.preparations == 0
    assert torch.equal(again.statistics.mean_B, model.statistics.mean_B)


def test_a_sample_is_what_the_loader_gives(tmp_path):
    _, _, loader, _ = build(tmp_path, "statistics", "official")
    batch = next(iter(loader.epoch(1)))
    sample = loader.dataset.sample(batch["index"][0])
    for role in ("A", "B"):
        torch.testing.assert_close(batch[role][0], sample[role])


# -- players ---------------------------------------------------------------------------------------


def test_players_move_when_it_is_their_turn(tmp_path):
    _, _, loader, model = build(tmp_path, "cyclic", "official")
    batch, moved = next(iter(loader.epoch(1))), []
    for _ in range(6):
        before = weights(model)
        step(model, batch)
        changed = {
            k.split(".")[0] for k, v in weights(model).items() if not torch.equal(v, before[k])
        }
        moved.append("".join(sorted(changed)))
    assert moved == ["D", "D", "EG", "D", "D", "EG"]


def test_a_resumed_run_goes_on_at_its_turn(tmp_path):
    opt, runtime, loader, model = build(tmp_path, "cyclic", "official")
    for batch in list(loader.epoch(1))[:2]:
        step(model, batch)
    saved(tmp_path, opt, runtime, model, loader)
    opt, runtime, loader, again = build(tmp_path, "cyclic", "official")
    Checkpoint(opt, runtime, again, Progress(1, 2, len(loader), 1)).resume()
    assert (again.turn, again.steps) == (2, 2)


def test_each_player_has_its_own_settings_also_after_a_resume(tmp_path):
    opt, runtime, loader, model = build(tmp_path, "cyclic", "official")
    for _ in range(3):
        step(model, next(iter(loader.epoch(1))))
    saved(tmp_path, opt, runtime, model, loader)
    opt, runtime, _, again = build(tmp_path, "cyclic", "official")
    Checkpoint(opt, runtime, again, Progress(1, 2, len(loader), 1)).resume()
    for found in (model, again):
        groups = {name: adam.param_groups[0] for name, adam in found.optimizers.items()}
        assert [groups[name]["weight_decay"] for name in "DGE"] == [1e-2, 0, 0]
        assert (groups["E"]["lr"], groups["E"]["betas"]) == (0.001, (0.9, 0.99))
        assert (groups["G"]["lr"], groups["G"]["betas"]) == (0.0002, (0.5, 0.999))


def test_a_clipped_gradient_has_the_length_asked_for(tmp_path):
    _, _, loader, model = build(tmp_path, "cyclic", "official")
    batch = next(iter(loader.epoch(1)))
    lengths = []
    for limit in (float("inf"), 0.01):
        model._clip_norm["D"] = limit
        model.steps = 0
        model.set_input(batch)
        model.optimize_parameters()
        grads = [p.grad.flatten() for p in model.netD.parameters() if p.grad is not None]
        lengths.append(torch.cat(grads).norm().item())
    assert lengths[0] > 0.02, "else there is nothing to clip"
    assert lengths[1] == pytest.approx(0.01, rel=1e-4)


def test_a_player_of_two_losses_takes_one_step_down_their_sum(tmp_path):
    """Beside autograd on the sum; E, which the second loss reads, learns from the first alone."""
    _, _, loader, model = build(tmp_path, "cyclic", "official")
    model.steps = 2
    model.set_input(next(iter(loader.epoch(1))))
    model.load(model._micro_batches[0])
    model.forward()
    content = model.compute_content_loss()["content"]
    fooled = model.compute_G_loss()["G_GAN"]
    G, E = list(model.netG.parameters()), list(model.netE.parameters())
    wanted_G = torch.autograd.grad(content + fooled, G, retain_graph=True, allow_unused=True)
    wanted_E = torch.autograd.grad(content, E)

    model.optimize_parameters()
    for parameter, wanted in [*zip(G, wanted_G, strict=True), *zip(E, wanted_E, strict=True)]:
        if wanted is not None:
            torch.testing.assert_close(parameter.grad, wanted)


def test_a_follower_is_the_moving_average_of_its_leader(tmp_path):
    _, _, loader, model = build(tmp_path, "momentum", "official")
    expected = {key: value.clone() for key, value in model.follower.state_dict().items()}
    for batch in list(loader.epoch(1))[:3]:
        step(model, batch)
        for key, value in model.netE.state_dict().items():
            expected[key] = 0.9 * expected[key] + 0.1 * value
    for key, value in model.follower.state_dict().items():
        torch.testing.assert_close(value, expected[key])
    assert not any(parameter.requires_grad for parameter in model.follower.parameters())
    assert "E_" not in model.networks, "a follower is state, no network of its own"


def test_statistics_follow_and_counters_are_copied(tmp_path):
    _, _, _, model = build(tmp_path, "momentum", "official")
    follower, leader = torch.nn.BatchNorm2d(2), torch.nn.BatchNorm2d(2)
    leader.running_mean.fill_(4.0)
    leader.num_batches_tracked.fill_(7)
    model.follow(follower, leader, 0.75)
    assert follower.running_mean.tolist() == [1.0, 1.0]
    assert follower.num_batches_tracked == 7


def test_rates_can_fall_by_steps(tmp_path):
    flags = ["--lr_policy", "halving", "--lr_decay_iters", "3"]
    opt, runtime, loader, model = build(tmp_path, "momentum", "official", *flags)
    rates = []
    for batch in [*loader.epoch(1), *loader.epoch(2)]:
        rates.append(model.learning_rate)
        step(model, batch)
    assert rates == pytest.approx([2e-4] * 3 + [1e-4] * 3 + [5e-5] * 2)
    model.end_epoch()
    assert model.learning_rate == pytest.approx(5e-5)
    saved(tmp_path, opt, runtime, model, loader)
    opt, runtime, loader, again = build(tmp_path, "momentum", "official", *flags)
    Checkpoint(opt, runtime, again, Progress(1, 9, len(loader), 1)).resume()
    step(again, next(iter(loader.epoch(1))))
    assert again.learning_rate == pytest.approx(2.5e-5)


# -- translation -----------------------------------------------------------------------------------


def test_options(root, name, *flags) -> Namespace:
    where = ["--checkpoints_dir", str(root / "checkpoints"), "--results_dir", str(root / "results")]
    return parse(TestOptions(), ["--name", name, *where, "--gpu_ids", "-1", *flags])


test_options.__test__ = False


def picture(root, name, label, stem) -> np.ndarray:
    return np.asarray(
        Image.open(root / "results" / name / "test_latest" / "images" / label / f"{stem}.png")
    )


def styled_run(root) -> None:
    """A run of the styled example with weights to translate with."""
    opt, runtime, loader, model = build(root, "styled", "official")
    save_record(opt, runtime.versions())
    saved(root, opt, runtime, model, loader)


def test_styles_are_drawn_from_the_seed_and_the_same_for_all_inputs(tmp_path):
    styled_run(tmp_path)
    translate(test_options(tmp_path, "run", "--num_styles", "3"))
    first = {}
    for label in ("fake_B", "fake_B_2", "fake_B_3"):
        colours = {tuple(picture(tmp_path, "run", label, f"image_00{i}")[0, 0]) for i in range(4)}
        assert len(colours) == 1, "all inputs have the same styles"
        first[label] = colours
    assert len({frozenset(colours) for colours in first.values()}) == 3

    translate(test_options(tmp_path, "run", "--num_styles", "3", "--batch_size", "2"))
    assert {tuple(picture(tmp_path, "run", "fake_B_2", "image_000")[0, 0])} == first["fake_B_2"]
    translate(test_options(tmp_path, "run", "--num_styles", "2", "--seed", "5"))
    assert {tuple(picture(tmp_path, "run", "fake_B_2", "image_000")[0, 0])} != first["fake_B_2"]


@pytest.mark.parametrize("name", ["cut", "cycle_gan", "drit", "munit"])
def test_the_parameters_that_are_counted_are_those_that_translate(tmp_path, name):
    """Not those of the way back, nor what reads styles: they get no gradient of a translation from A to B."""
    save_record(train_options(tmp_path, model=name), {})
    model = create_model(test_options(tmp_path, "run"), Runtime("-1"))
    model.translate(torch.rand(1, 3, 32, 32)).sum().backward()

    # biases that a norm takes away again are not computed with
    every = [p for net in model.networks.values() for p in net.parameters() if p.ndim > 1]
    parts = [p for part in model.translating_parts() for p in part.parameters()]
    assert {p for p in parts if p.ndim > 1} == {p for p in every if p.grad is not None}
    assert model.count_parameters() == sum(p.numel() for p in parts)
    assert (len({*every} - {*parts}) > 0) == (name != "cut"), "there is more than translates"


def test_a_result_says_how_many_parameters_made_it(tmp_path):
    styled_run(tmp_path)
    opt = test_options(tmp_path, "run")
    count = create_model(opt, Runtime("-1")).count_parameters()
    assert translate(opt).description["parameters"] == f"{count:,}"


def test_a_folder_is_translated_into_by_one_process_at_a_time(tmp_path):
    styled_run(tmp_path)
    opt = test_options(tmp_path, "run")
    with folder_in_use(result_dir(opt)) as holder:
        expected = rf"process {holder.pid} on .* is writing these pictures.*another --results_dir"
        with pytest.raises(UserError, match=expected):
            translate(opt)
        assert [path.name for path in result_dir(opt).iterdir()] == [LOCK]

    assert len(translate(opt).rows) == 8
    with folder_in_use(result_dir(opt)):
        pass  # it was left free


def test_a_style_is_read_from_reference_images(tmp_path):
    styled_run(tmp_path)
    folder = tmp_path / "styles"
    folder.mkdir()
    for name, colour in (("red", (200, 20, 30)), ("blue", (10, 20, 220))):
        Image.new("RGB", (17, 23), colour).save(folder / f"{name}.png")
    translate(test_options(tmp_path, "run", "--style", str(folder)))
    assert tuple(picture(tmp_path, "run", "fake_B", "image_000")[3, 3]) == (10, 20, 220)
    assert tuple(picture(tmp_path, "run", "fake_B_2", "image_002")[3, 3]) == (200, 20, 30)


def test_a_method_without_training_optimises_at_test(tmp_path):
    """No run, content and style of unlike sizes in one sample, gradients while it translates."""
    data = make_dataset(tmp_path / "data", count=2)
    make_image_folder(data / "testB", 2, size=(52, 44), seed=9)
    flags = ["--model", "painter", "--dataroot", str(data)]
    translate(test_options(tmp_path, "p", *flags))
    for stem in ("image_000", "image_001"):
        painted = picture(tmp_path, "p", "fake_B", stem)
        style = picture(tmp_path, "p", "real_B", stem)
        assert painted.shape == picture(tmp_path, "p", "real_A", stem).shape == (36, 40, 3)
        assert style.shape == (44, 52, 3)
        assert np.abs(painted.mean((0, 1)) - style.mean((0, 1))).max() < 2


def test_what_takes_long_is_recorded_and_made_once(tmp_path, monkeypatch):
    data = make_dataset(tmp_path / "data", count=2)
    flags = ["--model", "painter", "--dataroot", str(data)]
    page = translate(test_options(tmp_path, "p", *flags))
    assert page.description["paint"] == "oil" and float(page.description["mean apart"]) < 1e-3

    painter = models.find_model("painter")
    monkeypatch.setattr(painter, "show", lambda *_: pytest.fail("a finished picture is made again"))
    again = translate(test_options(tmp_path, "p", *flags))
    assert [name for name, _ in again.rows] == [name for name, _ in page.rows]
    assert again.description["mean apart"] == page.description["mean apart"]
    monkeypatch.setattr(painter, "facts", lambda self: {"paint": "watercolour"})
    with pytest.raises(pytest.fail.Exception, match="made again"):
        translate(test_options(tmp_path, "p", *flags))


@pytest.mark.parametrize(
    ("pairing", "names"),
    [
        ("order", ["image_000", "image_001", "image_002"]),
        ("name", ["image_000", "image_001", "image_002"]),
        ("each", [f"image_00{c}__image_00{s}" for c in range(3) for s in (1, 2)]),
    ],
)
def test_contents_and_styles_are_paired(tmp_path, pairing, names):
    make_image_folder(tmp_path / "data" / "testA", 3, seed=1)
    make_image_folder(tmp_path / "styles", 3, seed=2)
    if pairing == "each":
        (tmp_path / "styles" / "image_000.png").unlink()
    flags = ["--model", "painter", "--dataroot", str(tmp_path / "data"), "--pair_by", pairing]
    opt = test_options(tmp_path, "p", *flags, "--style", str(tmp_path / "styles"))
    loader = create_loader(opt, Runtime("-1"))
    assert loader.dataset.result_names() == names
    batches = list(loader.epoch(1))
    assert len(batches) == len(names)
    for batch, name in zip(batches, names, strict=True):
        content, _, style = name.partition("__")
        assert content in batch["A_paths"][0]
        assert (style or content) in batch["B_paths"][0]


def test_a_content_without_a_style_of_its_name_is_named(tmp_path):
    make_image_folder(tmp_path / "data" / "testA", 3)
    make_image_folder(tmp_path / "styles", 2)
    flags = ["--model", "painter", "--dataroot", str(tmp_path / "data"), "--pair_by", "name"]
    with pytest.raises(UserError, match=r"image_002\.png has no style of its name"):
        create_loader(
            test_options(tmp_path, "p", *flags, "--style", str(tmp_path / "styles")), Runtime("-1")
        )


def test_without_styles_the_remedy_is_named(tmp_path):
    make_image_folder(tmp_path / "photos", 2)
    flags = ["--model", "painter", "--dataroot", str(tmp_path / "photos")]
    with pytest.raises(UserError, match=r"no domain B .* --style"):
        create_loader(test_options(tmp_path, "p", *flags), Runtime("-1"))
    with pytest.raises(UserError, match="is no image and no folder"):
        create_loader(test_options(tmp_path, "p", *flags, "--style", "nowhere.png"), Runtime("-1"))


# -- names -----------------------------------------------------------------------------------------


def test_the_name_of_a_release_means_its_method(monkeypatch):
    plain, learned = models.find_model("cut"), models.find_model("cycle_gan")
    monkeypatch.setattr(plain, "ALIASES", {"sc": ()})
    monkeypatch.setattr(learned, "ALIASES", {"sc": ("--learned_attn",)})
    assert resolve_alias("sc", []) == "cut"
    assert resolve_alias("sc", ["--learned_attn"]) == "cycle_gan"
    assert resolve_alias("cut", ["--learned_attn"]) == "cut"
    assert resolve_alias("nothing", []) == "nothing"


def test_a_flag_may_tell_that_a_name_from_here_means_another_method(monkeypatch):
    """A release that grew out of CUT's calls its own method cut."""
    monkeypatch.setattr(models.find_model("cycle_gan"), "ALIASES", {"cut": ("--lambda_own",)})
    assert resolve_alias("cut", ["--lambda_own=1"]) == "cycle_gan"
    assert resolve_alias("cut", ["--lambda_NCE"]) == "cut"
    monkeypatch.setattr(models.find_model("cycle_gan"), "ALIASES", {"cut": ()})
    assert resolve_alias("cut", []) == "cut", "no flag, no other method"


def test_at_test_the_name_of_a_release_means_the_method_of_the_run(monkeypatch):
    """Even where the flags that told it in training are not repeated."""
    monkeypatch.setattr(models.find_model("cycle_gan"), "ALIASES", {"sc": ("--learned_attn",)})
    monkeypatch.setattr(models.find_model("cut"), "ALIASES", {"sc": ()})
    assert resolve_alias("sc", [], trained="cycle_gan") == "cycle_gan"
    assert resolve_alias("sc", [], trained="cut") == "cut"
    assert resolve_alias("pix2pix", [], trained="cut") == "pix2pix"


def test_the_name_of_a_release_is_typed_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr(models.find_model("cut"), "ALIASES", {"contrastive": ()})
    assert train_options(tmp_path, "--model", "contrastive", model="cut").model == "cut"


def test_moments_take_the_layout_of_the_weights(tmp_path):
    """A run that began with another layout, such as a CPU's, goes on: a fused Adam on a GPU wants one layout."""
    opt, runtime, loader, model = build(tmp_path, "statistics", "official")
    step(model, next(iter(loader.epoch(1))))
    saved(tmp_path, opt, runtime, model, loader)
    opt, runtime, loader, again = build(tmp_path, "statistics", "official", "--channels_last", "on")
    Checkpoint(opt, runtime, again, Progress(1, 2, len(loader), 1)).resume()
    unlike = 0
    for name, optimizer in again.optimizers.items():
        before = {id(p): s for p, s in optimizer.state.items()}
        for parameter in optimizer.param_groups[0]["params"]:
            for value in before.get(id(parameter), {}).values():
                if value.shape == parameter.shape:
                    assert value.stride() == parameter.stride(), name
                    unlike += not value.is_contiguous()
    assert unlike, "some weights do lie otherwise"
    a, b = again.optimizers["G"].state_dict()["state"], model.optimizers["G"].state_dict()["state"]
    assert all(torch.equal(a[i]["exp_avg"], b[i]["exp_avg"]) for i in a)
    step(again, next(iter(loader.epoch(1))))


def test_models_are_created_by_their_own_name(tmp_path):
    opt = train_options(tmp_path, model="cyclic")
    assert type(create_model(opt, Runtime("-1"))).__name__ == "CyclicModel"
