"""MUNIT: networks against plain operators, losses and gradients of a step against the formula, presets, refusals."""

import copy

import pytest
import torch
import torch.nn.functional as F

from models.networks.munit_autoencoder import AdaptiveResnetBlock, MunitAutoencoder
from options import TrainOptions, parse
from tests.helpers import train_options
from tests.test_models import alike_for_each_image, build, step, weights
from util.errors import UserError

# -- networks ----------------------------------------------------------------------------------------------------------


def normalized(x: torch.Tensor) -> torch.Tensor:
    """Each map to mean 0 and variance 1."""
    centred = x - x.mean((2, 3), keepdim=True)
    return centred / (centred.square().mean((2, 3), keepdim=True) + 1e-5).sqrt()


def convolved(x, state, key, border, stride=1):
    x = F.pad(x, (border,) * 4, mode="reflect")
    return F.conv2d(x, state[f"{key}.weight"], state.get(f"{key}.bias"), stride=stride)


def content_of(state, x):
    """conv7, two halvings, two residual blocks; the layers' numbers count padding, norm and ReLU too."""
    x = normalized(convolved(x, state, "content_encoder.1", 3)).relu()
    for number in (5, 9):
        x = normalized(convolved(x, state, f"content_encoder.{number}", 1, stride=2)).relu()
    for number in (12, 13):
        block = f"content_encoder.{number}.conv_block"
        inner = normalized(convolved(x, state, f"{block}.1", 1)).relu()
        x = x + normalized(convolved(inner, state, f"{block}.5", 1))
    return x


def style_of(state, x):
    """conv7, four halvings, mean, linear; nothing is normalised."""
    x = convolved(x, state, "style_encoder.model.1", 3).relu()
    for number in (4, 7, 10, 13):
        x = convolved(x, state, f"style_encoder.model.{number}", 1, stride=2).relu()
    return F.linear(
        x.mean((2, 3)), state["style_encoder.head.weight"], state["style_encoder.head.bias"]
    )


def image_of(state, content, style):
    """Two residual blocks whose norms take shift then scale from the style, two doublings, conv7, tanh."""
    settings = style
    for number in (0, 2, 4):
        settings = F.linear(settings, state[f"mlp.{number}.weight"], state[f"mlp.{number}.bias"])
        settings = settings.relu() if number < 4 else settings

    x, width = content, content.shape[1]
    for block in range(2):
        inner = x
        for norm in range(2):
            at = (2 * block + norm) * 2 * width
            shift, scale = settings[:, at : at + width], settings[:, at + width : at + 2 * width]
            inner = convolved(inner, state, f"decoder.blocks.{block}.conv_{norm + 1}", 1)
            inner = normalized(inner) * scale[:, :, None, None] + shift[:, :, None, None]
            inner = inner.relu() if norm == 0 else inner
        x = x + inner

    for number in (2, 7):
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = convolved(x, state, f"decoder.model.{number}", 2)
        weight, bias = (state[f"decoder.model.{number + 1}.{kind}"] for kind in ("weight", "bias"))
        x = F.group_norm(x, 1, weight, bias).relu()
    return convolved(x, state, "decoder.model.11", 3).tanh()


@pytest.mark.parametrize("batch, size", [(1, (16, 24)), (3, (24, 20))])
def test_an_autoencoder_is_its_formula(batch, size):
    net = MunitAutoencoder(2, ngf=2, style_dim=3, mlp_dim=4, n_blocks=2).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    state = net.state_dict(keep_vars=True)
    x = torch.randn(batch, 2, *size, dtype=torch.float64, requires_grad=True)

    content, style = net.encode(x)
    own = net.decode(content, style)
    expected_content, expected_style = content_of(state, x), style_of(state, x)
    expected = image_of(state, expected_content, expected_style)
    for a, b in ((content, expected_content), (style, expected_style), (own, expected)):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(net(x), own)

    dead = {id(bias) for part in (net.content_encoder,) for bias in biases_before_norms(part)}
    inputs = [x, *(p for p in net.parameters() if id(p) not in dead)]
    direction = torch.randn_like(own)
    slopes = torch.autograd.grad((own * direction).sum(), inputs)
    wanted = torch.autograd.grad((expected * direction).sum(), inputs)
    for a, b in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(a, b)


def biases_before_norms(chain):
    found = chain.dead_biases()
    for block in list(chain)[-2:]:
        found += block.conv_block.dead_biases()
    return found


