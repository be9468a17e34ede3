"""DistanceGAN and SelfDistance: distances against loops, what is measured first, a whole step, both sides at test."""

import copy
import itertools
import re
import statistics

import pytest
import torch

from data import create_loader
from models import create_model, find_model
from models.losses.distance import (
    EXACT_BLOCK,
    all_pair_distances,
    distance_loss,
    half_distances,
    moments,
    pair_distances,
)
from options import TrainOptions, parse
from tests.helpers import make_dataset, make_image_folder, run_command, train_flags, train_options
from tests.test_cycle_gan import shown
from tests.test_models import build, step, weights
from util.errors import UserError
from util.hardware.runtime import Runtime
from util.run.checkpoint import Checkpoint
from util.run.progress import Progress

PAIRED, HALVED = "distance_gan", "self_distance"


def images(batch, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, *size, dtype=torch.float64, generator=generator) * 2 - 1


def loop_distance(x, y):
    """Mean absolute difference of two (C,H,W), one number after the other."""
    numbers = [abs(a - b) for a, b in zip(x.flatten(), y.flatten(), strict=True)]
    return sum(numbers) / len(numbers)


def loop_pairs(x):
    return [loop_distance(x[i], x[j]) for i, j in itertools.combinations(range(len(x)), 2)]


def loop_halves(x):
    half = x.shape[2] // 2
    return [loop_distance(image[:, :half], image[:, -half:]) for image in x]


# -- losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(4, 6), (5, 3)])
@pytest.mark.parametrize("batch", [2, 3, 5])
def test_pair_distances_equal_loops(batch, size):
    x = images(batch, size)
    torch.testing.assert_close(pair_distances(x), torch.stack(loop_pairs(x)))


@pytest.mark.parametrize("size", [(4, 6), (5, 3), (2, 7)])
@pytest.mark.parametrize("batch", [1, 3])
def test_half_distances_equal_loops(batch, size):
    x = images(batch, size)
    torch.testing.assert_close(half_distances(x), torch.stack(loop_halves(x)))


def test_halves_are_upper_and_lower():
    x = torch.zeros(1, 1, 4, 4)
    x[:, :, :2] = 1
    assert half_distances(x) == 1
    assert half_distances(x.transpose(2, 3)) == 0


def test_one_image_has_no_pair():
    with pytest.raises(ValueError, match="at least two images"):
        pair_distances(images(1, (4, 4)))


@pytest.mark.parametrize(
    ("distances", "loop", "batch"),
    [
        (pair_distances, loop_pairs, 3),
        (half_distances, loop_halves, 1),
        (half_distances, loop_halves, 3),
    ],
)
def test_distance_loss_and_its_gradient_equal_loops(distances, loop, batch):
    real, fake = images(batch, (4, 6)), images(batch, (4, 6), seed=1).requires_grad_()
    of_real, of_fake = torch.tensor([[0.6, 0.11], [0.5, 0.07]], dtype=torch.float64)
    loss = distance_loss(distances(real), distances(fake), of_real, of_fake)

    terms = []
    for before, after in zip(loop(real), loop(fake), strict=True):
        terms.append(abs((before - 0.6) / 0.11 - (after - 0.5) / 0.07))
    expected = sum(terms) / len(terms)
    torch.testing.assert_close(loss, expected)
    found, wanted = (torch.autograd.grad(x, fake)[0] for x in (loss, expected))
    assert wanted.any()
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("distances", [pair_distances, half_distances])
def test_equal_images_have_distance_zero_and_a_finite_gradient(distances):
    x = torch.full((3, 3, 4, 6), 0.25, requires_grad=True)
    found = distances(x)
    assert not found.any()
    found.sum().backward()
    assert not x.grad.any()


def test_distances_of_half_precision_are_taken_in_float32():
    x = images(3, (16, 16)).bfloat16()
    for distances in (pair_distances, half_distances):
        found = distances(x)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, distances(x.double()).float())


def test_all_pair_distances_are_exact():
    """To the bit those of whole numbers, over several blocks, in any order of the pixels."""
    width = 2 * EXACT_BLOCK + 77
    levels = torch.randint(0, 256, (5, width), dtype=torch.uint8)
    levels[0], levels[1] = 0, 255  # as far apart as can be
    found = all_pair_distances(levels)
    expected = [
        int((levels[i].long() - levels[j].long()).abs().sum()) / width
        for i, j in itertools.combinations(range(5), 2)
    ]
    assert found.tolist() == expected
    assert torch.equal(all_pair_distances(levels[:, torch.randperm(width)]), found)
    assert 255 * EXACT_BLOCK < 2**24, "the largest whole number up to which float32 has all"


