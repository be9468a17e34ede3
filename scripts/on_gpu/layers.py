"""Stage: layers of our own on the GPU against float64 on the CPU, forward and backward; a CPU's run taken up there.

Each layer is recorded once and replayed on fresh data, and memory is filled with NaN before, so that a kernel that
reads what it has not written, or a replay that reads what it should not, shows.
"""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from models.networks import create_discriminator, create_generator
from models.networks.blocks import InstanceNorm, standardize
from models.networks.chain import run_layers
from models.networks.fused_layers import run_kernels
from models.networks.graph import GraphHead
from models.networks.resampling import BlurDown, BlurUp, ReflectionPad, _Double, _Reflect
from models.step.cuda_graph import WARM_UP, CudaRecorder
from scripts.checking.pictures import draw_pictures
from scripts.on_gpu import recorded
from scripts.on_gpu.notes import Notes
from scripts.on_gpu.setup import Setup

DRAWS = 5
NETWORKS = ("generator", "discriminator")
FINE = 2e-5  # relative to the largest entry, in float32 without TF32
Layer = Callable[[Tensor], Tensor]


def run(setup: Setup, notes: Notes) -> None:
    """The graph head, the layout, a run that began on a CPU, then layer by layer, which takes longest."""
    torch.backends.cudnn.allow_tf32 = False
    poison()
    with notes.around("graph head"):
        compare_head(notes)
    with notes.around("layout"):
        check_layout(notes)
    with notes.around("a CPU's run taken up"):
        take_up(setup, notes)
    for name, (layer, shape) in layers(setup).items():
        with notes.around(name):
            compare_layer(notes, name, layer, shape)