def test_published_sizes():
    net = MunitAutoencoder(3)
    assert sum(p.numel() for p in net.parameters()) == 15_024_139
    assert net.mlp[-1].out_features == 4 * 2 * 2 * 256
    with torch.no_grad():
        content, style = net.encode(torch.zeros(1, 3, 64, 32))
    assert content.shape == (1, 256, 16, 8) and style.shape == (1, 8)


def test_settings_of_a_block_are_shift_then_scale_of_its_norms_in_order():
    block, x = AdaptiveResnetBlock(2), torch.randn(1, 2, 4, 4)
    settings = torch.zeros(1, 8)
    assert torch.equal(block(x, settings), x)  # all scales 0
    settings[0, 4:6] = torch.tensor([3.0, -2.0])  # shift of the second
    torch.testing.assert_close(block(x, settings) - x, settings[:, 4:6, None, None].expand_as(x))


def test_the_style_says_how_an_image_looks_and_the_size_does_not_matter():
    net = MunitAutoencoder(3, ngf=4)
    content, style = net.encode_content(torch.randn(2, 3, 32, 24)), torch.randn(2, 8)
    images = net.decode(content, style)
    assert images.shape == (2, 3, 32, 24) and images.abs().max() <= 1
    assert (net.decode(content, style + 1) - images).abs().max() > 1e-3
    assert net.encode_style(torch.randn(1, 3, 8, 8)).shape == (1, 8)


# -- one step ----------------------------------------------------------------------------------------------------------


FLAGS = "--gan_w 1.5 --recon_x_w 7 --recon_s_w 2 --recon_c_w 3 --recon_x_cyc_w 5"


def in_double(root, monkeypatch, *flags):
    """A model in float64 whose random numbers are the same for every image, whenever they are drawn."""
    _, _, _, model = build(root, "munit", None, *FLAGS.split(), *flags)
    for net in model.networks.values():
        net.double()
    if model.opt.vgg_w:
        model.vgg.double()
    monkeypatch.setattr(torch, "randn", alike_for_each_image)
    return model


@pytest.fixture(autouse=True)
def default_precision():
    yield
    torch.set_default_dtype(torch.float32)


def batch_of(count, size_A=(32, 40), size_B=(36, 32)):
    return {
        "A": torch.rand(count, 3, *size_A, dtype=torch.float64) * 2 - 1,
        "B": torch.rand(count, 3, *size_B, dtype=torch.float64) * 2 - 1,
    }


def l1(a, b):
    return sum((x - y).abs().mean() for x, y in zip(a, b, strict=True)) / len(a)


def squared(scores, target):
    """Least squares, summed over sizes."""
    return sum((s - target).square().mean() for s in scores)


def expected_losses(nets, A, B, vgg=None, vgg_w=0.0):
    """L_D and L_G as the formulas say, with the weights of FLAGS."""
    net_A, net_B = nets["G_A"], nets["G_B"]
    s_A, s_B = torch.randn(len(A), 8), torch.randn(len(A), 8)
    (c_A, own_A), (c_B, own_B) = net_A.encode(A), net_B.encode(B)
    x_BA, x_AB = net_A.decode(c_B, s_A), net_B.decode(c_A, s_B)
    (c_B2, s_A2), (c_A2, s_B2) = net_A.encode(x_BA), net_B.encode(x_AB)

    D = squared(nets["D_A"](A), 1) + squared(nets["D_A"](x_BA.detach()), 0)
    D = D + squared(nets["D_B"](B), 1) + squared(nets["D_B"](x_AB.detach()), 0)
    G = 1.5 * (squared(nets["D_A"](x_BA), 1) + squared(nets["D_B"](x_AB), 1))
    G = G + 7 * (l1(net_A.decode(c_A, own_A), A) + l1(net_B.decode(c_B, own_B), B))
    G = G + 2 * (l1(s_A2, s_A) + l1(s_B2, s_B)) + 3 * (l1(c_A2, c_A) + l1(c_B2, c_B))
    G = G + 5 * (l1(net_A.decode(c_A2, own_A), A) + l1(net_B.decode(c_B2, own_B), B))
    if vgg is not None:
        for fake, real in ((x_BA, B), (x_AB, A)):
            seen, target = normalized(vgg(fake)[0]), normalized(vgg(real)[0])
            G = G + vgg_w * (seen - target).square().mean()
    return 1.5 * D, G


