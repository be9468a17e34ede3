"""FID and KID between two folders of images, by torch-fidelity (which evaluation requires and training does not)."""

import hashlib
import math
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.image_file import read_image, read_size
from data.image_folder import list_images
from util.errors import UserError
from util.weights import read_file

FID_BIAS = 2048  # with fewer images FID depends strongly on their number
KID_SUBSETS, KID_SUBSET_SIZE, KID_SEED = 100, 1000, 2020  # torch-fidelity's defaults


class Pictures(Dataset):
    """The images of a folder as torch-fidelity takes them: (3,H,W) uint8, all of one size.

    Raises:
        UserError: no image, only one, or unequal sizes.
    """

    def __init__(self, folder: Path) -> None:
        self.paths = list_images(str(folder))
        if len(self.paths) < 2:
            raise UserError(f"{folder} holds one image; FID and KID compare sets of at least 2")
        self.size = read_size(self.paths[0])
        for path in self.paths:
            if (size := read_size(path)) != self.size:
                raise UserError(f"{path} is {size} wide and high, {self.paths[0]} {self.size}; give images of one size")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(np.array(read_image(self.paths[index], 3))).permute(2, 0, 1)


def inception_weights(path: Path | None, feature: str) -> Path:
    """The weights file, checked; torch-fidelity's own, from its cache or the web, when `path` is None.

    Raises:
        UserError: missing, damaged, not to be downloaded, or NaN in layers that `feature` needs.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    if path is None:
        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(URL_INCEPTION_V3).path).name
        try:
            torch.hub.load_state_dict_from_url(URL_INCEPTION_V3, map_location="cpu", check_hash=True, weights_only=True)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"the Inception weights cannot be downloaded ({error}); get {URL_INCEPTION_V3} by other means and give "
                "--inception PATH"
            ) from error
    damaged = [key for key, value in read_file(path).items() if not torch.isfinite(value).all()]
    if feature == "2048" and damaged:
        raise UserError(
            f"--inception {path} holds NaN in {len(damaged)} tensors, {damaged[0]} first: no FID can be had from it; "
            "give the full weights, or --feature 768 for FID-768"
        )
    return path


def fid_and_kid(fake: Path, real: Path, inception: Path | None, feature: str, batch_size: int) -> dict[str, Any]:
    """FID and KID with all that they depend on; `feature` is the Inception layer, "2048" for the FID of the papers.

    KID is the mean over KID_SUBSETS random subsets of KID_SUBSET_SIZE images, or of all images where there are fewer.

    Raises:
        UserError: unusable folders or weights, torch-fidelity is missing, or a result is no number.
    """
    fakes, reals = Pictures(fake), Pictures(real)
    try:
        import torch_fidelity
    except ImportError as error:
        raise UserError(f"FID and KID need torch-fidelity ({error}); bash scripts/setup.sh --dev installs it") from None
    weights = inception_weights(inception, feature)
    subset_size = min(KID_SUBSET_SIZE, len(fakes), len(reals))
    values = torch_fidelity.calculate_metrics(
        input1=fakes, input2=reals, fid=True, kid=True, cache=False, verbose=False, save_cpu_ram=True,
        cuda=torch.cuda.is_available(), batch_size=batch_size, rng_seed=KID_SEED,
        feature_extractor="inception-v3-compat", feature_extractor_weights_path=str(weights),
        feature_layer_fid=feature, feature_layer_kid=feature, kid_subsets=KID_SUBSETS, kid_subset_size=subset_size,
    )  # fmt: skip
    fid, mean, sd = (
        values[key]
        for key in ("frechet_inception_distance", "kernel_inception_distance_mean", "kernel_inception_distance_std")
    )
    if not all(map(math.isfinite, (fid, mean, sd))):
        raise UserError(f"--inception {weights} gives FID {fid} and KID {mean}: the weights are damaged")
    suffix = "" if feature == "2048" else f"-{feature}"
    return {
        "names": [f"FID{suffix}", f"KID{suffix}"],
        "fid": fid,
        "kid": {"mean": mean, "sd": sd, "subsets": KID_SUBSETS, "subset_size": subset_size, "seed": KID_SEED},
        "counts": {"fake": len(fakes), "real": len(reals)},
        "sizes": {"fake": fakes.size, "real": reals.size},
        "inception": {"file": weights.name, "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()},
    }
