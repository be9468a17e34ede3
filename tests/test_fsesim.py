"""FSeSim: terms against loops, the game with D, the released recipe and commands, what is refused."""

import pytest
import torch

from models import create_model
from options import TestOptions, TrainOptions, parse
from tests.helpers import TINY, make_dataset, run_command, train_options
from tests.test_models import build, step
from tests.test_self_similarity import loop_loss, loop_similarity
from util.errors import UserError
from util.hardware.runtime import Runtime


def loaded(root, model, *flags):
    """A model of batch 2 whose forward has run, with few layers and positions so that loops are affordable."""
    few = ["--batch_size", "2", "--attn_layers", "4,7", "--num_patches", "5"]
    _, _, loader, built = build(root, model, None, *few, *flags)
    built.set_input(next(iter(loader.epoch(1))))
    built.load(built._micro_batches[0])
    built.forward()
    return built


def kept_positions(model, monkeypatch) -> list[list[torch.Tensor]]:
    """What `draw_positions` gives in each of the calls from now on."""
    drawn, draw = [], model.draw_positions
    monkeypatch.setattr(
        model, "draw_positions", lambda feats: drawn.append(draw(feats)) or drawn[-1]
    )
    return drawn


def loop_spatial(model, source, output, ids) -> torch.Tensor:
    """The loss of G between two batches of images, in float64, position by position."""
    opt, layers = model.opt, []
    reals, fakes = (model.embed(model.vgg(images)) for images in (source, output))
    for real, fake, ids_N in zip(reals, fakes, ids, strict=True):
        sims = [
            loop_similarity(feat.detach().double(), ids_N.tolist(), opt.patch_size, opt.use_norm)
            for feat in (real, fake)
        ]
        layers.append(loop_loss(*sims, opt.loss_mode, opt.use_norm).mean())
    return sum(layers) / len(layers)


def check_spatial_term(model, monkeypatch) -> None:
    """The term of G's loss is that of loops, at the positions drawn, and every image learns from it."""
    drawn = kept_positions(model, monkeypatch)
    terms = model.compute_G_loss()
    assert list(terms) == ["G_GAN", "spatial"]
    [ids] = drawn
    assert [len(ids_N) for ids_N in ids] == [5, 5]
    expected = model.opt.lambda_spatial * loop_spatial(model, model.real_A, model.fake_B, ids)
    assert terms["spatial"].item() == pytest.approx(expected.item(), rel=1e-4)
    slope = torch.autograd.grad(terms["spatial"], model.fake_B, retain_graph=True)[0]
    assert slope.abs().amax((1, 2, 3)).gt(0).all()


def run_on_high_images(root, model, batch_size) -> None:
    """A step on images higher than wide, so that windows meet all borders of maps that are not square."""
    opt = train_options(root, "--preset", "shared", "--patch_size", "3", model=model)
    built = create_model(opt, Runtime.from_options(opt))
    images = {role: torch.rand(batch_size, 3, 48, 32) * 2 - 1 for role in "AB"}
    losses = step(built, images)
    assert all(torch.isfinite(torch.tensor(value)) for value in losses.values())
    assert built.get_current_visuals()["fake_B"].shape == (batch_size, 3, 48, 32)


# -- the model ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags", ["", "--patch_size 5", "--use_norm --loss_mode l1 --patch_size 3 --lambda_spatial 2"]
)
def test_the_loss_of_G_is_its_formula(tmp_path, monkeypatch, flags):
    """Maps of 8x8 and 4x4: windows of 3 lie inside both, windows of 5 inside the first."""
    check_spatial_term(loaded(tmp_path, "fsesim", *flags.split()), monkeypatch)


