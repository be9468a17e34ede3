"""WCT2: wavelets, encoder, whitening and Gram matrices against slow ones, and its commands."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from models import create_model
from models.inference.regions import Regions
from models.inference.translate import translate
from models.inference.whitening import covariance, power, transfer, whiten_and_colour
from models.losses.gram import gram_loss, gram_matrix
from models.networks.wavelet import HaarPool, HaarUnpool
from models.networks.wavelet_autoencoder import (
    LEVELS,
    WaveletDecoder,
    WaveletEncoder,
    padded,
    stages,
)
from options import TestOptions, TrainOptions, parse
from tests.helpers import make_image_folder, run_command, train_options
from tests.test_models import build, step
from util.errors import UserError
from util.hardware.runtime import Runtime
from util.run.checkpoint import Checkpoint
from util.run.progress import Progress

# -- wavelets --------------------------------------------------------------------------------------------------------


def slow_bands(x):
    """Each number of each band from its four pixels, one by one."""
    taps = {
        "LL": [[1, 1], [1, 1]],
        "LH": [[-1, 1], [-1, 1]],
        "HL": [[-1, -1], [1, 1]],
        "HH": [[1, -1], [-1, 1]],
    }
    batch, channels, height, width = x.shape
    bands = []
    for filter in taps.values():
        band = torch.zeros(batch, channels, height // 2, width // 2, dtype=x.dtype)
        for row in range(height // 2):
            for column in range(width // 2):
                for i in (0, 1):
                    for j in (0, 1):
                        pixel = x[:, :, 2 * row + i, 2 * column + j]
                        band[:, :, row, column] += filter[i][j] / 2 * pixel
        bands.append(band)
    return bands


@pytest.mark.parametrize("batch", [1, 3])
def test_bands_are_those_of_the_four_filters(batch):
    x = torch.randn(batch, 2, 4, 6, dtype=torch.float64)
    for band, expected in zip(HaarPool()(x), slow_bands(x), strict=True):
        torch.testing.assert_close(band, expected)


@pytest.mark.parametrize("size", [(2, 2), (8, 6), (32, 20)])
def test_unpooling_is_the_inverse_of_pooling(size):
    x = torch.randn(3, 5, *size)
    bands = HaarPool()(x)
    assert (HaarUnpool("sum")(bands) - x).abs().max() < 1e-6
    torch.testing.assert_close(sum(band.square().sum() for band in bands), x.square().sum())
    parts = HaarUnpool("cat5")(bands, x).split(5, dim=1)  # LL, LH, HL, HH, and the map before
    assert len(parts) == 5 and torch.equal(parts[4], x)
    assert (sum(parts[:4]) - x).abs().max() < 1e-6


def test_each_part_of_cat5_is_what_its_band_alone_gives():
    bands = HaarPool()(torch.randn(1, 2, 4, 4))
    parts = HaarUnpool("cat5")(bands, torch.zeros(1, 2, 4, 4)).split(2, dim=1)
    for number, part in enumerate(parts[:4]):
        alone = bands._make(b if k == number else torch.zeros_like(b) for k, b in enumerate(bands))
        torch.testing.assert_close(part, HaarUnpool("sum")(alone))


def test_odd_maps_and_unknown_modes_are_refused():
    with pytest.raises(ValueError, match="cannot be halved"):
        HaarPool()(torch.zeros(1, 1, 4, 5))
    with pytest.raises(UserError, match="--unpool cat4: no such name; did you mean 'cat5'"):
        HaarUnpool("cat4")


# -- encoder and decoder ---------------------------------------------------------------------------------------------


def save_vgg(path, kind="D", changes=None):
    """A file like torchvision's vgg16 (D) or vgg19 (E) state dict, and its layers."""
    torch.manual_seed(3)
    layers = make_layers(cfgs[kind])
    state = {f"features.{key}": value for key, value in layers.state_dict().items()}
    torch.save({**state, "classifier.0.weight": torch.zeros(2, 2), **(changes or {})}, path)
    return layers


