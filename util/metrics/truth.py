"""How far a picture is from the true translation, in numbers that do not depend on where exactly stripes lie.

    m_w(x), s_w(x) = mean and standard deviation of x in a Gaussian window around each pixel, per colour channel
    e(x, y)        = mean over channels of |m_w(x) - m_w(y)| + |s_w(x) - s_w(y)|                        (per pixel)
    error(x, y)    = mean of e over pixels
    score          = 1 - sum of error(fake, truth) / sum of error(input, truth)                    (over all images)

Pixel values lie in [0,1]; the window's standard deviation is 1/16 of the longer side, so that a window (about 1/8 of
the side) holds a stripe and its gap. A copy of the input scores 0, the truth 1, stripes of the right width and contrast
nearly 1 wherever they lie; a coat of the right mean colour but without stripes, another animal, or a changed
background lose, below 0 where the picture is further from the truth than the input was.
"""

import numpy as np

from util.metrics.measures import measure

CEILING = 100.0  # dB
SSIM_SIDE = 11  # pixels
WINDOW = 16  # the longer side in standard deviations of the window


def gaussian_matrix(length: int, sigma: float) -> np.ndarray:
    """(length, length) weights: row i averages a line around i; rows sum to 1, also near the ends."""
    offsets = np.subtract.outer(np.arange(length), np.arange(length))
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    return weights / weights.sum(1, keepdims=True)


def local_statistics(image: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation, (H,W,C) each, of a (H,W,C) picture in a Gaussian window of `sigma` pixels."""
    down, across = (gaussian_matrix(length, sigma) for length in image.shape[:2])

    def average(values: np.ndarray) -> np.ndarray:
        return np.einsum("ih,hwc,jw->ijc", down, values, across, optimize=True)

    mean = average(image)
    return mean, np.sqrt(np.maximum(average(image**2) - mean**2, 0))


def texture_error(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(H,W) error e of two (H,W,C) pictures in [0,1]: difference of their local means plus that of local contrasts."""
    sigma = max(one.shape[:2]) / WINDOW
    mean_1, std_1 = local_statistics(one, sigma)
    mean_2, std_2 = local_statistics(other, sigma)
    return (np.abs(mean_1 - mean_2) + np.abs(std_1 - std_2)).mean(-1)


def errors_by_region(
    fake: np.ndarray, truth: np.ndarray, source: np.ndarray
) -> dict[str, float | None]:
    """Errors of one picture, all (H,W,C) in [0,1].

    `error` is the one the score is made of; `object` and `background` are its means where `source`
    and `truth` differ and where they agree, None where no pixel does; `l1` and `mse` are the plain
    differences of pixels, which do punish a shifted texture.
    """
    error = texture_error(fake, truth)
    changed = (source != truth).any(-1)

    def mean_where(chosen: np.ndarray) -> float | None:
        return float(error[chosen].mean()) if chosen.any() else None

    return {
        "error": float(error.mean()),
        "object": mean_where(changed),
        "background": mean_where(~changed),
        "l1": float(np.abs(fake - truth).mean()),
        "mse": float(((fake - truth) ** 2).mean()),
    }


def score(fake_errors: list[float], copy_errors: list[float]) -> float:
    """1 - the sum of the first over the sum of the second: 0 for copying the input, 1 for the truth, negative if worse.

    Raises ValueError when input and truth are the same everywhere, so that there is nothing to translate.
    """
    if not sum(copy_errors) > 0:
        raise ValueError("input and truth do not differ in any image")

    return 1 - sum(fake_errors) / sum(copy_errors)


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [0,1]; infinite for equal ones."""
    return float(-10 * np.log10(mse)) if mse > 0 else float("inf")


@measure("truths", "L1", "low")
def l1(fake: np.ndarray, truth: np.ndarray) -> float:
    """Mean absolute difference of two pictures in [0,1]."""
    return float(np.abs(fake - truth).mean())


@measure("truths", "PSNR", "high")
def peak_snr(fake: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB; a perfect picture counts as CEILING, so that a mean stays a number."""
    return min(psnr(float(((fake - truth) ** 2).mean())), CEILING)


@measure("truths", "SSIM", "high")
def ssim(fake: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004) of two pictures (H,W,C) in [0,1], mean over channels and pixels.

    Gaussian window of deviation 1.5, cut at 11 pixels; windows that reach beyond the border are left out, unless the
    picture is too small to hold one, where all are taken.
    """
    height, width = fake.shape[:2]
    down, across = ssim_window(height), ssim_window(width)

    def average(values: np.ndarray) -> np.ndarray:
        return np.einsum("ih,hwc,jw->ijc", down, values, across, optimize=True)

    mean_1, mean_2 = average(fake), average(truth)
    variance_1 = average(fake**2) - mean_1**2
    variance_2 = average(truth**2) - mean_2**2
    covariance = average(fake * truth) - mean_1 * mean_2

    light = (2 * mean_1 * mean_2 + 0.01**2) / (mean_1**2 + mean_2**2 + 0.01**2)
    structure = (2 * covariance + 0.03**2) / (variance_1 + variance_2 + 0.03**2)
    return float((light * structure).mean())


def ssim_window(length: int) -> np.ndarray:
    """(places, length) weights of SSIM's window along a side: a row per place where it fits, rows sum to 1."""
    reach = SSIM_SIDE // 2
    offsets = np.subtract.outer(np.arange(length), np.arange(length))
    weights = np.exp(-0.5 * (offsets / 1.5) ** 2) * (np.abs(offsets) <= reach)
    if length >= SSIM_SIDE:
        weights = weights[reach : length - reach]
    return weights / weights.sum(1, keepdims=True)