def test_the_identity_terms_are_their_formula(tmp_path, monkeypatch):
    flags = ["--lambda_identity", "0.5", "--lambda_spatial_idt", "3"]
    built = loaded(tmp_path, "fsesim", *flags)
    drawn = kept_positions(built, monkeypatch)
    terms = built.compute_G_loss()
    assert list(terms) == ["G_GAN", "spatial", "spatial_idt", "idt"]
    expected = 3 * loop_spatial(built, built.real_B, built.idt_B, drawn[1])
    assert terms["spatial_idt"].item() == pytest.approx(expected.item(), rel=1e-4)
    gap = (built.idt_B - built.real_B).abs().mean()
    assert terms["idt"].item() == pytest.approx(0.5 * gap.item(), rel=1e-6)
    torch.testing.assert_close(built.idt_B, built.netG(built.real_B), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("patches", ["0", "-1"])
def test_all_positions_are_compared_with_the_whole_map(tmp_path, monkeypatch, patches):
    built = loaded(tmp_path, "fsesim", f"--patch_nums={patches}", "--patch_size", "3")
    drawn = kept_positions(built, monkeypatch)
    feats = built.vgg(built.real_A)
    sims = built.similarities(feats, built.draw_positions(feats))
    assert [sim.shape for sim in sims] == [(2, 64, 64), (2, 16, 16)]
    assert [sorted(ids_N.tolist()) for ids_N in drawn[0]] == [list(range(64)), list(range(16))]


def test_D_sees_earlier_images_and_a_slope_between_them_and_real_ones(tmp_path, monkeypatch):
    built = loaded(tmp_path, "fsesim", "--lambda_gradient", "0.3", "--pool_size", "1")
    earlier = torch.rand_like(built.fake_B) * 2 - 1
    monkeypatch.setattr(built, "pool_B", lambda images: earlier)
    torch.manual_seed(3)
    terms = built.compute_D_loss()
    fake, real = built.netD(earlier), built.netD(built.real_B)
    assert terms["D_fake"].item() == pytest.approx(0.5 * fake.square().mean().item(), rel=1e-5)
    assert terms["D_real"].item() == pytest.approx(
        0.5 * (real - 1).square().mean().item(), rel=1e-5
    )

    torch.manual_seed(3)
    share = torch.rand(2, 1, 1, 1)
    between = (share * built.real_B + (1 - share) * earlier).requires_grad_()
    slopes = torch.autograd.grad(built.netD(between).sum(), between)[0]
    expected = sum((slope.square().sum().sqrt() - 1) ** 2 for slope in slopes) / 2
    assert terms["D_gradient"].item() == pytest.approx(0.3 * expected.item(), rel=1e-4)


def test_the_pool_belongs_to_the_official_recipe(tmp_path):
    sizes = [
        build(tmp_path, "fsesim", name)[-1].memories["pool_B"].size
        for name in ("official", "shared")
    ]
    assert sizes == [50, 0]


@pytest.mark.parametrize("batch_size", [2, 5])
def test_other_batch_sizes_and_shapes_of_images_run(tmp_path, batch_size):
    run_on_high_images(tmp_path, "fsesim", batch_size)


def test_grey_images_run(tmp_path):
    _, _, loader, built = build(tmp_path, "fsesim", None, "--input_nc", "1", "--output_nc", "3")
    losses = step(built, next(iter(loader.epoch(1))))
    assert all(torch.isfinite(torch.tensor(value)) for value in losses.values())


# -- options and commands ----------------------------------------------------------------------------------------------


PRINTED = [
    "--name", "horse2zebra", "--lambda_spatial", "10", "--lambda_gradient", "0", "--attn_layers", "4,7,9",
    "--loss_mode", "cos", "--gan_mode", "lsgan", "--display_port", "8093", "--direction", "AtoB", "--patch_size", "64",
]  # fmt: skip


def parsed(*argv: str):
    return parse(TrainOptions(), ["--dataroot", "x", *argv])


def test_the_official_recipe_is_the_released_one():
    opt = parsed("--model", "fsesim")
    expected = {
        "lr": 1e-4, "beta1": 0.5, "n_epochs": 200, "n_epochs_decay": 200, "pool_size": 50, "finetune_resize": False,
        "num_patches": 256, "patch_size": 64, "attn_layers": [4, 7, 9], "loss_mode": "cos", "use_norm": False,
        "lambda_spatial": 10.0, "lambda_identity": 0.0, "lambda_gradient": 0.0, "gan_mode": "lsgan", "ngf": 64,
    }  # fmt: skip
    assert {name: getattr(opt, name) for name in expected} == expected
    assert opt.recipe == "fsesim, preset official, float32"


def test_the_shared_recipe_takes_the_common_conditions():
    opt = parsed("--model", "fsesim", "--preset", "shared")
    assert (opt.lr, opt.pool_size, opt.finetune_resize, opt.lambda_spatial) == (2e-4, 0, True, 10)


def test_the_released_spellings_are_understood():
    opt = parsed("--model", "sc", *PRINTED, "--patch_nums", "100")
    assert (opt.model, opt.num_patches, opt.patch_size) == ("fsesim", 100, 64)
    assert parsed("--model=sc", "--patch_nums=-1").num_patches == 0


REFUSED = [
    ("--lambda_spatial -1", "--lambda_spatial: expected a weight of at least 0"),
    ("--lambda_GAN 0 --lambda_spatial 0", "G learns nothing"),
    ("--lambda_identity 1 --input_nc 1", "need equal channels in both domains"),
    ("--gan_mode wgangp --lambda_gradient 2", "with weight 10: give --lambda_gradient 0, or"),
    ("--patch_nums 2.5", "expected a whole number of at least 0, got '2.5'"),
    ("--loss_mode info", "invalid choice: 'info'"),
]


@pytest.mark.parametrize(("flags", "text"), REFUSED)
def test_what_contradicts_itself_is_refused(tmp_path, flags, text):
    with pytest.raises(UserError) as caught:
        train_options(tmp_path, *flags.split(), model="fsesim")
    assert text in str(caught.value)


def test_the_run_says_what_VGG_knows_and_a_translator_has_none(tmp_path):
    built = build(tmp_path, "fsesim", None)[-1]
    said = "VGG16: frozen, random (untrained: for demos and tests only), relu3_1, relu4_1"
    assert said in built.describe()
    where = ["--model", "sc", "--name", "x", "--dataroot", "x", "--gpu_ids", "-1"]
    opt = parse(TestOptions(), [*where, "--num_test", "0"])
    assert opt.max_dataset_size == float("inf")
    translator = create_model(opt, Runtime.from_options(opt))
    assert "VGG16" not in translator.describe() and list(translator.networks) == ["G"]


def run_printed_commands(root, model, *learned) -> None:
    """scripts/train_sc.sh and test_sc.sh of the release, with small networks."""
    make_dataset(root / "data")
    where = ["--dataroot", root / "data", "--checkpoints_dir", root / "checkpoints"]
    small = [*TINY, "--vgg_weights", "random", "--max_steps", "2"]
    done = run_command(["train.py", "--model", "sc", *PRINTED, *learned, *where, *small])
    assert done.returncode == 0, done.stderr
    assert f"recipe: {model}, preset official" in done.stdout

    tested = ["--name", "horse2zebra", "--model", "sc", "--num_test", "0"]
    results = ["--results_dir", root / "results", "--gpu_ids", "-1"]
    done = run_command(["test.py", *tested, *where, *results])
    assert done.returncode == 0, done.stderr
    made = root / "results" / "horse2zebra" / "test_latest" / "images" / "fake_B"
    assert len(list(made.iterdir())) == 4


@pytest.mark.slow
def test_the_printed_commands_run(tmp_path):
    run_printed_commands(tmp_path, "fsesim")
