"""Published files of CycleGAN and pix2pix, by their key layout: they load, run, and give the numbers they should."""

import numpy as np
import pytest
import torch
from PIL import Image

from options import TrainOptions, parse
from tests.helpers import make_image_folder, run_command, train_flags
from tests.reference_released import (
    random_state,
    resnet_forward,
    resnet_shapes,
    unet_forward,
    unet_state,
)
from tests.test_cycle_gan import shown
from tests.test_data_aligned import make_pairs
from util.errors import UserError


def publish(
    root, name: str, state: dict[str, torch.Tensor], suffix: str = "", prefix: str = ""
) -> None:
    """Write weights, and nothing else, where a download script puts them."""
    folder = root / "checkpoints" / name
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(
        {prefix + key: value for key, value in state.items()}, folder / f"latest_net_G{suffix}.pth"
    )


def with_old_statistics(state: dict[str, torch.Tensor], ngf: int) -> dict[str, torch.Tensor]:
    """What instance norm left in files before torch 0.4, to be ignored."""
    extra = {f"model.{n}.running_mean": torch.full((ngf,), 9.0) for n in (2, 5, 8)}
    return (
        state
        | extra
        | {f"model.10.conv_block.2.{kind}": torch.ones(4 * ngf) for kind in ("running_var",)}
    )


def read(path) -> torch.Tensor:
    return (torch.from_numpy(np.array(Image.open(path))).float() / 127.5 - 1).permute(2, 0, 1)[None]


def test_command(root, *flags):
    where = [
        "--checkpoints_dir",
        root / "checkpoints",
        "--results_dir",
        root / "results",
        "--gpu_ids",
        "-1",
    ]
    result = run_command(["test.py", *flags, *where, "--num_threads", "0"])
    assert result.returncode == 0, result.stderr
    return root / "results" / flags[flags.index("--name") + 1] / "test_latest" / "images"


test_command.__test__ = False


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_published_cyclegan_generator_by_the_released_command(tmp_path, prefix):
    state = random_state(resnet_shapes(4))
    publish(tmp_path, "horse2zebra_pretrained", with_old_statistics(state, 4), prefix=prefix)
    paths = make_image_folder(tmp_path / "testA", count=2, size=(64, 48))
    released = [
        "--dataroot",
        tmp_path / "testA",
        "--name",
        "horse2zebra_pretrained",
        "--model",
        "test",
        "--no_dropout",
    ]
    images = test_command(tmp_path, *released, "--ngf", "4")
    assert sorted(folder.name for folder in images.iterdir()) == ["fake_B", "real_A"]
    for path in paths:
        expected = resnet_forward(state, read(path))
        assert expected.std() > 0.1
        assert (
            read(images / "fake_B" / path.name) - expected
        ).abs().max() < 1.01 / 127.5  # half a grey level


def test_a_published_pix2pix_generator_by_the_released_command(tmp_path):
    state = unet_state(2, 8)
    assert not any(key.endswith("num_batches_tracked") for key in state), (
        "as batch norm saved them before torch 0.4.1"
    )
    publish(tmp_path, "facades_label2photo_pretrained", state)
    make_pairs(tmp_path / "facades" / "test", count=2, size=(256, 256))
    released = ["--dataroot", tmp_path / "facades", "--direction", "BtoA", "--model", "pix2pix"]
    released += ["--name", "facades_label2photo_pretrained"]
    images = test_command(tmp_path, *released, "--ngf", "2", "--test_dropout", "false")
    for n in range(2):
        pair = read(tmp_path / "facades" / "test" / f"image_00{n}.png")
        assert torch.equal(read(images / "real_A" / f"image_00{n}.png"), pair[..., 256:])
        expected = unet_forward(state, pair[..., 256:], 8)
        assert expected.std() > 0.1
        assert (read(images / "fake_B" / f"image_00{n}.png") - expected).abs().max() < 1.01 / 127.5


