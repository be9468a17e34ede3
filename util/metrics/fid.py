"""FID and KID between two sets of images, by torch-fidelity (which evaluation requires and training does not)."""

import hashlib
import math
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch.utils.data import Dataset

from util.errors import UserError
from util.run.weights import read_file

FID_BIAS = 2048  # with fewer images FID depends strongly on their number
KID_SUBSETS, KID_SUBSET_SIZE, KID_SEED = 100, 1000, 2020  # torch-fidelity's defaults


def inception_weights(path: Path | None, feature: str) -> Path:
    """The weights file, checked; torch-fidelity's own, from its cache or the web, when `path` is None.

    Raises:
        UserError: missing, damaged, not to be downloaded, or NaN in layers that `feature` needs.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    if path is None:
        name = Path(urlparse(URL_INCEPTION_V3).path).name
        path = Path(torch.hub.get_dir()) / "checkpoints" / name
        try:
            torch.hub.load_state_dict_from_url(
                URL_INCEPTION_V3, map_location="cpu", check_hash=True, weights_only=True
            )
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"the Inception weights cannot be downloaded ({error}); "
                f"get {URL_INCEPTION_V3} by other means and give --inception PATH"
            ) from error

    damaged = [key for key, value in read_file(path).items() if not torch.isfinite(value).all()]
    if feature == "2048" and damaged:
        raise UserError(
            f"--inception {path} holds NaN in {len(damaged)} tensors, {damaged[0]} first: "
            "no FID can be had from it; "
            "give the full weights, or --feature 768 for FID-768"
        )
    return path


def fid_and_kid(
    fakes: Dataset, reals: Dataset, inception: Path | None, feature: str, batch_size: int
) -> dict[str, Any]:
    """FID and KID of two sets of (3,H,W) uint8 pictures, with all that they depend on.

    `feature` is the Inception layer, "2048" for the FID of the papers.

    KID is the mean over KID_SUBSETS random subsets of KID_SUBSET_SIZE images, or of all images
    where there are fewer.

    Raises:
        UserError: unusable weights, torch-fidelity is missing, or a result is no number.
    """
    try:
        import torch_fidelity
    except ImportError as error:
        raise UserError(
            f"FID and KID need torch-fidelity ({error}); bash scripts/setup.sh --dev installs it"
        ) from None

    weights = inception_weights(inception, feature)
    subset_size = min(KID_SUBSET_SIZE, len(fakes), len(reals))
    values = torch_fidelity.calculate_metrics(
        input1=fakes, input2=reals, fid=True, kid=True, cache=False, verbose=False, save_cpu_ram=True,
        cuda=torch.cuda.is_available(), batch_size=batch_size, rng_seed=KID_SEED,
        feature_extractor="inception-v3-compat", feature_extractor_weights_path=str(weights),
        feature_layer_fid=feature, feature_layer_kid=feature, kid_subsets=KID_SUBSETS, kid_subset_size=subset_size,
    )  # fmt: skip

    fid = values["frechet_inception_distance"]
    mean = values["kernel_inception_distance_mean"]
    sd = values["kernel_inception_distance_std"]
    if not (math.isfinite(fid) and math.isfinite(mean) and math.isfinite(sd)):
        raise UserError(
            f"--inception {weights} gives FID {fid} and KID {mean}: the weights are damaged"
        )

    kid = {"mean": mean, "sd": sd}
    kid |= {"subsets": KID_SUBSETS, "subset_size": subset_size, "seed": KID_SEED}
    suffix = "" if feature == "2048" else f"-{feature}"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    return {
        "names": [f"FID{suffix}", f"KID{suffix}"],
        "fid": fid,
        "kid": kid,
        "counts": {"fake": len(fakes), "real": len(reals)},
        "sizes": {"fake": fakes.size, "real": reals.size},
        "inception": {"file": weights.name, "sha256": digest},
    }
