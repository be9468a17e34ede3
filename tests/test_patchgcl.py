"""PatchGCL's loss as its options describe it, against loops: features, terms, weights, and who learns from them."""

import pytest
import torch

from models import create_model
from tests.helpers import train_options
from tests.reference_graph import reference_loss
from util.hardware.runtime import Runtime

SMALL = ["--attn_layers", "1,2", "--num_patches", "16", "--netF_nc", "4", "--down_scale", "2"]
SMALL += ["--pooling_num", "2", "--nonzero_th", "0.5", "--vgg_weights", "random", "--amp", "off"]
CHOICES = [
    ["--preset", "official"],
    ["--preset", "paper"],
    *(
        ["--preset", "paper", flag, value]
        for flag, value in {
            "--nce_T": "0.9",
            "--symmetric_nce": "true",
            "--detach_input": "true",
            "--adjacency_from": "embedding",
            "--extra_self_loop": "true",
            "--pool_adjacency": "two_hop",
            "--pool_shrink": "2",
            "--pool_score": "input",
            "--pool_hop": "3",
            "--pooling_ratio": "1,0.3",
            "--average_levels": "true",
            "--average_terms": "true",
            "--neighbours": "3",
            "--weighted_edges": "true",
            "--num_hop": "0",
            "--lambda_GNN": "0.7",
        }.items()
    ),
]


@pytest.fixture
def built(tmp_path):
    """A model in float64 on one image of each domain, translated; and the places of its patches, by layer."""

    def build(*flags: str):
        opt = train_options(tmp_path, *SMALL, *flags)
        model = create_model(opt, Runtime.from_options(opt))
        for net in (model.netG, model.netD, model.netF, model.vgg):
            net.double()
        with torch.no_grad():
            for parameter in model.netF.parameters():
                parameter.normal_(0, 0.7)

        model.real_A, model.real_B = torch.rand(2, 1, 3, 32, 32, dtype=torch.float64) * 2 - 1
        model.forward()
        ids = {}

        def draw(feat):
            positions = feat[0, 0].numel()
            chosen = [torch.randperm(positions)[: opt.num_patches] for _ in feat]
            return ids.setdefault(feat.shape, torch.stack(chosen))

        model.netF.draw = draw
        return model, ids

    return build


def slow_terms(model, ids) -> dict[str, torch.Tensor]:
    """Both terms, image by image and layer by layer."""
    opt, terms = model.opt, {}
    settings = {
        "num_hop": opt.num_hop, "pool_hop": opt.pool_hop, "pooling_num": opt.pooling_num,
        "down_scale": opt.down_scale, "pool_shrink": opt.pool_shrink, "threshold": opt.nonzero_th,
        "strict": opt.threshold_test == "gt", "neighbours": opt.neighbours, "weighted": opt.weighted_edges,
        "adjacency_from": opt.adjacency_from, "extra_loop": opt.extra_self_loop,
        "pool_adjacency": opt.pool_adjacency, "pool_score": opt.pool_score, "detach_input": opt.detach_input,
        "temperature": opt.nce_T, "symmetric": opt.symmetric_nce, "ratio": opt.pooling_ratio,
        "average_levels": opt.average_levels,
    }  # fmt: skip
    if settings["pool_hop"] is None:
        settings["pool_hop"] = opt.num_hop

    weights = dict(model.netF.named_parameters())
    outputs, inputs = model.vgg(model.fake), model.vgg(model.real)
    places = [*ids.values()]
    share = opt.lambda_GNN / (2 if opt.average_terms else 1)
    for image, name in enumerate(("GNN", "GNN_Y")):
        losses = [
            reference_loss(out[image], source[image].detach(), where[image].tolist(), weights, layer=k, **settings)
            for k, (out, source, where) in enumerate(zip(outputs, inputs, places, strict=True))
        ]  # fmt: skip
        terms[name] = share * torch.stack(losses).mean()
    return terms


@pytest.mark.parametrize("flags", CHOICES, ids=" ".join)
def test_every_term_is_its_formula(built, flags):
    model, ids = built(*flags)
    terms = model.compute_G_loss()
    expected = slow_terms(model, ids)
    learners = [*model.netG.parameters(), *model.netF.parameters()]
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-8, atol=1e-10)
        fast, slow = (
            torch.autograd.grad(loss, learners, retain_graph=True, allow_unused=True)
            for loss in (terms[name], value)
        )
        for one, other in zip(fast, slow, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-10)
        assert max(grad.abs().max() for grad in slow if grad is not None) > 0


def test_the_second_term_is_that_of_the_identity(built):
    model, _ = built("--gnn_idt", "false")
    terms = model.compute_G_loss()
    assert {"G_GAN", "GNN"} == terms.keys() and len(model.fake) == 1


def test_an_edge_is_more_than_the_threshold_in_the_release_and_as_much_in_the_paper(built):
    """No drawn cosine is the threshold itself, so the terms above cannot tell."""
    for preset, strict in {"official": True, "paper": False}.items():
        model, _ = built("--preset", preset)
        assert model.netF.graph.keywords["strict"] is strict
