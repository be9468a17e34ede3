"""Single-image translation: the terms against slow ones, the printed commands, tiles at test, what is refused."""

import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from models import create_model, find_model
from models.cut_model import CUTModel
from models.networks.patch_sampler import PatchSampler
from options import TestOptions, TrainOptions, parse
from tests.helpers import make_image_folder, run_command, train_options
from tests.test_models import build, learning, step
from util.errors import UserError
from util.hardware.runtime import Runtime
from util.run.checkpoint import Checkpoint
from util.run.progress import Progress

STYLEGAN2 = ["--netG", "stylegan2", "--ngf", "2"]  # beside what the presets give, as nce_layers
OPTIONAL = ["--batch_size", "4", *STYLEGAN2]


def pictures(folder) -> dict[str, np.ndarray]:
    return {
        path.name: np.array(Image.open(path))
        for path in sorted((folder / "images" / "fake_B").glob("*.png"))
    }


def test_the_official_recipe_is_the_released_one():
    opt = parse(TrainOptions(), ["--model", "sincut", "--dataroot", "x"])
    expected = {
        "preset": "official", "netG": "stylegan2", "ngf": 10, "netD": "stylegan2", "ndf": 8, "stylegan2_size": 64,
        "gan_mode": "nonsaturating", "lr": 0.002, "beta1": 0.0, "beta2": 0.99, "n_epochs": 8, "n_epochs_decay": 8,
        "lambda_NCE": 4.0, "nce_idt": True, "nce_layers": [0, 2, 4], "num_patches": 1, "lambda_R1": 1.0,
        "nce_includes_all_negatives_from_minibatch": True, "lambda_identity": 1.0, "batch_size": 16, "crop_size": 64,
        "save_epoch_freq": 1,
    }  # fmt: skip
    assert {name: getattr(opt, name) for name in expected} == expected
    assert opt.recipe == "sincut, preset official, float32"
    changed = parse(
        TrainOptions(),
        ["--model", "sincut", "--dataroot", "x", "--lambda_NCE", "2", "--lambda_R1", "0"],
    )
    assert changed.recipe == "sincut, preset official, float32, with lambda_NCE=2.0, lambda_R1=0.0"


def test_the_common_recipe_keeps_data_and_losses_and_takes_the_common_networks():
    for model in ("sincut", "sinpatchgcl"):
        opt = parse(TrainOptions(), ["--model", model, "--dataroot", "x", "--preset", "shared"])
        assert (opt.netG, opt.ngf, opt.netD, opt.ndf, opt.gan_mode) == (
            "resnet_9blocks",
            64,
            "basic",
            64,
            "lsgan",
        )
        assert (opt.lr, opt.beta1, opt.n_epochs, opt.batch_size, opt.crop_size) == (
            2e-4,
            0.5,
            8,
            16,
            64,
        )
        assert (opt.lambda_R1, opt.lambda_identity) == (1, 1)


def test_the_help_of_single_image_patchgcl_names_the_weight_of_its_own_preset():
    options = TrainOptions()
    parser = options.build_parser(options.peek(["--model", "sinpatchgcl"]))
    weight = find_model("sinpatchgcl").PRESETS["paper"]["lambda_GNN"]
    assert f"{weight} with --preset paper" in parser.declared()["lambda_GNN"].help


@pytest.mark.parametrize("model", ["sincut", "sinpatchgcl"])
def test_terms_add_up_and_are_what_they_say(tmp_path, model):
    _, _, loader, built = build(
        tmp_path, model, None, "--lambda_identity", "0.5", "--lambda_R1", "3", *OPTIONAL
    )
    losses = step(built, next(iter(loader.epoch(1))))
    contrast = ["NCE", "NCE_Y"] if model == "sincut" else ["GNN", "GNN_Y"]
    assert losses["D"] == pytest.approx(losses["D_real"] + losses["D_fake"] + losses["D_R1"])
    assert losses["G"] == pytest.approx(
        sum(losses[name] for name in ("G_GAN", "idt", *contrast)), rel=1e-5
    )
    pairs = zip(
        built.idt_B.detach().flatten().tolist(), built.real_B.flatten().tolist(), strict=True
    )
    error = [abs(a - b) for a, b in pairs]
    assert losses["idt"] == pytest.approx(0.5 * sum(error) / len(error), rel=1e-5)
    x = built.real_B.clone().requires_grad_()
    (slope,) = torch.autograd.grad(built.netD(x).sum(), x)
    expected = 0.5 * 3 * sum((image**2).sum().item() for image in slope) / len(slope)
    assert built.compute_D_loss()["D_R1"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("mirrored", [True, False])
def test_a_generator_that_changes_nothing_keeps_identity_mirrored_or_not(
    tmp_path, monkeypatch, mirrored
):
    flags = ["--flip_equivariance", "true", *OPTIONAL]
    _, _, loader, model = build(tmp_path, "sincut", None, *flags)
    monkeypatch.setattr(model.netG, "forward", lambda images: images)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor(0.0 if mirrored else 0.9))
    model.load(next(iter(loader.epoch(1))))
    model.forward()
    assert torch.equal(model.fake, model.real.flip(3) if mirrored else model.real)

    monkeypatch.setattr(CUTModel, "compute_G_loss", lambda self: {})
    assert model.compute_G_loss()["idt"] == 0


