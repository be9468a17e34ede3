"""Whether labels survive a translation: label maps read from colours or ids, and compared.

With n_ij pixels of true class i that are predicted as j, over all pictures:

    pixel accuracy = sum_i n_ii / sum_ij n_ij
    class accuracy = mean over classes i of n_ii / sum_j n_ij
    mean IoU       = mean over classes i of n_ii / (sum_j n_ij + sum_j n_ji - n_ii)

Class accuracy is a mean over the classes that are true somewhere. Mean IoU also counts those that are only predicted,
with an IoU of 0, as published scripts do (Long et al., arXiv 1411.4038). Pixels whose true class does not count are
left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

IGNORED = 255


@dataclass(frozen=True)
class LabelSet:
    """What label maps of a data set look like.

    Attributes:
        classes: names, by number.
        colours: colour -> class, IGNORED for what does not count; empty for maps of ids.
        ids: value of a grey file -> class, where other values are ignored; empty for maps of colours.
    """

    classes: tuple[str, ...]
    colours: Mapping[tuple[int, int, int], int]
    ids: Mapping[int, int]

    @property
    def in_colour(self) -> bool:
        """Whether a map shows classes as colours."""
        return bool(self.colours)

    def read(self, pixels: np.ndarray) -> np.ndarray:
        """(H,W,3) colours, or (H,W) ids, of uint8 -> (H,W) classes; a colour between two counts as the nearest."""
        if not self.in_colour:
            table = np.full(256, IGNORED, np.uint8)
            for value, number in self.ids.items():
                table[value] = number
            return table[pixels]

        palette = np.array(list(self.colours), dtype=np.int64)
        numbers = np.array(list(self.colours.values()), dtype=np.uint8)
        unique, places = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
        difference = unique[:, None].astype(np.int64) - palette
        nearest = np.square(difference).sum(2).argmin(1)
        return numbers[nearest][places.ravel()].reshape(pixels.shape[:2])

    def show(self, labels: np.ndarray) -> np.ndarray:
        """(H,W) classes -> (H,W,3) colours, ids as grey; what is ignored is black."""
        shown = np.zeros((256, 3), np.uint8)
        for colour, number in reversed(self.colours.items()):
            if number != IGNORED:
                shown[number] = colour
        for value, number in self.ids.items():
            shown[number] = value
        return shown[labels]


FACADES = {
    "background": (0, 0, 222), "facade": (0, 48, 255), "window": (0, 128, 255), "door": (0, 207, 255),
    "cornice": (32, 255, 224), "sill": (112, 255, 142), "balcony": (192, 255, 63), "blind": (255, 239, 0),
    "deco": (255, 159, 0), "molding": (255, 80, 0), "pillar": (255, 0, 0), "shop": (174, 0, 0),
}  # fmt: skip

CITYSCAPES = {
    "road": (128, 64, 128), "sidewalk": (244, 35, 232), "building": (70, 70, 70), "wall": (102, 102, 156),
    "fence": (190, 153, 153), "pole": (153, 153, 153), "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0), "vegetation": (107, 142, 35), "terrain": (152, 251, 152),
    "sky": (70, 130, 180), "person": (220, 20, 60), "rider": (255, 0, 0), "car": (0, 0, 142),
    "truck": (0, 0, 70), "bus": (0, 60, 100), "train": (0, 80, 100), "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}  # fmt: skip
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITYSCAPES_VOID = (
    (0, 0, 0), (111, 74, 0), (81, 0, 81), (250, 170, 160), (230, 150, 140), (180, 165, 180), (150, 100, 100),
    (150, 120, 90), (0, 0, 90), (0, 0, 110),
)  # fmt: skip


def _coloured(classes: Mapping[str, tuple[int, int, int]], void: tuple = ()) -> LabelSet:
    colours = {colour: number for number, colour in enumerate(classes.values())}
    return LabelSet(tuple(classes), colours | dict.fromkeys(void, IGNORED), {})


def _numbered(classes: Mapping, ids: tuple[int, ...]) -> LabelSet:
    return LabelSet(tuple(classes), {}, {value: number for number, value in enumerate(ids)})


LABEL_SETS = {
    "facades": _coloured(FACADES),
    "cityscapes": _coloured(CITYSCAPES, CITYSCAPES_VOID),
    "cityscapes_ids": _numbered(CITYSCAPES, CITYSCAPES_IDS),
    "cityscapes_train_ids": _numbered(CITYSCAPES, tuple(range(len(CITYSCAPES)))),
}


def confusion(predicted: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Two maps (H,W) of classes -> (classes, classes + 1) pixels: row true class, last column what was left open."""
    counted = truth != IGNORED
    guess = np.minimum(predicted[counted].astype(np.int64), classes)
    places = truth[counted].astype(np.int64) * (classes + 1) + guess
    return np.bincount(places, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def segmentation_figures(counts: np.ndarray) -> dict[str, float]:
    """Pixel accuracy, class accuracy and mean IoU of a confusion matrix; raises ValueError for one without pixels."""
    right, true = np.diag(counts), counts.sum(1)
    if not true.sum():
        raise ValueError("no pixel has a class that counts")

    union = true + counts[:, :-1].sum(0) - right
    occurs, seen = true > 0, union > 0
    return {
        "pixel_accuracy": float(right.sum() / true.sum()),
        "class_accuracy": float((right[occurs] / true[occurs]).mean()),
        "mean_iou": float((right[seen] / union[seen]).mean()),
    }
