"""How often a run prints, shows and saves, and which of its weights it keeps: one run of sixteen images, looked at."""

import json
import sys

import pytest

from models import create_model
from tests.helpers import train_flags, train_options
from tests.test_visualizer import RecordingSink
from train import main
from util.errors import exit_status
from util.hardware.runtime import Runtime
from util.logs import visualizer
from util.run.folder import epoch_of, weights_in

FLAGS = "--n_epochs 3 --n_epochs_decay 1 --print_freq 3 --display_freq 5 --update_html_freq 7"
KEPT = "--save_latest_freq 3 --save_epoch_freq 1 --save_by_iter --keep_last 2"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of the run, and a sink that saw it."""
    root, sink = tmp_path_factory.mktemp("frequencies"), RecordingSink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visualizer, "make_sinks", lambda *_: [sink])
        flags = train_flags(root, *FLAGS.split(), *KEPT.split(), model="cut")
        patch.setattr(sys, "argv", ["train.py", *flags])
        assert exit_status(main) == 0
    return root / "checkpoints" / "run", sink


def test_losses_are_noted_at_print_freq_and_at_the_end(run):
    lines = (run[0] / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["images"] for line in lines] == [3, 6, 9, 12, 15, 16]


def test_pictures_are_shown_at_display_freq_and_kept_at_update_html_freq(run):
    frames = {frame.images: frame.save for frame in run[1].frames}
    # the first and the last are kept too
    assert frames == {1: True, 5: False, 7: True, 10: False, 14: True, 15: False, 16: True}


def test_of_all_saves_the_last_are_kept(run):
    labels = {epoch_of(path) for path in weights_in(run[0])}
    assert labels == {"latest", "3", "4", "iter_15", "iter_16"}


def test_every_network_of_a_kept_save_is_there(run):
    for label in ("latest", "3", "iter_15"):
        assert {path.name for path in weights_in(run[0], label)} == {
            f"{label}_net_{name}.pth" for name in "GDF"
        }


def test_verbose_shows_the_layers_of_networks(tmp_path):
    texts = {}
    for flags in ((), ("--verbose",)):
        opt = train_options(tmp_path, *flags, model="cut")
        texts[flags] = create_model(opt, Runtime.from_options(opt)).describe()
    short, long = texts.values()
    assert "Conv2d(" not in short and "Conv2d(3, 4" in long
    assert [line for line in short.splitlines() if line in long.splitlines()] == short.splitlines()
