"""Lines that help: the slips of a command line and of a folder that users make, and the line that each is told."""

import re
import subprocess

import pytest
import torch
from PIL import Image

from data.result_names import unique_names
from models import create_model
from models.cut_model import CUTModel
from models.inference.translate import translate
from models.strotss_model import STROTSSModel
from options import TestOptions, TrainOptions, parse
from tests.helpers import (
    REPO,
    make_dataset,
    make_image_folder,
    refusal,
    train_flags,
    train_options,
)
from tests.test_data_loader import data_options, make_loader, test_options
from train import train
from util.errors import exit_status
from util.hardware.runtime import Runtime
from util.run.checkpoint import load_for_inference
from util.run.folder import run_dir, save_record, weights_file
from util.run.weights import atomic_save


def where(root, *flags):
    folders = [
        "--checkpoints_dir",
        str(root / "checkpoints"),
        "--results_dir",
        str(root / "results"),
    ]
    return [*folders, "--gpu_ids", "-1", "--num_threads", "0", *flags]


def untrained(root, *flags, model="cut"):
    """The folder of a run whose weights are those that it would start from."""
    opt = train_options(root, *flags, model=model)
    networks = create_model(opt, Runtime.from_options(opt)).networks
    for name, net in networks.items():
        atomic_save(net.state_dict(), weights_file(run_dir(opt), "latest", name))
    save_record(opt, {})
    return opt


# -- names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [[], ["--num_styles", "3"], ["--dataroot", "DATA"]])
def test_a_mistyped_name_comes_before_what_follows_from_it(tmp_path, flags):
    opt = untrained(tmp_path)
    flags = [opt.dataroot if flag == "DATA" else flag for flag in flags]

    def test():
        translate(parse(TestOptions(), ["--name", "rum", *where(tmp_path), *flags]))

    text = refusal(test)
    assert text.startswith("--name rum: no run of this name") and "did you mean 'run'?" in text


@pytest.mark.parametrize("flag", ["--phase", "--epoch"])
@pytest.mark.parametrize("value", ["../../x", "", "/x", "a\nb", "x" * 300])
def test_results_cannot_leave_their_folder(tmp_path, flag, value):
    """The folder of results is named by phase and epoch too."""
    opt = untrained(tmp_path)
    text = refusal(parse, TestOptions(), ["--name", "run", *where(tmp_path), flag, value])
    assert text.startswith(f"{flag} {value!r}: it ") and "give a plain name" in text
    text = refusal(parse, TrainOptions(), ["--dataroot", opt.dataroot, "--pretrained_name", value])
    assert text.startswith("--pretrained_name")


def test_hints_quote_names_with_spaces(tmp_path, capsys):
    flags = ["--name", "my run", "--n_epochs", "1", "--n_epochs_decay", "0", "--no_html"]
    flags = train_flags(tmp_path, *flags, "--max_dataset_size", "1", model="cut")
    assert train(parse(TrainOptions(), flags)) == 0
    assert "python test.py --name 'my run'" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--dataroot", "--preset", "--", "--nmae"])
def test_control_characters_of_a_command_line_leave_one_line(tmp_path, capsys, flag):
    """A line break, or what would colour or clear a terminal."""
    flags = [*train_flags(tmp_path), flag, "a\nb\x1b[2J\u2028c"]
    assert exit_status(lambda: train(parse(TrainOptions(), flags))) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1 and text[:-1].isprintable()
    assert r"a\nb\x1b[2J\u2028c" in text


@pytest.mark.parametrize("options", [TrainOptions(), TestOptions()])
def test_several_values_for_one_flag(tmp_path, options):
    save_record(train_options(tmp_path), {})
    flags = ["--dataroot", "a.jpg", "b.jpg", "--name", "run"]
    text = refusal(parse, options, [*flags, "--checkpoints_dir", str(tmp_path / "checkpoints")])
    assert "unknown argument b.jpg: a flag takes one value" in text and "in quotes" in text


def test_only_the_generators_of_both_directions_are_there(tmp_path):
    opt = untrained(tmp_path)
    folder = run_dir(opt)
    (folder / "latest_net_G.pth").rename(folder / "latest_net_G_A.pth")
    model = create_model(parse(TestOptions(), ["--name", "run", *where(tmp_path)]), Runtime("-1"))
    text = refusal(load_for_inference, model, folder, "latest")
    assert "latest_net_G_A.pth does: apply it with --model test --model_suffix _A" in text


