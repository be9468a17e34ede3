"""Each lever beside the plain form that it replaces: the same function of the same maps, forward and backward."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks import create_discriminator, create_generator
from models.networks.blocks import InstanceNorm, standardize, standardized
from models.networks.chain import convolve
from models.networks.fused_layers import has_triton, run_kernels
from models.networks.resampling import (
    BlurDown,
    BlurUp,
    ReflectionPad,
    _Double,
    _Reflect,
    double,
    halve_by_slices,
    join_borders,
)
from models.networks.vgg import BLOCKS, VGG16Features
from scripts.benchmarking.captured import Captured
from scripts.benchmarking.checks import Refused
from scripts.benchmarking.contest import Settings
from scripts.benchmarking.step import Turns
from scripts.benchmarking.survival import Failures
from scripts.benchmarking.timing import Timing, speed_up, time_in_turns

TRITON = "Triton's"  # kernels, which run where a trial shows that they win
CLOSE = 1e-3  # largest relative difference of results in float32
Form = Callable[[Tensor], Tensor | list[Tensor]]
LAST = sum(count for count, _ in BLOCKS) - 1  # of VGG16's layers


def measure_levers(
    settings: Settings, turns: Turns, failures: Failures | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Lever -> its forms, ours first: milliseconds, and how many times as fast ours is.

    On a GPU in bfloat16, channels last and recorded, on a CPU in float32, as training runs by default; shapes are those
    of a step at batch 1 with the identity term.

    Args:
        failures: takes the levers that have no figure; without it the first one is raised.

    Raises:
        Refused: two forms do not compute the same in float32.
    """
    failures = Failures(keep_going=False) if failures is None else failures
    device = settings.device
    place = {"device": device.torch}
    if device.on_gpu:
        place["memory_format"] = torch.channels_last

    def compared(work: dict[str, Callable[[], None]]) -> list[dict[str, Any]]:
        ways = {form: Captured(device, run) for form, run in work.items()}
        timings = time_in_turns(
            device,
            {form: way.run for form, way in ways.items()},
            turns.iterations,
            turns.rounds,
            turns.warm_up,
        )
        return rows(timings, ways)

    found = {}
    for name, (shape, forms) in levers(settings.size, place).items():
        if len(forms) == 1:
            continue  # the other form does not run on this device

        with failures.around(name):
            x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(**place)
            require_equal(name, x, forms)

            timed = {}
            for form, work in forms.items():
                timed[form] = partial(forward_and_backward, work, x, device.on_gpu)
            found[name] = compared(timed)

    with failures.around("Adam on G"):
        netG = create_generator("resnet_9blocks", 3, 3, 64).to(device.torch)
        found["Adam on G"] = compared(optimizers(netG, recordable=device.on_gpu))
    return found


def rows(timings: dict[str, Timing], ways: dict[str, Captured]) -> list[dict[str, Any]]:
    """Forms of a lever, the first beside each other one."""
    ours, *_ = timings.values()
    found = []
    for form, timing in timings.items():
        row = {"form": form, "recorded": ways[form].recorded, **timing.summary()}
        if timing is not ours:
            row["ratio"] = speed_up(timing, ours)
        found.append(row)
    return found


def levers(side: int, place: dict[str, Any]) -> dict[str, tuple[Sequence[int], dict[str, Form]]]:
    """Lever -> shape of its maps, and its forms; ours, as it runs on this device, comes first."""
    half, quarter = side // 2, side // 4
    filt = BlurUp(128).filt.to(place["device"])
    down, norm = BlurDown(128).to(**place), InstanceNorm()
    netD = create_discriminator("basic", 3, 64).to(**place)
    conv = nn.Conv2d(64, 64, 3, padding=1).to(**place)
    vgg = VGG16Features([4, 7, 9], "random").to(**place)
    whole = VGG16Features([4, 7, 9, LAST], "random").to(**place)

    # first the form that runs on a GPU
    borders = {
        "written in place": lambda x: _Reflect.apply(x, 1),
        "torch's": lambda x: F.pad(x, (1,) * 4, mode="reflect"),
        "joined slices": lambda x: join_borders(x, 1),
    }
    doublings = {"own backward": lambda x: _Double.apply(x, filt.to(x.dtype)), "torch's": double}
    norms = {
        "own backward": lambda x: standardize(x, norm.eps),
        "as group norm": lambda x: F.group_norm(x, x.shape[1], eps=norm.eps),
        "written out": lambda x: standardized(x, norm.eps).to(x.dtype),
        "torch's instance norm": lambda x: F.instance_norm(x, eps=norm.eps),
    }
    between = [norm, nn.ReLU(), ReflectionPad(1)]  # of a residual block's convolutions
    fused = {"one by one": nn.Sequential(*between)}
    passes = {
        "one pass": lambda x: netD(x),
        "one after the other": lambda x: torch.cat([netD(part) for part in x.chunk(2)]),
    }
    order = dict if place["device"].type == "cuda" else second_first
    doublings = order(doublings) | {"transposed convolution": partial(transposed, filt)}

    # the form that runs on every device
    halvings = {"convolution": down, "from slices": partial(sliced, down)}
    biases = {
        "bias not added": lambda x: norm(convolve(conv, x, bare=True)),
        "bias added": lambda x: norm(conv(x)),
    }
    if place["device"].type == "cuda" and has_triton():
        borders |= {TRITON: partial(run_kernels, [ReflectionPad(1)])}
        doublings |= {TRITON: partial(run_kernels, [BlurUp(128)])}
        halvings |= {TRITON: partial(run_kernels, [down])}
        norms |= {TRITON: partial(run_kernels, [norm])}
        fused |= {TRITON: partial(run_kernels, between)}
    looks = {"frozen and cut": partial(perceive, vgg), "whole": partial(perceive_whole, whole)}

    return {
        "border of 1": ((2, 256, quarter, quarter), order(borders)),
        "doubling": ((2, 128, half, half), doublings),
        "halving": ((2, 128, side, side), halvings),
        "instance norm": ((2, 256, quarter, quarter), order(norms)),
        "norm, ReLU and border": ((2, 256, quarter, quarter), fused),
        "convolution before it": ((2, 64, side, side), biases),
        "D on two images": ((2, 3, side, side), order(passes)),
        "VGG16 on outputs and inputs": ((4, 3, side, side), looks),
    }


