"""The ingredients of Hneg-SRC in CUT, hDCE and SRC: losses against loops, and the terms of a step."""

import math

import pytest
import torch

from models.losses.hdce import hard_negative_weights, hdce_loss
from models.losses.semantic_relation import semantic_relation_loss
from models.networks.patch_sampler import PatchSampler
from options import TrainOptions, parse
from tests.helpers import refusal
from tests.test_models import build, step

# -- the losses --------------------------------------------------------------------------------------------------------


def vectors(*shape: int, seed: int) -> torch.Tensor:
    """Unit vectors that resemble each other, as features of one image do."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, dtype=torch.float64, generator=generator) + 0.5
    return x / x.norm(dim=-1, keepdim=True)


def groups_of(x, across_batch):
    """The patches that meet each other: those of each image, or all of them."""
    images = [list(image) for image in x]
    return [[patch for image in images for patch in image]] if across_batch else images


def unit(v):
    return v / ((v * v).sum().sqrt() + 1e-7)


def loop_weights(keys, gamma):
    """As the release writes it: a softmax of each row with -10 on the diagonal, divided by its maximum."""
    rows = []
    for i, one in enumerate(keys):
        scores = []
        for j, other in enumerate(keys):
            cosine = -10.0 if i == j else (unit(one) @ unit(other)).item()
            scores.append(math.exp(cosine / gamma))
        softmax = [score / sum(scores) for score in scores]
        rows.append([p / max(softmax) for p in softmax])
    return rows


def loop_hdce(query, key, gamma, temperature, across_batch):
    """One query at a time; returns a loss for each patch of the batch, in order."""
    losses = []
    for queries, keys in zip(
        groups_of(query, across_batch), groups_of(key, across_batch), strict=True
    ):
        weights = loop_weights(keys, gamma)
        for i, q in enumerate(queries):
            total = math.exp(-10 / temperature)
            for j, k in enumerate(keys):
                if j != i:
                    total = total + torch.exp(weights[i][j] * (q @ k) / temperature)
            losses.append(torch.log(total) - q @ keys[i] / temperature)
    return torch.stack(losses).reshape(query.shape[:2]).mean(1)


def relations(x):
    """How much each patch is related to each, rows that add up to 1."""
    rows = []
    for one in x:
        scores = torch.stack([torch.exp(unit(one) @ unit(other)) for other in x])
        rows.append(scores / scores.sum())
    return rows


def loop_src(query, key, across_batch):
    """Jensen-Shannon divergence, entry by entry."""
    losses = []
    for queries, keys in zip(
        groups_of(query, across_batch), groups_of(key, across_batch), strict=True
    ):
        total = 0.0
        for row_p, row_r in zip(relations(queries), relations(keys), strict=True):
            for p, r in zip(row_p, row_r, strict=True):
                mean = (p + r) / 2
                total = total + 0.5 * (p * torch.log(p / mean) + r * torch.log(r / mean))
        losses.append(total)
    return torch.stack(losses)


LOSSES = {
    "hdce": (
        lambda q, k, across: hdce_loss(q, k, 0.5, 0.07, across),
        lambda q, k, across: loop_hdce(q, k, 0.5, 0.07, across),
    ),
    "hdce, other temperatures": (
        lambda q, k, across: hdce_loss(q, k, torch.tensor(5.0), 1.0, across),
        lambda q, k, across: loop_hdce(q, k, 5.0, 1.0, across),
    ),
    "src": (semantic_relation_loss, loop_src),
}


@pytest.mark.parametrize("across_batch", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_their_formulas(name, across_batch):
    """The batch shrinks from 3 to 1 between calls: nothing remembers it. One patch per image is for single images."""
    ours_of, loops_of = LOSSES[name]
    for batch, patches in ((3, 5), (1, 5), (4, 1)):
        if patches == 1 and not across_batch:
            continue
        query = vectors(batch, patches, 6, seed=1)
        key = vectors(batch, patches, 6, seed=2).requires_grad_()
        ours, loops = query.clone().requires_grad_(), query.clone().requires_grad_()
        loss, expected = (
            ours_of(ours, key, across_batch),
            loops_of(loops, key.detach(), across_batch),
        )
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-13)

        weights = torch.arange(1.0, len(loss) + 1).double()
        (loss * weights).sum().backward()
        (expected * weights).sum().backward()
        torch.testing.assert_close(ours.grad, loops.grad, rtol=1e-10, atol=1e-12)
        assert key.grad is None


@pytest.mark.parametrize("gamma", [0.2, 1.0, 50.0])
def test_weights_follow_likeness_and_the_hardest_negative_has_1(gamma):
    key = vectors(2, 6, 5, seed=3)
    found = hard_negative_weights(key, gamma)
    others = ~torch.eye(6, dtype=torch.bool)
    for image, table in zip(key, found, strict=True):
        expected = torch.tensor(loop_weights(list(image), gamma), dtype=torch.float64)
        torch.testing.assert_close(table[others], expected[others], rtol=1e-12, atol=0)
        assert (table[others].reshape(6, 5).amax(1) == 1).all()
        assert table[others].min() >= math.exp(-2 / gamma)
    assert (hard_negative_weights(key, torch.tensor(torch.inf)) == 1).all()


def test_the_positive_is_not_in_the_denominator():
    """With it the loss of a patch could not be below 0."""
    x = vectors(1, 4, 8, seed=4).abs()  # all cosines are positive
    far = torch.eye(8).double()[None, :4]
    assert hdce_loss(far, far, 1.0, 0.07).item() == pytest.approx(math.log(3) - 1 / 0.07)
    heavier = hdce_loss(x, x, 50.0, 0.07) - hdce_loss(x, x, 0.05, 0.07)
    assert heavier.item() > 0.1, "lighter negatives repel less"


def test_equal_relations_cost_nothing_whatever_the_vectors():
    """A rotation changes all vectors and no relation; the loss is bounded by N log 2."""
    x = vectors(2, 7, 5, seed=5)
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))
    turned = (x @ rotation).requires_grad_()
    loss = semantic_relation_loss(turned, x)
    assert loss.abs().max() < 1e-14
    loss.sum().backward()
    assert turned.grad.abs().max() < 1e-14
    other = semantic_relation_loss(x, vectors(2, 7, 5, seed=6))
    assert (other > 1e-3).all() and (other < 7 * math.log(2)).all()


@pytest.mark.parametrize("loss", [semantic_relation_loss, lambda q, k: hdce_loss(q, k, 1.0)])
def test_degenerate_features_have_finite_losses_and_gradients(loss):
    """Patches of zeros, as a black image has them, and patches that are all alike."""
    for query, key in (
        (torch.zeros(1, 4, 3), torch.zeros(1, 4, 3)),
        (torch.zeros(1, 4, 3), vectors(1, 4, 3, seed=1).float()),
        (torch.ones(2, 4, 3) / 3**0.5, torch.ones(2, 4, 3) / 3**0.5),
    ):
        query = query.requires_grad_()
        value = loss(query, key).sum()
        value.backward()
        assert torch.isfinite(value) and torch.isfinite(query.grad).all()


@pytest.mark.parametrize("loss", [semantic_relation_loss, lambda q, k: hdce_loss(q, k, 1.0)])
def test_losses_of_half_precision_are_single_precision(loss):
    query, key = vectors(2, 5, 6, seed=1).bfloat16(), vectors(2, 5, 6, seed=2).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(query, key)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.double(), loss(query.double(), key.double()), rtol=1e-5, atol=1e-5
    )


# -- the step ----------------------------------------------------------------------------------------------------------


def places(feat, count):
    """Fixed positions in the place of drawn ones."""
    return torch.arange(count) * 3 % (feat.shape[2] * feat.shape[3])


def slow_terms(model, gamma, across_batch=False) -> dict[str, torch.Tensor]:
    """Losses of both domains without weights, from a pass of G for each image batch, in loops."""
    opt, terms = model.opt, {}
    pairs = {"HDCE": (model.real_A, model.fake_B), "HDCE_Y": (model.real_B, model.idt_B)}
    for name, (source, output) in pairs.items():
        ids = [places(feat, opt.num_patches) for feat in model.netG.encode(source, opt.nce_layers)]
        with torch.no_grad():
            keys, _ = model.netF(model.netG.encode(source, opt.nce_layers), ids=ids)
        queries, _ = model.netF(model.netG.encode(output, opt.nce_layers), ids=ids)
        layers = list(zip(queries, keys, strict=True))
        contrast = [loop_hdce(q, k, gamma, opt.nce_T, across_batch).mean() for q, k in layers]
        terms[name] = sum(contrast) / len(layers)
        if name == "HDCE":
            terms["SRC"] = sum(loop_src(q, k, across_batch).mean() for q, k in layers) / len(layers)
    return terms


@pytest.mark.parametrize(
    ("name", "flags", "weights", "gamma"),
    [
        ("cut", "--nce_weights hdce --src --lambda_SRC 2", (0.5, 2.0), 1),
        ("sincut", "--nce_weights hdce --HDCE_gamma 0.3 --src --lambda_SRC 3", (2.0, 3.0), 0.3),
    ],
)  # fmt: skip
def test_the_terms_are_their_formula(tmp_path, monkeypatch, name, flags, weights, gamma):
    assert_terms(tmp_path, monkeypatch, name, flags, weights, gamma)


def assert_terms(tmp_path, monkeypatch, name, flags, weights, gamma) -> None:
    """Terms are those of the loops, in value and in the gradients of G and F, for a batch of 2 in float64."""
    monkeypatch.setattr(PatchSampler, "draw", staticmethod(places))
    extra = ["--batch_size", "2", "--num_patches", "5"]
    if name.startswith("sin"):
        extra += ["--netG", "resnet_4blocks", "--nce_layers", "0,4,8,12"]
    _, _, loader, model = build(tmp_path, name, None, *extra, *flags.split())
    torch.manual_seed(3)
    for parameter in model.netF.parameters():  # so that cosines differ from patch to patch
        torch.nn.init.normal_(parameter, std=0.3)
    for net in model.networks.values():
        net.double()
    batch = next(iter(loader.epoch(1)))
    model.set_input({role: batch[role].double() for role in "AB"})
    model.load(model._micro_batches[0])
    model.forward()

    terms = model.compute_G_loss()
    expected = slow_terms(model, gamma, across_batch=name.startswith("sin"))
    contrast, src = weights
    for key, weight in {"HDCE": contrast, "HDCE_Y": contrast, "SRC": src}.items():
        expected[key] = weight * expected[key]
    for key, value in expected.items():
        assert terms[key].item() == pytest.approx(value.item(), rel=1e-7), key

    learning = [model.netG.model[4].weight, model.netG.model[12].conv_block[1].weight]
    learning += list(model.netF.parameters())[:2]
    slopes = torch.autograd.grad(sum(terms[key] for key in expected), learning, retain_graph=True)
    loops = torch.autograd.grad(sum(expected.values()), learning)
    for ours, slope in zip(slopes, loops, strict=True):
        torch.testing.assert_close(ours, slope, rtol=1e-6, atol=1e-7 * slope.abs().max().item())


INGREDIENTS = {
    "cut --nce_weights hdce": {"HDCE", "HDCE_Y"},
    "cut --nce_weights hdce --nce_idt false --flip_equivariance": {"HDCE"},
    "cut --src": {"NCE", "NCE_Y", "SRC"},
    "cut --src --lambda_NCE 0": {"SRC"},
    "cut --src --lambda_SRC 0": {"NCE", "NCE_Y"},
}


@pytest.mark.parametrize("command", INGREDIENTS)
def test_each_ingredient_can_be_tried_alone(tmp_path, command):
    assert_step(tmp_path, command, INGREDIENTS[command])


def assert_step(tmp_path, command: str, terms: set[str]) -> None:
    """A step of a batch of 2 has these contrastive terms, all finite, and moves F."""
    name, *flags = command.split()
    small = ["--batch_size", "2", "--num_patches", "8"]
    _, _, loader, model = build(tmp_path, name, None, *small, *flags)
    losses = step(model, next(iter(loader.epoch(1))))
    assert all(math.isfinite(value) for value in losses.values()), losses
    assert {key for key in losses if key.split("_")[0] in ("NCE", "HDCE", "SRC")} == terms
    if "F" in model.networks:
        assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in model.netF.parameters())


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--model cut --HDCE_gamma 2", "--HDCE_gamma has no effect beside --nce_weights none"),
        ("--model cut --src --HDCE_gamma 5", "--HDCE_gamma has no effect beside --nce_weights none"),
        ("--model sincut --lambda_SRC 1", "--lambda_SRC has no effect beside --src false"),
        ("--model cut --nce_weights hdce --lambda_SRC 1", "--lambda_SRC has no effect beside --src false"),
        ("--model cut --nce_weights hdce --lambda_NCE 0", "weighs the contrast, which --lambda_NCE 0"),
        ("--model cut --src --lambda_SRC -1", "--lambda_SRC: expected a weight of at least 0"),
        ("--model cut --nce_weights hdce --HDCE_gamma 0", "--HDCE_gamma: expected a number above 0"),
        ("--model cut --nce_weights dce", "--nce_weights: invalid choice"),
        ("--model cut --src --lambda_NCE 0 --lambda_SRC 0 --lambda_GAN 0", "make one of them positive"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(argv, message):
    assert message in refusal(parse, TrainOptions(), ["--dataroot", "x", *argv.split()])


def test_an_ingredient_may_be_called_off_by_its_weight():
    off = ["--model", "cut", "--nce_weights", "hdce", "--lambda_SRC", "0"]
    assert parse(TrainOptions(), ["--dataroot", "x", *off]).lambda_SRC == 0
