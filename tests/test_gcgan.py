"""GcGAN: turns against loops, what holds each translation still, every term, a whole step, two generators."""

import copy

import pytest
import torch

from models import find_model
from models.losses.geometry import GEOMETRIES, consistency_loss, turn_left, turn_right, upside_down
from options import TrainOptions, parse
from tests.helpers import make_image_folder, run_command, train_flags, train_options
from tests.test_cycle_gan import shown
from tests.test_models import build, step, weights
from util.errors import UserError
from util.run.checkpoint import Checkpoint
from util.run.progress import Progress


def images(batch, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, *size, dtype=torch.float64, generator=generator) * 2 - 1


def place_after(geometry, row, column, height):
    """Where a pixel of an image with `height` rows goes."""
    return (column, height - 1 - row) if geometry == "rotation" else (height - 1 - row, column)


def loop_apply(geometry, x):
    """One pixel after the other, (C,H,W)."""
    channels, height, width = x.shape
    size = (width, height) if geometry == "rotation" else (height, width)
    out = torch.full((channels, *size), torch.nan, dtype=x.dtype)
    for row in range(height):
        for column in range(width):
            out[(slice(None), *place_after(geometry, row, column, height))] = x[:, row, column]
    return out


def loop_consistency(geometry, fake, turned):
    """Both terms as sums over pixels; nothing is detached here."""
    upright, other, count = 0, 0, fake.numel()
    for y, z in zip(fake, turned, strict=True):
        _, height, width = y.shape
        for row in range(height):
            for column in range(width):
                there = (slice(None), *place_after(geometry, row, column, height))
                upright = upright + (y[:, row, column] - z[there].detach()).abs().sum()
                other = other + (z[there] - y[:, row, column].detach()).abs().sum()
    return upright / count + other / count


# -- geometry --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("size", [(4, 4), (3, 5), (6, 2), (1, 4)])
@pytest.mark.parametrize("batch", [1, 3])
def test_geometries_equal_loops_and_can_be_undone(geometry, size, batch):
    x = images(batch, size)
    turned = GEOMETRIES[geometry].apply(x)
    assert torch.equal(turned, torch.stack([loop_apply(geometry, image) for image in x]))
    assert torch.equal(GEOMETRIES[geometry].undo(turned), x)
    assert torch.equal(GEOMETRIES[geometry].apply(GEOMETRIES[geometry].undo(x)), x)


def test_a_turn_to_the_right_is_clockwise():
    x = torch.tensor([[1, 2, 3], [4, 5, 6]])[None, None]
    assert turn_right(x)[0, 0].tolist() == [[4, 1], [5, 2], [6, 3]]
    assert turn_left(x)[0, 0].tolist() == [[3, 6], [2, 5], [1, 4]]
    assert upside_down(x)[0, 0].tolist() == [[4, 5, 6], [1, 2, 3]]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("size", [(4, 4), (3, 5)])
@pytest.mark.parametrize("batch", [1, 3])
def test_consistency_and_its_gradients_equal_loops(geometry, size, batch):
    f = GEOMETRIES[geometry]
    fake, turned = images(batch, size).requires_grad_(), f.apply(images(batch, size, 1))
    turned.requires_grad_()
    found, expected = consistency_loss(fake, turned, f), loop_consistency(geometry, fake, turned)
    torch.testing.assert_close(found, expected)

    wanted = torch.autograd.grad(expected, (fake, turned))
    for a, b in zip(torch.autograd.grad(found, (fake, turned)), wanted, strict=True):
        assert (b.abs() * fake.numel() - 1).abs().max() < 1e-9, "one term, so each has slope 1"
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_translations_that_agree_cost_nothing(geometry):
    f, fake = GEOMETRIES[geometry], images(2, (3, 5)).requires_grad_()
    loss = consistency_loss(fake, f.apply(fake), f)
    loss.backward()
    assert loss == 0 and not fake.grad.any()


def test_half_precision_is_compared_in_float32():
    f, fake = GEOMETRIES["rotation"], images(2, (8, 4)).bfloat16()
    turned = f.apply(images(2, (8, 4), 1)).bfloat16()
    loss = consistency_loss(fake, turned, f)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, consistency_loss(fake.double(), turned.double(), f).float())


# -- terms -----------------------------------------------------------------------------------------------------------


def loaded(root, preset, *flags):
    """A model with a batch, forwarded as in a step."""
    _, _, loader, model = build(root, "gcgan", preset, *flags)
    model.set_input(next(iter(loader.epoch(1))))
    model.load(model._micro_batches[0])
    model.forward()
    return model


def l1(a, b):
    return float((a - b).abs().double().mean())


def squares(net, x, target):
    return float((net(x) - target).square().double().mean())


