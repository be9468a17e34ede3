"""CUT and FastCUT: loss and sampler against loops, the two terms, the flip, and the released commands."""

import json

import pytest
import torch
from torch import nn

from models import create_model
from models.losses.patch_nce import patch_nce_loss
from models.networks.patch_sampler import PatchSampler, mirrored
from options import TrainOptions, parse
from tests.helpers import TINY, make_dataset, refusal, run_command, train_options
from util.errors import UserError
from util.hardware.runtime import Runtime
from util.run.checkpoint import Checkpoint
from util.run.progress import Progress


def build(root, *flags):
    """Options, runtime and model of a tiny run."""
    opt = train_options(root, *flags, model="cut")
    runtime = Runtime.from_options(opt)
    return opt, runtime, create_model(opt, runtime)


def images(model, seed=0, channels=3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (model.opt.batch_size, channels, 32, 32)
    return {role: torch.rand(shape, generator=generator) * 2 - 1 for role in "AB"}


def parsed(*argv: str):
    return parse(TrainOptions(), ["--dataroot", "x", "--model", "cut", *argv])


# -- the loss ----------------------------------------------------------------------------------------------------------


def unit_vectors(*shape: int, seed: int) -> torch.Tensor:
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x / x.norm(dim=-1, keepdim=True)


def loop_nce(query, key, temperature, across_batch):
    """One query at a time, as the release writes it: the positive, then the row with -10 in the positive's place."""
    batch, patches = query.shape[:2]
    per_image = []
    for b in range(batch):
        losses = []
        for i in range(patches):
            positive = query[b, i] @ key[b, i]
            row = []
            for other in range(batch) if across_batch else [b]:
                for j in range(patches):
                    same = other == b and j == i
                    row.append(
                        torch.tensor(-10.0).double() if same else query[b, i] @ key[other, j]
                    )
            logits = torch.stack([positive, *row]) / temperature
            losses.append(-torch.log(torch.exp(logits[0]) / torch.exp(logits).sum()))
        per_image.append(torch.stack(losses).mean())
    return torch.stack(per_image)


@pytest.mark.parametrize("across_batch", [False, True])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_patch_nce_is_its_formula(across_batch, temperature):
    """The batch shrinks from 3 to 2 to 1 between calls: nothing remembers it. One patch per image is SinCUT's case."""
    for batch, patches in ((3, 5), (2, 5), (1, 5), (4, 1)):
        key = unit_vectors(batch, patches, 6, seed=1).requires_grad_()
        query = unit_vectors(batch, patches, 6, seed=2)
        ours, loops = query.clone().requires_grad_(), query.clone().requires_grad_()
        loss = patch_nce_loss(ours, key, temperature, across_batch)
        expected = loop_nce(loops, key.detach(), temperature, across_batch)
        assert loss.shape == (batch,)
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-13)
        weights = torch.arange(1.0, batch + 1).double()
        (loss * weights).sum().backward()
        (expected * weights).sum().backward()
        torch.testing.assert_close(ours.grad, loops.grad, rtol=1e-10, atol=1e-12)
        assert key.grad is None


def test_patch_nce_contrasts_one_patch_per_image_only_across_the_batch():
    query, key = unit_vectors(4, 1, 6, seed=1), unit_vectors(4, 1, 6, seed=2)
    assert patch_nce_loss(query, key).max() < 1e-12
    assert patch_nce_loss(query, key, across_batch=True).min() > 0.01


def test_patch_nce_of_half_precision_is_single_precision():
    query, key = unit_vectors(2, 5, 6, seed=1).bfloat16(), unit_vectors(2, 5, 6, seed=2).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = patch_nce_loss(query, key)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(
        loss.double(), patch_nce_loss(query.double(), key.double()), rtol=1e-5, atol=1e-5
    )


# -- the sampler -------------------------------------------------------------------------------------------------------


def coordinates(batch: int, height: int, width: int) -> torch.Tensor:
    """Maps (B,2,H,W) whose unit vectors differ at all positions, scaled differently in each image."""
    angle = torch.arange(height * width).double().reshape(height, width) / (height * width)
    scale = torch.arange(1, batch + 1).double()[:, None, None, None]
    return scale * torch.stack([angle.cos(), angle.sin()])