def test_the_released_flags_of_model_test_for_a_unet(tmp_path):
    state = unet_state(2, 8)
    publish(tmp_path, "run", state)
    [path] = make_image_folder(tmp_path / "photos", count=1, size=(256, 256))
    released = [
        "--dataroot",
        str(path),
        "--model",
        "test",
        "--netG",
        "unet_256",
        "--dataset_mode",
        "single",
    ]
    flags = [*released, "--norm", "batch", "--ngf", "2"]
    found, files = shown(tmp_path, *flags, "--test_dropout", "false")
    torch.testing.assert_close(
        found["fake_B"][path.name][None], unet_forward(state, read(path), 8), atol=1e-4, rtol=0
    )
    assert files == ["latest_net_G.pth"]
    by_default = shown(tmp_path, *flags)[0]["fake_B"][path.name]
    assert not torch.allclose(by_default, found["fake_B"][path.name]), (
        "dropout is active, as in the release"
    )
    running = shown(tmp_path, *flags, "--eval")[0]["fake_B"][path.name]
    torch.testing.assert_close(
        running[None], unet_forward(state, read(path), 8, running=True), atol=1e-4, rtol=0
    )
    with pytest.raises(UserError, match=r"does not fit this network.*--normG"):
        shown(tmp_path, *released, "--ngf", "2")


def test_both_directions_of_published_files(tmp_path):
    states = {side: random_state(resnet_shapes(4), seed) for seed, side in enumerate("AB")}
    for side, state in states.items():
        publish(tmp_path, "run", with_old_statistics(state, 4), suffix=f"_{side}")
        make_image_folder(tmp_path / "data" / f"test{side}", count=1, size=(32, 32), seed=len(side))
    common = ["--ngf", "4", "--no_dropout"]
    found, _ = shown(
        tmp_path, "--model", "cycle_gan", "--dataroot", str(tmp_path / "data"), *common
    )
    for side, other in ("AB", "BA"):
        x = read(tmp_path / "data" / f"test{side}" / "image_000.png")
        fake = resnet_forward(states[side], x)
        torch.testing.assert_close(
            found[f"fake_{other}"]["image_000.png"][None], fake, atol=1e-4, rtol=0
        )
        back = resnet_forward(states[other], fake)
        torch.testing.assert_close(
            found[f"rec_{side}"]["image_000.png"][None], back, atol=1e-3, rtol=0
        )
        alone = [
            "--model",
            "test",
            "--model_suffix",
            f"_{side}",
            "--dataroot",
            str(tmp_path / "data" / f"test{side}"),
        ]
        one, files = shown(tmp_path, *alone, *common)
        torch.testing.assert_close(one["fake_B"]["image_000.png"][None], fake, atol=1e-4, rtol=0)
        assert files == [f"latest_net_G_{side}.pth"]
    with pytest.raises(
        UserError,
        match=r"latest_net_G\.pth does not exist.*latest_net_G_A\.pth, latest_net_G_B.pth",
    ):
        shown(tmp_path, *alone[:2], *alone[4:], *common)


def test_model_test_takes_the_architecture_of_a_run_of_ours(tmp_path):
    flags = train_flags(tmp_path, "--preset", "shared", "--max_steps", "1", model="cycle_gan")
    trained = run_command(["train.py", *flags])
    assert trained.returncode == 0, trained.stderr
    inputs = str(tmp_path / "data" / "testB")
    one, files = shown(tmp_path, "--model", "test", "--model_suffix", "_B", "--dataroot", inputs)
    both, _ = shown(tmp_path)
    assert files == ["latest_net_G_B.pth"] and len(one["fake_B"]) == 4
    for name, picture in one["fake_B"].items():
        torch.testing.assert_close(picture, both["fake_A"][name])
    with pytest.raises(UserError, match="--no_antialias True contradicts the training run"):
        shown(
            tmp_path,
            "--model",
            "test",
            "--model_suffix",
            "_B",
            "--dataroot",
            inputs,
            "--no_antialias",
        )


def test_model_test_cannot_be_trained(tmp_path):
    with pytest.raises(UserError, match="--model test only applies weights") as caught:
        parse(TrainOptions(), ["--dataroot", str(tmp_path), "--model", "test"])
    assert "\n" not in str(caught.value)
