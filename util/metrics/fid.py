"""FID and KID of two sets of features; the features come from torch-fidelity (features.py).

Let x be (N,D) and y (M,D), m their means and C their covariances (divided by N-1 and M-1).

    FID = |m_x - m_y|^2 + tr C_x + tr C_y - 2 tr (C_x C_y)^(1/2)                       (Heusel et al., arXiv 1706.08500)
    KID = mean of k(x, x') without the diagonal + the same of y - 2 mean of k(x, y),
          k(a, b) = (a.b / D + 1)^3                                               (Binkowski et al., arXiv 1801.01401)

The root is taken without a matrix root: with centred x and y, tr (C_x C_y)^(1/2) is the sum of the singular values of
x y^T / sqrt((N-1)(M-1)). That is exact also where there are fewer images than dimensions, gives 0 for identical sets,
and is fast enough to be repeated for every bootstrap sample. torch-fidelity's own values differ by rounding alone.

KID is taken over all images at once: the mean over random subsets, as torch-fidelity has it, estimates the same. It is
unbiased, so it falls a little below 0 where the sets are alike, identical ones included.
"""

import numpy as np

from util.metrics.measures import measure

FID_BIAS = 2048  # with fewer images FID depends strongly on their number


@measure("sets", "FID", "low")
def fid(fakes: np.ndarray, reals: np.ndarray) -> float:
    """Fréchet distance of two sets of features, (N,D) and (M,D), at least two each."""
    x, y = fakes.astype(np.float64), reals.astype(np.float64)
    mean_x, mean_y = x.mean(0), y.mean(0)
    x = (x - mean_x) / np.sqrt(len(x) - 1)
    y = (y - mean_y) / np.sqrt(len(y) - 1)

    distance = np.square(mean_x - mean_y).sum()
    spread = np.square(x).sum() + np.square(y).sum()
    common = np.linalg.svd(_short(x) @ _short(y).T, compute_uv=False).sum()
    return float(distance + spread - 2 * common)


def _short(x: np.ndarray) -> np.ndarray:
    """A matrix of at most D rows with the same x^T x."""
    rows, columns = x.shape
    return np.linalg.qr(x, mode="r") if rows > columns else x


@measure("sets", "KID", "low")
def kid(fakes: np.ndarray, reals: np.ndarray) -> float:
    """Squared maximum mean discrepancy of two sets of features, unbiased, with the cubic kernel."""
    x, y = fakes.astype(np.float64), reals.astype(np.float64)
    return _among(x) + _among(y) - 2 * float(_kernel(x, y).mean())


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _among(x: np.ndarray) -> float:
    """The mean of the kernel over pairs of different members."""
    values, count = _kernel(x, x), len(x)
    return float((values.sum() - np.trace(values)) / (count * (count - 1)))