# -- folders ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (["train_A", "train_B"], "rename train_A to trainA"),
        (["TrainA", "TrainB"], "rename TrainA to trainA"),
        (["A/train", "B/train"], "rename A/train to trainA"),
        (["train/A", "train/B"], "rename train/A to trainA"),
        (["a_training", "b_training"], "rename a_training to trainA"),
        (["domainA_train", "domainB_train"], "rename domainA_train to trainA"),
        (["horses", "zebras"], "it has horses, zebras"),
        (["horse2zebra/trainA", "horse2zebra/trainB"], "a data set below it: --dataroot "),
        (["train"], "take --dataset_mode aligned"),
        (["trainB"], "has no folder trainA; it has trainB"),
    ],
)
def test_the_folders_that_are_there_and_the_likely_rename(tmp_path, folders, said):
    for folder in folders:
        make_image_folder(tmp_path / "my data" / folder, 1)
    text = refusal(make_loader, data_options(tmp_path / "my data"))
    assert "has no folder trainA; " in text and said in text
    if "below" in said:
        assert f"'{tmp_path}/my data/horse2zebra'" in text, (
            "a path with a space, as a shell reads it"
        )


def test_the_folder_of_a_domain_is_no_data_root(tmp_path):
    make_dataset(tmp_path / "data", 1)
    text = refusal(make_loader, data_options(tmp_path / "data" / "trainA"))
    assert f"give the one above, --dataroot {tmp_path / 'data'}" in text


@pytest.mark.parametrize("folder", ["test_A", "TestA", "A/test"])
def test_domains_of_other_names_are_no_plain_folder_at_test(tmp_path, folder):
    """All of their images, of either domain, would be translated."""
    make_image_folder(tmp_path / folder, 1)
    make_image_folder(tmp_path / folder.replace("A", "B"), 1)
    assert f"rename {folder} to testA" in refusal(make_loader, test_options(tmp_path))


@pytest.mark.parametrize(
    "folder",
    ["holiday/beach", "aa", "tests", "trainers/b", "apart", "Test-2/a3", "train/a", "2024 testA"],
)
def test_photographs_in_any_other_folder_are_translated(tmp_path, folder):
    make_image_folder(tmp_path / "photos" / folder, 2)
    make_image_folder(tmp_path / "photos" / f"{folder} as well", 1)
    assert len(make_loader(test_options(tmp_path / "photos"))) == 3


# -- sizes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["patchgcl", "cut", "negcut", "hneg_src", "lsesim"])
def test_domains_of_unlike_size_are_found_before_the_first_step(tmp_path, model):
    make_image_folder(tmp_path / "data" / "trainA", 2, size=(40, 36))
    make_image_folder(tmp_path / "data" / "trainB", 2, size=(56, 48))
    flags = train_flags(tmp_path, "--preprocess", "none", "--batch_size", "1", model=model)
    text = refusal(train, parse(TrainOptions(), flags))
    assert "image_000.png 56x48: use a --preprocess that crops" in text and "40x36" in text
    if model != "lsesim":
        assert text.endswith(f"or --{'gnn' if model == 'patchgcl' else 'nce'}_idt false")


def test_a_data_set_without_the_other_domain_is_refused(tmp_path):
    flags = train_flags(tmp_path, "--dataset_mode", "photographs", model="cut")
    text = refusal(train, parse(TrainOptions(), flags))
    assert "--dataset_mode photographs has no images of domain B, from which --model cut" in text


