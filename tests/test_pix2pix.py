"""pix2pix: terms and one whole step against plain torch, what batch norm and dropout do at test, halves, commands."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from models.inference.modes import translate_each
from options import TrainOptions, parse
from tests.helpers import TINY, run_command, train_options
from tests.test_cycle_gan import shown
from tests.test_data_aligned import make_pairs
from tests.test_models import build, step
from util.errors import UserError


def loaded(root, *flags):
    """A model with a batch of pairs, forwarded as in a step."""
    _, _, loader, model = build(root, "pix2pix", None, "--no_dropout", "--batch_size", "2", *flags)
    model.set_input(next(iter(loader.epoch(1))))
    model.load(model._micro_batches[0])
    model.forward()
    return model


def cross_entropy(prediction, target):
    return F.binary_cross_entropy_with_logits(prediction, torch.full_like(prediction, target))


def test_every_term_is_its_formula(tmp_path):
    model = loaded(tmp_path, "--lambda_L1", "30", "--input_nc", "1")
    net = copy.deepcopy(model.netD)
    real, fake = (
        torch.cat([model.real_A, model.real_B], 1),
        torch.cat([model.real_A, model.fake_B], 1),
    )
    assert real.shape[1] == 4
    terms = {**model.compute_D_loss(), **model.compute_G_loss()}
    with torch.no_grad():
        expected = {
            "D_real": 0.5 * cross_entropy(net(real), 1.0),
            "D_fake": 0.5 * cross_entropy(net(fake), 0.0),
            "G_GAN": cross_entropy(net(fake), 1.0),
            "G_L1": 30 * (model.fake_B - model.real_B).abs().mean(),
        }
    assert list(terms) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name].detach(), value)


def test_a_step_is_d_then_g_against_the_new_d(tmp_path):
    model = loaded(tmp_path, "--lambda_L1", "0")
    net = copy.deepcopy(model.netD)
    fake = torch.cat([model.real_A, model.fake_B.detach()], 1)
    real = torch.cat([model.real_A, model.real_B], 1)
    adam = torch.optim.Adam(net.parameters(), lr=0.0002, betas=(0.5, 0.999))
    (0.5 * (cross_entropy(net(real), 1.0) + cross_entropy(net(fake), 0.0))).backward()
    adam.step()
    old = cross_entropy(model.netD(fake), 1.0).item()
    new = cross_entropy(net(fake), 1.0).item()
    model.optimize_parameters()
    assert model.get_current_losses()["G_GAN"].item() == pytest.approx(new, rel=1e-4)
    assert abs(old - new) > 1e-3
    assert model.get_current_losses()["G"] == model.get_current_losses()["G_GAN"]


@pytest.mark.parametrize("mode", ["wgangp", "lsgan"])
def test_other_objectives_train(tmp_path, mode):
    _, _, loader, model = build(tmp_path, "pix2pix", None, "--gan_mode", mode, "--normD", "none")
    losses = step(model, next(iter(loader.epoch(1))))
    assert ("D_gp" in losses) == (mode == "wgangp") and all(
        abs(value) < 1e4 for value in losses.values()
    )


def test_presets_and_pairs(tmp_path):
    def parsed(*flags):
        return parse(TrainOptions(), ["--dataroot", "x", "--model", "pix2pix", *flags])

    opt = parsed()
    assert (opt.dataset_mode, opt.netG, opt.normG, opt.normD, opt.no_dropout) == (
        "aligned", "unet_256", "batch", "batch", False,
    )  # fmt: skip
    assert (opt.gan_mode, opt.init_type, opt.lambda_L1, opt.n_epochs, opt.n_epochs_decay, opt.finetune_resize) == (
        "vanilla", "normal", 100, 100, 100, False,
    )  # fmt: skip
    shared = parsed("--preset", "shared")
    assert (shared.netG, shared.normG, shared.no_antialias, shared.no_dropout) == (
        "resnet_9blocks", "instance", False, True,
    )  # fmt: skip
    for mode in ("unaligned", "photographs", "singleimage"):
        with pytest.raises(UserError, match=f"pairs, which --dataset_mode {mode} has not: take al"):
            train_options(tmp_path, "--dataset_mode", mode, model="pix2pix")
    with pytest.raises(UserError, match="--crop_size 32 is not a multiple of 128"):
        build(tmp_path, "pix2pix", None, "--netG", "unet_128")


# -- batch norm and dropout at test ------------------------------------------------------------------------------------


def small_net():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(8, 3, 3)
    )


def by_hand(net, image, running):
    """One image (1,C,H,W) without dropout."""
    x, norm = net[0](image), net[1]
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    if running:
        mean, variance = norm.running_mean, norm.running_var
    x = (x - mean[:, None, None]) / torch.sqrt(variance[:, None, None] + norm.eps)
    return net[4](F.relu(x * norm.weight[:, None, None] + norm.bias[:, None, None]))


@pytest.mark.parametrize("norm", ["image", "running"])
def test_each_image_is_normalised_by_itself_and_nothing_is_remembered(norm):
    net, images = (
        small_net(),
        torch.rand(3, 3, 9, 9) * torch.tensor([1.0, 3.0, 9.0]).view(3, 1, 1, 1),
    )
    net[1].running_mean.normal_()
    before = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        out = translate_each(net, images, norm, dropout=False)
        expected = torch.cat([by_hand(net, image[None], norm == "running") for image in images])
    torch.testing.assert_close(out, expected)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(module.training for module in net.modules()) and net[1].track_running_stats


def test_dropout_follows_its_flag_and_the_seed():
    net, images = small_net(), torch.rand(2, 3, 9, 9)

    def run(dropout, seed):
        torch.manual_seed(seed)
        return translate_each(net, images, "image", dropout)

    assert torch.equal(run(True, 1), run(True, 1)) and not torch.equal(run(True, 1), run(True, 2))
    assert torch.equal(run(False, 1), run(False, 2))
    alone = run(True, 1)
    torch.manual_seed(1)
    one_by_one = [translate_each(net, image[None], "image", True) for image in images]
    torch.testing.assert_close(alone, torch.cat(one_by_one))  # whatever the batch
    net.eval()
    assert torch.equal(run(True, 1), net(images)), "--eval wins"


# -- commands ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The released command on pairs whose left half is a photograph and whose right half is its negative."""
    root = tmp_path_factory.mktemp("pix2pix")
    make_pairs(root / "data" / "train", count=3, size=(130, 128))
    make_pairs(root / "data" / "test", count=4, size=(128, 120))
    make_pairs(root / "data" / "test" / "wide", count=1, size=(140, 100))
    small = [
        "--netG",
        "unet_128",
        "--ngf",
        "2",
        "--ndf",
        "2",
        "--crop_size",
        "128",
        "--load_size",
        "140",
    ]
    released = [
        "--dataroot",
        root / "data",
        "--name",
        "run",
        "--model",
        "pix2pix",
        "--direction",
        "BtoA",
    ]
    where = ["--checkpoints_dir", root / "checkpoints", *TINY[-6:]]
    result = run_command(
        ["train.py", *released, *small, *where, "--max_steps", "2", "--update_html_freq", "2"]
    )
    assert result.returncode == 0, result.stderr
    assert "recipe: pix2pix, preset official" in result.stdout
    return root


