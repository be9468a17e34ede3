"""What generators and discriminators share: normalisation by name, and the check of layers asked for."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from util.errors import UserError
from util.hardware.precision import full_precision
from util.registry import find_by_name


class InstanceNorm(nn.Module):
    """Normalise each map of each image to mean 0, variance 1 (Ulyanov et al. 2016, arXiv 1607.08022).

    y = (x - mean_HW) / sqrt(var_HW + eps), biased variance; no learned scale, no running statistics, no state.
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> the same shape; raises UserError for 1x1 maps, where the answer is 0 whatever x is."""
        self._check_size(x)
        return standardize(x, self.eps) if x.is_cuda else normalize_on_cpu(x, self.eps)

    def extra_repr(self) -> str:
        return f"eps={self.eps}"

    @staticmethod
    def _check_size(x: Tensor) -> None:
        if x.shape[-2] * x.shape[-1] == 1:
            raise UserError(
                "instance normalisation of a 1x1 map is always 0: use larger images (--crop_size, --load_size)"
            )


class AffineInstanceNorm(InstanceNorm):
    """Instance normalisation with a learned scale and shift for each map, as in DistanceGAN's networks.

    y = weight_C (x - mean_HW) / sqrt(var_HW + eps) + bias_C

    Args:
        channels: C, the number of maps.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(eps)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> the same shape; raises UserError as InstanceNorm does."""
        self._check_size(x)
        if x.is_cuda:
            return standardize(x, self.eps, self.weight, self.bias)
        return normalize_on_cpu(x, self.eps, self.weight, self.bias)


def normalize_on_cpu(
    x: Tensor, eps: float, weight: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Instance normalisation of (B,C,H,W) by the operator that is fastest on a CPU, statistics in float32.

    A group norm with one channel per group is the same function. Torch's instance norm takes 1.5 times as long (forward
    and backward, maps of 64 x 64), and rounds its statistics under bf16 autocast. In channels last a group norm takes
    15 times as long as a batch norm of each image, again the same function.
    """
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    if not last:
        return F.group_norm(x, x.shape[1], weight, bias, eps)

    if weight is None:
        wide = torch.promote_types(x.dtype, torch.float32)
        weight, bias = x.new_ones(x.shape[1], dtype=wide), x.new_zeros(x.shape[1], dtype=wide)
    images = [F.batch_norm(image, None, None, weight, bias, True, 0.0, eps) for image in x.split(1)]
    return images[0] if len(images) == 1 else torch.cat(images)


def standardize(
    x: Tensor, eps: float, weight: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Instance normalisation written out, in the layout and precision of x (B,C,H,W), statistics in float32.

    For GPUs: torch's own operators there fall out of the channels-last layout, and these fuse when compiled.
    `weight` and `bias`, (C,) both or neither, scale and shift the maps.
    """
    if weight is None:
        compiling = torch.compiler.is_compiling()
        return standardized(x, eps).to(x.dtype) if compiling else _Standardize.apply(x, eps)

    normal = standardized(x, eps) * weight[:, None, None] + bias[:, None, None]
    return normal.to(x.dtype)


def standardized(x: Tensor, eps: float) -> Tensor:
    """Each map of each image with mean 0 and variance 1: (B,C,H,W) in float32 at least."""
    wide = full_precision(x)
    variance, mean = torch.var_mean(wide, dim=(2, 3), correction=0, keepdim=True)
    return (wide - mean) * torch.rsqrt(variance + eps)


class _Standardize(torch.autograd.Function):
    """`standardized` in the precision of its input; backward in half as many operators as torch would derive.

        dL/dx = s (g - mean g - c s^2 mean(g c)),   g = dL/dy,  c = x - mean x,  s = 1 / sqrt(var x + eps)

    It keeps x and the statistics, where torch would keep two maps in float32.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, eps: float) -> Tensor:
        """(B,C,H,W) -> the same shape and type."""
        variance, mean = torch.var_mean(full_precision(x), dim=(2, 3), correction=0, keepdim=True)
        scale = torch.rsqrt(variance + eps)

        ctx.eps = eps
        ctx.save_for_backward(x, mean, scale)
        return torch.mul(x - mean, scale, out=torch.empty_like(x))

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        """The gradient of x, in its type."""
        x, mean, scale = ctx.saved_tensors
        if torch.is_grad_enabled():  # second derivatives will be taken
            y = standardized(x, ctx.eps).to(x.dtype)
            return torch.autograd.grad(y, x, grad, create_graph=True)[0], None

        centred = x - mean
        slope = scale.square() * (grad * centred).mean((2, 3), keepdim=True)
        wide = grad - grad.mean((2, 3), keepdim=True, dtype=scale.dtype)
        wide = wide.addcmul_(centred, slope, value=-1)
        return torch.mul(wide, scale, out=torch.empty_like(x)), None


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "instance": lambda channels: InstanceNorm(),
    "instance_affine": AffineInstanceNorm,
    "batch": nn.BatchNorm2d,
    "none": nn.Identity,
}


def norm_layer(norm: str, channels: int) -> nn.Module:
    """A normalisation of `channels` maps.

    instance (nothing learned), instance_affine (scale and shift), batch (scale, shift, running statistics) or none.

    Raises:
        UserError: unknown name.
    """
    return find_by_name(NORMS, norm, "norm")(channels)


def needs_bias(norm: str) -> bool:
    """Whether convolutions before this normalisation carry a bias.

    As in CUT: only before instance norm. There it cannot change the output, but released weights hold it.
    """
    return norm in ("instance", "instance_affine")


def check_layers(layers: Sequence[int], count: int, there_is: str) -> None:
    """See that all layers asked for, at least one, are among 0 to count-1; `there_is` has a {} for the last one.

    Raises:
        UserError: the first layer that is not, or that none was asked for.
    """
    wrong = [index for index in layers if not 0 <= index < count]
    if wrong or not layers:
        asked = f"layer {wrong[0]}" if wrong else "no layer"
        raise UserError(f"--nce_layers names {asked}: {there_is.format(count - 1)}")
