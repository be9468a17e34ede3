"""SimDCL's heads: what an image looks like as one short vector, from the embedded patches of several layers.

Shape legend: B images, L feature layers, N patches sampled per layer, D embedding width, K output width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from util.errors import UserError
from util.hardware.precision import full_precision

SMALLEST = 3  # the convolution takes squares of 3x3 and has no border


class SimilarityHead(nn.Module):
    """Projects the patches of an image to one unit vector (SimDCL, arXiv 2104.07689, section 3.3 and appendix A.1.3).

    The patches are read as a picture with a channel for each layer, a row for each patch and a column for each
    dimension: convolution 3x3 with stride 2 to K channels, ReLU, mean, linear K -> K, ReLU, linear K -> K; then
    x / (|x| + 1e-7). With the first weights |x| is about 3e-7, so that the 1e-7 counts. State-dict keys are those of
    the release (`model.0.weight`, ...).

    Args:
        layers: L.
        width: K.
    """

    def __init__(self, layers: int, width: int = 64) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(layers, width, 3, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, width),
        )

    def forward(self, patches: Sequence[Tensor]) -> Tensor:
        """Embedded patches, one (B,N,D) per layer -> out_BK; computed in float32 at least, whatever autocast says.

        The order of the patches matters: the release draws it at random. Layers may differ in N, see `stack_layers`.

        Raises:
            UserError: a layer has fewer than 3 patches, or they have fewer than 3 dimensions.
        """
        picture_BLND = stack_layers(patches)
        if min(picture_BLND.shape[2:]) < SMALLEST:
            count, width = picture_BLND.shape[2:]
            raise UserError(
                f"SimDCL's heads take at least {SMALLEST} patches of {SMALLEST} dimensions per layer, not {count} of "
                f"{width}: raise --num_patches, --netF_nc or --crop_size, or choose other --nce_layers"
            )

        with torch.autocast(picture_BLND.device.type, enabled=False):
            x_BK = self.model(full_precision(picture_BLND))
            length_B1 = torch.linalg.vector_norm(x_BK, dim=1, keepdim=True)
            return x_BK / (length_B1 + 1e-7)


def stack_layers(patches: Sequence[Tensor]) -> Tensor:
    """Patches (B,N,D) of each layer as one picture_BLND.

    Where a small map has fewer patches than others, these give every second, third, ... of theirs, as many as it has.
    """
    count = min(x_BND.shape[1] for x_BND in patches)
    thinned = []
    for x_BND in patches:
        every = x_BND.shape[1] // count
        thinned.append(x_BND[:, ::every][:, :count])
    return torch.stack(thinned, dim=1)
