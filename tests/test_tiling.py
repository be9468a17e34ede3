"""Tiles against the whole image: equal up to rounding, noise included."""

import pytest
import torch

from models.inference.modes import translate_each
from models.inference.tiling import spans, translate_in_tiles
from models.networks import create_generator
from models.networks.stylegan2 import StyleGAN2Generator
from util.errors import UserError


def generator(halvings: int = 1, n_blocks: int = 6) -> StyleGAN2Generator:
    torch.manual_seed(0)
    net = StyleGAN2Generator(3, 3, 2, size=128, halvings=halvings, n_blocks=n_blocks).double()
    for name, parameter in net.named_parameters():
        if name.endswith(("bias", "noise.weight")):
            torch.nn.init.normal_(parameter, 0.5)
    return net


@pytest.mark.parametrize("size", [(96, 132), (40, 260)])
@pytest.mark.parametrize(
    ("halvings", "n_blocks", "tile"), [(1, 6, 48), (1, 2, 16), (2, 2, 33), (1, 6, 500)]
)
def test_tiles_give_the_whole_image(size, halvings, n_blocks, tile):
    net = generator(halvings, n_blocks)
    x = torch.rand(2, 3, *size, dtype=torch.float64) * 2 - 1
    with torch.inference_mode():
        torch.manual_seed(7)
        whole = translate_each(net, x)
        torch.manual_seed(7)
        tiled = translate_in_tiles(net, x, tile)
        torch.manual_seed(8)
        other = net(x)
    assert (other - whole).abs().max() > 0.1, "the noise is there"
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-12)


def test_noise_is_the_same_in_half_precision():
    net, x = generator(n_blocks=2).float(), torch.rand(1, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(7)
        whole = net(x)
        torch.manual_seed(7)
        torch.testing.assert_close(translate_in_tiles(net, x, 16), whole, rtol=0, atol=0.05)
        torch.manual_seed(8)
        assert (net(x) - whole).abs().max() > 0.5


def test_less_input_than_they_depend_on_would_show(monkeypatch):
    net, x = generator(n_blocks=2), torch.rand(1, 3, 64, 64, dtype=torch.float64)
    reads = net.reads
    monkeypatch.setattr(
        net, "reads", lambda first, last: (reads(first, last)[0] + 2, reads(first, last)[1])
    )
    torch.manual_seed(0)
    whole = net(x)
    torch.manual_seed(0)
    assert (translate_in_tiles(net, x, 16) - whole).abs().max() > 1e-6


@pytest.mark.parametrize(("halvings", "n_blocks"), [(1, 2), (1, 6), (2, 2), (2, 4)])
@pytest.mark.parametrize("rows", [(80, 80), (81, 81), (82, 82), (83, 83), (78, 90)])
def test_the_stated_reach_is_the_measured_one(halvings, n_blocks, rows):
    net = generator(halvings, n_blocks)
    for (
        name,
        parameter,
    ) in net.named_parameters():  # all positive, so that nothing cancels and no slope is lost
        torch.nn.init.zeros_(parameter) if "noise" in name else torch.nn.init.ones_(parameter)
    x = torch.ones(1, 3, 160, 4, dtype=torch.float64, requires_grad=True)
    first, last = rows
    net(x)[:, :, first : last + 1].sum().backward()
    used = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert (int(used[0]), int(used[-1])) == net.reads(first, last)


def test_spans_cover_everything_once():
    assert list(spans(10, 4)) == [(0, 4), (4, 8), (8, 10)]
    assert list(spans(8, 4)) == [(0, 4), (4, 8)]
    assert list(spans(3, 4)) == [(0, 3)]


def test_a_tile_costs_a_tile(monkeypatch):
    net, seen = generator(n_blocks=2), []
    forward = net.forward
    monkeypatch.setattr(
        net, "forward", lambda x, noise: seen.append(tuple(x.shape[2:])) or forward(x, noise)
    )
    translate_in_tiles(net, torch.zeros(1, 3, 128, 96, dtype=torch.float64), 32)
    assert len(seen) == 12
    assert max(max(shape) for shape in seen) <= 32 + 2 * 16


def test_a_generator_that_normalises_over_the_image_is_refused():
    with pytest.raises(
        UserError, match="--tile gives the result of the whole image only with --netG stylegan2"
    ):
        translate_in_tiles(
            create_generator("resnet_4blocks", 3, 3, 4), torch.zeros(1, 3, 32, 32), 16
        )