def test_the_released_test_command_and_its_halves(run, tmp_path):
    where = ["--checkpoints_dir", run / "checkpoints", "--results_dir", tmp_path, "--gpu_ids", "-1"]
    released = [
        "--dataroot",
        run / "data",
        "--name",
        "run",
        "--model",
        "pix2pix",
        "--direction",
        "BtoA",
    ]
    result = run_command(["test.py", *released, *where, "--num_threads", "0", "--size", "own"])
    assert result.returncode == 0, result.stderr
    images = tmp_path / "run" / "test_latest" / "images"
    assert {folder.name: len(list(folder.rglob("*.png"))) for folder in images.iterdir()} == {
        "real_A": 5, "fake_B": 5, "real_B": 5,
    }  # fmt: skip
    pair = np.asarray(Image.open(run / "data" / "test" / "image_001.png"))
    assert np.array_equal(
        np.asarray(Image.open(images / "real_A" / "image_001.png")), pair[:, 128:]
    )
    assert np.array_equal(
        np.asarray(Image.open(images / "real_B" / "image_001.png")), pair[:, :128]
    )
    assert Image.open(images / "fake_B" / "wide" / "image_000.png").size == (140, 100)
    picture = next((run / "checkpoints" / "run" / "web" / "images").glob("*_real_A.png"))
    shown_A, shown_B = (
        np.asarray(Image.open(str(picture).replace("real_A", n))).astype(int)
        for n in ("real_A", "real_B")
    )
    assert np.abs(shown_A + shown_B - 255).max() <= 2, "the training page shows matching halves"


def test_no_pair_is_lost_or_changed_whatever_the_batch(run):
    small = [str(path) for path in (run / "data" / "test" / "wide").iterdir()]
    assert len(small) == 1
    flags = [
        "--test_dropout",
        "false",
        "--preprocess",
        "resize",
        "--load_size",
        "128",
        "--dataroot",
        str(run / "data"),
    ]
    for role in ("real_A", "fake_B", "real_B"):
        assert len(shown(run, *flags, "--num_test", "4")[0][role]) == 4
    alone = shown(run, *flags, "--num_test", "4")[0]["fake_B"]
    for batch_size in ("2", "5"):
        together = shown(run, *flags, "--num_test", "4", "--batch_size", batch_size)[0]["fake_B"]
        assert together.keys() == alone.keys()
        for name, picture in alone.items():
            torch.testing.assert_close(together[name], picture)


def test_choices_at_test_change_the_picture(run):
    def first(*flags):
        return next(iter(shown(run, "--num_test", "1", *flags)[0]["fake_B"].values()))

    default = first()
    assert torch.equal(default, first()) and torch.equal(
        default, first("--test_norm", "image", "--test_dropout")
    )
    assert not torch.equal(default, first("--seed", "1"))
    fixed = first("--test_dropout", "false")
    assert not torch.equal(default, fixed) and torch.equal(
        fixed, first("--test_dropout", "false", "--seed", "1")
    )
    assert not torch.equal(fixed, first("--test_dropout", "false", "--test_norm", "running"))


def test_inputs_without_their_other_half(run, tmp_path):
    for path in (run / "data" / "test").glob("*.png"):
        Image.open(path).crop((128, 0, 256, 120)).save(tmp_path / path.name)
    found, _ = shown(
        run, "--dataset_mode", "single", "--dataroot", str(tmp_path), "--test_dropout", "false"
    )
    pairs, _ = shown(run, "--test_dropout", "false", "--max_dataset_size", "4")
    assert sorted(found) == ["fake_B", "real_A"] and len(found["fake_B"]) == 4
    for name, picture in found["fake_B"].items():
        torch.testing.assert_close(picture, pairs["fake_B"][name])


def test_evaluation_mode_is_running_statistics_without_dropout(run):
    by_flags = shown(run, "--test_norm", "running", "--test_dropout", "false", "--num_test", "2")[
        0
    ]["fake_B"]
    by_mode = shown(run, "--eval", "--num_test", "2")[0]["fake_B"]
    for name, picture in by_flags.items():
        torch.testing.assert_close(by_mode[name], picture)
