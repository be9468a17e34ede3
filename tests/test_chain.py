"""Chains of layers and the resampling between them: the same numbers as torch's own layers, forward and backward."""

import copy
import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.networks import chain as chain_module
from models.networks import create_discriminator, create_generator
from models.networks.blocks import AffineInstanceNorm, InstanceNorm, standardize, standardized
from models.networks.chain import Chain
from models.networks.resampling import (
    BlurDown,
    BlurUp,
    _Double,
    _Reflect,
    double,
    filter_and_halve,
    reflect_pad,
)
from util.hardware.runtime import draw_as_plain_code


def image(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(function, x, weights):
    x = x.clone().requires_grad_()
    (function(x) * weights).sum().backward()
    return x.grad


@pytest.mark.parametrize("compiling", [False, True])
@pytest.mark.parametrize(
    ("width", "size"),
    [(1, (4, 5)), (1, (7, 4)), (1, (2, 3)), (1, (3, 2)), (3, (4, 5)), (3, (7, 4))],
)
def test_reflection_from_slices_is_torchs(monkeypatch, width, size, compiling):
    """Written in place, and as compiled code joins it; both layouts, first and second derivatives."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = image(2, 3, *size).to(memory_format=layout)
        expected = F.pad(x, (width,) * 4, mode="reflect")
        padded = _Reflect.apply(x, width)
        assert torch.equal(padded, expected) and padded.is_contiguous(memory_format=layout)

        weights = image(*expected.shape, seed=1)
        torch.testing.assert_close(
            gradient(lambda x: _Reflect.apply(x, width), x, weights),
            gradient(lambda x: reflect_pad(x, width), x, weights),
        )
    small = image(1, 1, *size).requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda x: _Reflect.apply(x, width) ** 2, small
    )  # gradient penalties need it


def test_a_map_too_small_to_mirror_is_refused():
    with pytest.raises(ValueError, match="a map of 1 x 4 pixels cannot mirror 1 of them"):
        _Reflect.apply(image(1, 2, 4, 1), 1)


def test_no_border_is_the_map_itself():
    """As DRIT's convolutions of one pixel ask for; the border of a GPU takes a width of 0 too."""
    x = image(2, 3, 4, 5)
    assert reflect_pad(x, 0) is x
    assert torch.equal(_Reflect.apply(x, 0), x)
    assert torch.equal(gradient(lambda x: _Reflect.apply(x, 0), x, x), x)


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (4, 5)])
def test_the_adjoint_of_doubling_is_torchs(size):
    x, filt = image(2, 3, *size), BlurUp(3).double().filt
    assert torch.equal(_Double.apply(x, filt), double(x))
    weights = image(2, 3, 2 * size[0], 2 * size[1], seed=1)
    torch.testing.assert_close(
        gradient(lambda x: _Double.apply(x, filt), x, weights), gradient(double, x, weights)
    )
    small = image(1, 3, *size).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: _Double.apply(x, filt) ** 2, small)


@pytest.mark.parametrize("blur", [BlurDown, BlurUp])
@pytest.mark.parametrize("size", [(6, 9), (7, 8)])
def test_slices_filter_as_a_convolution_does(monkeypatch, blur, size):
    """What compiled code runs."""
    filt, x = blur(3).double().filt, image(2, 3, *size)
    expected = filter_and_halve(x, filt, blur.LINE)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(filter_and_halve(x, filt, blur.LINE), expected)


def test_instance_norm_written_out_is_torchs_and_keeps_the_layout():
    x = (3 + 2 * image(2, 5, 6, 7)).to(memory_format=torch.channels_last)
    y = standardize(x, 1e-5)
    torch.testing.assert_close(y, F.instance_norm(x, eps=1e-5))
    assert y.is_contiguous(memory_format=torch.channels_last)
    half = standardize(x.bfloat16(), 1e-5)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(
        half, standardize(x.bfloat16().float(), 1e-5).bfloat16()
    )  # statistics in float32


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_of_instance_norm_written_out_is_the_derived_one(layout):
    """First derivatives, and second ones, which gradient penalties need."""
    x = (3 + 2 * image(2, 5, 6, 7)).to(memory_format=layout)
    weights = image(2, 5, 6, 7, seed=1).to(memory_format=layout)
    found = gradient(lambda x: standardize(x, 1e-5), x, weights)
    expected = gradient(lambda x: standardized(x, 1e-5), x, weights)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert found.is_contiguous(memory_format=layout)

    # half precision: one rounding, of the result
    found = gradient(lambda x: standardize(x, 1e-5), x.bfloat16(), weights.bfloat16())
    expected = gradient(
        lambda x: standardized(x, 1e-5), x.bfloat16().double(), weights.bfloat16().double()
    )
    torch.testing.assert_close(found.double(), expected, rtol=0.004, atol=1e-5)

    small = image(1, 2, 2, 3).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: standardize(x, 1e-5), small)


