"""CycleGAN: every term against its formula, one whole step against plain torch, both directions at test."""

import copy
import shutil

import pytest
import torch

from data import create_loader
from models import create_model
from options import TestOptions, TrainOptions, parse
from tests.helpers import make_image_folder, run_command, train_flags, train_options
from tests.test_models import build, step, weights
from util.errors import UserError
from util.hardware.runtime import Runtime
from util.run.checkpoint import Checkpoint, load_for_inference
from util.run.folder import run_dir
from util.run.progress import Progress


def loaded(root, *flags, name="cycle_gan"):
    """A model with a batch, forwarded as in a step."""
    _, _, loader, model = build(root, name, None, *flags)
    model.set_input(next(iter(loader.epoch(1))))
    model.load(model._micro_batches[0])
    model.forward()
    return model


def l1(a, b):
    return float((a - b).abs().double().mean())


@pytest.mark.parametrize("flags", ["--batch_size 2", "--batch_size 1 --normD none"])
def test_every_term_is_its_formula(tmp_path, flags):
    weighted = "--lambda_A 7 --lambda_B 3 --lambda_identity 0.4"
    model = loaded(tmp_path, *flags.split(), *weighted.split())
    A, B = model.real_A, model.real_B
    with torch.no_grad():
        fake_B, fake_A = model.netG_A(A), model.netG_B(B)
        expected = {
            "G_A": float((model.netD_A(fake_B) - 1).square().double().mean()),
            "G_B": float((model.netD_B(fake_A) - 1).square().double().mean()),
            "cycle_A": 7 * l1(model.netG_B(fake_B), A),
            "cycle_B": 3 * l1(model.netG_A(fake_A), B),
            "idt_A": 0.4 * 3 * l1(model.netG_A(B), B),
            "idt_B": 0.4 * 7 * l1(model.netG_B(A), A),
        }
        expected_D = {
            name: 0.5
            * float(net(fake).square().double().mean() + (net(real) - 1).square().double().mean())
            for name, net, real, fake in (
                ("D_A", model.netD_A, B, fake_B),
                ("D_B", model.netD_B, A, fake_A),
            )
        }
    terms = {name: value.item() for name, value in model.compute_G_loss().items()}
    assert terms == pytest.approx(expected, rel=1e-5)
    assert {name: value.item() for name, value in model.compute_D_loss().items()} == pytest.approx(
        expected_D, rel=1e-5
    )


def test_pictures_are_what_their_names_say(tmp_path):
    model = loaded(tmp_path)
    with torch.no_grad():
        made_by = {"fake_B": ("A", "real_A"), "rec_A": ("B", "fake_B"), "idt_B": ("B", "real_A")}
        made_by |= {"fake_A": ("B", "real_B"), "rec_B": ("A", "fake_A"), "idt_A": ("A", "real_B")}
        for name, (side, source) in made_by.items():
            expected = model.networks[f"G_{side}"](getattr(model, source))
            torch.testing.assert_close(getattr(model, name), expected)
    order = ["real_A", "fake_B", "rec_A", "idt_B", "real_B", "fake_A", "rec_B", "idt_A"]
    assert list(model.get_current_visuals()) == order


def plain_step(model):
    """G, then D on the fakes of the same forward, with plain torch and one Adam each; returns the moved weights."""
    nets = {name: copy.deepcopy(net) for name, net in model.networks.items()}
    A, B = model.real_A, model.real_B
    both = {
        p: [w for name in nets if name.startswith(p) for w in nets[name].parameters()] for p in "GD"
    }
    adam = {p: torch.optim.Adam(both[p], lr=0.0002, betas=(0.5, 0.999)) for p in "GD"}
    fake_B, fake_A = nets["G_A"](A), nets["G_B"](B)

    def mse(x, target):
        return (x - target).square().mean()

    def cycle(x, y):
        return 10 * (x - y).abs().mean()

    loss = mse(nets["D_A"](fake_B), 1) + mse(nets["D_B"](fake_A), 1)
    loss = loss + cycle(nets["G_B"](fake_B), A) + cycle(nets["G_A"](fake_A), B)
    (loss + 0.5 * (cycle(nets["G_A"](B), B) + cycle(nets["G_B"](A), A))).backward()
    adam["G"].step()
    adam["D"].zero_grad()
    loss = mse(nets["D_A"](B), 1) + mse(nets["D_A"](fake_B.detach()), 0)
    loss = loss + mse(nets["D_B"](A), 1) + mse(nets["D_B"](fake_A.detach()), 0)
    (0.5 * loss).backward()
    adam["D"].step()
    return {f"{n}.{k}": v for n, net in nets.items() for k, v in net.state_dict().items()}


def test_a_step_is_g_then_d_on_the_images_of_one_forward(tmp_path):
    model = loaded(tmp_path, "--batch_size", "2")
    before, expected = weights(model), plain_step(model)
    model.optimize_parameters()
    for key, value in weights(model).items():
        moved = (
            value - before[key]
        )  # Adam's first step is the learning rate times the gradient's sign
        wanted = expected[key] - before[key]
        same = (moved - wanted).abs() < 2e-5
        assert same.double().mean() > 0.98, key  # a gradient close to zero may have either sign
    assert all(
        not torch.equal(value, before[key])
        for key, value in expected.items()
        if key.endswith("weight")
    )


