"""DCLGAN: the contrast against loops, every term against its formula, a whole step in plain torch, both directions."""

import copy

import pytest
import torch

from models import create_model
from models.losses.patch_nce import cosine_nce_loss
from models.networks import create_generator
from options import TrainOptions, parse
from tests.helpers import (
    TINY,
    make_dataset,
    make_image_folder,
    refusal,
    run_command,
    train_options,
)
from tests.test_cycle_gan import loaded as loaded_model
from tests.test_cycle_gan import shown
from tests.test_models import build, step, weights
from util.errors import UserError
from util.hardware.runtime import Runtime
from util.run.checkpoint import Checkpoint
from util.run.progress import Progress

ALL = ["--num_patches", "100000"]  # every position, in order: nothing is drawn


def loaded(root, *flags, name="dclgan"):
    """A model with a batch, forwarded as in a step."""
    return loaded_model(root, *flags, name=name)


def parsed(*argv: str, model="dclgan"):
    return parse(TrainOptions(), ["--dataroot", "x", "--model", model, *argv])


# -- the contrast ------------------------------------------------------------------------------------------------------


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Of two vectors; 0 where one of them is zero."""
    if not a.any() or not b.any():
        return torch.zeros((), dtype=a.dtype)
    return a @ b / ((a @ a).sqrt() * (b @ b).sqrt())


def loop_nce(query, key, temperature, across_batch=True):
    """One query at a time: its positive, then a row of all keys with -10 in the positive's place."""
    images, patches = query.shape[:2]
    per_image = []
    for b in range(images):
        losses = []
        for i in range(patches):
            row = [cosine(query[b, i], key[b, i])]
            for other in range(images) if across_batch else [b]:
                for j in range(patches):
                    same = (other, j) == (b, i)
                    row.append(
                        query.new_tensor(-10.0) if same else cosine(query[b, i], key[other, j])
                    )
            exponentials = torch.exp(torch.stack(row) / temperature)
            losses.append(-torch.log(exponentials[0] / exponentials.sum()))
        per_image.append(torch.stack(losses).mean())
    return torch.stack(per_image)


