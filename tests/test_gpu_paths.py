"""What runs otherwise on a GPU, as far as a CPU can show it: defaults, memory, streams, plans of cuts, broadcasts."""

import os

import pytest
import torch

from models.inference import translate
from options import TestOptions, parse
from util.pages import gallery

OF_NO_RUN = ["--dataroot", "photos", "--checkpoints_dir", "no-such-folder"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", 8),
        ("--batch_size 1", 1),
        ("--gpu_ids -1", 1),
        ("--model strotss --dataroot photos", 1),  # a picture of minutes fills a GPU
    ],
)
def test_translating_on_a_gpu_takes_several_images_at_once(monkeypatch, flags, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert parse(TestOptions(), [*OF_NO_RUN, *flags.split()]).batch_size == expected


def test_translating_on_a_cpu_takes_one():
    assert parse(TestOptions(), [*OF_NO_RUN, "--gpu_ids", "-1"]).batch_size == 1


class Greedy:
    """A model that has memory for two images at once."""

    def __init__(self, room: int) -> None:
        self.room, self.seen = room, []

    def show(self, batch):
        self.seen.append(len(batch["A"]))
        if len(batch["A"]) > self.room:
            raise torch.OutOfMemoryError
        return {"fake_B": batch["A"] + 1}


def test_a_batch_that_does_not_fit_is_halved():
    batch = {"A": torch.arange(5.0), "A_size": [(1, 1)] * 5, "index": [3, 1, 4, 0, 2]}
    model = Greedy(room=2)
    assert torch.equal(translate.show(model, batch)["fake_B"], batch["A"] + 1)
    assert model.seen == [5, 2, 3, 1, 2]
    with pytest.raises(torch.OutOfMemoryError):
        translate.show(Greedy(room=0), batch)


def test_every_core_encodes_pictures():
    assert len(os.sched_getaffinity(0)) == gallery.WRITERS