def test_the_discriminators_see_earlier_images(tmp_path):
    model = loaded(tmp_path, "--pool_size", "1")
    first = model.fake_B.detach().clone()
    model.compute_D_loss()
    assert torch.equal(model.pool_B.images, first) and model.pool_A.filled.item() == 1
    model.fake_B = first + 1
    seen = [model.pool_B(model.fake_B) for _ in range(20)]
    assert any(torch.equal(x, first) for x in seen)
    assert loaded(tmp_path, "--preprocess", "none").pool_B.images is None, (
        "its size is not known beforehand"
    )


def test_batch_norm_never_mixes_the_two_domains(tmp_path, monkeypatch):
    """Its statistics would: with it every generator and discriminator sees the domains one after the other."""
    monkeypatch.setattr("models.networks.passes.joining_pays", lambda x: True)
    model = loaded(tmp_path, "--normG", "batch", "--normD", "batch")
    with torch.no_grad():
        torch.testing.assert_close(model.fake_B, model.netG_A(model.real_A))
        torch.testing.assert_close(model.idt_A, model.netG_A(model.real_B))
        both = model.netG_A(torch.cat([model.real_A, model.real_B]))
        assert (both[:1] - model.fake_B).abs().max() > 1e-3
        real, fake = model.netD_A(model.real_B), model.netD_A(model.fake_B)
        expected = 0.5 * ((real - 1).square().mean() + fake.square().mean())
    torch.testing.assert_close(model.compute_D_loss()["D_A"].detach(), expected)


def test_without_identity_terms_nothing_is_computed_for_them(tmp_path):
    model = loaded(tmp_path, "--lambda_identity", "0", "--input_nc", "1")
    calls = []
    model.netG_A.register_forward_hook(lambda *_: calls.append("A"))
    model.netG_B.register_forward_hook(lambda *_: calls.append("B"))
    model.forward()
    assert sorted(calls) == ["A", "A", "B", "B"]
    assert not any(
        name.startswith("idt") for name in [*model.compute_G_loss(), *model.visual_names]
    )
    assert (
        model.fake_B.shape[1] == model.rec_B.shape[1] == 3
        and model.rec_A.shape[1] == model.fake_A.shape[1] == 1
    )


def test_images_of_unlike_sizes_in_the_two_domains(tmp_path):
    make_image_folder(tmp_path / "data" / "trainA", count=3, size=(40, 32))
    make_image_folder(tmp_path / "data" / "trainB", count=3, size=(32, 48))
    model = loaded(tmp_path, "--preprocess", "none")
    model.optimize_parameters()
    assert model.fake_B.shape[-2:] == (32, 40) and model.fake_A.shape[-2:] == (48, 32)