def vectors(batch, patches=5, width=6, seed=0):
    """Of many lengths."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, patches, width, generator=generator, dtype=torch.float64)
    return x * torch.logspace(-3, 3, patches, dtype=torch.float64)[:, None]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("across_batch", [True, False])
def test_the_contrast_is_its_formula(batch, temperature, across_batch):
    key = vectors(batch, seed=1).requires_grad_()
    query = vectors(batch, seed=2)
    ours, loops = query.clone().requires_grad_(), query.clone().requires_grad_()

    loss = cosine_nce_loss(ours, key, temperature, across_batch)
    expected = loop_nce(loops, key.detach(), temperature, across_batch)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-13)

    shares = torch.arange(1.0, batch + 1).double()
    (loss * shares).sum().backward()
    (expected * shares).sum().backward()
    for found, wanted in zip(ours.grad.flatten(0, 1), loops.grad.flatten(0, 1), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12 * wanted.abs().max().item())
    assert key.grad is None


def test_patches_of_zeros_have_cosine_zero_and_no_gradient():
    query, key = vectors(2), vectors(2, seed=1)
    query[0, 1], key[1, 2] = 0, 0
    query.requires_grad_()
    loss = cosine_nce_loss(query, key)
    torch.testing.assert_close(loss, loop_nce(query, key, 0.07))
    loss.sum().backward()
    assert torch.isfinite(query.grad).all()
    assert not query.grad[0, 1].any() and query.grad[0, 2].any()


def test_negatives_are_the_patches_of_all_images_of_the_batch():
    """Of one patch per image they are all that there is."""
    query, key = vectors(3, patches=1, seed=1), vectors(3, patches=1, seed=2)
    assert cosine_nce_loss(query, key).max() > 1
    assert cosine_nce_loss(query, key, across_batch=False).max() < 1e-12


def test_half_precision_is_contrasted_in_single_precision():
    query, key = vectors(2).bfloat16(), vectors(2, seed=1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = cosine_nce_loss(query, key)
    assert loss.dtype == torch.float32
    expected = cosine_nce_loss(query.double(), key.double())
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=1e-5)


# -- the terms ---------------------------------------------------------------------------------------------------------


def nce_by_loops(model, key_head, key_net, real, query_head, query_net, fake):
    """Mean over layers, from one pass of an encoder per image batch; every position is used."""
    layers = model.opt.nce_layers
    keys, _ = key_head(key_net.encode(real, layers), 0)
    queries, _ = query_head(query_net.encode(fake, layers), 0)
    losses = []
    for q, k in zip(queries, keys, strict=True):
        losses.append(cosine_by_matrix(q.double(), k.detach().double(), model.opt.nce_T))
    return sum(losses) / len(losses)


def cosine_by_matrix(query, key, temperature):
    """The formula without tricks, for as many patches as a map has."""
    q, k = query.flatten(0, 1), key.flatten(0, 1)
    cosines = torch.nn.functional.cosine_similarity(q[:, None], k[None], dim=2)
    positive = cosines.diagonal() / temperature
    everyone = torch.exp(cosines / temperature).sum(1)
    return (torch.log(everyone) - positive).mean()


def l1(a, b):
    return (a - b).abs().mean()


def hinge_G(net, fake):
    return torch.relu(1 - net(fake)).mean()


def expected_terms(model, weight_GAN=1.0, weight_NCE=2.0, weight_IDT=1.0):
    """All that both generators minimise, from single passes."""
    A, B = model.real_A, model.real_B
    fake_B, fake_A = model.netG_A(A), model.netG_B(B)
    sides = (model.netF1, model.netG_A), (model.netF2, model.netG_B)
    (F1, G_A), (F2, G_B) = sides
    return {
        "G_A": weight_GAN / 2 * hinge_G(model.netD_A, fake_B),
        "G_B": weight_GAN / 2 * hinge_G(model.netD_B, fake_A),
        "NCE1": weight_NCE / 2 * nce_by_loops(model, F1, G_A, A, F2, G_B, fake_B),
        "NCE2": weight_NCE / 2 * nce_by_loops(model, F2, G_B, B, F1, G_A, fake_A),
        "idt_A": weight_IDT / 2 * l1(model.netG_A(B), B),
        "idt_B": weight_IDT / 2 * l1(model.netG_B(A), A),
    }


def learned(model):
    """Some weights of each player, early and late ones."""
    chosen = []
    for net in (model.netG_A, model.netG_B):
        chosen += [net.model[4].weight, net.model[12].conv_block[1].weight, net.model[-2].weight]
    for name in ("F1", "F2"):
        chosen += list(model.networks[name].parameters())
    return chosen


def assert_same_slopes(model, terms, expected):
    """Both sums have the same gradients; the graphs stay."""
    parameters = learned(model)
    ours = torch.autograd.grad(sum(terms.values()), parameters, retain_graph=True)
    wanted = torch.autograd.grad(sum(expected.values()), parameters, retain_graph=True)
    for found, slope in zip(ours, wanted, strict=True):
        torch.testing.assert_close(
            found, slope.float(), rtol=2e-3, atol=2e-4 * slope.abs().max().item()
        )


SMALL = ["--netF_nc", "16", "--init_gain", "0.5"]  # weights of a size that rounding does not drown


@pytest.mark.parametrize(
    "flags", ["--batch_size 1", "--batch_size 2 --lambda_NCE 3 --lambda_IDT 0.4 --lambda_GAN 0.7"]
)
def test_every_term_is_its_formula(tmp_path, flags):
    model = loaded(tmp_path, *flags.split(), *ALL, *SMALL, "--nce_layers", "8,12,16")
    opt = model.opt
    terms = model.compute_G_loss()
    expected = expected_terms(model, opt.lambda_GAN, opt.lambda_NCE, opt.lambda_IDT)

    assert list(terms) == list(expected)
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-5), name
    assert_same_slopes(model, terms, expected)


def test_discriminators_have_a_hinge_on_both_kinds_of_images(tmp_path):
    model = loaded(tmp_path)
    found = {name: value.item() for name, value in model.compute_D_loss().items()}
    for name, real, fake in (
        ("D_A", model.real_B, model.fake_B),
        ("D_B", model.real_A, model.fake_A),
    ):
        net = model.networks[name]
        expected = torch.relu(1 - net(real)).mean() + torch.relu(1 + net(fake)).mean()
        assert found[name] == pytest.approx(0.5 * expected.item(), rel=1e-5)


def test_positions_are_drawn_for_each_direction_and_shared_by_both_images(tmp_path, monkeypatch):
    model = loaded(tmp_path, "--num_patches", "7")
    seen = []
    for head in (model.netF1, model.netF2):
        head.register_forward_hook(lambda module, _, output: seen.append((module, output[1])))
    model.compute_G_loss()

    assert [module for module, _ in seen] == [model.netF1, model.netF2, model.netF2, model.netF1]
    (_, keys_A), (_, queries_B), (_, keys_B), (_, queries_A) = seen
    for key, query in ((keys_A, queries_B), (keys_B, queries_A)):
        assert all(torch.equal(k, q) for k, q in zip(key, query, strict=True))
        assert [len(set(ids.tolist())) for ids in key] == [7, 7, 7, 7]
    assert not torch.equal(keys_A[0], keys_B[0])


def test_features_of_real_images_come_from_the_pass_that_translates(tmp_path, monkeypatch):
    """Joined with the images of the other domain or not; never mixed with them, and never learning."""
    alone = loaded(tmp_path)
    monkeypatch.setattr("models.networks.passes.joining_pays", lambda x: True)
    joined = loaded(tmp_path)
    for model in (alone, joined):
        for side, real in (("A", model.real_A), ("B", model.real_B)):
            net = model.networks[f"G_{side}"]
            for found, wanted in zip(
                model.features_of_real(side, real),
                net.encode(real, model.opt.nce_layers),
                strict=True,
            ):
                torch.testing.assert_close(found, wanted.detach())
                assert not found.requires_grad
        torch.testing.assert_close(model.idt_A, model.netG_A(model.real_B))
    calls = []
    joined.netG_A.register_forward_hook(lambda *_: calls.append("a pass"))
    joined.forward()
    assert calls == [], "joined images go through the layers at once, with features"


@pytest.mark.parametrize("flags", ["--normG batch", "--no_dropout false"])
def test_where_passes_differ_features_have_a_pass_of_their_own(tmp_path, flags):
    model = loaded(tmp_path, *flags.split())
    assert model.real_features == {"A": None, "B": None}
    assert all(not feat.requires_grad for feat in model.features_of_real("A", model.real_A))
    model.optimize_parameters()
    assert torch.isfinite(torch.stack(list(model.losses.values()))).all()


# -- the step ----------------------------------------------------------------------------------------------------------


def plain_step(model):
    """D, then G and F against the new D, with plain torch; returns the moved weights."""
    nets = {name: copy.deepcopy(net) for name, net in model.networks.items()}
    players = {
        kind: [p for name in nets if name.startswith(kind) for p in nets[name].parameters()]
        for kind in "GDF"
    }
    adam = {
        "D": torch.optim.Adam(players["D"], lr=model.opt.lr, betas=(0.5, 0.999)),
        "G": torch.optim.Adam(players["G"], lr=model.opt.lr, betas=(0.5, 0.999)),
        "F": torch.optim.Adam(players["F"]),
    }

    twin = copy.copy(model)
    for name, net in nets.items():
        setattr(twin, f"net{name}", net)
    fake_B, fake_A = nets["G_A"](model.real_A).detach(), nets["G_B"](model.real_B).detach()
    loss_D = 0
    for net, real, fake in (
        (nets["D_A"], model.real_B, fake_B),
        (nets["D_B"], model.real_A, fake_A),
    ):
        loss_D = loss_D + torch.relu(1 - net(real)).mean() + torch.relu(1 + net(fake)).mean()
    (0.5 * loss_D).backward()
    adam["D"].step()

    sum(expected_terms(twin).values()).backward()
    adam["G"].step()
    adam["F"].step()
    return {f"{n}.{k}": v for n, net in nets.items() for k, v in net.state_dict().items()}


def test_a_step_is_d_then_g_and_f_with_the_librarys_adam_for_f(tmp_path):
    model = loaded(tmp_path, *ALL, *SMALL, "--lr", "0.00005", "--nce_layers", "8,12,16")
    before, expected = weights(model), plain_step(model)
    model.optimize_parameters()
    for key, value in weights(model).items():
        moved, wanted = value - before[key], expected[key] - before[key]
        if wanted.abs().max() == 0:
            continue  # a bias that a normalisation cancels
        same = (moved - wanted).abs() < 0.1 * wanted.abs().max()
        assert same.double().mean() > 0.97, key  # a slope close to zero may have either sign
        rate = 1e-3 if key.startswith("F") else 5e-5
        assert moved.abs().max().item() == pytest.approx(rate, rel=0.01), key


def test_the_heads_keep_their_own_rate_on_the_common_schedule(tmp_path):
    model = loaded(tmp_path, "--n_epochs", "1", "--n_epochs_decay", "3", "--lr", "0.01")
    model.optimize_parameters()
    [group] = model.optimizers["F"].param_groups
    assert (float(group["lr"]), group["betas"]) == (1e-3, (0.9, 0.999))
    for _ in range(3):
        model.end_epoch()
    for name, rate in (("F", 1e-3), ("G", 0.01), ("D", 0.01)):
        [group] = model.optimizers[name].param_groups
        assert float(group["lr"]) == pytest.approx(rate / 4), name
    assert model.optimizers["G"].param_groups[0]["betas"] == (0.5, 0.999)


def images(opt) -> dict[str, torch.Tensor]:
    """A batch of noise."""
    channels = {"A": opt.input_nc, "B": opt.output_nc}
    return {side: torch.rand(opt.batch_size, channels[side], 32, 32) * 2 - 1 for side in "AB"}


VARIANTS = [
    "--batch_size 5",
    "--gan_mode wgangp --normD none",
    "--gan_mode hinge --batch_size 3",
    "--netF sample --nce_layers 12,8",
    "--num_patches 1 --batch_size 2",
    "--nce_includes_all_negatives_from_minibatch false --batch_size 2",
    "--input_nc 1 --nce_idt false",
    "--input_nc 1 --output_nc 1",
    "--lambda_NCE 0",
    "--lambda_GAN 0",
    "--lambda_IDT 0",
    "--pool_size 2",
    "--no_antialias --no_antialias_up --nce_layers 4,7,10,14 --netG resnet_6blocks",
]


@pytest.mark.parametrize("flags", VARIANTS)
def test_variants_step(tmp_path, flags):
    opt = train_options(tmp_path, *flags.split(), model="dclgan")
    model = create_model(opt, Runtime.from_options(opt))
    losses = step(model, images(opt))
    assert all(abs(value) < 1e4 for value in losses.values()), losses
    assert ("G_A" in losses) == (opt.lambda_GAN > 0)
    assert ("NCE1" in losses) == (opt.lambda_NCE > 0)
    assert ("idt_A" in losses) == (opt.nce_idt and min(opt.lambda_IDT, opt.lambda_NCE) > 0)
    assert ("idt_A" in losses) == ("idt_A" in model.visual_names)
    learns = opt.lambda_NCE > 0 and opt.netF == "mlp_sample"
    assert ("F" in model.optimizers) == ("F1" in model.networks) == learns
    assert model.fake_B.shape[1] == opt.output_nc and model.fake_A.shape[1] == opt.input_nc


def test_images_of_unlike_sizes_in_the_two_domains(tmp_path):
    make_image_folder(tmp_path / "data" / "trainA", count=3, size=(40, 32))
    make_image_folder(tmp_path / "data" / "trainB", count=3, size=(32, 48))
    model = loaded(tmp_path, "--preprocess", "none")
    model.optimize_parameters()
    assert model.fake_B.shape[-2:] == (32, 40) and model.fake_A.shape[-2:] == (48, 32)


def test_a_run_cannot_gain_its_heads_on_resume(tmp_path):
    opt, runtime, _, model = build(tmp_path, "dclgan", None, "--lambda_NCE", "0")
    Checkpoint(opt, runtime, model, Progress(1, 2, 4, 1)).save_latest()
    opt, runtime, _, other = build(tmp_path, "dclgan", None)
    with pytest.raises(UserError, match="gain or lose its patch heads"):
        Checkpoint(opt, runtime, other, Progress(1, 2, 4, 1)).resume()


# -- the command line --------------------------------------------------------------------------------------------------


def test_presets_are_the_published_settings():
    names = ("gan_mode", "lr", "n_epochs", "n_epochs_decay", "pool_size")
    values = {
        preset: [getattr(parsed("--preset", preset), name) for name in names]
        for preset in ("release", "paper", "shared")
    }
    assert values == {
        "release": ["hinge_both", 2e-4, 200, 200, 0],
        "paper": ["hinge_both", 1e-4, 200, 200, 50],
        "shared": ["lsgan", 2e-4, 200, 200, 0],
    }
    opt = parsed()
    assert (opt.preset, opt.nce_layers, opt.nce_T, opt.num_patches) == (
        "release",
        [4, 8, 12, 16],
        0.07,
        256,
    )
    assert (opt.lambda_GAN, opt.lambda_NCE, opt.lambda_IDT) == (1.0, 2.0, 1.0)
    assert parsed(model="dcl").model == "dclgan"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--lambda_IDT", "-1"], "--lambda_IDT: expected a weight of at least 0"),
        (["--lambda_GAN", "0", "--lambda_NCE", "0"], "leave nothing to learn"),
        (["--nce_T", "0"], "--nce_T: expected a number above 0"),
        (["--input_nc", "1"], "the identity terms need equal channels"),
        (["--num_patches", "1"], "--num_patches 1 leaves a patch nothing"),
        (["--netF", "reshape"], "--netF: invalid choice: 'reshape'"),
    ],
)
def test_bad_input_is_one_line(argv, message):
    with pytest.raises(UserError) as caught:
        parsed(*argv)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["dclgan", "sincut", "sinhneg"])
def test_each_process_needs_patches_to_tell_apart(tmp_path, name):
    opt = train_options(tmp_path, "--num_patches", "1", "--batch_size", "2", model=name)
    runtime = Runtime.from_options(opt)
    create_model(opt, runtime)
    runtime.world_size = 2
    assert "--num_patches 1 leaves a patch nothing to differ from" in refusal(
        create_model, opt, runtime
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run by the released command (with --model, since another method is the default here)."""
    root = tmp_path_factory.mktemp("dclgan")
    data = make_dataset(root / "data")
    released = ["train.py", "--dataroot", data, "--name", "run", "--model", "dcl"]
    where = ["--checkpoints_dir", root / "checkpoints"]
    result = run_command([*released, *TINY, *where, "--max_steps", "2"])
    assert result.returncode == 0, result.stderr
    assert "recipe: dclgan, preset release" in result.stdout
    return root


