"""DRIT++: networks against plain operators, gradients of both moves and of the clipped judge, the cycle of three."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch._functorch import config as functorch_config

from models.networks.drit_networks import (
    DritAttributeEncoder,
    DritContentDiscriminator,
    DritContentEncoder,
    DritGenerator,
)
from options import TrainOptions, parse
from tests.test_models import alike_for_each_image, build, step, weights
from tests.test_munit import assert_gradients, batch_of, convolved, gradients, l1, normalized
from util.errors import UserError
from util.run.checkpoint import Checkpoint
from util.run.progress import Progress

MOVES = ("E_c", "E_a", "G")
JUDGES = ("D_A", "D_B", "D_A2", "D_B2")


@pytest.fixture(autouse=True)
def default_precision():
    yield
    torch.set_default_dtype(torch.float32)


# -- networks ----------------------------------------------------------------------------------------------------------


def assert_same(found, expected, inputs):
    """Values and gradients in a random direction."""
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(found)
    slopes = torch.autograd.grad((found * direction).sum(), inputs, allow_unused=True)
    wanted = torch.autograd.grad((expected * direction).sum(), inputs, allow_unused=True)
    compared = 0
    for slope, want in zip(slopes, wanted, strict=True):
        if slope is not None:
            torch.testing.assert_close(slope, want)
            compared += 1
    assert compared > len(inputs) / 2


def random_weights(net):
    for parameter in net.double().parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return net.state_dict(keep_vars=True)


def residual(x, state, key):
    inner = normalized(convolved(x, state, f"{key}.conv_block.1", 1)).relu()
    return x + normalized(convolved(inner, state, f"{key}.conv_block.5", 1))


def image(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("domain", ["A", "B"])
@pytest.mark.parametrize("batch, size", [(1, (16, 24)), (3, (20, 16))])
def test_contents_are_read_by_layers_of_the_domain_and_a_shared_block(domain, batch, size):
    net = DritContentEncoder((2, 3), ngf=2, n_blocks=1)
    state = random_weights(net)
    x = image(batch, 2 if domain == "A" else 3, *size)

    own = f"own.{domain}"
    y = F.leaky_relu(convolved(x, state, f"{own}.1", 3), 0.01)
    for number in (4, 8):
        y = normalized(convolved(y, state, f"{own}.{number}", 1, stride=2)).relu()
    y = residual(residual(y, state, f"{own}.11"), state, "shared")
    of_domain = [*net.own[domain].parameters(), *net.shared.parameters()]
    assert_same(net(x, domain), y, [x, *of_domain])


def test_noise_in_contents_is_drawn_afresh_and_only_where_asked_for():
    net, x = DritContentEncoder((3, 3), ngf=16), torch.randn(2, 3, 32, 32)
    plain, noise = net(x, "A"), net(x, "A", noisy=True) - net(x, "A")
    assert torch.equal(net(x, "A"), plain)
    assert noise.mean().abs() < 0.05 and noise.std().item() == pytest.approx(1, abs=0.05)
    assert not torch.equal(net(x, "A", noisy=True), net(x, "A", noisy=True))
    net.eval()
    assert not torch.equal(net(x, "A", noisy=True), plain), "the mode of the network has no say"


@pytest.mark.parametrize("batch, size", [(1, (16, 24)), (3, (38, 27))])
def test_attributes_are_read_by_a_residual_network_that_halves(batch, size):
    net = DritAttributeEncoder((3, 2), width=2, attribute_dim=3)
    state = random_weights(net)
    x = image(batch, 2, *size)

    y = convolved(x, state, "features.B.1", 1, stride=2)
    for number in (2, 3, 4):
        key = f"features.B.{number}"
        inner = F.leaky_relu(y, 0.2)
        for layer in (1, 3):
            weight, bias = (state[f"{key}.main.{layer}.{kind}"] for kind in ("weight", "bias"))
            inner = F.conv2d(inner, weight, bias, padding=1)
            inner = F.leaky_relu(inner, 0.2) if layer == 1 else F.avg_pool2d(inner, 2)
        weight, bias = (state[f"{key}.short.1.{kind}"] for kind in ("weight", "bias"))
        y = inner + F.conv2d(F.avg_pool2d(y, 2), weight, bias)
    y = F.leaky_relu(y, 0.2).mean((2, 3))
    expected = F.linear(y, state["heads.B.weight"], state["heads.B.bias"])

    mean, log_variance = net(x, "B")
    assert mean.shape == log_variance.shape == (batch, 3)
    of_B = [*net.features["B"].parameters(), *net.heads["B"].parameters()]
    assert_same(torch.cat([mean, log_variance], 1), expected, [x, *of_B])


def test_attributes_need_an_image_that_can_be_halved_four_times():
    with pytest.raises(UserError, match="at least 16 pixels, not 12 wide and 20 high"):
        DritAttributeEncoder((3, 3), width=2)(torch.zeros(1, 3, 20, 12), "A")


@pytest.mark.parametrize("batch, size", [(1, (3, 5)), (3, (4, 2))])
def test_attributes_enter_the_generator_at_four_places(batch, size):
    net = DritGenerator((3, 1), ngf=2, attribute_dim=4, n_blocks=2)
    state = random_weights(net)
    content, code = image(batch, 8, *size), image(batch, 4)

    def joined(x):
        return torch.cat([x, code[:, :, None, None].expand(*code.shape, *x.shape[2:])], 1)

    y = joined(residual(content, state, "shared"))
    for block in range(2):
        y = residual(y, state, f"own.B.0.{block}")
    for part in (1, 2):
        weights_of = [state[f"own.B.{part}.{n}.{k}"] for n in (0, 1) for k in ("weight", "bias")]
        y = F.conv_transpose2d(joined(y), *weights_of[:2], stride=2, padding=1, output_padding=1)
        y = F.group_norm(y, 1, *weights_of[2:]).relu()
    y = F.conv2d(joined(y), state["own.B.3.0.weight"], state["own.B.3.0.bias"]).tanh()

    found = net(content, code, "B")
    assert found.shape == (batch, 1, 4 * size[0], 4 * size[1])
    assert_same(found, y, [content, code, *net.shared.parameters(), *net.own["B"].parameters()])


def test_the_judge_of_contents_is_convolutions_alone():
    net = DritContentDiscriminator(2)
    state = random_weights(net)
    x = image(2, 2, 54, 60)
    y = x
    for number in (1, 4, 7):
        y = F.leaky_relu(convolved(y, state, f"model.{number}", 1, stride=2), 0.01)
    y = F.leaky_relu(F.conv2d(y, state["model.10.weight"], state["model.10.bias"]), 0.01)
    y = F.conv2d(y, state["model.12.weight"], state["model.12.bias"])
    assert_same(net(x), y, [x, *net.parameters()])


def test_published_sizes():
    nets = (
        DritContentEncoder((3, 3)),
        DritAttributeEncoder((3, 3)),
        DritGenerator((3, 3)),
        DritContentDiscriminator(256),
    )
    counts = [sum(p.numel() for p in net.parameters()) for net in nets]
    assert counts == [9_018_112, 2_688_160, 9_564_710, 10_683_649]
    with torch.no_grad():
        assert nets[3](torch.zeros(1, 256, 54, 54)).shape == (1, 1, 1, 1)
        assert nets[3](torch.zeros(1, 256, 8, 6)).shape == (1, 1, 1, 1)


# -- one step ----------------------------------------------------------------------------------------------------------


FLAGS = ["--lambda_rec", "7", "--lambda_kl", "0.3", "--lambda_latent", "2"]


def in_double(root, monkeypatch, *flags):
    """A model in float64 whose random numbers are the same for every image, whenever they are drawn."""
    _, _, _, model = build(root, "drit", None, *FLAGS, *flags)
    for net in model.networks.values():
        net.double()
        for parameter in net.parameters():
            parameter.data.mul_(3)  # so that codes show in the image, and mode seeking is no giant
    monkeypatch.setattr(torch, "randn", alike_for_each_image)
    torch.set_default_dtype(torch.float64)
    return model


def cross_entropy(scores, target):
    """Summed over sizes."""
    return sum(
        F.binary_cross_entropy_with_logits(s, torch.full_like(s, float(target))) for s in scores
    )


def sampled(normal):
    mean, log_variance = normal
    return mean + torch.randn(mean.shape) * (log_variance / 2).exp()


class Expected:
    """The losses of a step as the formulas say, with the weights of FLAGS."""

    def __init__(self, nets, A, B, draws=2):
        E_c, E_a, G = (nets[name] for name in MOVES)
        codes = [torch.randn(len(A), draws, 8)[:, k] for k in range(draws)]
        c_A, c_B = E_c(A, "A", noisy=True), E_c(B, "B", noisy=True)
        normal_A, normal_B = E_a(A, "A"), E_a(B, "B")
        z_A, z_B = sampled(normal_A), sampled(normal_B)
        fake_A, fake_B = G(c_B, z_A, "A"), G(c_A, z_B, "B")

        again_A = G(E_c(fake_B, "B", noisy=True), sampled(E_a(fake_A, "A")), "A")
        again_B = G(E_c(fake_A, "A", noisy=True), sampled(E_a(fake_B, "B")), "B")
        rec = l1(G(c_A, z_A, "A"), A) + l1(G(c_B, z_B, "B"), B) + l1(again_A, A) + l1(again_B, B)

        self.first = cross_entropy(nets["D_A"](fake_A), 1) + cross_entropy(nets["D_B"](fake_B), 1)
        self.first = self.first + 7 * rec
        for c, (mean, log_variance) in ((c_A, normal_A), (c_B, normal_B)):
            kl = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum() / len(A)
            confusion = cross_entropy([nets["D_content"](c)], 0.5)
            self.first = self.first + 0.3 * (kl + (c**2).mean()) + confusion

        self.second, self.random = 0.0, {}
        for role, content in (("A", c_B), ("B", c_A)):
            randoms = self.random[role] = [G(content, code, role) for code in codes]
            for fake in randoms:
                self.second = self.second + cross_entropy(nets[f"D_{role}2"](fake), 1)
            self.second = self.second + 2 * l1(E_a(randoms[0], role)[0], codes[0])
            if draws == 2:
                self.second = self.second + self.mode_seeking(randoms, codes) / len(A)

        self.fake_A, self.fake_B, self.c_A, self.c_B = fake_A, fake_B, c_A, c_B

    @staticmethod
    def mode_seeking(images, codes):
        loss = 0.0
        for x, y, z, w in zip(*images, *codes, strict=True):
            loss = loss + 1 / ((x - y).abs().mean() / (z - w).abs().mean() + 1e-5)
        return loss

    def judge(self, nets, real, others):
        """L_D of all four."""
        loss = 0.0
        for role, fake in (("A", self.fake_A), ("B", self.fake_B)):
            loss = loss + cross_entropy(nets[f"D_{role}"](real[role]), 1)
            loss = loss + cross_entropy(nets[f"D_{role}"](fake.detach()), 0)
            for random in self.random[role]:
                loss = loss + cross_entropy(nets[f"D_{role}2"](others[role]), 1)
                loss = loss + cross_entropy(nets[f"D_{role}2"](random.detach()), 0)
        return loss

    def judge_contents(self, nets):
        of_A = cross_entropy([nets["D_content"](self.c_A.detach())], 0)
        return of_A + cross_entropy([nets["D_content"](self.c_B.detach())], 1)


def copies(model):
    """Networks with the weights of now; those of the model will move."""
    return copy.deepcopy(model.networks)


@pytest.mark.parametrize("count, flags", [(1, []), (2, []), (5, []), (2, ["--no_ms"])])
def test_a_step_is_the_formula(tmp_path, monkeypatch, count, flags):
    """Judges move first; then E_c and G down the sum of both losses, E_a down the first alone."""
    model, batch = in_double(tmp_path, monkeypatch, *flags), batch_of(count)
    real = {role: images[::2] for role, images in batch.items()}
    others = {role: images[1::2] if count > 1 else images for role, images in batch.items()}
    draws = 1 if flags else 2

    before = copies(model)
    expected = Expected(before, real["A"], real["B"], draws)
    of_judges, of_contents = expected.judge(before, real, others), expected.judge_contents(before)
    losses = step(model, batch)

    assert losses["D"] == pytest.approx(of_judges.item(), rel=1e-10)
    assert losses["D_content"] == pytest.approx(of_contents.item(), rel=1e-10)
    for name in JUDGES:
        assert_gradients(model.networks[name], gradients(of_judges, before[name]))
    wanted = gradients(of_contents, before["D_content"])
    assert torch.cat([g.flatten() for g in wanted]).norm() < 5  # nothing to clip here
    assert_gradients(model.networks["D_content"], wanted)

    moved = {**before, **{name: model.networks[name] for name in (*JUDGES, "D_content")}}
    expected = Expected(moved, real["A"], real["B"], draws)
    assert losses["G"] == pytest.approx(expected.first.item(), rel=1e-10)
    assert losses["E_c"] == pytest.approx(expected.second.item(), rel=1e-10)
    assert_gradients(model.netE_a, gradients(expected.first, before["E_a"]))
    for name in ("E_c", "G"):
        both = gradients(expected.first + expected.second, before[name])
        assert_gradients(model.networks[name], both)
        alone = gradients(expected.first, before[name])
        assert any(not torch.allclose(a, b) for a, b in zip(both, alone, strict=True))


def test_a_player_takes_one_adam_step_per_cycle(tmp_path):
    _, _, loader, model = build(tmp_path, "drit", None)
    batch = next(iter(loader.epoch(1)))
    for _ in range(3):
        step(model, batch)
    taken = {
        name: {int(state["step"]) for state in optimizer.state.values()}
        for name, optimizer in model.optimizers.items()
    }
    assert taken == {"E_c": {1}, "E_a": {1}, "G": {1}, "D": {1}, "D_content": {3}}


def test_the_gradient_of_the_judge_of_contents_is_shortened(tmp_path, monkeypatch):
    monkeypatch.setattr("models.drit_model.CLIP_NORM", 1e-3)
    model, batch = in_double(tmp_path, monkeypatch), batch_of(2)
    before = copies(model)
    real = {role: images[::2] for role, images in batch.items()}
    expected = Expected(before, real["A"], real["B"]).judge_contents(before)
    wanted = gradients(expected, before["D_content"])
    length = torch.cat([g.flatten() for g in wanted]).norm()
    assert length > 2e-3
    step(model, batch)
    assert_gradients(
        model.networks["D_content"], [g * 1e-3 / (length + 1e-6) for g in wanted], floor=0
    )
    norms = [
        torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]).norm()
        for name, net in model.networks.items()
        if name != "D_content"
    ]
    assert min(norms) > 2e-3, "others are not"


def test_players_and_pictures_over_two_cycles(tmp_path):
    """D_content moves in every step, everybody else in the first of three; pictures change with them."""
    _, _, loader, model = build(tmp_path, "drit", None)
    batches = [batch for epoch in (1, 2, 3) for batch in loader.epoch(epoch)]
    everybody, judge = set(model.networks), {"D_content"}
    shown = {}
    for number, batch in enumerate(batches[:6]):
        before = weights(model)
        step(model, batch)
        moved = {
            k.split(".")[0] for k, v in weights(model).items() if not torch.equal(v, before[k])
        }
        assert moved == (everybody if number % 3 == 0 else judge), number

        pictures = {k: v.clone() for k, v in model.get_current_visuals().items()}
        same = [torch.equal(pictures[k], v) for k, v in shown.items()]
        assert all(same) if number % 3 else not any(same)
        if number % 3 == 0:
            assert torch.equal(pictures["real_A"], batch["A"][::2])
        shown = pictures


def test_compiled_code_keeps_what_the_second_backward_pass_reads(tmp_path):
    """Else it gives its buffers away in the first: L_1 and L_2 go through the same contents."""
    with functorch_config.patch(donated_buffer=True):
        build(tmp_path, "drit", None)
        assert functorch_config.donated_buffer, "plain code has no such buffers"
        build(tmp_path, "drit", None, "--compile")
        assert not functorch_config.donated_buffer


def test_the_cycle_can_be_one_step(tmp_path):
    _, _, loader, model = build(tmp_path, "drit", None, "--d_iter", "1")
    batch = next(iter(loader.epoch(1)))
    for _ in range(2):
        before = weights(model)
        step(model, batch)
        moved = {
            k.split(".")[0] for k, v in weights(model).items() if not torch.equal(v, before[k])
        }
        assert moved == set(model.networks)


def test_a_run_goes_on_in_the_middle_of_a_cycle(tmp_path):
    opt, runtime, loader, model = build(tmp_path, "drit", None)
    batches = [batch for epoch in (1, 2, 3, 4) for batch in loader.epoch(epoch)]
    for batch in batches[:2]:
        step(model, batch)
    Checkpoint(opt, runtime, model, Progress(1, 2, len(loader), 2)).save_latest()
    expected = [step(model, batch) for batch in batches[2:8]]

    opt, runtime, _, again = build(tmp_path, "drit", None)
    Checkpoint(opt, runtime, again, Progress(1, 2, len(loader), 2)).resume()
    assert again.turn == 2
    assert again.get_current_visuals() == {}, "none has been made yet"
    found = [step(again, batch) for batch in batches[2:3]]
    assert again.get_current_visuals() == {}
    found += [step(again, batch) for batch in batches[3:8]]
    assert len(again.get_current_visuals()) == 10
    assert found[1:] == expected[1:]
    assert found[0] == {name: expected[0][name] for name in found[0]}  # only what it has computed


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_every_second_image_is_translated(tmp_path, count):
    _, _, _, model = build(tmp_path, "drit", None)
    images = {role: torch.arange(count).view(-1, 1, 1, 1) + 10.0 * (role == "B") for role in "AB"}
    model.load(images)
    for role, offset in (("A", 0), ("B", 10)):
        translated = [n + offset for n in range(0, count, 2)]
        others = [n + offset for n in range(1, count, 2)] or [offset]
        assert model.inputs[role].flatten().tolist() == translated
        assert model.others[role].flatten().tolist() == others


@pytest.mark.parametrize(
    ("processes", "batch", "accumulate", "advised"),
    [(1, 1, 1, 0), (1, 3, 1, 0), (2, 4, 1, 0), (1, 2, 2, 0), (2, 2, 1, 4), (1, 1, 2, 2), (2, 2, 2, 4)],
)  # fmt: skip
def test_parts_of_a_batch_whose_images_cannot_take_turns_are_noted(
    tmp_path, processes, batch, accumulate, advised
):
    flags = ["--batch_size", str(batch), "--accumulate", str(accumulate)]
    _, _, _, model = build(tmp_path, "drit", None, *flags)
    model.runtime.world_size = processes
    noted = [line for line in model.describe().splitlines() if line.startswith("note: ")]
    assert len(noted) == bool(advised)
    assert not advised or f"--batch_size {advised} gives each an even number" in noted[0]


def test_grey_images_in_one_domain(tmp_path):
    _, _, loader, model = build(tmp_path, "drit", None, "--output_nc", "1")
    losses = step(model, next(iter(loader.epoch(1))))
    assert model.fake_A.shape[1] == 3 and model.fake_B.shape[1] == 1
    assert all(torch.isfinite(torch.tensor(value)) for value in losses.values())


# -- options -----------------------------------------------------------------------------------------------------------


def parsed(*flags, model="drit"):
    return parse(TrainOptions(), ["--dataroot", "x", "--model", model, *flags])


def test_presets():
    official, shared, plain = parsed(), parsed("--preset", "shared"), parsed(model="cut")
    assert official.preset == "official"
    assert (official.lr, official.n_epochs, official.n_epochs_decay) == (1e-4, 600, 600)
    assert (official.max_steps, official.lr_policy) == (1_500_000, "linear")
    data = (official.load_size, official.crop_size, official.preprocess, official.finetune_resize)
    assert data == (256, 216, "resize_and_crop", False)
    for name in ("lr", "lr_policy", "load_size", "crop_size", "preprocess", "finetune_resize"):
        assert getattr(shared, name) == getattr(plain, name), name
    assert (shared.n_epochs, shared.n_epochs_decay) == (
        3 * plain.n_epochs,
        3 * plain.n_epochs_decay,
    )
    for opt in (official, shared):
        weights = (opt.lambda_rec, opt.lambda_kl, opt.lambda_latent, opt.no_ms, opt.weight_decay)
        assert weights == (10, 0.01, 10, False, 1e-4)
        assert (opt.gan_mode, opt.init_type, opt.batch_size, opt.d_iter) == (
            "vanilla",
            "normal",
            2,
            3,
        )


def test_the_judge_of_contents_is_slower(tmp_path):
    for flags, rate in (([], 4e-5), (["--lr", "0.01"], 4e-3), (["--lr_dcontent", "0.5"], 0.5)):
        _, _, _, model = build(tmp_path, "drit", None, *flags)
        group = model.optimizers["D_content"].param_groups[0]
        assert group["initial_lr"] == pytest.approx(rate) and group["weight_decay"] == 1e-4


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--netG stylegan2", "--netG stylegan2: --model drit has networks of its own"),
        ("--gan_mode wgangp", "--gan_mode wgangp.*no gradient penalty"),
        ("--d_iter 0", "at least 1"),
        ("--lambda_kl -1", "--lambda_kl: expected a weight of at least 0"),
        ("--lr_dcontent 0", "--lr_dcontent: expected a number above 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        build(tmp_path, "drit", None, *flags.split())
