"""How far two sets of features lie apart. Small sets are never at distance zero: compare equal counts only."""

import numpy as np
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist

DRAWS = 500  # of an interval
NEIGHBOUR = 3  # how far a feature reaches


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared maximum mean discrepancy under the kernel (x.y / d + 1)^3, unbiased: below zero is possible.

    Row i of one set and row i of the other may show the same thing: they are never compared, as no row is with itself.
    Otherwise drawings of the same things would come out nearer than zero.

    Args:
        a, b: features, both (n, d).
    Source: Gretton et al., A kernel two-sample test (JMLR 13, 2012), equation 4; the kernel is of arXiv 1801.01401.
    """
    return _mean(_differences(a, b), np.ones(len(a)))


def kernel_interval(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of the kernel distance when the rows of both sets are drawn anew, the same of each.

    A row that is drawn several times is never compared with itself, so that the estimate stays unbiased.
    """
    differences, random = _differences(a, b), np.random.default_rng(0)
    shares = np.full(len(a), 1 / len(a))
    drawn = [_mean(differences, random.multinomial(len(a), shares)) for _ in range(DRAWS)]
    return float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))


def _differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What each two rows say of the distance, (n, n), zero on the diagonal."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    aa, bb, ab = ((x @ y.T / a.shape[1] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    found = aa + bb - ab - ab.T
    np.fill_diagonal(found, 0)
    return found


def _mean(differences: np.ndarray, weights: np.ndarray) -> float:
    """With weights for how often each row counts."""
    return float(weights @ differences @ weights / (weights.sum() ** 2 - (weights**2).sum()))


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Between the normal distributions with the two sets' means and covariances.

    Args:
        a, b: features, (n, d) and (m, d), both with more rows than columns.
    Source: Heusel et al., GANs trained by a two time-scale update rule (arXiv 1706.08500), equation 6.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    means = ((a.mean(0) - b.mean(0)) ** 2).sum()
    one, two = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    return float(means + np.trace(one + two - 2 * sqrtm(one @ two).real))


def principal(real: np.ndarray, *others: np.ndarray, count: int = 32) -> list[np.ndarray]:
    """All sets in the `count` directions in which the real features vary most: few enough for small sets."""
    mean = real.mean(0)
    directions = np.linalg.svd(real - mean, full_matrices=False)[2][:count]
    return [(features - mean) @ directions.T for features in (real, *others)]


def precision_recall(real: np.ndarray, drawn: np.ndarray) -> tuple[float, float]:
    """The share of drawn features within reach of a real one, and of real ones within reach of a drawn one.

    A feature reaches as far as its third nearest neighbour in its own set.

    Source: Kynkaanniemi et al., Improved precision and recall metric (arXiv 1904.06991), equations 1 and 2.
    """
    real, drawn = real.astype(np.float64), drawn.astype(np.float64)
    between = cdist(real, drawn)
    reach_real, reach_drawn = (np.sort(cdist(x, x), axis=1)[:, NEIGHBOUR] for x in (real, drawn))
    precise = (between <= reach_real[:, None]).any(0).mean()
    recalled = (between <= reach_drawn[None]).any(1).mean()
    return float(precise), float(recalled)