def test_without_an_identity_term_domains_may_differ_in_size(tmp_path):
    make_image_folder(tmp_path / "data" / "trainA", 1, size=(40, 36))
    make_image_folder(tmp_path / "data" / "trainB", 1, size=(56, 48))
    flags = ["--preprocess", "none", "--nce_idt", "false", "--max_steps", "1", "--no_html"]
    assert train(parse(TrainOptions(), train_flags(tmp_path, *flags, model="cut"))) == 0


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0"), "2.00"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory: "
                "you tried to allocate 3221225472 bytes. Error code 12"
            ),
            "3.00",
        ),
    ],
)
def test_too_little_memory_names_the_image_and_the_flag(tmp_path, monkeypatch, error, asked):
    opt = untrained(tmp_path)

    def show(self, batch):
        raise error

    monkeypatch.setattr(CUTModel, "show", show)
    test = parse(TestOptions(), ["--name", "run", *where(tmp_path)])
    text = refusal(translate, test)
    assert f"{opt.dataroot}/testA/image_000.png: 32 x 32 pixels do not fit" in text
    assert f"{asked} GiB more were asked for" in text
    assert "--preprocess resize_shortside --load_size 16" in text

    styled = ["--model", "strotss", "--dataroot", opt.dataroot, "--name", "styled"]
    monkeypatch.setattr(STROTSSModel, "show", show)
    frozen = ["--vgg_weights", "random", "--long_side", "300"]
    text = refusal(translate, parse(TestOptions(), [*styled, *frozen, *where(tmp_path)]))
    both = "testA/image_000.png: 40 x 36 and .*testB/image_000.png: 40 x 36 pixels do not fit"
    assert re.search(both, text)
    assert "--long_side 150" in text and "--load_size" not in text

    monkeypatch.setattr(CUTModel, "show", lambda self, batch: 1 + "")
    with pytest.raises(TypeError):
        translate(test)


def test_images_of_a_few_pixels_are_translated(tmp_path):
    """At their own size: filled up, and cut back."""
    untrained(tmp_path)
    for width, height in ((1, 1), (3, 200), (200, 3)):
        make_image_folder(tmp_path / "tiny" / f"{width}x{height}", 1, size=(width, height))
    flags = ["--name", "run", "--dataroot", str(tmp_path / "tiny"), "--size", "own"]
    gallery = translate(parse(TestOptions(), [*flags, *where(tmp_path)]))
    shown = {name: (row[1].width, row[1].height) for name, row in gallery.rows}
    assert shown == {
        "1x1/image_000": (1, 1),
        "3x200/image_000": (3, 200),
        "200x3/image_000": (200, 3),
    }


def test_images_too_small_for_a_method_are_named_and_left_out(tmp_path, capsys):
    untrained(tmp_path, model="wct2")
    [small] = make_image_folder(tmp_path / "tiny" / "small", 1, size=(9, 30))
    make_image_folder(tmp_path / "tiny" / "large", 1, size=(30, 20))
    style = ["--style", str(tmp_path / "data" / "testB")]
    flags = ["--name", "run", *style, *where(tmp_path)]
    gallery = translate(parse(TestOptions(), [*flags, "--dataroot", str(tmp_path / "tiny")]))
    assert [name for name, _ in gallery.rows] == ["large/image_000"]
    said = f"{small}: an image of 9x30 pixels is too small for --model wct2"
    assert f"warning: left out {said}" in capsys.readouterr().out
    assert "9x30 pixels is too small" in (gallery.folder / "index.html").read_text()

    alone = parse(TestOptions(), [*flags, "--dataroot", str(small)])
    assert said in refusal(translate, alone)

    [large] = (tmp_path / "tiny" / "large").glob("*.png")
    swapped = ["--dataroot", str(large), "--style", str(small)]
    text = refusal(translate, parse(TestOptions(), ["--name", "run", *swapped, *where(tmp_path)]))
    assert text.startswith(f"{large}: its style of 9x30 pixels is too small for --model wct2")


def test_of_a_batch_only_what_is_unfit_is_left_out(tmp_path, capsys):
    """The label map of one of three contents has no colour of its style's."""
    untrained(tmp_path, model="wct2")
    contents = make_image_folder(tmp_path / "contents", 3, size=(30, 20))
    for number, colour in enumerate(("white", "black", "white")):
        (tmp_path / "maps").mkdir(exist_ok=True)
        Image.new("RGB", (30, 20), colour).save(tmp_path / "maps" / contents[number].name)
    [style] = make_image_folder(tmp_path / "style", 1)
    maps = ["--content_labels", str(tmp_path / "maps")]
    maps += ["--style_labels", str(tmp_path / "maps" / contents[0].name)]
    flags = ["--name", "run", "--dataroot", str(tmp_path / "contents"), "--style", str(style)]
    test = parse(TestOptions(), [*flags, *maps, "--batch_size", "3", *where(tmp_path)])
    gallery = translate(test)
    assert [name for name, _ in gallery.rows] == ["image_000", "image_002"]
    said = f"warning: left out {contents[1]}: --content_labels and --style_labels have no colour in"
    assert capsys.readouterr().out.count(said) == 1


