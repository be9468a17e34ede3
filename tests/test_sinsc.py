"""FSeSim for one image per domain: its terms, the released recipe and commands."""

import pytest

from tests.helpers import make_image_folder, run_command, train_options
from tests.test_fsesim import check_spatial_term, loaded, parsed, run_on_high_images
from tests.test_models import build, step
from util.errors import UserError


def test_the_loss_of_G_is_that_of_FSeSim(tmp_path, monkeypatch):
    check_spatial_term(loaded(tmp_path, "sinsc", "--patch_size", "5"), monkeypatch)


def test_D_has_a_gradient_penalty_and_no_pool(tmp_path):
    _, _, loader, built = build(tmp_path, "sinsc", None, "--batch_size", "4")
    losses = step(built, next(iter(loader.epoch(1))))
    terms = losses["D_real"] + losses["D_fake"] + losses["D_gradient"]
    assert losses["D"] == pytest.approx(terms) and losses["D_gradient"] > 0
    assert built.memories["pool_B"].size == 0


@pytest.mark.parametrize("batch_size", [2, 5])
def test_other_batch_sizes_and_shapes_of_images_run(tmp_path, batch_size):
    run_on_high_images(tmp_path, "sinsc", batch_size)


def test_the_official_recipe_is_the_released_one():
    opt = parsed("--model", "sinsc")
    expected = {
        "lr": 1e-3, "beta1": 0.0, "beta2": 0.99, "n_epochs": 4, "n_epochs_decay": 4, "batch_size": 16, "crop_size": 128,
        "netG": "stylegan2_tanh", "stylegan2_G_num_downsampling": 2, "ngf": 8, "netD": "stylegan2_8x8", "ndf": 8,
        "stylegan2_size": 128, "gan_mode": "nonsaturating", "lambda_gradient": 1.0, "lambda_spatial": 10.0,
        "num_patches": 256, "pool_size": 0, "lambda_identity": 0.0, "crops_per_epoch": 100_000,
    }  # fmt: skip
    assert {name: getattr(opt, name) for name in expected} == expected
    assert opt.recipe == "sinsc, preset official, float32"


def test_the_shared_recipe_takes_the_common_networks():
    opt = parsed("--model", "sinsc", "--preset", "shared")
    assert (opt.netG, opt.netD, opt.lr, opt.gan_mode) == ("resnet_9blocks", "basic", 2e-4, "lsgan")
    assert (opt.n_epochs, opt.crop_size, opt.lambda_gradient) == (4, 128, 1)


def test_wasserstein_s_penalty_takes_the_place_of_the_default_one(tmp_path):
    """lambda_gradient is 1 without being typed: the remedy is a value to give, not a flag to leave out."""
    wasserstein = ["--gan_mode", "wgangp"]
    with pytest.raises(UserError, match="give --lambda_gradient 0"):
        train_options(tmp_path, *wasserstein, model="sinsc")
    opt = train_options(tmp_path, *wasserstein, "--lambda_gradient", "0", model="sinsc")
    assert opt.lambda_gradient == 0


@pytest.mark.slow
def test_the_printed_commands_run(tmp_path):
    data, runs = tmp_path / "single_image", tmp_path / "checkpoints"
    for seed, name in enumerate(("trainA", "trainB")):
        make_image_folder(data / name, count=1, size=(70, 53), seed=seed)
    printed = ["--model", "sinsc", "--name", "image2monet", "--dataroot", data]
    where = ["--checkpoints_dir", runs, "--gpu_ids", "-1"]
    small = [
        "--crop_size", "32", "--batch_size", "4", "--crops_per_epoch", "8", "--ngf", "2", "--ndf", "2",
        "--vgg_weights", "random", "--n_epochs", "1", "--n_epochs_decay", "0", "--num_threads", "0",
    ]  # fmt: skip
    done = run_command(
        ["train.py", *printed, "--display_port", "8093", "--pool_size", "0", *where, *small]
    )
    assert done.returncode == 0, done.stderr
    done = run_command(
        ["test.py", *printed, *where, "--results_dir", tmp_path / "results", "--tile", "20"]
    )
    assert done.returncode == 0, done.stderr
    made = tmp_path / "results" / "image2monet" / "train_latest" / "images" / "fake_B"
    assert len(list(made.iterdir())) == 1