def gradients(loss, net):
    found = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True, allow_unused=True)
    return [slope for slope in found if slope is not None]


def assert_gradients(net, wanted, floor=1e-12):
    """All gradients of a network; biases that a normalisation cancels have none here, and rounding there."""
    found = [p.grad for p in net.parameters() if p.grad is not None]
    found = [g for g in found if g.abs().max() > floor]
    wanted = [g for g in wanted if g.abs().max() > floor]
    assert len(found) == len(wanted) > 5
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-11)


@pytest.mark.parametrize(
    "count, flags", [(1, []), (3, []), (1, ["--vgg_w", "0.7", "--vgg_weights", "random"])]
)
def test_a_step_is_the_formula_first_d_then_g(tmp_path, monkeypatch, count, flags):
    """Losses and all gradients: D's at the first weights, G's against the D that has moved."""
    model, batch = in_double(tmp_path, monkeypatch, *flags), batch_of(count)
    torch.set_default_dtype(torch.float64)
    extra = (model.vgg, 0.7) if flags else ()

    before = copy.deepcopy(model.networks)
    expected_D, _ = expected_losses(before, batch["A"], batch["B"], *extra)
    wanted_D = {name: gradients(expected_D, before[name]) for name in ("D_A", "D_B")}
    losses = step(model, batch)
    assert losses["D"] == pytest.approx(expected_D.item(), rel=1e-10)
    for name, wanted in wanted_D.items():
        assert_gradients(model.networks[name], wanted)

    halfway = {**before, "D_A": model.networks["D_A"], "D_B": model.networks["D_B"]}
    _, expected_G = expected_losses(halfway, batch["A"], batch["B"], *extra)
    assert losses["G"] == pytest.approx(expected_G.item(), rel=1e-10)
    for name in ("G_A", "G_B"):
        assert_gradients(model.networks[name], gradients(expected_G, before[name]))
    terms = {name for name in losses if not name.startswith("D")} - {"G"}
    assert sum(losses[name] for name in terms) == pytest.approx(losses["G"])


def test_d_and_g_have_styles_of_their_own(tmp_path, monkeypatch):
    """The translations that D is shown are not those that G is judged by."""
    _, _, loader, model = build(tmp_path, "munit", None, "--batch_size", "2")
    shown = []
    monkeypatch.setattr(
        model, "judge", lambda net, real, fake: shown.append(fake) or fake.new_zeros(())
    )
    model.set_input(next(iter(loader.epoch(1))))
    model.load(model._micro_batches[0])
    model.forward()
    model.compute_D_loss()
    assert not any(fake.requires_grad for fake in shown)
    for fake, of_G in zip(shown, (model.fake_A, model.fake_B), strict=True):
        assert fake.shape == of_G.shape and not torch.allclose(fake, of_G)


def test_what_is_recovered_is_not_detached(tmp_path, monkeypatch):
    """A content is pulled towards what is read back, too: without the rest, its encoder still gets a gradient."""
    flags = ["--gan_w", "0", "--recon_x_w", "0", "--recon_s_w", "0", "--recon_x_cyc_w", "0"]
    _, _, loader, model = build(tmp_path, "munit", None, *flags)
    model.set_input(next(iter(loader.epoch(1))))
    model.load(model._micro_batches[0])
    model.forward()
    seen = torch.autograd.grad(
        model.compute_G_loss()["content_A"], model.content_A, retain_graph=True
    )[0]
    loss = (model.content_A_again.detach() - model.content_A).abs().mean()
    through_target = torch.autograd.grad(loss, model.content_A)[0]
    loss = (model.content_A_again - model.content_A.detach()).abs().mean()
    through_image = torch.autograd.grad(loss, model.content_A)[0]
    torch.testing.assert_close(seen, through_target + through_image)
    assert through_target.abs().max() > 0 and through_image.abs().max() > 0


def test_every_player_has_the_weight_decay(tmp_path):
    _, _, _, model = build(tmp_path, "munit", None, "--weight_decay", "0.01")
    assert set(model.optimizers) == {"G", "D"}
    for optimizer in model.optimizers.values():
        assert optimizer.param_groups[0]["weight_decay"] == 0.01


