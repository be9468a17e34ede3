"""What all stages share: the device, the size of what is measured, and what was carried to the machine."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from scripts.benchmarking.contest import Settings
from scripts.benchmarking.device import Device
from scripts.benchmarking.release import Release
from scripts.benchmarking.step import Turns
from scripts.on_gpu.carried import RELEASED, VGG, found

TINY = "--ngf 4 --ndf 4 --netG resnet_6blocks --num_patches 16 --netF_nc 16"
RECORDED = "bf16+nhwc+graph"  # the fastest variant that nothing has to be compiled for
COMPILED = "bf16+nhwc+compile+graph"
OVERLAPPED = "bf16+nhwc+compile+graph+overlap"


@dataclass(frozen=True)
class Setup:
    """What a stage is told.

    Attributes:
        carried: the folder that scripts/gpu_pack.py made, None without one.
        tiny: small networks and images, to rehearse.
        folder: where a stage may write; it does not come back.
        out: the folder that does.
    """

    carried: Path | None
    tiny: bool
    folder: Path
    out: Path

    @property
    def size(self) -> int:
        """Side of the images."""
        return 64 if self.tiny else 256

    @cached_property
    def device(self) -> Device:
        """The GPU; raises UserError where there is none."""
        return Device("cuda")

    @property
    def turns(self) -> Turns:
        """Iterations, rounds and steps of warm-up of whatever is timed."""
        return Turns(2, 2, 6) if self.tiny else Turns(20, 3, 8)

    @property
    def small(self) -> tuple[str, ...]:
        """Flags of smaller networks, for a rehearsal."""
        return tuple(TINY.split()) if self.tiny else ()

    @property
    def vgg_weights(self) -> str:
        """The file of VGG16's weights that was carried; without one they are random."""
        return str(found(self.carried, VGG) or "random")

    def settings(self) -> Settings:
        """For the contestants of scripts/benchmarking."""
        return Settings(self.device, self.size, vgg_weights=self.vgg_weights, flags=self.small)

    def release(self, settings: Settings) -> Release | None:
        """The released code, where it was carried; raises UserError where it cannot be used."""
        folder = self.carried / RELEASED if self.carried else None
        return Release(folder, settings) if folder and folder.is_dir() else None
