"""PatchGCL's loss as its options describe it, against loops: features, terms, weights, and who learns from them.

Then the first weights of the graph head, and what is refused.
"""

import pytest
import torch

from models import create_model
from tests.helpers import refusal, train_options
from tests.reference_graph import reference_loss
from tests.test_models import build
from util.hardware.runtime import Runtime
from util.run.checkpoint import Checkpoint
from util.run.progress import Progress

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


# -- the first weights of the graph head -------------------------------------------------------------------------------


def head_of(model, value: float) -> dict[str, torch.Tensor]:
    """Weights of a graph head, all of one value."""
    return {key: torch.full_like(x, value) for key, x in model.netF.state_dict().items()}


def values(model) -> set[float]:
    return {x for weight in model.netF.state_dict().values() for x in weight.flatten().tolist()}


def begun(root, *flags: str):
    """A run that begins or goes on, as train.py does it: its checkpoint and its model."""
    opt, runtime, loader, model = build(root, "patchgcl", None, *SMALL, *flags)
    checkpoint = Checkpoint(opt, runtime, model, Progress(1, 2, len(loader), 1))
    checkpoint.resume()
    model.prepare_once(loader.dataset)
    return checkpoint, model


@pytest.fixture
def head_file(tmp_path):
    """Weights of 0.5 for a graph head; in the run called other it has 0.25."""
    checkpoint, model = begun(tmp_path, "--name", "other")
    model.netF.load_state_dict(head_of(model, 0.25))
    checkpoint.save_latest()
    torch.save(head_of(model, 0.5), tmp_path / "1_net_F.pth")
    return tmp_path / "1_net_F.pth"


def test_a_file_for_the_head_takes_the_place_of_another_run_s(tmp_path, head_file):
    _, model = begun(tmp_path, "--pretrained_name", "other", "--init_F", str(head_file))
    assert values(model) == {0.5}
    other = torch.load(tmp_path / "checkpoints" / "other" / "latest_net_G.pth")
    assert all(torch.equal(x, other[key]) for key, x in model.netG.state_dict().items())

    _, model = begun(tmp_path, "--pretrained_name", "other")
    assert values(model) == {0.25}


def test_only_the_first_start_reads_the_file_for_the_head(tmp_path, head_file):
    first = ["--init_F", str(head_file)]
    checkpoint, model = begun(tmp_path, *first)
    assert values(model) == {0.5}
    model.netF.load_state_dict(head_of(model, 0.75))  # what it has learned
    checkpoint.save_latest()

    head_file.unlink()
    _, model = begun(tmp_path, *first)
    assert values(model) == {0.75}


def test_a_run_that_goes_on_from_weights_keeps_the_head_it_has(tmp_path, head_file):
    """Where it has none, as with a generator from elsewhere, the file is read."""
    flags = ["--name", "other", "--continue_train", "--init_F", str(head_file)]
    folder = tmp_path / "checkpoints" / "other"
    for state in folder.glob("*_state.pt"):
        state.unlink()
    said = refusal(begun, tmp_path, *flags)
    assert "goes on with the graph head in" in said and "leave --init_F out" in said

    (folder / "latest_net_F.pth").unlink()
    _, model = begun(tmp_path, *flags)
    assert values(model) == {0.5}


# -- what is refused ---------------------------------------------------------------------------------------------------

GENERATOR = "--graph_features generator --gnn_idt false --output_nc 1"


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (GENERATOR, "--graph_features generator reads G's output with G, which takes equal channels"),
        ("--gnn_idt --output_nc 1", "--gnn_idt needs equal channels"),
        ("--lambda_GAN 0 --lambda_GNN 0", "--lambda_GAN 0.0 --lambda_GNN 0.0 leaves nothing to learn"),
        ("--num_patches 1", "--num_patches 1 leaves a patch nothing to differ from"),
        ("--nce_T 0", "--nce_T: expected a number above 0"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(tmp_path, flags, text):
    assert text in refusal(lambda: train_options(tmp_path, *flags.split()))


def test_a_gan_without_graphs_may_have_one_patch(tmp_path):
    assert train_options(tmp_path, "--num_patches", "1", "--lambda_GNN", "0").num_patches == 1