def test_without_a_cycle_nothing_is_computed_for_it(tmp_path):
    _, _, loader, model = build(tmp_path, "munit", "edges")
    losses = step(model, next(iter(loader.epoch(1))))
    assert not any(name.startswith(("cycle", "vgg")) for name in losses)
    assert list(model.get_current_visuals()) == [
        "real_A", "fake_B", "rec_A", "real_B", "fake_A", "rec_B",
    ]  # fmt: skip
    assert not hasattr(model, "cyc_A") and not hasattr(model, "vgg")


def test_first_weights_are_kaiming_and_those_of_discriminators_normal(tmp_path):
    _, _, _, model = build(tmp_path, "munit", None, "--ngf", "16", "--ndf", "16")
    conv = model.netG_A.content_encoder[9].weight  # 32 -> 64, 4x4
    assert conv.std().item() == pytest.approx((2 / (32 * 16)) ** 0.5, rel=0.05)
    linear = model.netG_A.mlp[2].weight
    assert linear.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.05)
    for name in ("D_A", "D_B"):
        weight = model.networks[name].scales[1][7].weight
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.netG_A.content_encoder[9].bias.abs().max() == 0


def test_grey_images_in_one_domain(tmp_path):
    _, _, loader, model = build(tmp_path, "munit", None, "--input_nc", "1")
    step(model, next(iter(loader.epoch(1))))
    assert model.fake_A.shape[1] == 1 and model.fake_B.shape[1] == 3


# -- options -----------------------------------------------------------------------------------------------------------


def parsed(*flags):
    return parse(TrainOptions(), ["--dataroot", "x", "--model", "munit", *flags])


def test_presets():
    official, edges, shared = (parsed("--preset", name) for name in ("official", "edges", "shared"))
    assert parsed().preset == "official"
    weights = ("gan_w", "recon_x_w", "recon_s_w", "recon_c_w", "recon_x_cyc_w", "vgg_w")
    assert [getattr(official, name) for name in weights] == [1, 10, 1, 1, 10, 0]
    assert [getattr(edges, name) for name in weights] == [1, 10, 1, 1, 0, 0]
    assert [getattr(shared, name) for name in weights] == [1, 10, 1, 1, 10, 0]
    for opt in (official, edges):
        schedule = (opt.lr, opt.lr_policy, opt.lr_decay_iters, opt.max_steps)
        assert schedule == (1e-4, "halving", 100_000, 1_000_000)
        data = (opt.load_size, opt.crop_size, opt.preprocess, opt.finetune_resize, opt.batch_size)
        assert data == (256, 256, "resize_shortside_and_crop", False, 1)
    common = (
        "lr",
        "lr_policy",
        "n_epochs",
        "n_epochs_decay",
        "max_steps",
        "load_size",
        "preprocess",
    )
    plain = parse(TrainOptions(), ["--dataroot", "x", "--model", "cut"])
    assert all(getattr(shared, name) == getattr(plain, name) for name in common)
    assert {opt.weight_decay for opt in (official, edges, shared)} == {1e-4}
    assert {opt.init_type for opt in (official, edges, shared)} == {"kaiming"}


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--netG unet_256", "--netG unet_256: --model munit has networks of its own"),
        ("--netD stylegan2", "--netD stylegan2: --model munit has networks of its own"),
        ("--gan_mode wgangp", "--gan_mode wgangp.*no gradient penalty"),
        ("--num_scales_D 0", "at least 1"),
        ("--recon_x_w -1", "--recon_x_w: expected a weight of at least 0"),
        ("--weight_decay nan", "--weight_decay: expected a weight"),
        ("--crop_size 34", "not a multiple of 4"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        build(tmp_path, "munit", None, *flags.split())


def test_other_objectives_train(tmp_path):
    for mode in ("vanilla", "hinge"):
        _, _, loader, model = build(tmp_path, "munit", None, "--gan_mode", mode)
        before = weights(model)
        losses = step(model, next(iter(loader.epoch(1))))
        assert all(abs(value) < 1e3 for value in losses.values())
        assert any(not torch.equal(v, before[k]) for k, v in weights(model).items())


def test_untrained_features_are_named(tmp_path):
    _, _, _, model = build(tmp_path, "munit", None, "--vgg_w", "1", "--vgg_weights", "random")
    assert model.describe().endswith("random (untrained: for demos and tests only), relu5_3")
    opt = train_options(tmp_path, model="munit")
    assert opt.vgg_w == 0