@pytest.mark.parametrize("mode", ["wgangp", "hinge", "vanilla"])
def test_other_objectives_train(tmp_path, mode):
    _, _, loader, model = build(tmp_path, "cycle_gan", None, "--gan_mode", mode, "--normD", "none")
    losses = step(model, next(iter(loader.epoch(1))))
    assert ("D_A_gp" in losses) == (mode == "wgangp") and all(
        abs(value) < 1e4 for value in losses.values()
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--input_nc 1", "--lambda_identity 0.5 needs equal channels"),
        ("--pool_size -1", "at least 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        train_options(tmp_path, *flags.split(), model="cycle_gan")


def test_presets():
    def parsed(*flags):
        return parse(TrainOptions(), ["--dataroot", "x", "--model", "cycle_gan", *flags])

    official, shared = parsed(), parsed("--preset", "shared")
    assert (official.preset, official.init_type, official.no_antialias, official.no_antialias_up) == (
        "official", "normal", True, True,
    )  # fmt: skip
    assert (official.n_epochs, official.n_epochs_decay, official.finetune_resize) == (
        100,
        100,
        False,
    )
    assert (shared.init_type, shared.no_antialias, shared.n_epochs, shared.finetune_resize) == (
        "xavier", False, 200, True,
    )  # fmt: skip
    assert official.pool_size == shared.pool_size == 50
    assert (official.netG, official.normG, official.gan_mode, official.lr) == (
        "resnet_9blocks",
        "instance",
        "lsgan",
        2e-4,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run trained from the command line with moving averages, on unlike numbers of images per domain."""
    root = tmp_path_factory.mktemp("cycle")
    flags = train_flags(root, "--max_steps", "3", "--ema", "0.5", model="cycle_gan")
    (root / "data" / "testB" / "image_003.png").unlink()
    for path in (root / "data" / "testA").glob("*3.png"):
        make_image_folder(path.parent, 1, (44, 30), seed=9)
    result = run_command(["train.py", *flags])
    assert result.returncode == 0, result.stderr
    assert "recipe: cycle_gan, preset official" in result.stdout
    return root


def shown(root, *flags) -> tuple[dict[str, dict[str, torch.Tensor]], list[str]]:
    """What test.py would write, label -> name -> picture, and the files of weights it would load."""
    flags = [
        "--name",
        "run",
        "--checkpoints_dir",
        str(root / "checkpoints"),
        *flags,
        "--gpu_ids",
        "-1",
    ]
    opt = parse(TestOptions(), [*flags, "--num_threads", "0"])
    runtime = Runtime.from_options(opt)
    loader, model = create_loader(opt, runtime), create_model(opt, runtime)
    files = load_for_inference(model, run_dir(opt), opt.epoch)
    if opt.eval:
        model.eval()
    found = {}
    with torch.inference_mode():
        for batch in loader.epoch(1):
            paths = batch["A_paths" if "A" in batch else "B_paths"]
            for label, pictures in model.show(batch).items():
                for path, picture in zip(paths, pictures, strict=True):
                    assert found.setdefault(label, {}).setdefault(path[-13:], picture) is picture
    return found, files


NAMES = [f"image_{n:03d}.png" for n in range(4)]
BOTH = {
    **dict.fromkeys(("real_A", "fake_B", "rec_A"), NAMES),
    **dict.fromkeys(("real_B", "fake_A", "rec_B"), NAMES[:3]),
}


def test_the_released_test_command_translates_both_directions(run, tmp_path):
    where = [
        "--checkpoints_dir",
        run / "checkpoints",
        "--results_dir",
        tmp_path,
        "--gpu_ids",
        "-1",
        "--num_threads",
        "0",
    ]
    flags = [
        "--dataroot",
        run / "data",
        "--name",
        "run",
        "--model",
        "cycle_gan",
        "--batch_size",
        "2",
    ]
    result = run_command(["test.py", *flags, *where])
    assert result.returncode == 0, result.stderr
    images = tmp_path / "run" / "test_latest" / "images"
    assert {
        folder.name: sorted(path.name for path in folder.iterdir()) for folder in images.iterdir()
    } == BOTH


@pytest.mark.parametrize("batch_size", ["1", "2", "5"])
def test_no_image_is_lost_whatever_the_batch(run, batch_size):
    found, files = shown(run, "--batch_size", batch_size)
    assert {label: sorted(pictures) for label, pictures in found.items()} == BOTH
    assert files == ["latest_net_G_A_ema.pth", "latest_net_G_B_ema.pth"]


def test_each_direction_uses_the_average_of_its_own_generator(run):
    opt = train_options(run, "--ema", "0.5", model="cycle_gan")
    runtime = Runtime.from_options(opt)
    model = create_model(opt, runtime)
    batch = next(iter(create_loader(opt, runtime).epoch(1)))
    for net in model.averages.values():
        for parameter in net.parameters():
            parameter.data.mul_(1.5)
    with torch.no_grad():
        shown = model.show({"A": batch["A"]})
        fake_B = model.averages["G_A"](batch["A"])
        torch.testing.assert_close(shown["fake_B"], fake_B)
        torch.testing.assert_close(shown["rec_A"], model.averages["G_B"](fake_B))
        torch.testing.assert_close(model.translate(batch["A"]), fake_B)
        shown = model.show({"B": batch["B"]})
        torch.testing.assert_close(shown["fake_A"], model.averages["G_B"](batch["B"]))
        assert list(shown) == ["real_B", "fake_A", "rec_B"]


def test_inputs_alone_need_only_their_own_generator(run, tmp_path):
    folder = tmp_path / "checkpoints" / "run"
    shutil.copytree(run / "checkpoints" / "run", folder)
    for path in folder.glob("*net_[GD]_B*"):
        path.unlink()
    both, _ = shown(run)
    for flags in (["--dataroot", str(run / "data" / "testA")], ["--dataset_mode", "single"]):
        alone, files = shown(tmp_path, *flags)
        assert sorted(alone) == ["fake_B", "real_A"] and files == ["latest_net_G_A_ema.pth"]
        for name, picture in alone["fake_B"].items():
            torch.testing.assert_close(picture, both["fake_B"][name])


def test_a_full_pool_goes_on_where_a_run_was_interrupted(tmp_path):
    opt, runtime, loader, model = build(tmp_path, "cycle_gan", None, "--pool_size", "2")
    batches = [batch for epoch in (1, 2, 3) for batch in loader.epoch(epoch)]
    for batch in batches[:5]:
        step(model, batch)
    Checkpoint(opt, runtime, model, Progress(1, 2, len(loader), 1)).save_latest()
    expected = [step(model, batch) for batch in batches[5:]]
    opt, runtime, _, again = build(tmp_path, "cycle_gan", None, "--pool_size", "2")
    Checkpoint(opt, runtime, again, Progress(1, 2, len(loader), 1)).resume()
    assert [step(again, batch) for batch in batches[5:]] == expected
    assert torch.equal(again.pool_A.images, model.pool_A.images)