@pytest.mark.parametrize("preset", ["official", "cross"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_term_is_its_formula(tmp_path, preset, geometry):
    weighted = "--lambda_G 0.5 --lambda_AB 7 --lambda_gc 3 --identity 0.2"
    model = loaded(tmp_path, preset, "--geometry", geometry, *weighted.split())
    A, B, f = model.real_A, model.real_B, GEOMETRIES[geometry]
    G, G_gc = model.netG, model.netG_gc if preset == "cross" else model.netG
    D, D_gc = model.netD, model.netD_gc
    with torch.no_grad():
        y, z = G(A), G_gc(f.apply(A))
        expected = {
            "G_GAN": 0.5 * squares(D, y, 1),
            "G_gc": 0.5 * squares(D_gc, z, 1),
            "gc": 7 * 3 * (l1(y, f.undo(z)) + l1(z, f.apply(y))),
            "idt": 7 * 0.2 * l1(G(B), B),
            "idt_gc": 7 * 0.2 * l1(G_gc(f.apply(B)), f.apply(B)),
        }
        expected_D = {
            "D_B": 0.5 * (squares(D, B, 1) + squares(D, y, 0)),
            "D_gc": 0.5 * (squares(D_gc, f.apply(B), 1) + squares(D_gc, z, 0)),
        }
    terms = {name: value.item() for name, value in model.compute_G_loss().items()}
    assert terms == pytest.approx(expected, rel=1e-5)
    terms = {name: value.item() for name, value in model.compute_D_loss().items()}
    assert terms == pytest.approx(expected_D, rel=1e-5)


def test_published_weights_are_20_and_5():
    opt = parse(TrainOptions(), ["--dataroot", "x", "--model", "gcgan"])
    assert opt.lambda_AB * opt.lambda_gc == 20 and opt.lambda_AB * opt.identity == 5


def plain_step(model):
    """G, then both D on the fakes of the same forward, with plain torch; returns the moved weights."""
    nets = {name: copy.deepcopy(net) for name, net in model.networks.items()}
    adam = {}
    for player in "GD":
        parameters = [p for name in nets if name[0] == player for p in nets[name].parameters()]
        adam[player] = torch.optim.Adam(parameters, lr=0.0002, betas=(0.5, 0.999))
    A, B, other = model.real_A, model.real_B, nets.get("G_gc", nets["G"])
    turned_A, turned_B = torch.rot90(A, 3, (2, 3)), torch.rot90(B, 3, (2, 3))
    y, z = nets["G"](A), other(turned_A)

    def mse(x, target):
        return (x - target).square().mean()

    def l1(a, b):
        return (a - b).abs().mean()

    loss = mse(nets["D"](y), 1) + mse(nets["D_gc"](z), 1)
    loss = loss + 20 * l1(y, torch.rot90(z, 1, (2, 3)).detach())
    loss = loss + 20 * l1(z, torch.rot90(y, 3, (2, 3)).detach())
    loss = loss + 5 * l1(nets["G"](B), B) + 5 * l1(other(turned_B), turned_B)
    loss.backward()
    adam["G"].step()

    adam["D"].zero_grad()
    loss = mse(nets["D"](B), 1) + mse(nets["D"](y.detach()), 0)
    loss = loss + mse(nets["D_gc"](turned_B), 1) + mse(nets["D_gc"](z.detach()), 0)
    (0.5 * loss).backward()
    adam["D"].step()
    return {f"{n}.{k}": v for n, net in nets.items() for k, v in net.state_dict().items()}


@pytest.mark.parametrize("preset", ["official", "cross"])
def test_a_step_is_g_then_d_on_the_images_of_one_forward(tmp_path, preset):
    model = loaded(tmp_path, preset)
    before, expected = weights(model), plain_step(model)
    model.optimize_parameters()
    for key, value in weights(model).items():
        # Adam's first step is the learning rate times the gradient's sign, and one close to zero may have either
        moved, wanted = value - before[key], expected[key] - before[key]
        assert ((moved - wanted).abs() < 2e-5).double().mean() > 0.98, key
    assert all(not torch.equal(expected[k], v) for k, v in before.items() if k.endswith("weight"))


def test_each_discriminator_has_a_pool_of_its_own(tmp_path):
    model = loaded(tmp_path, "official", "--pool_size", "2")
    model.compute_D_loss()
    assert torch.equal(model.pool_B.images, model.fake_B.detach())
    assert torch.equal(model.pool_gc.images, model.fake_turned.detach())


def test_without_identity_terms_b_is_not_translated(tmp_path):
    model = loaded(tmp_path, "official", "--identity", "0", "--input_nc", "1")
    calls = []
    model.netG.register_forward_hook(lambda *_: calls.append(1))
    model.forward()
    assert len(calls) == 2
    named = [*model.compute_G_loss(), *model.visual_names]
    assert not any(name.startswith("idt") for name in named)


@pytest.mark.parametrize("preset", ["official", "cross"])
def test_images_that_are_not_square_are_turned_to_the_side(tmp_path, preset):
    make_image_folder(tmp_path / "data" / "trainA", count=2, size=(40, 32))
    make_image_folder(tmp_path / "data" / "trainB", count=2, size=(48, 32))
    _, _, loader, model = build(tmp_path, "gcgan", preset, "--preprocess", "none")
    model.check_data(loader.dataset)  # images of A and B need not have one size
    model = loaded(tmp_path, preset, "--preprocess", "none")
    assert model.fake_B.shape[-2:] == (32, 40) and model.fake_turned.shape[-2:] == (40, 32)
    model.optimize_parameters()
    model.check_finite("x.pt")
    kept = [pool.images.shape[-2:] for pool in (model.pool_B, model.pool_gc)]
    assert kept == [(32, 40), (40, 32)]
    assert {name: p.shape[-2:] for name, p in model.get_current_visuals().items()} == {
        "real_A": (32, 40), "fake_B": (32, 40), "real_B": (32, 48), "idt_B": (32, 48),
        "turned_A": (40, 32), "fake_turned": (40, 32), "turned_B": (48, 32), "idt_turned": (48, 32),
    }  # fmt: skip


@pytest.mark.parametrize("mode", ["wgangp", "hinge"])
def test_other_objectives_train(tmp_path, mode):
    flags = ["--gan_mode", mode, "--normD", "none"]
    _, _, loader, model = build(tmp_path, "gcgan", None, *flags)
    losses = step(model, next(iter(loader.epoch(1))))
    assert ("D_B_gp" in losses) == ("D_gc_gp" in losses) == (mode == "wgangp")
    model.check_finite("x.pt")


# -- two generators --------------------------------------------------------------------------------------------------


def test_the_second_generator_is_saved_as_itself(tmp_path):
    """And goes on as itself: the next losses of a continued run are those of one that was not interrupted."""
    opt, runtime, loader, model = build(tmp_path, "gcgan", "cross")
    batches = list(loader.epoch(1))
    step(model, batches[0])
    progress = Progress(1, 2, len(loader), loader.images_per_step)
    Checkpoint(opt, runtime, model, progress).save_latest()
    folder = tmp_path / "checkpoints" / "run"
    for name, net in (("G", model.netG), ("G_gc", model.netG_gc)):
        saved = torch.load(folder / f"latest_net_{name}.pth", weights_only=True)
        assert all(torch.equal(saved[key], value) for key, value in net.state_dict().items())
    assert not torch.equal(saved["model.1.weight"], model.netG.state_dict()["model.1.weight"])


@pytest.mark.parametrize("preset", ["official", "cross"])
def test_translating_needs_g_alone(tmp_path, preset):
    opt, runtime, loader, model = build(tmp_path, "gcgan", preset)
    step(model, next(iter(loader.epoch(1))))
    checkpoint = Checkpoint(opt, runtime, model, Progress(1, 2, len(loader), 1))
    checkpoint.begin()
    checkpoint.save_latest()
    pictures, files = shown(tmp_path)
    assert files == ["latest_net_G.pth"] and list(pictures) == ["real_A", "fake_B"]
    one, _ = shown(tmp_path, "--model", "test")
    for name, picture in one["fake_B"].items():
        assert picture.shape == (3, 32, 32)
        torch.testing.assert_close(picture, pictures["fake_B"][name])


def test_a_run_cannot_change_its_number_of_generators(tmp_path):
    opt, runtime, loader, model = build(tmp_path, "gcgan", "cross")
    progress = Progress(1, 2, len(loader), loader.images_per_step)
    Checkpoint(opt, runtime, model, progress).save_latest()
    opt, runtime, _, other = build(tmp_path, "gcgan", "official")
    with pytest.raises(UserError, match=r"--(preset|two_generators) .* contradicts the run"):
        Checkpoint(opt, runtime, other, progress).resume()


# -- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--input_nc 1", "--identity 0.5 needs equal channels .* give --identity 0"),
        ("--lambda_gc -1", "--lambda_gc: expected a weight of at least 0"),
        ("--identity -1", "--identity: expected a weight of at least 0"),
        ("--geometry mirror", "invalid choice: 'mirror'"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        train_options(tmp_path, *flags.split(), model="gcgan")


def test_presets():
    def parsed(*flags):
        return parse(TrainOptions(), ["--dataroot", "x", "--model", "gcgan", *flags])

    assert list(find_model("gcgan").PRESETS) == ["official", "cross", "shared"]
    official, cross, shared = parsed(), *(parsed("--preset", n) for n in ("cross", "shared"))
    assert (official.batch_size, official.load_size, official.crop_size) == (8, 288, 256)
    assert (official.n_epochs, official.n_epochs_decay, official.init_type) == (100, 100, "xavier")
    assert official.no_antialias and official.no_antialias_up and not official.finetune_resize
    assert (official.geometry, official.two_generators, cross.two_generators) == (
        "rotation",
        False,
        True,
    )
    differs = {key for key, value in vars(official).items() if vars(cross)[key] != value}
    assert differs == {"two_generators", "preset", "recipe", "changed"}
    assert (shared.batch_size, shared.load_size, shared.n_epochs) == (1, 286, 200)
    assert not shared.no_antialias and official.pool_size == shared.pool_size == 50


def test_a_run_from_the_command_line(tmp_path):
    flags = train_flags(tmp_path, "--preset", "cross", "--geometry", "vertical_flip", model="gcgan")
    result = run_command(["train.py", *flags, "--max_steps", "1"])
    assert result.returncode == 0, result.stderr
    assert "gcgan, preset cross" in result.stdout and "geometry=vertical_flip" in result.stdout
    assert "netG_gc: ResnetGenerator" in result.stdout
