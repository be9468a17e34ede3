"""Every --model with every preset, through the registry: a new model file is covered without touching this one."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from data import create_loader
from models import create_model, find_model, model_names
from models.networks.adjacency import sample_positions
from models.networks.chain import Chain
from models.networks.stylegan2_layers import NoiseInjection
from options import TrainOptions
from tests.helpers import make_image_folder, refusal, train_options
from util.errors import UserError
from util.hardware.runtime import Runtime
from util.run.checkpoint import Checkpoint
from util.run.progress import Progress

TRAINED = [name for name in model_names() if find_model(name).TRAINABLE]
RECIPES = [(name, preset) for name in TRAINED for preset in (find_model(name).PRESETS or [None])]


@pytest.mark.parametrize("name", [name for name in model_names() if name not in TRAINED])
def test_a_method_without_training_says_so_in_one_line(name, tmp_path):
    with pytest.raises(UserError, match=rf"--model {name} .*(train|test\.py)"):
        train_options(tmp_path, model=name)


@pytest.mark.parametrize(
    "name",
    [
        "patchgcl",
        "cut",
        "cycle_gan",
        "pix2pix",
        "sincut",
        "sinpatchgcl",
        "munit",
        "drit",
        "strotss",
        "wct2",
    ],
)
def test_published_methods_have_their_own_and_the_shared_conditions(name):
    assert {"official", "shared"} <= set(find_model(name).PRESETS)


def build(root, model, preset, *extra):
    """Options, runtime, loader and model of a tiny run."""
    flags = ["--preset", preset] if preset else []
    opt = train_options(root, *flags, *extra, model=model)
    runtime = Runtime.from_options(opt)
    return opt, runtime, create_loader(opt, runtime), create_model(opt, runtime)


def step(model, batch) -> dict[str, float]:
    model.set_input(batch)
    model.optimize_parameters()
    model.finish_step()
    return {name: value.item() for name, value in model.get_current_losses().items()}


def learning(net) -> list[tuple[str, torch.nn.Parameter]]:
    """The parameters that must get a gradient: biases that a normalisation cancels may go without."""
    chains = [module for module in net.modules() if isinstance(module, Chain)]
    dead = {id(bias) for chain in chains for bias in chain.dead_biases()}
    return [(key, p) for key, p in net.named_parameters() if p.requires_grad and id(p) not in dead]


def weights(model) -> dict[str, torch.Tensor]:
    return {
        f"{n}.{k}": v.clone()
        for n, net in model.networks.items()
        for k, v in net.state_dict().items()
    }


COMPARES_IMAGES = ("distance_gan",)  # those of a batch with each other: it may refuse one alone


@pytest.mark.parametrize(("name", "preset"), RECIPES)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_step_is_finite_and_reaches_every_parameter(tmp_path, name, preset, batch_size):
    try:
        _, _, loader, model = build(tmp_path, name, preset, "--batch_size", str(batch_size))
    except UserError as refusal:
        assert name in COMPARES_IMAGES and batch_size == 1 and "--batch_size 1 " in str(refusal)
        return
    before = weights(model)
    batch = next(iter(loader.epoch(1)))
    for _ in range(model.CYCLE):
        losses = step(model, batch)
    assert losses
    assert all(torch.isfinite(torch.tensor(value)) for value in losses.values()), losses
    for net_name, net in model.networks.items():
        for key, parameter in learning(net):
            assert parameter.grad is not None, f"no gradient for {net_name}.{key}"
            assert torch.isfinite(parameter.grad).all(), (
                f"gradient of {net_name}.{key} is not finite"
            )
        moved = [
            k for k, v in net.state_dict().items() if not torch.equal(v, before[f"{net_name}.{k}"])
        ]
        assert moved, f"net{net_name} did not move"


class HostTraffic(TorchDispatchMode):
    """Notes every operator that would make the host wait for a device: reading values, or sizes that depend on them."""

    WAITING = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "equal",
        "unique",
        "repeat_interleave",
    )

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.operators = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operators += 1
        name = function.overloadpacket.__name__
        if any(name.startswith(waiting) for waiting in self.WAITING):
            self.seen.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "preset"), RECIPES)
def test_a_step_never_waits_for_the_device(tmp_path, name, preset):
    _, _, loader, model = build(tmp_path, name, preset, "--ema", "0.9")
    batch = next(iter(loader.epoch(1)))
    for _ in range(model.CYCLE):
        step(model, batch)  # builds optimiser states
    for _ in range(model.CYCLE):
        with HostTraffic() as traffic:
            model.set_input(batch)
            model.optimize_parameters()
        model.finish_step()
        assert traffic.operators > 100  # it does see the step
        assert traffic.seen == []
    with HostTraffic() as traffic:
        model.losses["G"].item()
    assert traffic.seen == ["_local_scalar_dense"]


@pytest.mark.parametrize(("name", "preset"), RECIPES)
def test_pictures_and_translation_keep_the_size(tmp_path, name, preset):
    _, _, loader, model = build(tmp_path, name, preset)
    batch = next(iter(loader.epoch(1)))
    for _ in range(model.CYCLE):
        step(model, batch)
    pictures = model.get_current_visuals()
    shown = len(pictures["real_A"])  # some methods translate a part of their batch
    assert 1 <= shown <= model.opt.batch_size
    for label, picture in pictures.items():
        assert picture.shape == (shown, 3, 32, 32), label
        assert not picture.requires_grad
    with torch.inference_mode():
        assert model.translate(torch.rand(2, 3, 24, 40) * 2 - 1).shape == (2, 3, 24, 40)


MIXED = ("--normG", "batch", "--no_dropout", "false")
NOISY = ("--netG", "stylegan2", "--stylegan2_G_num_downsampling", "2")
WAYS_TO_TRANSLATE = {find_model(name).translate: name for name in TRAINED}.values()


@pytest.mark.parametrize(
    ("name", "flags"),
    [*((name, MIXED) for name in WAYS_TO_TRANSLATE), ("sincut", NOISY)],
)
def test_a_picture_does_not_depend_on_its_batch(tmp_path, name, flags):
    """Statistics of a batch, dropout and noise are those of each image, and nothing is remembered."""
    _, _, _, model = build(tmp_path, name, None, *flags)
    for module in model.networks.get("G", nn.Module()).modules():
        if isinstance(module, NoiseInjection):
            nn.init.ones_(module.weight)
    before = weights(model)
    contrasts = torch.tensor([0.1, 0.5, 1.0]).view(3, 1, 1, 1)
    images = (torch.rand(3, 3, 32, 32) * 2 - 1) * contrasts

    found = {}
    for size in (3, 1):
        torch.manual_seed(1)
        with torch.inference_mode():
            found[size] = torch.cat([model.translate(part) for part in images.split(size)])
    torch.testing.assert_close(found[3], found[1], rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in weights(model).items())


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("cut", "--nce_idt false --gan_mode wgangp"),
        ("fsesim", "--lambda_gradient 1.0"),
        ("gcgan", "--gan_mode wgangp"),
        ("cycle_gan", "--gan_mode wgangp"),
        ("distance_gan", "--A_to_B --gan_mode wgangp"),
    ],
)
def test_a_gradient_penalty_needs_images_of_one_size(tmp_path, name, flags):
    make_image_folder(tmp_path / "data" / "trainA", 2, (40, 36))
    make_image_folder(tmp_path / "data" / "trainB", 2, (48, 36))
    uncut = ["--preprocess", "none", "--pool_size", "0"]
    _, _, loader, model = build(tmp_path, name, None, *flags.split(), *uncut)
    text = refusal(model.check_data, loader.dataset)
    culprit = " ".join(flags.split()[-2:])
    assert text.startswith(f"{culprit} has a gradient penalty")
    assert f"or give {'--lambda_gradient 0' if name == 'fsesim' else 'another --gan_mode'}" in text
    assert "trainA" in text and "trainB" in text


POOLED = ["cycle_gan", "dclgan", "gcgan", "fsesim", "distance_gan"]


@pytest.mark.parametrize("name", POOLED)
def test_a_pool_needs_images_of_one_size_in_all_epochs(tmp_path, name):
    uncut = ["--preprocess", "resize", "--finetune_resize", "--pool_size", "9"]
    _, _, loader, model = build(tmp_path, name, None, *uncut)
    text = refusal(model.check_data, loader.dataset)
    assert text.startswith("--pool_size 9 keeps images of one size, but ") and "trainA" in text
    assert "is 36x36" in text and f"32x32 from epoch {model.opt.n_epochs + 1} on: " in text
    assert "give --pool_size 0, or --finetune_resize false, or a --preprocess that crops" in text


@pytest.mark.parametrize(
    ("size", "flags", "said"),
    [
        ((40, 36), "--preprocess scale_width", "32x32 from epoch"),
        ((40, 24), "--preprocess scale_shortside", "from epoch"),
        ((60, 48), "--preprocess scale_shortside", ""),  # larger than either size: as they are
        ((40, 36), "--preprocess resize_and_trim", ""),
        ((40, 36), "--preprocess resize --n_epochs_decay 0", ""),
        ((40, 36), "--preprocess resize --finetune_resize false", ""),
        ((40, 36), "--preprocess resize --pool_size 0", ""),
    ],
)
def test_what_a_pool_keeps_is_measured(tmp_path, size, flags, said):
    for domain in "AB":
        make_image_folder(tmp_path / "data" / f"train{domain}", 1, size)
    common = ["--finetune_resize", "--pool_size", "9", *flags.split()]
    _, _, loader, model = build(tmp_path, "cycle_gan", None, *common)
    if not said:
        model.check_data(loader.dataset)
        return
    assert said in refusal(model.check_data, loader.dataset)


@pytest.mark.parametrize("both_ways", [True, False])
def test_a_pool_keeps_one_domain_or_both(tmp_path, both_ways):
    """Images of B may have several sizes where none of them is translated."""
    make_image_folder(tmp_path / "data" / "trainA", 2, (40, 36))
    for number, size in enumerate([(40, 36), (48, 36)]):
        folder = tmp_path / "data" / "trainB"
        make_image_folder(folder, 1, size)[0].rename(folder / f"{number}.png")
    name, flags = ("dclgan", []) if both_ways else ("gcgan", ["--identity", "0"])
    common = ["--preprocess", "none", "--pool_size", "9", "--batch_size", "1", *flags]
    _, _, loader, model = build(tmp_path, name, None, *common)
    if both_ways:
        text = refusal(model.check_data, loader.dataset)
        assert text.endswith("48x36: give --pool_size 0, or a --preprocess that crops")
    else:
        model.check_data(loader.dataset)


def test_pairs_have_one_size_whatever_that_of_others(tmp_path):
    for number, size in enumerate([(40, 36), (48, 36)]):
        for domain in "AB":
            folder = tmp_path / "data" / f"train{domain}"
            make_image_folder(folder, 1, size)[0].rename(folder / f"{number}.png")
    flags = ["--dataset_mode", "aligned", "--preprocess", "none", "--gan_mode", "wgangp"]
    _, _, loader, model = build(tmp_path, "cut", None, *flags)
    model.check_data(loader.dataset)
    for batch in loader.epoch(1):
        step(model, batch)
    model.check_finite("x.pt")


@pytest.mark.parametrize(("name", "preset"), RECIPES)
def test_resume_reproduces_the_next_losses(tmp_path, name, preset):
    opt, runtime, loader, model = build(tmp_path, name, preset, "--ema", "0.9")
    batches = list(loader.epoch(1))
    assert len(batches) >= 4
    progress = Progress(1, 2, len(loader), loader.images_per_step)
    for batch in batches[:2]:
        step(model, batch)
        progress.advance()
    Checkpoint(opt, runtime, model, progress).save_latest()
    expected = [step(model, batch) for batch in batches[2:4]]
    after = weights(model)

    opt, runtime, _, again = build(tmp_path, name, preset, "--ema", "0.9")
    progress = Progress(1, 2, len(loader), loader.images_per_step)
    torch.manual_seed(99)  # resuming must bring its own random state
    Checkpoint(opt, runtime, again, progress).resume()
    assert (progress.epoch, progress.step) == (1, 2)
    assert again.learning_rate == model.learning_rate == opt.lr
    for batch, wanted in zip(batches[2:4], expected, strict=True):
        found = step(again, batch)  # of a cycle, only what its steps have computed since
        assert found and found == {key: wanted[key] for key in found}
    for key, value in weights(again).items():
        assert torch.equal(value, after[key]), key
    for key, net in again.averages.items():
        for a, b in zip(
            net.state_dict().values(), model.averages[key].state_dict().values(), strict=True
        ):
            assert torch.equal(a, b)


def alike_for_each_image(*shape, **kind) -> torch.Tensor:
    """What torch.randn would draw, but each image of the batch gets the same numbers, every time."""
    images, *rest = shape[0] if len(shape) == 1 else shape
    drawn = torch.empty(rest, **kind).normal_(generator=torch.Generator().manual_seed(0))
    return drawn.expand(images, *rest).clone()


# What a method has of these is set so that images of a batch do not meet, and nothing is left to luck.
WITHOUT_LUCK = {
    "num_patches": "100000",  # every position
    "nce_includes_all_negatives_from_minibatch": "false",
    "augment": "false",
    "lambda_gradient": "0",  # at random places between images
    "lambda_distance_A": "0",  # of pairs of images of a batch
    "lambda_distance_B": "0",
    "normG": "instance",
    "normD": "instance",
    "no_dropout": "true",
}


@pytest.mark.parametrize("name", TRAINED)
def test_accumulated_gradients_are_those_of_a_large_batch(tmp_path, monkeypatch, name):
    options = TrainOptions()
    declared = options.build_parser(options.peek(["--model", name])).declared()
    settings = {flag: value for flag, value in WITHOUT_LUCK.items() if flag in declared}
    extra = [text for flag, value in settings.items() for text in (f"--{flag}", value)]
    _, _, loader, large = build(tmp_path, name, None, "--batch_size", "4", *extra)
    _, _, _, small = build(tmp_path, name, None, "--batch_size", "2", "--accumulate", "2", *extra)
    batch = next(iter(loader.epoch(1)))
    monkeypatch.setattr(torch, "randn", alike_for_each_image)
    monkeypatch.setattr(
        "models.simdcl_model.sample_positions", lambda *where, shuffled: sample_positions(*where)
    )
    one, two = step(large, batch), step(small, batch)
    for key, value in one.items():
        assert two[key] == pytest.approx(value, rel=1e-4), key
    for net_name, net in large.networks.items():
        for (key, a), (_, b) in zip(learning(net), learning(small.networks[net_name]), strict=True):
            rounding = max(1e-6, 2e-5 * a.grad.abs().max().item())
            torch.testing.assert_close(
                b.grad, a.grad, rtol=1e-3, atol=rounding, msg=lambda m, k=key: f"{k}: {m}"
            )


@pytest.mark.parametrize("name", TRAINED)
def test_a_bad_loss_stops_before_the_step(tmp_path, name):
    _, _, loader, model = build(tmp_path, name, None)
    batch = next(iter(loader.epoch(1)))
    step(model, batch)
    model.check_finite("x.pt")
    good, state = (
        weights(model),
        copy.deepcopy(model.optimizers["G"].state_dict()["state"][0]["step"]),
    )
    spoiled = {role: torch.full_like(batch[role], torch.nan) for role in "AB" if role in batch}
    step(model, batch | spoiled)
    step(model, batch)  # nothing moves any more, even on good images
    learned = {
        f"{n}.{key}" for n, net in model.networks.items() for key, _ in net.named_parameters()
    }
    for key, value in weights(
        model
    ).items():  # batch norm has noted what it saw, but nothing is saved any more
        assert torch.equal(value, good[key]) or key not in learned, key
    assert model.optimizers["G"].state_dict()["state"][0]["step"] == state
    with pytest.raises(UserError, match=r"not finite.*x\.pt"):
        model.check_finite("x.pt")


VARIANTS = [
    "--gan_mode wgangp --normD none",
    "--gan_mode hinge",
    "--gan_mode vanilla --netD pixel",
    "--gan_mode nonsaturating --netD n_layers --n_layers_D 2",
    "--gnn_idt false",
    "--input_nc 1 --output_nc 1",
    "--input_nc 1 --gnn_idt false",
    "--direction BtoA --netG resnet_6blocks --no_antialias --no_antialias_up",
    "--normG batch --normD batch --no_dropout false",
    "--num_hop 0 --pooling_num 0",
    "--num_hop 3 --pooling_num 2 --attn_layers 0,1,2,3",
    "--adjacency_from features --pool_score both --gnn_bias false --detach_input false",
    "--lr_policy plateau --init_type kaiming",
    "--graph_features generator",
    "--graph_features generator --nce_layers 4,8 --gnn_idt false --no_antialias",
    "--neighbours 4 --weighted_edges",
]


@pytest.mark.parametrize("flags", VARIANTS)
def test_patchgcl_variants_step_and_reach_every_parameter(tmp_path, flags):
    _, _, loader, model = build(tmp_path, "patchgcl", None, "--batch_size", "2", *flags.split())
    losses = step(model, next(iter(loader.epoch(1))))
    assert all(torch.isfinite(torch.tensor(value)) for value in losses.values()), losses
    for net_name, net in model.networks.items():
        for key, parameter in learning(net):
            assert parameter.grad is not None, f"no gradient for {net_name}.{key}"
    model.end_epoch()
    assert model.get_current_visuals()["fake_B"].shape[1] == model.opt.output_nc


def test_the_official_recipe_halves_terms_and_levels(tmp_path, monkeypatch):
    """With every loss equal to 1, lambda * 1/2 * (1 + 0.5)/2 against lambda * (1 + 1), lambda half as large."""
    for preset, expected in (("official", 0.1 * 0.5 * (1 + 0.5) / 2), ("paper", 0.05 * (1 + 1))):
        _, _, loader, model = build(tmp_path, "patchgcl", preset)
        model.set_input(next(iter(loader.epoch(1))))
        monkeypatch.setattr(
            "models.losses.graph_nce.graph_nce_loss",
            lambda z, *_: torch.ones(len(z), requires_grad=True),
        )
        model.load(model._micro_batches[0])
        model.forward()
        terms = model.compute_G_loss()
        assert terms["GNN"].item() == pytest.approx(expected)
        assert terms["GNN_Y"].item() == pytest.approx(expected)


def test_ema_follows_its_definition(tmp_path):
    _, _, loader, model = build(tmp_path, "patchgcl", None, "--ema", "0.75")
    key = "model.1.weight"
    average = model.networks["G"].state_dict()[key].clone()
    for batch in list(loader.epoch(1))[:2]:
        step(model, batch)
        average = 0.75 * average + 0.25 * model.networks["G"].state_dict()[key]
    torch.testing.assert_close(model.averages["G"].state_dict()[key], average)
    assert model.inference_net("G") is model.averages["G"]


@pytest.mark.parametrize("policy", ["linear", "plateau"])
def test_changed_rates_and_a_new_average_take_effect_on_resume(tmp_path, policy):
    schedule = ["--lr_policy", policy, "--n_epochs", "1", "--n_epochs_decay", "3"]
    opt, runtime, loader, model = build(tmp_path, "patchgcl", None, *schedule)
    step(model, next(iter(loader.epoch(1))))
    for _ in range(2):
        model.end_epoch()
    half = model.learning_rate
    Checkpoint(opt, runtime, model, Progress(1, 4, len(loader), 1)).save_latest()
    changed = [*schedule, "--lr", "0.002", "--beta1", "0.7", "--ema", "0.9"]
    opt, runtime, _, again = build(tmp_path, "patchgcl", None, *changed)
    notes = Checkpoint(opt, runtime, again, Progress(1, 4, len(loader), 1)).resume()
    assert "changed since the last start: lr 0.0002 -> 0.002" in notes
    assert again.learning_rate == pytest.approx(10 * half)
    assert again.optimizers["G"].param_groups[0]["betas"] == (0.7, 0.999)
    for a, b in zip(again.averages["G"].parameters(), model.netG.parameters(), strict=True):
        assert torch.equal(a, b)
    again.end_epoch()
    model.end_epoch()
    assert again.learning_rate == pytest.approx(10 * model.learning_rate)


@pytest.mark.parametrize(
    "flags",
    [
        "--gnn_bias false",
        "--num_hop 1",
        "--pooling_num 2",
        "--attn_layers 4,7",
        "--netF_nc 128",
        "--ngf 8",
    ],
)
def test_whatever_shapes_a_network_is_refused_on_resume(tmp_path, flags):
    opt, runtime, loader, model = build(tmp_path, "patchgcl", None)
    Checkpoint(opt, runtime, model, Progress(1, 4, len(loader), 1)).save_latest()
    opt, runtime, loader, other = build(tmp_path, "patchgcl", None, *flags.split())
    with pytest.raises(UserError, match=f"{flags.split()[0]} .* contradicts the run"):
        Checkpoint(opt, runtime, other, Progress(1, 4, len(loader), 1)).resume()


def test_frozen_networks_get_no_gradient(tmp_path):
    _, _, loader, model = build(tmp_path, "patchgcl", None)
    model.set_input(next(iter(loader.epoch(1))))
    model.update("D", loss=model.compute_D_loss)
    assert all(p.grad is None for p in model.netG.parameters())
    kept = [p.grad.clone() for _, p in learning(model.netD)]
    model.update("G", "F", loss=model.compute_G_loss)
    assert all(torch.equal(p.grad, g) for (_, p), g in zip(learning(model.netD), kept, strict=True))
    assert all(p.grad is None for p in model.vgg.parameters())
    assert all(p.requires_grad for net in model.networks.values() for p in net.parameters())


def test_players_that_move_at_once_take_their_gradients_before_any_moves(tmp_path):
    """Both against the same opponents; two updates in turn differ from that."""
    gradients = []
    for at_once in (True, False):
        _, _, loader, model = build(
            tmp_path, "patchgcl", None, "--accumulate", "2", "--num_patches", "100000"
        )
        model.set_input(next(iter(loader.epoch(1))))
        before = weights(model)
        if at_once:
            model.update_at_once(G=model.compute_G_loss, D=model.compute_D_loss)
        else:
            model.update("G", loss=model.compute_G_loss)
            model.update("D", loss=model.compute_D_loss)
        moved = {
            k.split(".")[0] for k, v in weights(model).items() if not torch.equal(v, before[k])
        }
        assert moved == {"G", "D"}
        gradients.append([p.grad.clone() for _, p in learning(model.netD)])
    assert not all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    model.networks["G"].load_state_dict(
        {k.removeprefix("G."): v for k, v in before.items() if k.startswith("G.")}
    )
    model.networks["D"].load_state_dict(
        {k.removeprefix("D."): v for k, v in before.items() if k.startswith("D.")}
    )
    model.set_input(next(iter(loader.epoch(1))))
    model.update("D", loss=model.compute_D_loss)  # D's gradient from the first state
    for a, (_, p) in zip(gradients[0], learning(model.netD), strict=True):
        torch.testing.assert_close(p.grad, a)


def test_unknown_model_has_a_did_you_mean():
    with pytest.raises(UserError, match="did you mean 'patchgcl'"):
        find_model("patchgc")