def test_the_negatives_are_the_other_crops(tmp_path, monkeypatch):
    """One position per layer; the crops of the mini-batch against each other, in loops."""
    monkeypatch.setattr(PatchSampler, "draw", staticmethod(lambda feat, count: torch.tensor([37])))
    _, _, loader, model = build(tmp_path, "sincut", None, *OPTIONAL, "--num_patches", "1")
    model.set_input(next(iter(loader.epoch(1))))
    model.load(model._micro_batches[0])
    model.forward()
    terms = model.compute_G_loss()
    for name, images, sources in (
        ("NCE", model.fake_B, model.real_A),
        ("NCE_Y", model.idt_B, model.real_B),
    ):
        expected = 0.0
        with torch.no_grad():
            queries, keys = (model.netG.encode(x, [0, 2, 4]) for x in (images, sources))
        for layer in range(3):
            mlp = getattr(model.netF, f"mlp_{layer}")
            q, k = (
                [mlp(feat[b].flatten(1)[:, 37]).detach().double() for b in range(4)]
                for feat in (queries[layer], keys[layer])
            )
            q, k = ([v / (v.norm() + 1e-7) for v in vectors] for vectors in (q, k))
            for b in range(4):
                scores = [math.exp((q[b] @ k[j]).item() / 0.07) for j in range(4)]
                expected -= math.log(scores[b] / sum(scores)) / 4 / 3
        assert terms[name].item() == pytest.approx(4.0 * expected / 2, rel=1e-4)


@pytest.mark.parametrize("model", ["sincut", "sinpatchgcl"])
def test_every_parameter_learns_and_a_resumed_run_draws_the_same_noise(tmp_path, model):
    flags = ["--batch_size", "2", "--num_patches", "16", *STYLEGAN2]
    opt, runtime, loader, first = build(tmp_path, model, None, *flags)
    batches = list(loader.epoch(1))
    step(first, batches[0])
    for net in first.networks.values():
        assert all(p.grad is not None for _, p in learning(net))
    progress = Progress(1, 2, len(loader), 2)
    Checkpoint(opt, runtime, first, progress).save_latest()
    expected = [step(first, batch) for batch in batches[1:3]]
    opt, runtime, _, again = build(tmp_path, model, None, *flags)
    torch.manual_seed(99)
    Checkpoint(opt, runtime, again, Progress(1, 2, len(loader), 2)).resume()
    assert [step(again, batch) for batch in batches[1:3]] == expected


@pytest.mark.parametrize("flags", ["--amp bf16", "--channels_last on"])
def test_other_precisions_and_layouts_stay_close(tmp_path, flags):
    flags = ["--batch_size", "4", *STYLEGAN2, *flags.split()]
    _, _, loader, plain = build(tmp_path, "sincut", None, *flags[:-2])
    _, _, _, other = build(tmp_path, "sincut", None, *flags)
    other.netG.load_state_dict(plain.netG.state_dict())
    batch = next(iter(loader.epoch(1)))
    losses = []
    for model in (plain, other):
        torch.nn.init.ones_(model.netG.decoder.convs[3].noise.weight)
        torch.manual_seed(1)
        losses.append(step(model, batch))
    for name, value in losses[0].items():
        assert losses[1][name] == pytest.approx(value, rel=0.05, abs=0.02), name
    assert all(
        p.dtype == torch.float32 for net in other.networks.values() for p in net.parameters()
    )


NETWORKS = [
    "stylegan2 tilestylegan2 --n_layers_D 2",
    "smallstylegan2 stylegan2",
    "resnet_4blocks tilestylegan2",
]


@pytest.mark.parametrize("nets", NETWORKS)
def test_other_methods_take_these_networks(tmp_path, nets):
    netG, netD, *extra = nets.split()
    flags = ["--netG", netG, "--netD", netD, "--nce_layers", "0,1,2", *extra]
    _, _, loader, model = build(tmp_path, "cut", None, *flags)
    losses = step(model, next(iter(loader.epoch(1))))
    assert all(math.isfinite(value) for value in losses.values())
    for net in model.networks.values():
        assert all(p.grad is not None for _, p in learning(net))


def test_crops_of_64_pixels_have_a_graph_node_at_every_position(tmp_path):
    for folder in ("trainA", "trainB"):
        make_image_folder(tmp_path / "data" / folder, count=1, size=(90, 80))
    flags = ["--crop_size", "64", "--num_patches", "256", "--batch_size", "2"]
    _, _, loader, model = build(tmp_path, "sinpatchgcl", "paper", *flags)
    assert model.opt.lambda_GNN == 0.2
    graphs = []
    judge = model.judge
    model.judge = lambda levels: graphs.append(levels) or judge(levels)
    step(model, next(iter(loader.epoch(1))))
    assert [[tuple(level.node_in_BND.shape[:2]) for level in layer] for layer in graphs] == [
        [(4, 256), (4, 64)], [(4, 64), (4, 16)], [(4, 64), (4, 16)],
    ]  # fmt: skip