# -- result files ----------------------------------------------------------------------------------------------


def test_the_longest_names_are_written_twice(tmp_path):
    untrained(tmp_path)
    for suffix in ("png", "bmp"):
        make_image_folder(tmp_path / "long", 1)[0].rename(
            tmp_path / "long" / f"{'x' * 251}.{suffix}"
        )
    (tmp_path / "long" / f"{'é' * 125}.png").write_bytes(
        (tmp_path / "long" / f"{'x' * 251}.png").read_bytes()
    )
    flags = ["--name", "run", "--dataroot", str(tmp_path / "long"), *where(tmp_path)]
    gallery = translate(parse(TestOptions(), flags))
    fakes = list((gallery.folder / "images" / "fake_B").iterdir())
    assert len(fakes) == 3 and all(Image.open(path).size == (32, 32) for path in fakes)


def test_shortened_names_stay_apart(tmp_path):
    paths = [tmp_path / f"{'x' * 251}.{suffix}" for suffix in ("png", "bmp", "tif")]
    names = unique_names(paths, tmp_path)
    assert len(set(names)) == 3 and all(len(f"{name}.npz") <= 255 for name in names)
    assert names[0] == "x" * 251


# -- scripts ---------------------------------------------------------------------------------------------------


def bash(*command: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", *map(str, command)], capture_output=True, text=True, timeout=60, cwd="/"
    )


LAUNCHERS = sorted(path for path in (REPO / "scripts").glob("*.sh") if path.name != "common.sh")


@pytest.mark.parametrize("script", LAUNCHERS, ids=lambda path: path.name)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_script_helps(script, flag):
    """Without installing, downloading or starting anything."""
    result = bash(script, flag)
    assert result.returncode == 0 and result.stderr == ""
    head = script.read_text().splitlines()[1].removeprefix("# ")
    assert result.stdout.startswith(head) and "set -euo" not in result.stdout


@pytest.mark.parametrize(
    "name", ["Horse2Zebra", "horse2zebra.zip", "HORSE2ZEBRA/", "Summer2Winter"]
)
def test_data_sets_are_known_by_any_spelling(tmp_path, name):
    known = "summer2winter_yosemite" if "inter" in name else "horse2zebra"
    make_image_folder(tmp_path / known / "trainA", 1)
    result = bash(REPO / "scripts" / "download_dataset.sh", name, tmp_path)
    assert result.returncode == 0 and f"{tmp_path}/{known} is there already" in result.stdout


def test_text_has_unix_line_ends_in_every_checkout():
    """A checkout with CRLF has scripts that no shell runs."""
    command = ["git", "check-attr", "eol", "text", "scripts/demo.sh", "train.py", "docs/demo.png"]
    found = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True).stdout
    assert "scripts/demo.sh: eol: lf" in found and "train.py: eol: lf" in found
    command[2:4] = ["text"]
    found = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True).stdout
    assert "docs/demo.png: text: unset" in found


# -- the training page -----------------------------------------------------------------------------------------


def test_the_page_of_a_short_run_has_its_first_and_its_last_step(tmp_path):
    flags = ["--n_epochs", "1", "--n_epochs_decay", "0", "--max_dataset_size", "3"]
    flags = train_flags(tmp_path, *flags, "--batch_size", "1", model="cut")
    assert exit_status(lambda: train(parse(TrainOptions(), flags))) == 0
    web = tmp_path / "checkpoints" / "run" / "web"
    page = (web / "index.html").read_text()
    assert "3 images seen" in page and "2 displays" in page
    assert "epoch 1, images 1<" in page and "epoch 1, images 3<" in page
    links = [part.split('"')[0] for part in page.split('href="')[1:]]
    assert "../metrics.jsonl" in links
    assert [link for link in links if not (web / link).exists()] == []


def test_the_page_links_to_no_file_before_it_is_there(tmp_path):
    from util.logs.training_page import TrainingPage

    page = TrainingPage(tmp_path / "web", "run", 64)
    page.start([], 0)
    assert "metrics.jsonl" not in (tmp_path / "web" / "index.html").read_text()
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    page.close()
    assert 'href="../metrics.jsonl"' in (tmp_path / "web" / "index.html").read_text()