def test_a_run_leaves_the_files_of_the_release(run):
    names = {path.name for path in (run / "checkpoints" / "run").glob("latest_net_*.pth")}
    parts = ("G_A", "F1", "D_A", "G_B", "F2", "D_B")
    assert names == {f"latest_net_{part}.pth" for part in parts}


def test_the_released_test_command_translates_both_directions(run, tmp_path):
    released = ["test.py", "--dataroot", run / "data", "--name", "run"]
    where = ["--checkpoints_dir", run / "checkpoints", "--results_dir", tmp_path]
    result = run_command([*released, *where, "--gpu_ids", "-1", "--num_threads", "0"])
    assert result.returncode == 0, result.stderr
    images = tmp_path / "run" / "test_latest" / "images"
    assert {
        folder.name: len(list(folder.iterdir())) for folder in images.iterdir()
    } == dict.fromkeys(("real_A", "fake_B", "real_B", "fake_A"), 4)


def test_published_generators_load_and_each_translates_its_own_domain(tmp_path):
    """Files with the release's names and keys and nothing else; inputs alone need G_A only."""
    make_dataset(tmp_path / "data")
    folder = tmp_path / "checkpoints" / "run"
    folder.mkdir(parents=True)
    nets = {}
    for seed, side in enumerate("AB"):
        torch.manual_seed(seed)
        nets[side] = create_generator("resnet_9blocks", 3, 3, 4)
        torch.save(nets[side].state_dict(), folder / f"latest_net_G_{side}.pth")

    flags = ["--model", "dcl", "--ngf", "4"]
    found, files = shown(tmp_path, "--dataroot", str(tmp_path / "data"), *flags)
    assert files == ["latest_net_G_A.pth", "latest_net_G_B.pth"]
    for side, other in ("AB", "BA"):
        real, fake = found[f"real_{side}"], found[f"fake_{other}"]
        assert sorted(real) == sorted(fake) and len(real) == 4
        for name, picture in real.items():
            expected = nets[side](picture[None])[0].detach()
            torch.testing.assert_close(fake[name], expected, atol=1e-5, rtol=0)

    (folder / "latest_net_G_B.pth").unlink()
    alone, files = shown(tmp_path, "--dataroot", str(tmp_path / "data" / "testA"), *flags)
    assert files == ["latest_net_G_A.pth"] and sorted(alone) == ["fake_B", "real_A"]