def poison(megabytes: int = 512) -> None:
    """Fill memory that will be handed out again with NaN."""
    blocks = []
    for _ in range(megabytes // 16):
        blocks.append(torch.full((4 << 20,), torch.nan, device="cuda"))
    del blocks


def layers(setup: Setup) -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Name -> layer and the shape of its input."""
    side = 16 if setup.tiny else 64

    class Call(nn.Module):
        def __init__(self, function: Layer) -> None:
            super().__init__()
            self.function = function

        def forward(self, x: Tensor) -> Tensor:
            """(B,C,H,W)"""
            return self.function(x)

    class Doubled(BlurUp):
        def forward(self, x: Tensor) -> Tensor:
            """(B,C,H,W) -> (B,C,2H,2W)"""
            return _Double.apply(x, self.filt.to(x.dtype))

    class Kernels(nn.Module):
        """Layers by Triton's kernels on a GPU, as they are on a CPU; `adds` the input itself."""

        def __init__(self, *part: nn.Module, adds: bool = False) -> None:
            super().__init__()
            self.part, self.adds = nn.ModuleList(part), adds

        def forward(self, x: Tensor) -> Tensor:
            """(B,C,H,W)"""
            run = run_kernels if x.is_cuda else run_layers
            return run(list(self.part), x, x if self.adds else None)

    shape, norm = (2, 64, side, side), InstanceNorm()
    between = {
        "norm, ReLU, border": Kernels(norm, nn.ReLU(), ReflectionPad(1)),
        "norm, leaky ReLU, halving": Kernels(norm, nn.LeakyReLU(0.2), BlurDown(64)),
        "norm, ReLU, doubling": Kernels(norm, nn.ReLU(), BlurUp(64)),
        "norm, residual": Kernels(norm, adds=True),
        "border alone": Kernels(ReflectionPad(3)),
    }
    kernels = {f"kernels: {name}": (layer, shape) for name, layer in between.items()}
    return kernels | {
        "border of 1": (Call(lambda x: _Reflect.apply(x, 1)), shape),
        "border of 3": (Call(lambda x: _Reflect.apply(x, 3)), shape),
        "doubling": (Doubled(64), shape),
        "halving": (BlurDown(64), shape),
        "instance norm": (Call(lambda x: standardize(x, 1e-5)), shape),
        "generator": (create_generator("resnet_4blocks", 3, 3, 16), (1, 3, 2 * side, 2 * side)),
        "discriminator": (create_discriminator("basic", 3, 16), (1, 3, 2 * side, 2 * side)),
    }


def both_ways(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """What a layer gives, and the gradient of its input."""
    x = x.detach().requires_grad_()
    y = layer(x)
    (gradient,) = torch.autograd.grad(y.float().pow(3).mean() if y.is_cuda else y.pow(3).mean(), x)
    return [y.detach(), gradient]


def compare_layer(notes: Notes, name: str, layer: nn.Module, shape: tuple[int, ...]) -> None:
    """A layer recorded on one input and replayed on others."""
    exact = copy.deepcopy(layer).double()
    layer = layer.to("cuda", memory_format=torch.channels_last)
    place = torch.empty(shape, device="cuda", memory_format=torch.channels_last)
    place.copy_(torch.randn(shape))

    recorder, results = CudaRecorder(), {}
    for _ in range(WARM_UP):
        recorder.run(lambda: both_ways(layer, place))
    replay = recorder.record(lambda: results.update(found=both_ways(layer, place)))

    errors: list[list[float]] = [[], []]
    for seed in range(DRAWS):
        fresh = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        place.copy_(fresh)
        poison(64)
        replay()
        wanted = both_ways(exact, fresh.double())
        for index, (a, b) in enumerate(zip(results["found"], wanted, strict=True)):
            errors[index].append(relative(a.cpu().double(), b))
    say(notes, name, *(typical(found) if name in NETWORKS else worst(found) for found in errors))


def compare_head(notes: Notes) -> None:
    """The graph head with its loss: features in, one value a pair out."""
    torch.manual_seed(0)
    head = GraphHead([16, 32], 32, num_patches=32)
    exact = copy.deepcopy(head).double()
    feats = [torch.randn(2, width, 12, 12) for width in (16, 32)]
    other = [torch.randn(2, width, 12, 12) for width in (16, 32)]
    ids = [torch.rand(2, 144).argsort(1)[:, :32] for _ in feats]

    def values(head: nn.Module, move: Callable[[Tensor], Tensor]) -> list[Tensor]:
        leaves = [move(f).detach().requires_grad_() for f in feats]
        levels = head(leaves, [move(f) for f in other], [i.to(leaves[0].device) for i in ids])
        # rows have length 1, so that a sum of squares would be constant
        total = sum(z.pow(3).mean() for z in flattened(levels))
        return [total.detach(), *torch.autograd.grad(total, leaves)]

    wanted = values(exact, lambda x: x.double())
    found = values(head.cuda(), lambda x: x.cuda())
    pairs = zip(found, wanted, strict=True)
    first, *gradients = [relative(a.cpu().double(), b) for a, b in pairs]
    say(notes, "graph head", first, max(gradients))


def flattened(tree: object) -> list[Tensor]:
    """The floating-point tensors in lists and tuples of lists and tuples."""
    if isinstance(tree, Tensor):
        return [tree] if tree.is_floating_point() else []
    found = []
    for part in tree if isinstance(tree, list | tuple) else vars(tree).values():
        found += flattened(part)
    return found


def relative(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, over the largest entry that is wanted."""
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def worst(errors: Sequence[float]) -> float:
    """The largest error; one that is not a number is larger than any."""
    return max(errors, key=size)


def typical(errors: Sequence[float]) -> float:
    """The median error.

    In a whole network some value may be so near to 0 that a ReLU takes the other side than in float64, which changes
    the gradient by a hundredth: one draw in four on a CPU too.
    """
    return sorted(errors, key=size)[len(errors) // 2]


def size(error: float) -> float:
    """An error, to be compared."""
    return error if error == error else float("inf")


def say(notes: Notes, name: str, forward: float, backward: float) -> None:
    """Note how far a layer is from float64."""
    notes.row("layers against float64", layer=name, forward=forward, backward=backward)
    good = forward <= FINE and backward <= 10 * FINE
    notes.find(good, f"{name}: {forward:.1e} forward, {backward:.1e} backward from float64")


def check_layout(notes: Notes) -> None:
    """Whether maps stay in channels last from layer to layer; one that does not is copied there and back."""
    net = create_generator("resnet_4blocks", 3, 3, 16).to("cuda", memory_format=torch.channels_last)
    elsewhere: list[str] = []

    def watch(name: str) -> Callable:
        def look(module: nn.Module, given: tuple, result: object) -> None:
            wide = isinstance(result, Tensor) and result.dim() == 4 and result.shape[1] > 1
            if wide and not result.is_contiguous(memory_format=torch.channels_last):
                elsewhere.append(f"{name} ({type(module).__name__})")

        return look

    for name, module in net.named_modules():
        module.register_forward_hook(watch(name))
    x = torch.randn(2, 3, 64, 64, device="cuda").to(memory_format=torch.channels_last)
    with torch.autocast("cuda", torch.bfloat16):
        net(x)
    notes.find(not elsewhere, f"maps of G not in channels last: {', '.join(elsewhere) or 'none'}")


def take_up(setup: Setup, notes: Notes) -> None:
    """The state of a run on a CPU, loaded into one on the GPU, which then steps."""
    data = draw_pictures(setup.folder / "of_a_cpu")
    flags = recorded.tiny_flags(Path(data), "patchgcl", None)
    _, _, loader, model = recorded.build(*flags, "--gpu_ids", "-1")
    batches = list(loader.epoch(1))
    model.set_input(batches[0])
    model.optimize_parameters()
    model.finish_step()

    where = ("--gpu_ids", "0", "--compile", "off")
    _, _, loader, again = recorded.build(*flags, *where)
    again.load_state_dict(model.state_dict())
    again.set_input(next(iter(loader.epoch(1))))
    again.optimize_parameters()
    again.finish_step()
    losses = again.runtime.mean(again.get_current_losses())
    finite = all(abs(value) < float("inf") for value in losses.values())
    notes.find(finite, f"a CPU's run goes on here: G {losses['G']:.4f}, D {losses['D']:.4f}")