def slow_encoder(layers, images):
    """VGG layer by layer: reflection for zeros, LL for max pooling; every ReLU by its number."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x, relus = (images - mean[:, None, None]) / std[:, None, None], []
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), layer.weight, layer.bias)
        elif isinstance(layer, nn.ReLU):
            x = x.clamp(min=0)
            relus.append(x)
        else:
            x = 2 * F.avg_pool2d(x, 2)
    return relus


@pytest.mark.parametrize(("kind", "places"), [("D", (0, 2, 4, 7)), ("E", (0, 2, 4, 8))])
def test_the_encoder_is_vgg_up_to_a_factor_for_each_layer(tmp_path, kind, places):
    layers = save_vgg(tmp_path / "vgg.pth", kind)
    encoder = WaveletEncoder("cat5", str(tmp_path / "vgg.pth"))
    assert encoder.architecture == {"D": "VGG16", "E": "VGG19"}[kind]
    images = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        relus = slow_encoder(layers[: 3 * places[-1]], images)
        feats, skips = encoder(images)
    for feat, place in zip(feats, places, strict=True):
        expected = relus[place]
        torch.testing.assert_close(
            feat / feat.mean(), expected / expected.mean(), rtol=1e-3, atol=1e-4
        )
        assert 0.3 < feat.mean() < 3  # scaled to 1 on noise like these
    assert [skips[level].before_BCHW.shape[2:] for level in (1, 2, 3)] == [
        (32, 48),
        (16, 24),
        (8, 12),
    ]


def test_with_sum_the_smooth_maps_pass_and_levels_end_there(tmp_path):
    one, other = WaveletEncoder("cat5", "random"), WaveletEncoder("sum", "random")
    images = torch.rand(1, 3, 32, 32)
    (feats, skips), (sums, sum_skips) = one(images), other(images)
    torch.testing.assert_close(feats[3], sums[3])
    for level in (1, 2, 3):
        smooth, *details = HaarPool()(skips[level].before_BCHW)
        torch.testing.assert_close(smooth, sums[level - 1])
        assert sum_skips[level].before_BCHW is None
        for a, b in zip(details, sum_skips[level].details, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("unpool", ["cat5", "sum"])
@pytest.mark.parametrize("thirds", [3, 4])
def test_the_decoder_mirrors_the_encoder(unpool, thirds):
    plan = stages(unpool, thirds)
    in_order = [layer for level in LEVELS for layer in plan[level]]
    assert len(in_order) == len(set(in_order)) == 2 + 1 + 2 + 1 + thirds + 1 + 1
    assert all(layer.level in (level, level - 1) for level in LEVELS for layer in plan[level])

    encoder, decoder = WaveletEncoder(unpool, "random"), WaveletDecoder(unpool, thirds)
    with torch.no_grad():
        decoder.convs["conv1_1"].bias.fill_(-1)
    if thirds == 4:
        feats, skips = encoder(torch.rand(1, 3, 16, 24))
        x = feats[3]
        for level in LEVELS[::-1]:
            if level < 4:
                assert x.shape == feats[level - 1].shape
            x = decoder.stage(level, x, skips)
        assert x.shape == (1, 3, 16, 24) and x.min() < 0  # colours are not cut off
    wide = {"cat5": 5, "sum": 1}[unpool]
    assert decoder.convs[f"conv3_{thirds}"].in_channels == 256 * wide
    assert decoder.convs["conv1_2"].in_channels == 64 * wide


def test_published_files_are_taken_in_their_order(tmp_path):
    """Whatever their keys: colour convolution first, wavelet filters left out; nothing is scaled."""
    torch.manual_seed(1)
    plain, decoder = WaveletEncoder("cat5", "random"), WaveletDecoder("cat5")
    state = {"conv0.weight": torch.randn(3, 3, 1, 1), "conv0.bias": torch.randn(3)}
    for number, conv in enumerate(plain.convs.values()):
        state |= {f"c{number}.weight": torch.randn_like(conv.weight) / 50}
        state |= {f"c{number}.bias": torch.randn_like(conv.bias)}
        state |= {f"pool{number}.LL.weight": torch.ones(64, 1, 2, 2)}
    torch.save(state, tmp_path / "encoder.pth")
    encoder = WaveletEncoder("cat5", str(tmp_path / "encoder.pth"))
    assert torch.equal(encoder.colour.weight, state["conv0.weight"])
    assert torch.equal(encoder.convs["conv4_1"].weight, state["c8.weight"])
    assert not any(p.requires_grad for p in encoder.parameters())

    state = {}
    for number, conv in enumerate(decoder.convs.values()):
        state |= {f"x{number}.weight": torch.randn_like(conv.weight)}
        state |= {f"x{number}.bias": torch.randn_like(conv.bias)}
        state |= {f"unpool{number}.HH.weight": torch.ones(64, 1, 2, 2)}
    torch.save(state, tmp_path / "decoder.pth")
    decoder.load_published(str(tmp_path / "decoder.pth"))
    assert torch.equal(decoder.convs["conv4_1"].weight, state["x0.weight"])
    assert torch.equal(decoder.convs["conv1_1"].bias, state["x8.bias"])
    with pytest.raises(UserError, match=r"decoder.pth: convolution 2 is \(256, 1280, 3, 3\)"):
        WaveletDecoder("sum").load_published(str(tmp_path / "decoder.pth"))


def test_weights_that_do_not_fit_are_refused_in_one_line(tmp_path):
    path = tmp_path / "vgg.pth"
    save_vgg(path, changes={"features.5.weight": torch.zeros(7, 64, 3, 3)})
    with pytest.raises(UserError, match=r"vgg.pth: convolution 3 is \(7, 64, 3, 3\)"):
        WaveletEncoder("sum", str(path))
    torch.save(
        {f"features.{k}": v for k, v in make_layers(cfgs["D"][:3]).state_dict().items()}, path
    )
    with pytest.raises(UserError, match="holds 2 convolutions; VGG16 or VGG19 up to relu4_1 has 8"):
        WaveletEncoder("sum", str(path))
    save_vgg(path, changes={"features.1.running_mean": torch.zeros(64)})
    with pytest.raises(UserError, match="batch normalisation"):
        WaveletEncoder("sum", str(path))


def test_images_are_filled_up_by_reflection():
    x = torch.rand(1, 3, 17, 24)
    filled = padded(x)
    assert filled.shape == (1, 3, 24, 24) and torch.equal(filled[:, :, :17], x)
    assert torch.equal(filled[:, :, 17], x[:, :, 15])
    with pytest.raises(UserError, match="24x15 pixels is too small"):
        padded(x[:, :, :15])


# -- whitening -------------------------------------------------------------------------------------------------------


def slow_whiten_and_colour(content_CN, style_CM, ridge):
    """Eigenvector by eigenvector, in numpy."""
    results = []
    for feat, exponent in ((content_CN, -0.5), (style_CM, 0.5)):
        feat = feat.numpy().astype(np.float64)
        matrix = np.cov(feat) + ridge * np.eye(len(feat))
        values, vectors = np.linalg.eigh(matrix)
        total = np.zeros_like(matrix)
        for value, vector in zip(values, vectors.T, strict=True):
            if value > 1e-10 * values.max():
                total += value**exponent * np.outer(vector, vector)
        results.append((feat.mean(1, keepdims=True), total, feat))
    (mean_c, whiten, content), (mean_s, colour, _) = results
    return torch.from_numpy(colour @ whiten @ (content - mean_c) + mean_s)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("ridge", [0.0, 1.0])
def test_whitening_and_colouring_against_eigenvectors_one_by_one(batch, ridge):
    content = torch.randn(batch, 6, 40, dtype=torch.float64)
    style = torch.randn(batch, 6, 25, dtype=torch.float64) * 3 + 2
    result = whiten_and_colour(content, style, ridge)
    for k in range(batch):
        expected = slow_whiten_and_colour(content[k], style[k], ridge)
        torch.testing.assert_close(result[k], expected)


def test_the_result_has_the_styles_mean_and_covariance():
    mixing = torch.randn(8, 8, dtype=torch.float64)
    content = mixing @ torch.randn(2, 8, 300, dtype=torch.float64) + 5
    style = torch.randn(2, 8, 200, dtype=torch.float64) * torch.arange(1.0, 9)[:, None]
    result = whiten_and_colour(content, style, ridge=0.0)
    torch.testing.assert_close(result.mean(2), style.mean(2), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(covariance(result), covariance(style), rtol=1e-4, atol=1e-4)


def test_an_image_that_is_its_own_style_stays_as_it_is():
    content = torch.randn(2, 9, 5, 5) * torch.logspace(-3, 2, 9)[:, None, None]
    torch.testing.assert_close(transfer(content, content), content, rtol=1e-4, atol=1e-4)


def test_degenerate_features_stay_finite():
    """Flat, dead and fewer positions than channels."""
    style = torch.randn(1, 6, 4, 4)
    for content in (torch.zeros(1, 6, 4, 4), torch.ones(1, 6, 4, 4), torch.randn(1, 6, 1, 2)):
        for ridge in (0.0, 1.0):
            result = whiten_and_colour(content.flatten(2), style.flatten(2), ridge)
            assert torch.isfinite(result).all()
    flat = whiten_and_colour(torch.ones(1, 6, 9), style.flatten(2))
    torch.testing.assert_close(flat, style.flatten(2).mean(2, keepdim=True).expand(1, 6, 9))


def test_results_are_bounded_by_the_content_and_blended():
    content, style = torch.rand(2, 3, 6, 5), 10 * torch.randn(2, 3, 4, 7)
    plain = whiten_and_colour(content.flatten(2), style.flatten(2)).view_as(content)
    for k in range(2):
        low, high = content[k].min(), content[k].max()
        assert (plain[k] > high).any()  # so that there is something to bound
        expected = 0.3 * plain[k].clamp(low, high) + 0.7 * content[k]
        torch.testing.assert_close(transfer(content, style, alpha=0.3)[k], expected)
    assert torch.equal(transfer(content, style, alpha=0.0), content)


def test_regions_are_exchanged_each_for_itself():
    content, style = torch.randn(1, 3, 4, 6), torch.randn(1, 3, 5, 5)
    left = torch.zeros(4, 6, dtype=torch.bool)
    left[:, :3] = True
    top = torch.zeros(5, 5, dtype=torch.bool)
    top[:2] = True
    result = transfer(content, style, regions=[(left, top)])
    expected = whiten_and_colour(content[:, :, left], style[:, :, top])
    bounded = expected.clamp(content.min(), content.max())
    torch.testing.assert_close(result[:, :, left], bounded)
    assert torch.equal(result[:, :, ~left], content[:, :, ~left])


def test_masks_follow_the_labels_at_any_size():
    content, style = torch.zeros(8, 8, dtype=torch.int64), torch.zeros(8, 16, dtype=torch.int64)
    content[:, 4:], style[:, 12:] = 7, 7
    masks = Regions(content, style).masks((2, 2), (4, 8))
    assert [(a.tolist(), b[0].tolist()) for a, b in masks] == [
        ([[True, False]] * 2, [True] * 6 + [False] * 2),
        ([[False, True]] * 2, [False] * 6 + [True] * 2),
    ]
    assert len(Regions(content, style).masks((1, 2), (4, 8))) == 0  # one position has no covariance
    with pytest.raises(UserError, match="no colour in common"):
        Regions(content + 1, style)


def test_where_eigenvalues_fail_singular_values_take_over_and_say_so(monkeypatch):
    matrix = covariance(torch.randn(2, 5, 30, dtype=torch.float64))
    expected = power(matrix, -0.5)

    def fail(_):
        raise torch.linalg.LinAlgError("the algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", fail)
    with pytest.warns(UserWarning, match=r"did not converge .* singular values are used instead"):
        found = power(matrix, -0.5)
    torch.testing.assert_close(found, expected)
    with pytest.raises(UserError, match="not finite"):
        power(matrix * torch.nan, 0.5)


# -- Gram matrices ---------------------------------------------------------------------------------------------------


def slow_gram_loss(feat, target):
    losses = []
    for image, other in zip(feat, target, strict=True):
        error = size = 0.0
        for i in range(len(image)):
            for j in range(len(image)):
                own, wanted = (image[i] * image[j]).mean(), (other[i] * other[j]).mean()
                error, size = error + (own - wanted) ** 2, size + wanted**2
        losses.append(error / size)
    return torch.stack(losses)


@pytest.mark.parametrize("batch", [1, 3])
def test_gram_loss_and_gradients_against_loops(batch):
    feat = torch.rand(batch, 4, 3, 5, dtype=torch.float64, requires_grad=True)
    target = torch.rand(batch, 4, 3, 5, dtype=torch.float64, requires_grad=True)
    loss, slow = gram_loss(feat, target), slow_gram_loss(feat, target)
    torch.testing.assert_close(loss, slow)
    [gradient] = torch.autograd.grad(loss.sum(), feat, retain_graph=True)
    [expected] = torch.autograd.grad(slow.sum(), feat)
    torch.testing.assert_close(gradient, expected)
    assert torch.autograd.grad(loss.sum(), target, allow_unused=True) == (None,)


def test_gram_loss_of_dead_features_is_finite_and_of_half_precision_full():
    dead = torch.zeros(2, 3, 4, 4)
    assert torch.equal(gram_loss(dead, dead), torch.zeros(2))
    half = torch.full((1, 2, 8, 8), 300.0, dtype=torch.float16)
    assert torch.isfinite(gram_matrix(half)).all() and gram_matrix(half).dtype == torch.float32


# -- the method ------------------------------------------------------------------------------------------------------


def test_a_step_is_reconstruction_and_gram_matrices(tmp_path):
    _, _, loader, model = build(tmp_path, "wct2", None, "--batch_size", "2", "--lambda_gram", "0.5")
    batch = next(iter(loader.epoch(1)))
    images = batch["A"] / 2 + 0.5
    with torch.no_grad():
        feats, skips = model.netE(images)
        rebuilt = model.netG(feats[-1], skips)
        again, _ = model.netE(rebuilt)
        grams = [gram_loss(a, b).mean() for a, b in zip(again, feats, strict=True)]
        mse = (rebuilt - images).square().mean()
        clipped = (rebuilt.clamp(0, 1) - images).square().mean((1, 2, 3))
    losses = step(model, batch)
    assert losses["rec"] == pytest.approx(mse.item(), rel=1e-5)
    assert losses["gram"] == pytest.approx(0.5 * torch.stack(grams).mean().item(), rel=1e-4)
    assert losses["PSNR"] == pytest.approx((-10 * clipped.log10()).mean().item(), rel=1e-4)
    _, _, _, plain = build(tmp_path, "wct2", None, "--batch_size", "2", "--lambda_gram", "0")
    assert set(step(plain, batch)) == {"rec", "G", "PSNR"}


def trained(tmp_path, *flags):
    """A run with a decoder that has learned next to nothing; returns the flags of test.py."""
    opt = train_options(tmp_path, *flags, model="wct2")
    runtime = Runtime.from_options(opt)
    model = create_model(opt, runtime)
    checkpoint = Checkpoint(opt, runtime, model, Progress(1, 2, 4, 1))
    checkpoint.begin()
    checkpoint.save_epoch(1)
    where = ["--checkpoints_dir", opt.checkpoints_dir, "--results_dir", str(tmp_path / "results")]
    return ["--name", "run", *where, "--gpu_ids", "-1", "--num_threads", "0"]


def stylizer(tmp_path, *flags):
    """The model of test.py."""
    opt = parse(TestOptions(), ["--model", "wct2", *flags])
    runtime = Runtime.from_options(opt)
    model = create_model(opt, runtime)
    return model


@pytest.mark.parametrize("unpool", ["cat5", "sum"])
def test_an_image_in_its_own_style_is_its_reconstruction(tmp_path, unpool):
    flags = ["--dataroot", "x", "--vgg_weights", "random", "--unpool", unpool]
    torch.save({}, tmp_path / "x")
    decoder = WaveletDecoder(unpool)
    torch.save(dict(decoder.named_parameters()), tmp_path / "decoder.pth")
    model = stylizer(tmp_path, *flags, "--decoder", str(tmp_path / "decoder.pth"))
    image, other = torch.rand(1, 3, 24, 35) * 2 - 1, torch.rand(1, 3, 17, 40) * 2 - 1
    with torch.inference_mode():
        plain = model.translate(image)
        assert plain.shape == image.shape
        torch.testing.assert_close(model.stylize(image, image), plain, rtol=1e-3, atol=1e-3)
        styled = model.stylize(image, other)
        assert (styled - plain).abs().mean() > 0.01
        model.opt.alpha = 0.0
        torch.testing.assert_close(model.stylize(image, other), plain, rtol=1e-3, atol=1e-3)


def test_where_features_are_exchanged_is_a_flag(tmp_path, monkeypatch):
    """cat5 and sum: 4 levels of the encoder, 3 of the decoder (4 by itself), 9 details."""
    decoder = WaveletDecoder("cat5")
    torch.save(dict(decoder.named_parameters()), tmp_path / "decoder.pth")
    flags = [
        "--dataroot",
        "x",
        "--vgg_weights",
        "random",
        "--decoder",
        str(tmp_path / "decoder.pth"),
    ]
    counts = {}
    for places in ("encoder", "skip", "decoder", "encoder,skip,decoder"):
        model = stylizer(tmp_path, *flags, "--transfer_at", places)
        calls = []
        monkeypatch.setattr(
            "models.wct2_model.transfer", lambda c, s, *_, calls=calls: calls.append(c) or c
        )
        with torch.inference_mode():
            model.stylize(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16))
        counts[places] = len(calls)
    assert counts == {"encoder": 4, "skip": 9, "decoder": 4, "encoder,skip,decoder": 16}
    with pytest.raises(UserError, match="expected some of encoder,skip,decoder, got 'middle'"):
        stylizer(tmp_path, *flags, "--transfer_at", "middle")


def test_a_decoder_is_refused_with_another_encoder(tmp_path):
    flags = trained(tmp_path, "--vgg_weights", "random")
    save_vgg(tmp_path / "other.pth", "E")
    make_image_folder(tmp_path / "style", 1)
    opt = parse(TestOptions(), [*flags, "--vgg_weights", str(tmp_path / "other.pth")])
    with pytest.raises(UserError, match="not the encoder that this decoder was trained with"):
        translate(opt)


def test_weights_of_another_encoder_are_trained_for_this_one(tmp_path, capsys):
    """They start a run with a warning; it goes on, and translates, with the encoder that it had."""
    trained(tmp_path, "--vgg_weights", "random")
    save_vgg(tmp_path / "other.pth", "E")
    flags = ["--vgg_weights", str(tmp_path / "other.pth"), "--ema", "0.9"]
    (tmp_path / "checkpoints" / "run").rename(tmp_path / "checkpoints" / "old")

    warned = []
    for start in (["--pretrained_name", "old"], ["--pretrained_name", "old"]):
        opt, runtime, loader, model = build(tmp_path, "wct2", None, *flags, *start)
        checkpoint = Checkpoint(opt, runtime, model, Progress.from_options(opt, loader, 1))
        checkpoint.begin()
        model.prepare_once(loader.dataset)
        warned.append("belong to another encoder" in capsys.readouterr().out)
        for decoder in (model.netG, model.averages["G"]):
            assert torch.equal(decoder.made_for, model.netE.fingerprint())
        step(model, next(iter(loader.epoch(1))))
        checkpoint.save_latest()
        checkpoint.close()
    assert warned == [True, False]
    model.check_pair()


def test_pictures_of_a_run_with_styles_label_maps_and_reconstruction(tmp_path):
    flags = trained(tmp_path)
    [style] = make_image_folder(tmp_path / "style", 1, size=(30, 22), seed=9)
    pixels = np.zeros((22, 30, 3), np.uint8)
    pixels[:, 15:] = 255
    Image.fromarray(pixels).save(tmp_path / "labels.png")
    labels = ["--content_labels", str(tmp_path / "labels.png")]
    labels += ["--style_labels", str(tmp_path / "labels.png")]
    plain = translate(parse(TestOptions(), [*flags, "--style", str(style), "--num_test", "2"]))
    assert "VGG19, random (untrained" in plain.description["encoder"]
    assert plain.description["weights"] == "latest_net_G.pth"
    before = sorted((plain.folder / "images" / "fake_B").glob("*.png"))
    assert len(before) == 2 and Image.open(before[0]).size == (40, 36)
    assert Image.open(plain.folder / "images" / "style" / "image_000.png").size == (30, 22)
    bytes_before = before[0].read_bytes()

    extra = ["--style", str(style), "--num_test", "2", "--show_reconstruction"]
    again = translate(parse(TestOptions(), [*flags, *extra, *labels]))
    quality = again.description["mean PSNR"]
    assert 3 < float(quality) < 60
    assert (again.folder / "images" / "rec_A" / "image_001.png").exists()
    assert before[0].read_bytes() != bytes_before

    three = ["--style", str(style), "--num_test", "3", "--show_reconstruction"]
    means = set()
    for size in ("1", "2"):
        gallery = translate(parse(TestOptions(), [*flags, *three, "--batch_size", size]))
        means.add(gallery.description["mean PSNR"])
    assert len(means) == 1, "a mean over pictures, however many make a batch"
    assert quality not in means


@pytest.mark.slow
def test_the_commands_of_the_documents(tmp_path):
    """A plain folder of photographs to learn from, any pair to try it on, a published decoder without a run."""
    photos = make_image_folder(tmp_path / "photos" / "nested", 3)
    where = ["--checkpoints_dir", tmp_path / "runs", "--gpu_ids", "-1", "--num_threads", "0"]
    small = ["--load_size", "36", "--crop_size", "32", "--batch_size", "1", "--display_id", "0"]
    short = ["--vgg_weights", "random", "--max_steps", "2", "--print_freq", "1"]
    names = ["--name", "wavelets", "--model", "wct2"]
    command = ["train.py", *names, "--dataroot", tmp_path / "photos", *where, *small, *short]
    result = run_command(command)
    assert result.returncode == 0, result.stderr
    assert "PSNR:" in result.stdout and "encoder: frozen, VGG19, random" in result.stdout

    out = ["--results_dir", tmp_path / "results"]
    command = ["test.py", "--name", "wavelets", "--dataroot", photos[0], "--style", photos[1]]
    result = run_command([*command, *where, *out])
    assert result.returncode == 0, result.stderr
    [folder] = (tmp_path / "results/wavelets").iterdir()  # of another picture than the run's
    assert (folder / "images/fake_B/image_000.png").exists()
    result = run_command([*command[:-2], *where, *out])
    assert result.returncode == 2 and "name an image or a folder with --style" in result.stderr


def test_what_makes_no_sense_is_refused():
    for flags, told in (
        (["--input_nc", "1"], "colour images"),
        (["--lambda_gram", "-1"], "at least 0"),
    ):
        with pytest.raises(UserError, match=told):
            parse(TrainOptions(), ["--model", "wct2", "--dataroot", "x", *flags])
    with pytest.raises(UserError, match="--alpha 2"):
        parse(TestOptions(), ["--model", "wct2", "--dataroot", "x", "--alpha", "2"])
