"""Memory: what helps when there is none left, blocks that are computed twice, tiles where they are the same."""

from types import SimpleNamespace

import pytest
import torch

from models.single_image import TiledTranslation
from options import TrainOptions
from tests.helpers import train_options
from tests.test_models import build
from util.errors import UserError
from util.hardware import out_of_memory
from util.hardware.out_of_memory import IN_TRAINING, OutOfMemory
from util.hardware.runtime import Runtime

CPU = torch.device("cpu")


def test_memory_that_cannot_be_had_is_explained(tmp_path):
    opt = train_options(tmp_path, "--batch_size", "4", "--crop_size", "128", "--load_size", "128")
    with pytest.raises(UserError) as caught, OutOfMemory(opt, CPU) as memory:
        memory.consumers = lambda: {"netD": int(1e8), "netG": int(2e9)}
        torch.empty(2**50)
    text = str(caught.value)
    assert "out of memory on cpu (4194304.00 GiB more were asked for)" in text
    assert "Largest: netG 2.00 GB, netD 0.10 GB." in text
    assert "a smaller --batch_size (now 4), a smaller --crop_size (now 128)" in text
    assert "--grad_checkpoint true" in text and "--ngf" not in text
    assert "\n" not in text


def test_what_recorded_steps_keep_is_told_with_its_remedy(tmp_path, monkeypatch):
    """Only where there are any: not on a CPU, nor once they are given up."""
    opt = train_options(tmp_path, "--cache", "none")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: int(3e9))
    for kept in (0, int(2e9)):
        monkeypatch.setattr(out_of_memory, "recorded_memory", lambda kept=kept: kept)
        text = OutOfMemory(opt, torch.device("cuda")).explain(RuntimeError("CUDA out of memory"))
        assert "what a step computes on its way 3.00 GB" in text
        assert ("what recorded steps keep 2.00 GB" in text) == bool(kept)
        assert ("--cuda_graph off" in text) == bool(kept)


def test_other_errors_pass(tmp_path):
    with pytest.raises(RuntimeError, match="shape"), OutOfMemory(train_options(tmp_path), CPU):
        raise RuntimeError("shape mismatch")


def test_every_flag_that_is_named_exists():
    options = TrainOptions()
    declared = options.build_parser(options.peek([])).declared()
    assert {flag.split()[0] for flag in IN_TRAINING} <= declared.keys()


class Kept:
    """Counts the bytes that autograd keeps for the way back."""

    def __init__(self) -> None:
        self.bytes = 0

    def pack(self, tensor):
        self.bytes += tensor.numel() * tensor.element_size()
        return tensor

    def hooks(self):
        return torch.autograd.graph.saved_tensors_hooks(self.pack, lambda tensor: tensor)


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("cycle_gan", ""),
        ("cycle_gan", "--no_dropout false"),
        ("munit", ""),
        ("sincut", "--netG stylegan2"),
    ],
)
def test_blocks_computed_twice_give_equal_gradients_and_keep_less(tmp_path, name, flags):
    found = []
    for recompute in ("false", "true"):
        extra = [*flags.split(), "--grad_checkpoint", recompute]
        _, _, loader, model = build(tmp_path, name, None, *extra)
        batch = next(iter(loader.epoch(1)))
        torch.manual_seed(1)
        kept = Kept()
        with kept.hooks():
            model.set_input(batch)
            model.optimize_parameters()
        grads = {
            f"{net}.{key}": p.grad
            for net, module in model.networks.items()
            for key, p in module.named_parameters()
        }
        found.append((kept.bytes, grads, dict(model.losses)))
    (bytes_plain, plain, losses), (bytes_twice, twice, again) = found
    assert plain.keys() == twice.keys()
    for key, grad in plain.items():
        assert (grad is None and twice[key] is None) or torch.equal(grad, twice[key]), key
    assert all(torch.equal(losses[key], again[key]) for key in losses)
    assert bytes_twice < 0.8 * bytes_plain
    assert "residual blocks are computed twice" in model.describe()


def test_batch_normalisation_would_note_each_batch_twice(tmp_path):
    with pytest.raises(UserError, match=r"--grad_checkpoint: netG has batch normalisation"):
        build(tmp_path, "pix2pix", None, "--grad_checkpoint")


class Short(torch.nn.Module):
    """A generator that has memory for images of at most 64 rows, and may draw noise."""

    halvings = 0

    def __init__(self, same) -> None:
        super().__init__()
        if same:
            self.reads = lambda first, last: (first, last)

    def draw_noise(self, images):
        return [torch.rand(1, 1, *images.shape[2:])]

    def forward(self, images, noise=None):
        noise = self.draw_noise(images) if noise is None else noise
        if images.shape[2] > 64:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return images + noise[0]


def test_tiles_are_taken_unasked_only_where_they_give_the_same(monkeypatch):
    monkeypatch.setattr("models.single_image.SPARE_TILE", 32)
    for same in (True, False):
        model = TiledTranslation()
        model.is_train, model.opt, model.runtime = False, SimpleNamespace(tile=0), Runtime("-1")
        net = Short(same)
        model.inference_net = lambda name, net=net: net
        images = torch.zeros(1, 3, 96, 40)
        if not same:
            with pytest.raises(torch.OutOfMemoryError):
                model.translate(images)
            continue
        torch.manual_seed(5)
        found = model.translate(images)
        torch.manual_seed(5)
        assert torch.equal(found, images + torch.rand(1, 1, 96, 40))
