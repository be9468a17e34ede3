"""Stage: whether small compiled steps pass their trial, dropout and several networks among them."""

from models.step.runners import create_step
from scripts.checking.pictures import draw_pictures
from scripts.on_gpu import recorded
from scripts.on_gpu.notes import Notes
from scripts.on_gpu.setup import Setup

METHODS = ("patchgcl", "cycle_gan", "pix2pix")
STEPS = 6


def run(setup: Setup, notes: Notes) -> None:
    """A few compiled and recorded steps each."""
    data = draw_pictures(setup.folder / "data")
    for name in METHODS:
        with notes.around(name):
            said: list[str] = []
            flags = recorded.tiny_flags(data, name, None)
            flags += ["--gpu_ids", "0", "--compile", "on", "--cuda_graph", "on"]
            _, runtime, loader, model = recorded.build(*flags)
            step = create_step(model, runtime, said.append)
            for batch in list(loader.epoch(1))[:STEPS]:
                step(batch)
            notes.find(not said, f"{name}, compiled: {'; '.join(said) or 'passes its trial'}")