@pytest.mark.slow
def test_the_printed_commands(tmp_path):
    """Trained on crops of 32 and translated as a whole; then from the weights alone, in tiles."""
    data, runs, results = tmp_path / "single_image", tmp_path / "checkpoints", tmp_path / "results"
    for seed, name in enumerate(("trainA", "trainB")):
        make_image_folder(data / name, count=1, size=(70, 53), seed=seed)
    printed = ["--model", "sincut", "--name", "monet", "--dataroot", data]
    where = ["--checkpoints_dir", runs, "--gpu_ids", "-1"]
    small = [
        "--crop_size",
        "32",
        "--batch_size",
        "4",
        "--crops_per_epoch",
        "8",
        "--ngf",
        "2",
        "--ndf",
        "2",
    ]
    short = ["--n_epochs", "1", "--n_epochs_decay", "0", "--num_threads", "0", "--display_id", "0"]
    done = run_command(["train.py", *printed, *where, *small, *short])
    assert done.returncode == 0, done.stderr
    done = run_command(["test.py", *printed, *where, "--results_dir", results])
    assert done.returncode == 0, done.stderr
    [whole] = pictures(results / "monet" / "train_latest").values()
    assert whole.shape == (53, 70, 3)

    (runs / "released").mkdir()
    shutil.copy(runs / "monet" / "latest_net_G.pth", runs / "released")
    flags = [
        "--model",
        "sincut",
        "--name",
        "released",
        "--ngf",
        "2",
        "--stylegan2_size",
        "32",
        "--dataroot",
        data,
    ]
    done = run_command(["test.py", *flags, *where, "--results_dir", results, "--tile", "20"])
    assert done.returncode == 0, done.stderr
    [tiled] = pictures(results / "released" / "train_latest").values()
    assert np.abs(whole.astype(int) - tiled).max() <= 1


def test_tiles_need_a_generator_that_allows_them(tmp_path):
    opt = parse(TestOptions(),
        ["--model", "sincut", "--name", "x", "--dataroot", "x", "--tile", "64", "--gpu_ids", "-1", "--netG",
         "resnet_4blocks", "--ngf", "4"]
    )  # fmt: skip
    model = create_model(opt, Runtime.from_options(opt))
    with pytest.raises(UserError, match="--tile gives the result of the whole image only with"):
        model.show({"A": torch.zeros(1, 3, 32, 32)})


REFUSED = {
    "sincut": [
        ("--nce_idt false", "--lambda_identity needs G(B)"),
        ("--lambda_R1 -1", "--lambda_R1: expected a weight of at least 0"),
        ("--CUT_mode FastCUT", "--model sincut has no such form; leave it out"),
        ("--num_patches 1 --batch_size 1", "leaves a patch nothing to differ from"),
        ("--stylegan2_size 48", "expected a power of two"),
    ],
    "sinpatchgcl": [
        ("--gnn_idt false", "--lambda_identity needs G(B)"),
        ("--nce_T 0", "--nce_T: expected a number above 0"),
        ("--num_patches 1", "leaves a patch nothing to differ from"),
        (
            "--lambda_GAN 0 --lambda_GNN 0 --lambda_identity 0",
            "--lambda_GAN 0.0 --lambda_GNN 0.0 --lambda_identity 0.0 leaves nothing to learn from",
        ),
    ],
}


@pytest.mark.parametrize(
    ("model", "flags", "text"), [(m, *case) for m, cases in REFUSED.items() for case in cases]
)
def test_what_contradicts_itself_is_refused(tmp_path, model, flags, text):
    with pytest.raises(UserError) as caught:
        train_options(tmp_path, *flags.split(), model=model)
    assert text in str(caught.value)


def test_single_image_patchgcl_may_learn_the_identity_alone(tmp_path):
    off = ["--lambda_GAN", "0", "--lambda_GNN", "0"]
    assert train_options(tmp_path, *off, model="sinpatchgcl").lambda_identity == 1


def test_without_identity_the_terms_go_away(tmp_path):
    flags = "--nce_idt false --lambda_identity 0 --lambda_R1 0"
    _, _, loader, model = build(tmp_path, "sincut", None, *flags.split())
    losses = step(model, next(iter(loader.epoch(1))))
    assert not {"idt", "D_R1", "NCE_Y"} & set(losses)


def test_a_size_that_follows_from_the_crop_cannot_change_on_resume(tmp_path):
    opt, runtime, loader, model = build(tmp_path, "sincut", None, *STYLEGAN2)
    Checkpoint(opt, runtime, model, Progress(1, 4, len(loader), 1)).save_latest()
    opt, runtime, loader, other = build(
        tmp_path, "sincut", None, *STYLEGAN2, "--crop_size", "64", "--load_size", "64"
    )
    with pytest.raises(UserError, match=r"--stylegan2_size 64 contradicts the run .* which has 32"):
        Checkpoint(opt, runtime, other, Progress(1, 4, len(loader), 1)).resume()