def test_moments_are_mean_and_population_deviation():
    numbers = torch.rand(50)
    exact = [float(number) for number in numbers]
    expected = torch.tensor(
        [statistics.fmean(exact), statistics.pstdev(exact)], dtype=torch.float64
    )
    torch.testing.assert_close(moments(numbers), expected, rtol=1e-12, atol=0)


# -- what is measured before the first step --------------------------------------------------------------------------


def prepared(root, model, preset, *flags):
    opt, _, loader, made = build(root, model, preset, *flags)
    made.prepare_once(loader.dataset)
    return opt, loader, made


def values(model):
    return torch.stack([model.moments_A.value, model.moments_B.value])


@pytest.mark.parametrize("name", [PAIRED, HALVED])
@pytest.mark.parametrize(
    "flags", ["--preset official", "--preset shared", "--preset official --max_items 3"]
)
def test_moments_are_those_of_the_first_items(tmp_path, name, flags):
    """Official: items are batches, whose images are compared one by one and averaged."""
    opt, loader, model = prepared(tmp_path, name, *flags.split()[1:2], *flags.split()[2:])
    size = opt.batch_size if opt.preset == "official" else 1
    order = loader.dataset.order(1)
    count = min(opt.max_items, len(order) // size)
    assert count == (3 if "max_items" in flags else len(order) // size)

    expected = []
    for role in "AB":
        read = [loader.dataset.sample(index)[role].double() for index in order[: count * size]]
        items = [torch.stack(read[n * size : (n + 1) * size]) for n in range(count)]
        if name == HALVED:
            found = [float((item[:, :, :16] - item[:, :, 16:]).abs().mean()) for item in items]
        else:
            found = [float((x - y).abs().mean()) for x, y in itertools.combinations(items, 2)]
        expected.append([statistics.fmean(found), statistics.pstdev(found)])
    torch.testing.assert_close(values(model).double(), torch.tensor(expected).double())


def test_moments_are_the_same_on_every_process_and_from_any_state(tmp_path):
    *_, model = prepared(tmp_path, PAIRED, "official")
    twice = ["--batch_size", "4"]  # of which a process has the published two
    opt, runtime, _, other = build(tmp_path, PAIRED, "official", "--cache", "ram", *twice)
    runtime.rank, runtime.world_size = 1, 2
    torch.manual_seed(99)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        other.prepare_once(create_loader(opt, runtime).dataset)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(values(other), values(model))


def test_moments_are_measured_once_and_saved_with_the_run(tmp_path, monkeypatch):
    opt, loader, model = prepared(tmp_path, PAIRED, "official")
    batches = list(loader.epoch(1))
    step(model, batches[0])
    Checkpoint(
        opt, model.runtime, model, Progress(1, 2, len(loader), loader.images_per_step)
    ).save_latest()
    expected = step(model, batches[1])

    opt, runtime, loader, again = build(tmp_path, PAIRED, "official")
    monkeypatch.setattr(again, "prepare", lambda dataset: pytest.fail("measured again"))
    Checkpoint(opt, runtime, again, Progress(1, 2, len(loader), loader.images_per_step)).resume()
    again.prepare_once(loader.dataset)
    assert torch.equal(values(again), values(model))
    assert step(again, batches[1]) == expected


@pytest.mark.parametrize(
    "flags", ["--distance_items image", "--max_items 5", "--unnormalized_distances", "--A_to_B"]
)
def test_what_was_measured_cannot_change_on_resume(tmp_path, flags):
    opt, loader, model = prepared(tmp_path, PAIRED, "official")
    progress = Progress(1, 2, len(loader), loader.images_per_step)
    Checkpoint(opt, model.runtime, model, progress).save_latest()
    opt, runtime, _, again = build(tmp_path, PAIRED, "official", *flags.split())
    with pytest.raises(UserError, match=f"{flags.split()[0]} .* contradicts the run"):
        Checkpoint(opt, runtime, again, progress).resume()


def test_unnormalized_distances_are_compared_as_they_are(tmp_path):
    *_, model = prepared(tmp_path, PAIRED, "official", "--unnormalized_distances")
    assert values(model).tolist() == [[0, 1], [0, 1]]
    assert "distances" not in model.describe()


def test_the_log_tells_what_was_measured(tmp_path):
    *_, model = prepared(tmp_path, HALVED, "shared")
    mean, deviation = model.moments_B.value
    assert f"distances in B: mean {mean:.4f}, deviation {deviation:.4f}" in model.describe()


def test_images_that_give_no_unit_are_refused(tmp_path):
    for letter in "AB":
        make_image_folder(tmp_path / "data" / f"train{letter}", count=2)
    with pytest.raises(UserError, match="domain A, 1 item of 2 images: the distances do not vary"):
        prepared(tmp_path, PAIRED, "official")


def test_images_of_several_sizes_have_no_distance_but_halves_have(tmp_path):
    for letter in "AB":
        make_image_folder(tmp_path / "data" / f"train{letter}", count=2, size=(40, 32))
        make_image_folder(
            tmp_path / "data" / f"train{letter}", count=4, size=(32, 48), suffix=".bmp"
        )
    flags = ["--preprocess", "none", "--distance_items", "image", "--pool_size", "0"]
    with pytest.raises(UserError, match="images of one batch differ in size"):
        prepared(tmp_path, PAIRED, "official", *flags)
    *_, model = prepared(tmp_path, HALVED, "shared", *flags)
    assert (values(model)[:, 1] > 0).all()


# -- one step --------------------------------------------------------------------------------------------------------


def loaded(root, name, preset, *flags):
    """A model that has measured, with a batch, forwarded as in a step."""
    _, loader, model = prepared(root, name, preset, *flags)
    model.set_input(next(iter(loader.epoch(1))))
    model.load(model._micro_batches[0])
    model.forward()
    return model


def expected_distance(name, items, real, fake, of_real, of_fake):
    before, after = (
        (loop_halves if name == HALVED else loop_pairs)(x.double()) for x in (real, fake.detach())
    )
    if name == HALVED and items == "batch":
        before, after = [sum(before) / len(before)], [sum(after) / len(after)]
    (m, s), (n, t) = of_real.tolist(), of_fake.tolist()
    terms = [abs((x - m) / s - (y - n) / t) for x, y in zip(before, after, strict=True)]
    return float(sum(terms) / len(terms))


@pytest.mark.parametrize("items", ["image", "batch"])
@pytest.mark.parametrize("name", [PAIRED, HALVED])
def test_every_term_is_its_formula(tmp_path, name, items):
    flags = f"--batch_size 3 --lambda_distance_A 0.7 --lambda_distance_B 3 --distance_items {items}"
    make_dataset(tmp_path / "data", count=12)
    model = loaded(tmp_path, name, "official", *flags.split())
    A, B, of_A, of_B = model.real_A, model.real_B, model.moments_A.value, model.moments_B.value
    with torch.no_grad():
        fake_B, fake_A = model.netG_A(A), model.netG_B(B)
        expected = {
            "G_A": float((model.netD_A(fake_B) - 1).square().mean()),
            "dist_A": 0.7 * expected_distance(name, items, A, fake_B, of_A, of_B),
            "G_B": float((model.netD_B(fake_A) - 1).square().mean()),
            "dist_B": 3 * expected_distance(name, items, B, fake_A, of_B, of_A),
        }
        judged = {"D_A": (model.netD_A, B, fake_B), "D_B": (model.netD_B, A, fake_A)}
        expected_D = {
            key: 0.5 * float((net(real) - 1).square().mean() + net(fake).square().mean())
            for key, (net, real, fake) in judged.items()
        }
    found = {key: value.item() for key, value in model.compute_G_loss().items()}
    assert found == pytest.approx(expected, rel=1e-4)
    found = {key: value.item() for key, value in model.compute_D_loss().items()}
    assert found == pytest.approx(expected_D, rel=1e-5)


def test_cycles_are_added_on_request(tmp_path):
    model = loaded(tmp_path, PAIRED, "official", "--use_cycle_loss", "--lambda_A", "7")
    terms = model.compute_G_loss()
    with torch.no_grad():
        back = model.netG_B(model.netG_A(model.real_A))
        torch.testing.assert_close(terms["cycle_A"], 7 * (back - model.real_A).abs().mean())
        back = model.netG_A(model.netG_B(model.real_B))
        torch.testing.assert_close(terms["cycle_B"], 10 * (back - model.real_B).abs().mean())
    assert model.visual_names[-2:] == ["rec_A", "rec_B"]


def plain_step(model):
    """G, then D on the fakes of the same forward, with plain torch and one Adam each; returns the moved weights."""
    nets = {name: copy.deepcopy(net) for name, net in model.networks.items()}
    adam = {}
    for player in "GD":
        parameters = [p for name in nets if name[0] == player for p in nets[name].parameters()]
        adam[player] = torch.optim.Adam(parameters, lr=0.0002, betas=(0.5, 0.999))
    A, B = model.real_A, model.real_B
    (mean_A, dev_A), (mean_B, dev_B) = values(model)
    fake_B, fake_A = nets["G_A"](A), nets["G_B"](B)

    def d(x):
        return (x[0] - x[1]).abs().mean()

    loss = (nets["D_A"](fake_B) - 1).square().mean() + (nets["D_B"](fake_A) - 1).square().mean()
    loss = loss + abs((d(A) - mean_A) / dev_A - (d(fake_B) - mean_B) / dev_B)
    loss = loss + abs((d(B) - mean_B) / dev_B - (d(fake_A) - mean_A) / dev_A)
    loss.backward()
    adam["G"].step()

    adam["D"].zero_grad()
    loss = (nets["D_A"](B) - 1).square().mean() + nets["D_A"](fake_B.detach()).square().mean()
    loss = (
        loss + (nets["D_B"](A) - 1).square().mean() + nets["D_B"](fake_A.detach()).square().mean()
    )
    (0.5 * loss).backward()
    adam["D"].step()
    return {f"{n}.{k}": v for n, net in nets.items() for k, v in net.state_dict().items()}


def test_a_step_is_g_then_d_on_the_images_of_one_forward(tmp_path):
    model = loaded(tmp_path, PAIRED, "official")
    before, expected = weights(model), plain_step(model)
    model.optimize_parameters()
    for key, value in weights(model).items():
        # Adam's first step is the learning rate times the gradient's sign, and one close to zero may have either
        moved, wanted = value - before[key], expected[key] - before[key]
        assert ((moved - wanted).abs() < 2e-5).double().mean() > 0.98, key
    assert all(not torch.equal(expected[k], v) for k, v in before.items() if k.endswith("weight"))


def test_a_side_that_is_not_trained_is_not_built(tmp_path):
    model = loaded(tmp_path, PAIRED, "one_sided")
    assert list(model.networks) == ["G_A", "D_A"]
    assert list(model.compute_G_loss()) == ["G_A", "dist_A"]
    assert list(model.compute_D_loss()) == ["D_A"]
    assert list(model.get_current_visuals()) == ["real_A", "fake_B", "real_B"]
    both = loaded(tmp_path, PAIRED, "official")
    assert list(both.networks) == ["G_A", "G_B", "D_A", "D_B"]


def test_the_release_flag_for_halves_is_the_same_training(tmp_path):
    """--model distance_gan --use_self_distance, from equal weights."""
    losses = []
    for name, flags in ((PAIRED, ["--use_self_distance"]), (HALVED, [])):
        torch.manual_seed(1)
        _, loader, model = prepared(tmp_path, name, "official", *flags)
        losses.append(step(model, next(iter(loader.epoch(1)))))
    assert losses[0] == losses[1]


def test_each_discriminator_has_a_pool_of_its_own(tmp_path):
    model = loaded(tmp_path, PAIRED, "official", "--pool_size", "2")
    model.compute_D_loss()
    assert torch.equal(model.pool_B.images, model.fake_B.detach())
    assert torch.equal(model.pool_A.images, model.fake_A.detach())


# -- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--batch_size 1", r"--batch_size 1 leaves 1 image per process.*--model self_distance"),
        ("--B_to_A", "--A_to_B --direction BtoA"),
        ("--A_to_B --use_cycle_loss", "--use_cycle_loss needs the way back"),
        ("--lambda_distance_A -1", "--lambda_distance_A: expected a weight of at least 0"),
        ("--max_items 0", "at least 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        train_options(tmp_path, *flags.split(), model=PAIRED)


def test_a_pair_per_process_is_needed(tmp_path):
    opt = train_options(tmp_path, model=PAIRED)
    runtime = Runtime.from_options(opt)
    runtime.world_size = 2
    with pytest.raises(UserError, match="--batch_size 2 leaves 1 image per process"):
        create_model(opt, runtime)


def test_one_image_is_enough_where_no_pairs_are_compared(tmp_path):
    off = ["--lambda_distance_A", "0"]
    assert train_options(tmp_path, "--batch_size", "1", "--A_to_B", *off, model=PAIRED)
    assert train_options(tmp_path, "--batch_size", "1", model=HALVED)
    with pytest.raises(UserError, match="that is --model distance_gan"):
        train_options(tmp_path, "--use_self_distance", "false", model=HALVED)


def test_presets():
    def parsed(*flags):
        return parse(TrainOptions(), ["--dataroot", "x", *flags])

    for name in (PAIRED, HALVED):
        assert list(find_model(name).PRESETS) == ["official", "one_sided", "shared"]
        official, shared = (parsed("--model", name, *f) for f in ([], ["--preset", "shared"]))
        assert (official.padG, official.normG, official.normD) == ("zero", *["instance_affine"] * 2)
        assert (official.batch_size, official.n_epochs, official.init_type) == (2, 100, "normal")
        assert (official.preprocess, official.load_size) == ("resize_shortside_and_crop", 286)
        assert official.no_antialias and official.no_antialias_up and not official.finetune_resize
        assert (official.distance_items, official.max_items, official.pool_size) == (
            "batch",
            900,
            50,
        )
        assert (shared.padG, shared.normG, shared.no_antialias) == ("reflect", "instance", False)
        assert (shared.n_epochs, shared.init_type, shared.distance_items) == (
            200,
            "xavier",
            "image",
        )
        assert shared.batch_size == (2 if name == PAIRED else 1)
        one_sided = vars(parsed("--model", name, "--preset", "one_sided"))
        differs = {k for k, v in vars(official).items() if one_sided[k] != v}
        assert differs == {"A_to_B", "preset", "recipe", "changed"}


# -- translation -----------------------------------------------------------------------------------------------------


def trained(root, name, preset):
    """A run of one step, saved as train.py saves it."""
    opt, loader, model = prepared(root, name, preset)
    step(model, next(iter(loader.epoch(1))))
    progress = Progress(1, 2, len(loader), loader.images_per_step)
    checkpoint = Checkpoint(opt, model.runtime, model, progress)
    checkpoint.begin()
    checkpoint.save_latest()


def test_both_directions_are_translated_and_inputs_alone_by_their_generator(tmp_path):
    trained(tmp_path, PAIRED, "official")
    both, files = shown(tmp_path)
    assert files == ["latest_net_G_A.pth", "latest_net_G_B.pth"]
    assert list(both) == ["real_A", "fake_B", "real_B", "fake_A"]
    assert both["fake_A"]["image_000.png"].shape == (3, 36, 40)

    inputs = ["--dataroot", str(tmp_path / "data" / "testA")]
    alone, files = shown(tmp_path, *inputs)
    assert files == ["latest_net_G_A.pth"] and list(alone) == ["real_A", "fake_B"]
    one, _ = shown(tmp_path, "--model", "test", "--model_suffix", "_A", *inputs)
    for found in (alone, one):
        for name, picture in found["fake_B"].items():
            torch.testing.assert_close(picture, both["fake_B"][name])


def test_a_one_sided_run_translates_with_its_only_generator(tmp_path):
    trained(tmp_path, HALVED, "one_sided")
    pictures, files = shown(tmp_path)
    assert files == ["latest_net_G_A.pth"] and list(pictures) == ["real_A", "fake_B", "real_B"]


def test_the_released_command_trains(tmp_path):
    flags = train_flags(tmp_path, "--pool_size", "50", "--max_steps", "1", model=PAIRED)
    result = run_command(["train.py", *flags])
    assert result.returncode == 0, result.stderr
    assert "measuring distances in both domains, on 4 items of 2 images each" in result.stdout
    assert len(re.findall(r"^distances in [AB]: mean 0\.\d+", result.stdout, re.MULTILINE)) == 2