def second_first(forms: dict[str, Form]) -> dict[str, Form]:
    """The same forms, the first two in the other order."""
    first, second, *others = forms.items()
    return dict([second, first, *others])


def transposed(filt: Tensor, x: Tensor) -> Tensor:
    """Doubling as a depthwise transposed convolution of a map with its border repeated, then cropped on two sides and
    on the other two, as released."""
    padded = F.pad(x, (1,) * 4, mode="replicate")
    y = F.conv_transpose2d(padded, filt.to(x.dtype), stride=2, padding=2, groups=x.shape[1])
    return y[:, :, 1:, 1:][:, :, :-1, :-1]


def sliced(down: BlurDown, x: Tensor) -> Tensor:
    """Halving from shifted slices, as compiled code has it."""
    return halve_by_slices(F.pad(x, (1,) * 4, mode="reflect"), down.LINE)


def perceive(vgg: VGG16Features, x: Tensor) -> list[Tensor]:
    """Features of two outputs and, without gradients, of their two inputs."""
    with torch.no_grad():
        inputs = vgg(x[2:])
    return [*vgg(x[:2]), *inputs]


def perceive_whole(vgg: VGG16Features, x: Tensor) -> list[Tensor]:
    """The same with all layers, gradients of the weights, and inputs that are differentiated and then cut off."""
    vgg.requires_grad_(True)
    outputs, inputs = vgg(x[:2])[:3], vgg(x[2:])[:3]
    return [*outputs, *(feat.detach() for feat in inputs)]


def total(result: Tensor | list[Tensor]) -> Tensor:
    """A loss, 0-d, of which no normalisation is independent."""
    parts = [result] if isinstance(result, Tensor) else result
    return sum(part.float().pow(3).mean() for part in parts)


def forward_and_backward(work: Form, x: Tensor, half: bool) -> None:
    """Both ways through a form, gradients for the maps."""
    x = (x.bfloat16() if half else x).detach().requires_grad_()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
        loss = total(work(x))
    loss.backward()


def require_equal(name: str, x: Tensor, forms: dict[str, Form]) -> None:
    """Raise Refused when forms differ by more than rounding in float32, forward or backward."""
    torch.backends.cudnn.allow_tf32 = False
    results = {}
    for form, work in forms.items():
        leaf = x.detach().clone().requires_grad_()
        result = work(leaf)
        total(result).backward()
        outputs = [result] if isinstance(result, Tensor) else result
        results[form] = [*outputs, leaf.grad]
    torch.backends.cudnn.allow_tf32 = True

    (first, expected), *others = results.items()
    for form, values in others:
        for a, b in zip(expected, values, strict=True):
            worst = ((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item()
            if not worst <= CLOSE:
                raise Refused(f"{name}: {first} and {form} differ by {worst:.2g}, relative")


def optimizers(netG: nn.Module, recordable: bool) -> dict[str, Callable[[], None]]:
    """Ways to let Adam step a generator; recordable ones keep their count of steps on the device."""
    for parameter in netG.parameters():
        parameter.grad = torch.randn_like(parameter)

    kinds = {
        "fused": {"fused": True},
        "in groups": {"foreach": True},
        "one by one": {"foreach": False},
    }
    steps = {}
    for kind, how in kinds.items():
        adam = torch.optim.Adam(netG.parameters(), lr=1e-6, capturable=recordable, **how)
        steps[kind] = adam.step
    return steps
