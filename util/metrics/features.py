"""Features of Inception-v3 as FID takes them, by torch-fidelity (which evaluation requires and training does not)."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from torch import Tensor

from util.errors import UserError
from util.files import atomic_path
from util.run.weights import read_file

LAYERS = ("2048", "768", "192", "64")
LAST_SOUND = "768"  # what an excerpt of the weights may end with


class Inception:
    """The judge: pictures in, features of one layer out.

    Args:
        path: weights in torch-fidelity's layout; None: its own, from its cache or the web.
        layer: one of LAYERS; "2048" is the FID of the papers.
        flag: the option that names the weights, for messages.
        device: where it computes; None: on a GPU where there is one.

    Raises:
        UserError: torch-fidelity or the weights are missing, or the layer needs weights that are NaN.
    """

    def __init__(
        self,
        path: Path | None,
        layer: str,
        flag: str = "--inception",
        device: torch.device | None = None,
    ) -> None:
        try:
            import torch_fidelity  # noqa: F401  (its parts may be there already when it is not)
            from torch_fidelity.utils import create_feature_extractor
        except ImportError as error:
            raise UserError(
                f"FID and KID need torch-fidelity ({error}); bash scripts/setup.sh --dev installs it"
            ) from None

        self.layer = layer
        self.flag = flag
        self.path = _weights(path, flag)
        _check_finite(self.path, layer, flag)
        with open(self.path, "rb") as file:
            self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()

        best = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = device or torch.device(best)
        self.net = create_feature_extractor(
            "inception-v3-compat",
            [layer],
            verbose=False,
            cuda=self.device.type == "cuda",
            feature_extractor_weights_path=str(self.path),
        )

    @property
    def suffix(self) -> str:
        """What the names of figures end with: nothing for the layer of the papers."""
        return "" if self.layer == "2048" else f"-{self.layer}"

    def describe(self) -> dict[str, str]:
        """The file and its checksum, and the layer."""
        return {"file": self.path.name, "sha256": self.sha256, "layer": self.layer}

    def encode(self, pictures: Iterable[Tensor], batch_size: int) -> np.ndarray:
        """Pictures (3,H,W) uint8, of any sizes, -> (N,D) float32, in their order.

        Raises:
            UserError: a feature is not finite, since the weights are damaged.
        """
        rows: dict[int, np.ndarray] = {}
        waiting: dict[tuple[int, ...], list[tuple[int, Tensor]]] = defaultdict(list)
        for number, picture in enumerate(pictures):
            group = waiting[tuple(picture.shape)]
            group.append((number, picture))
            if len(group) == batch_size:
                rows |= self._encode(group)
                group.clear()
        for group in waiting.values():
            rows |= self._encode(group) if group else {}

        features = np.stack([rows[number] for number in sorted(rows)])
        if not np.isfinite(features).all():
            raise UserError(
                f"{self.flag} {self.path} gives features that are no numbers at layer {self.layer}: "
                "the weights are damaged"
            )
        return features

    @torch.inference_mode()
    def _encode(self, group: Sequence[tuple[int, Tensor]]) -> dict[int, np.ndarray]:
        batch = torch.stack([picture for _, picture in group]).to(self.device)
        (features,) = self.net(batch)
        numbers = [number for number, _ in group]
        return dict(zip(numbers, features.float().cpu().numpy(), strict=True))


class Store:
    """A folder of arrays, each in a file that is named after all that it depends on.

    Args:
        folder: where they are; None: nothing is kept.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def find(self, *parts: Any) -> np.ndarray | None:
        """What was kept for these; None where nothing was."""
        path = self._path(parts)
        return np.load(path, allow_pickle=False) if path and path.is_file() else None

    def keep(self, values: np.ndarray, *parts: Any) -> None:
        """Keep the values that depend on these."""
        path = self._path(parts)
        if path:
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                np.save(file, values, allow_pickle=False)

    def _path(self, parts: Sequence[Any]) -> Path | None:
        name = hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:32]
        return self.folder and self.folder / f"{name}.npy"


def _weights(path: Path | None, flag: str) -> Path:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    if path is not None:
        return Path(path)
    name = Path(urlparse(URL_INCEPTION_V3).path).name
    try:
        torch.hub.load_state_dict_from_url(
            URL_INCEPTION_V3, map_location="cpu", check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"the Inception weights cannot be downloaded ({error}); "
            f"get {URL_INCEPTION_V3} by other means and give {flag} PATH"
        ) from error
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def _check_finite(path: Path, layer: str, flag: str) -> None:
    """Raise UserError where the layer needs weights that are NaN; Mixed_7a and what follows comes after layer 768."""
    state = read_file(path)
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(
            f"{flag} {path} holds no weights of Inception-v3 in torch-fidelity's layout"
        )

    damaged = [key for key, value in state.items() if not torch.isfinite(value).all()]
    if layer != "2048":
        damaged = [key for key in damaged if not key.startswith(("Mixed_7", "fc."))]
    if damaged:
        raise UserError(
            f"{flag} {path} holds NaN in {len(damaged)} tensors, {damaged[0]} first: "
            f"no feature of layer {layer} can be had from it; give the full weights, "
            f"or --feature {LAST_SOUND} for FID-{LAST_SOUND}"
        )