def test_patches_are_the_sampled_positions_embedded_one_by_one():
    torch.manual_seed(0)
    sampler = PatchSampler([4, 6], width=8).double()
    feats = [torch.randn(3, 4, 5, 7).double(), torch.randn(3, 6, 4, 4).double()]
    patches, ids = sampler(feats, num_patches=9)
    for i, (feat, of_layer, positions) in enumerate(zip(feats, patches, ids, strict=True)):
        first, _, second = getattr(sampler, f"mlp_{i}")
        assert of_layer.shape == (3, 9, 8)
        for b in range(3):
            for n, position in enumerate(positions):
                x = feat[b, :, position // feat.shape[3], position % feat.shape[3]]
                x = second.weight @ torch.relu(first.weight @ x + first.bias) + second.bias
                torch.testing.assert_close(of_layer[b, n], x / ((x * x).sum().sqrt() + 1e-7))


def test_positions_are_distinct_shared_and_reused():
    sampler = PatchSampler([2], kind="sample")
    assert not list(sampler.parameters())
    (patches,), (ids,) = sampler([coordinates(3, 6, 7)], num_patches=10)
    assert len(set(ids.tolist())) == 10
    assert ids.min() >= 0 and ids.max() < 42
    torch.testing.assert_close(
        patches[0], patches[1]
    )  # the same places in all images: only the length differed
    torch.testing.assert_close(patches.norm(dim=2), torch.ones(3, 10).double(), rtol=1e-6, atol=0)
    (again,), (same,) = sampler([coordinates(3, 6, 7)], 3, [ids])
    assert torch.equal(again, patches) and torch.equal(same, ids)
    _, (other,) = sampler([coordinates(3, 6, 7)], 10)
    assert not torch.equal(other, ids)


@pytest.mark.parametrize("asked", [0, 42, 100])
def test_no_number_or_too_many_patches_are_all_positions(asked):
    _, (ids,) = PatchSampler([2], kind="sample")([coordinates(1, 6, 7)], asked)
    assert sorted(ids.tolist()) == list(range(42))


def test_every_position_is_as_likely():
    torch.manual_seed(0)
    draws, positions, count = 2000, 20, 5
    feat = torch.zeros(1, 1, 4, 5)
    drawn = torch.cat([PatchSampler.draw(feat, count) for _ in range(draws)]).bincount(
        minlength=positions
    )
    share = count / positions
    deviation = (draws * share * (1 - share)) ** 0.5
    assert ((drawn - draws * share).abs() < 4.5 * deviation).all(), drawn


def test_the_head_has_the_released_keys_and_size():
    head = PatchSampler([3, 128, 256, 256, 256])
    keys = [
        f"mlp_{i}.{part}.{kind}" for i in range(5) for part in (0, 2) for kind in ("weight", "bias")
    ]
    assert list(head.state_dict()) == keys
    assert round(sum(p.numel() for p in head.parameters()) / 1e6, 3) == 0.560
    with pytest.raises(UserError, match="--netF"):
        PatchSampler([3], kind="reshape")


def test_a_patch_of_zeros_has_a_gradient():
    feat = torch.zeros(1, 2, 3, 3, requires_grad=True)
    (patches,), _ = PatchSampler([2], kind="sample")([feat], 4)
    patches.sum().backward()
    assert torch.isfinite(feat.grad).all()


def test_the_gradient_of_a_map_has_the_layout_of_the_map():
    """Batch norm's backward on a CPU is wrong in torch 2.15 for a gradient laid out otherwise, at batch size 1."""
    feat = torch.randn(1, 4, 6, 6).double()
    slopes = []
    for x in (feat.clone().requires_grad_(), feat.clone().requires_grad_()):
        maps = nn.functional.batch_norm(x, None, None, training=True)
        ids = torch.tensor([3, 7, 20, 30, 1])
        if slopes:
            picked = torch.stack([maps[0, :, i // 6, i % 6] for i in ids])[None]
            picked = picked / (picked.norm(dim=2, keepdim=True) + 1e-7)
        else:
            (picked,), _ = PatchSampler([4], kind="sample")([maps], ids=[ids])
        (picked * torch.arange(20).double().view(1, 5, 4)).sum().backward()
        slopes.append(x.grad)
    torch.testing.assert_close(*slopes)


# -- the model ---------------------------------------------------------------------------------------------------------


def loop_terms(model) -> list[torch.Tensor]:
    """The contrastive terms from one pass of G per image batch, keys detached after F, unweighted."""
    opt, terms = model.opt, []
    pairs = [(model.real_A, model.fake_B)]
    if hasattr(model, "idt_B"):
        pairs.append((model.real_B, model.idt_B))
    for source, output in pairs:
        query, key = (
            model.netG.encode(output, opt.nce_layers),
            model.netG.encode(source, opt.nce_layers),
        )
        if opt.flip_equivariance and model.flipped:
            query = [feat.flip(3) for feat in query]
        keys, ids = model.netF(key, opt.num_patches)
        queries, _ = model.netF(query, opt.num_patches, ids)
        layers = [
            loop_nce(
                q.double(),
                k.detach().double(),
                opt.nce_T,
                opt.nce_includes_all_negatives_from_minibatch,
            ).mean()
            for q, k in zip(queries, keys, strict=True)
        ]
        terms.append(sum(layers) / len(layers))
    return terms


@pytest.mark.parametrize(
    ("flags", "weights"),
    [
        ("", [0.5, 0.5]),
        ("--normG batch --nce_T 0.5", [0.5, 0.5]),
        ("--lambda_NCE 3 --nce_includes_all_negatives_from_minibatch", [1.5, 1.5]),
        ("--CUT_mode FastCUT", [10.0]),
        ("--flip_equivariance --netF sample", [0.5, 0.5]),
    ],
)
def test_the_contrastive_terms_are_their_formula(tmp_path, flags, weights):
    """One pass for both domains equals a pass for each, in value and in the gradients of G and F."""
    _, _, model = build(tmp_path, "--batch_size", "2", "--num_patches", "6", *flags.split())
    for seed in (0, 2, 3):  # FastCUT mirrors in some of them
        model.load(images(model, seed))
        torch.manual_seed(seed)
        model.forward()
        torch.manual_seed(10)
        terms = model.compute_G_loss()
        names = ["NCE", "NCE_Y"][: len(weights)]
        assert list(terms) == ["G_GAN", *names]
        torch.manual_seed(10)
        expected = loop_terms(model)
        for name, weight, term in zip(names, weights, expected, strict=True):
            assert terms[name].item() == pytest.approx(weight * term.item(), rel=1e-5)
        parameters = [model.netG.model[4].weight, model.netG.model[12].conv_block[1].weight]
        parameters += list(model.netF.parameters())[:2]
        total = sum(weight * term for weight, term in zip(weights, expected, strict=True))
        slopes = torch.autograd.grad(
            sum(terms[name] for name in names), parameters, retain_graph=True
        )
        for ours, slope in zip(slopes, torch.autograd.grad(total, parameters), strict=True):
            torch.testing.assert_close(ours, slope, rtol=2e-3, atol=1e-5 * slope.abs().max().item())


def test_the_flip_is_drawn_for_every_step_and_mirrors_input_and_output(tmp_path):
    _, _, model = build(tmp_path, "--CUT_mode", "FastCUT")
    model.netG = Pointwise()
    model.load(images(model))
    torch.manual_seed(0)
    flips = 0
    for _ in range(400):
        model.forward()
        plain = model.netG(model.real_A)
        assert torch.equal(model.fake_B, plain.flip(3) if model.flipped else plain)
        flips += int(model.flipped)
    assert 150 < flips < 250


class Pointwise(nn.Module):
    """A generator that commutes with a flip exactly: every pixel for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 3, 1)

    def forward(self, x):
        return torch.tanh(self.second(torch.tanh(self.first(x))))

    def encode(self, x, layers):
        return [x, torch.tanh(self.first(x))]


def test_the_flip_is_undone_before_patches_are_read(tmp_path):
    """With a generator that commutes with it, a flip changes nothing."""
    _, _, model = build(tmp_path, "--CUT_mode", "FastCUT")
    torch.manual_seed(0)
    model.netG, model.netF = Pointwise(), PatchSampler([3, 5], 16)
    model.load(images(model))
    seen = {}
    for seed in range(20):
        torch.manual_seed(seed)
        model.forward()
        torch.manual_seed(99)
        seen.setdefault(bool(model.flipped), []).append(model.compute_G_loss()["NCE"].item())
    assert set(seen) == {False, True}
    assert len({value for values in seen.values() for value in values}) == 1


def test_mirrored_positions_read_the_map_flipped_back():
    feat = torch.randn(2, 3, 5, 7)
    ids = torch.randperm(35)
    assert torch.equal(feat.flatten(2)[:, :, mirrored(ids, 7)], feat.flip(3).flatten(2)[:, :, ids])
    assert torch.equal(mirrored(mirrored(ids, 7), 7), ids)


VARIANTS = [
    "--gan_mode wgangp --normD none",
    "--input_nc 1 --output_nc 1 --nce_layers 0,4",
    "--no_antialias --no_antialias_up --nce_layers 0,4,7,10,14 --netG resnet_6blocks",
    "--no_antialias",
    "--normG batch --normD batch --no_dropout false",
    "--netF sample --num_patches 0 --nce_layers 12,8",
    "--netF_nc 32 --num_patches 1 --nce_includes_all_negatives_from_minibatch",
    "--CUT_mode fastcut --nce_idt",
    "--CUT_mode FastCUT --lambda_NCE 0",
    "--lambda_NCE 0",
    "--lambda_GAN 0",
]


@pytest.mark.parametrize("flags", VARIANTS)
def test_variants_step_and_reach_the_head(tmp_path, flags):
    opt, _, model = build(tmp_path, "--batch_size", "2", *flags.split())
    model.set_input(images(model, channels=opt.input_nc))
    model.optimize_parameters()
    assert torch.isfinite(torch.stack(list(model.losses.values()))).all(), model.losses
    assert (
        ("F" in model.networks)
        == ("F" in model.optimizers)
        == (opt.netF == "mlp_sample" and opt.lambda_NCE > 0)
    )
    assert ("G_GAN" in model.losses) == (opt.lambda_GAN > 0)
    assert ("NCE" in model.losses) == (opt.lambda_NCE > 0)
    assert (
        ("NCE_Y" in model.losses) == hasattr(model, "idt_B") == (opt.lambda_NCE > 0 and opt.nce_idt)
    )
    if "F" in model.networks:
        assert all(
            p.grad is not None and torch.isfinite(p.grad).all() for p in model.netF.parameters()
        )
    assert model.get_current_visuals()["fake_B"].shape == (2, opt.output_nc, 32, 32)


@pytest.mark.parametrize(
    ("first", "then", "named"),
    [
        ("--lambda_NCE 0", "", "--lambda_NCE 1.0 --src false --lambda_SRC 0.05"),
        ("--lambda_NCE 0 --src", "--lambda_NCE 0", "--lambda_NCE 0.0 --src false --lambda_SRC 0.05"),
    ],
)  # fmt: skip
def test_a_run_cannot_gain_or_lose_its_head_on_resume(tmp_path, first, then, named):
    opt, runtime, model = build(tmp_path, *first.split())
    Checkpoint(opt, runtime, model, Progress(1, 2, 4, 1)).save_latest()
    opt, runtime, other = build(tmp_path, *then.split())
    said = refusal(Checkpoint(opt, runtime, other, Progress(1, 2, 4, 1)).resume)
    assert f"{named}: a run cannot gain or lose its patch head" in said


# -- the command line --------------------------------------------------------------------------------------------------


def test_presets_are_the_published_settings():
    cut = parsed()
    names = ("preset", "nce_idt", "lambda_NCE", "flip_equivariance", "n_epochs", "n_epochs_decay")
    assert [getattr(cut, name) for name in names] == ["official", True, 1.0, False, 200, 200]
    assert (cut.nce_layers, cut.nce_T, cut.num_patches, cut.lambda_GAN) == (
        [0, 4, 8, 12, 16],
        0.07,
        256,
        1.0,
    )
    for flags in (["--CUT_mode", "fastCUT"], ["--preset", "fastcut"]):
        fast = parsed(*flags)
        assert [getattr(fast, name) for name in names] == ["fastcut", False, 10.0, True, 150, 50]
        assert fast.CUT_mode == "FastCUT"
    assert parsed("--CUT_mode", "FastCUT", "--lambda_NCE", "2").lambda_NCE == 2
    shared = vars(parsed("--preset", "shared"))
    assert {key for key, value in vars(cut).items() if shared[key] != value} <= {
        "preset",
        "recipe",
        "changed",
    }


def test_the_mode_names_the_model_in_training():
    opt = parse(TrainOptions(), ["--dataroot", "x", "--CUT_mode=cut"])
    assert (opt.model, opt.preset, opt.CUT_mode) == ("cut", "official", "CUT")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--CUT_mode", "FastCat"], "expected CUT or FastCUT"),
        (
            ["--CUT_mode", "FastCUT", "--preset", "shared"],
            "--CUT_mode FastCUT contradicts --preset shared",
        ),
        (
            ["--CUT_mode", "CUT", "--preset", "fastcut"],
            "--CUT_mode CUT contradicts --preset fastcut",
        ),
        (["--netF", "reshape"], "--netF: invalid choice: 'reshape'"),
        (["--pool_size", "50"], "--pool_size 50"),
        (["--nce_T", "0"], "--nce_T: expected a number above 0"),
        (["--lambda_NCE", "-1"], "--lambda_NCE: expected a weight of at least 0"),
        (["--lambda_NCE", "0", "--lambda_GAN", "0"], "make one of them positive"),
        (["--input_nc", "1"], "takes equal channels"),
        (
            ["--num_patches", "1"],
            "within an image: give more, or --nce_includes_all_negatives_from_minibatch and a --batch_size of",
        ),
        (
            ["--num_patches", "1", "--batch_size", "2"],
            "within an image: give more, or --nce_includes_all_negatives_from_minibatch",
        ),
        (
            ["--num_patches", "1", "--nce_includes_all_negatives_from_minibatch"],
            "as each process has one image: give more, or a --batch_size of at least 2",
        ),
        (["--lambda_GNN", "0.1"], "--lambda_GNN belongs to --model patchgcl"),
    ],
)
def test_bad_input_is_one_line(argv, message):
    with pytest.raises(UserError) as caught:
        parsed(*argv)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_layer_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UserError, match="--nce_layers names layer 40"):
        build(tmp_path, "--nce_layers", "0,40")


def test_the_released_commands_run_as_printed(tmp_path):
    data = make_dataset(tmp_path / "data")
    where = ["--checkpoints_dir", tmp_path / "checkpoints"]
    for name, mode, preset, epochs in (
        ("grumpycat_CUT", "CUT", "official", (200, 200)),
        ("grumpycat_FastCUT", "FastCUT", "fastcut", (150, 50)),
    ):
        released = ["train.py", "--dataroot", data, "--name", name, "--CUT_mode", mode]
        result = run_command([*released, *TINY, *where, "--max_steps", "2"])
        assert result.returncode == 0, result.stderr
        options = json.loads((tmp_path / "checkpoints" / name / "train_opt.json").read_text())[
            "options"
        ]
        assert (options["model"], options["preset"], options["CUT_mode"]) == ("cut", preset, mode)
        assert (options["n_epochs"], options["n_epochs_decay"]) == epochs
    released = [
        "test.py",
        "--dataroot",
        data,
        "--name",
        "grumpycat_CUT",
        "--CUT_mode",
        "CUT",
        "--phase",
        "train",
    ]
    result = run_command(
        [*released, *where, "--results_dir", tmp_path / "results", "--gpu_ids", "-1"]
    )
    assert result.returncode == 0, result.stderr
    pictures = tmp_path / "results" / "grumpycat_CUT" / "train_latest" / "images"
    assert len(list((pictures / "fake_B").iterdir())) == len(list((data / "trainA").iterdir()))