@pytest.mark.parametrize("affine", [False, True])
def test_instance_norm_on_a_cpu_is_the_same_in_either_layout(affine):
    """First and second derivatives too; statistics are float32 under autocast."""
    norm = AffineInstanceNorm(5).double() if affine else InstanceNorm()
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    x, weights = 3 + 2 * image(2, 5, 6, 7), image(2, 5, 6, 7, seed=1)
    last = x.to(memory_format=torch.channels_last)
    assert norm(last).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(norm(last), norm(x), rtol=1e-10, atol=1e-12)
    found = gradient(norm, last, weights)
    torch.testing.assert_close(found, gradient(norm, x, weights), rtol=1e-10, atol=1e-12)

    small = image(2, 5, 2, 2).to(memory_format=torch.channels_last).requires_grad_()
    assert torch.autograd.gradgradcheck(norm, small)

    far, wide = (100 + last).bfloat16(), norm((100 + last).bfloat16().double())
    with torch.autocast("cpu", torch.bfloat16):
        half = norm.float()(far)
    assert half.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(half.double(), wide, rtol=0.01, atol=0.02)


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("plain", [True, False])
def test_dropping_cancelled_biases_changes_nothing(norm, plain):
    """Outputs and gradients of all else are those of the layers one by one, with large biases."""
    netG = create_generator(
        "resnet_4blocks", 3, 3, 4, norm=norm, antialias=plain, antialias_up=plain
    ).double()
    netD = create_discriminator("basic", 3, 4, norm=norm, antialias=plain).double()
    for net in (netG, netD):
        for parameter in net.parameters():
            nn.init.normal_(parameter, 0, 0.3)
        other = copy.deepcopy(net)
        for chain in other.modules():
            if isinstance(chain, Chain):
                chain._has_dead_bias = lambda index: False
        x = image(2, 3, 32, 32)
        results = [n(x) for n in (net, other)]
        torch.testing.assert_close(*results)
        for result in results:
            result.square().mean().backward()
        dead = {id(b) for c in net.modules() if isinstance(c, Chain) for b in c.dead_biases()}
        assert bool(dead) == (norm == "instance")
        for (key, p), q in zip(net.named_parameters(), other.parameters(), strict=True):
            if id(p) in dead:
                assert p.grad is None and q.grad.abs().max() < 1e-12, key
            else:
                torch.testing.assert_close(p.grad, q.grad, msg=lambda m, key=key: f"{key}: {m}")


def test_layout_survives_every_layer():
    net = create_generator("resnet_4blocks", 3, 3, 8).to(memory_format=torch.channels_last)
    x = image(2, 3, 32, 32).float().to(memory_format=torch.channels_last)
    for index, tap in enumerate(net.encode(x, range(len(net.model)))):
        assert tap.is_contiguous(memory_format=torch.channels_last), f"layer {index}"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_layout_survives_every_layer_on_a_gpu():
    net = create_generator("resnet_4blocks", 3, 3, 8).cuda().to(memory_format=torch.channels_last)
    x = image(2, 3, 32, 32).float().cuda().to(memory_format=torch.channels_last)
    with torch.autocast("cuda", torch.bfloat16):
        for index, tap in enumerate(net.encode(x, range(len(net.model)))):
            assert tap.is_contiguous(memory_format=torch.channels_last), f"layer {index}"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gradients_have_the_same_bits_every_time_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    net = create_generator("resnet_4blocks", 3, 3, 8).cuda()
    x = image(2, 3, 64, 64).float().cuda()
    gradients = []
    for _ in range(2):
        net.zero_grad(set_to_none=True)
        net(x).square().mean().backward()
        gradients.append([p.grad for p in net.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_copies_of_a_compiled_chain_run_their_own_layers(monkeypatch):
    monkeypatch.setattr(chain_module, "compiled_layers", lambda: chain_module.run_layers)
    chain = Chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    chain.compile_parts()
    other = copy.deepcopy(chain)
    nn.init.constant_(other[1].weight, 5.0)
    x = image(1, 3, 5, 5).float()
    torch.testing.assert_close(other(x), 5 * chain(x))
    assert other.compiled and not other[2].inplace


@pytest.mark.skipif(not shutil.which("g++"), reason="compiling needs a C++ compiler")
def test_compiled_parts_compute_the_same():
    """Dropout too: compiled as the runtime has it, the code draws the mask that plain code draws."""
    from torch._inductor import config

    # monkeypatch would delete the setting for all later tests
    with config.patch(fallback_random=False):
        draw_as_plain_code()
        compare_compiled_parts()


def compare_compiled_parts() -> None:
    """A chain with compiled parts and the same as it is: values, gradients, and with something added."""
    chain = Chain(
        nn.Conv2d(3, 4, 3),
        InstanceNorm(),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Dropout(0.5),
        BlurDown(4),
        nn.Conv2d(4, 2, 3),
    )
    plain = copy.deepcopy(chain)
    chain.compile_parts()
    x = image(2, 3, 16, 16).float()
    results = []
    for net in (chain, plain):
        torch.manual_seed(1)
        results.append(net(x))
    torch.testing.assert_close(*results)
    for result in results:
        result.square().mean().backward()
    torch.testing.assert_close(chain[0].weight.grad, plain[0].weight.grad)
    residual = image(2, 2, 5, 5).float()
    torch.manual_seed(1)
    torch.testing.assert_close(chain(x, residual), results[0] + residual)
