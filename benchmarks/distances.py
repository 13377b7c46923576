"""How far two sets of features lie apart. Small sets are never at distance nought: compare equal counts only."""

import numpy as np


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared maximum mean discrepancy under the kernel (x.y / d + 1)^3, unbiased: below nought is possible.

    Args:
        a, b: features, (n, d) and (m, d).
    Source: Binkowski et al., Demystifying MMD GANs (arXiv 1801.01401), section 3 and equation 4.
    """
    return _kernel_distance(*_kernels(a, b), np.ones(len(a)), np.ones(len(b)))


def kernel_interval(a: np.ndarray, b: np.ndarray, seed: int = 0, draws: int = 500) -> tuple[float, float]:
    """The middle 95 % of the kernel distance when both sets are drawn anew from themselves.

    A picture that is drawn several times is never paired with itself, so that the estimate stays unbiased.
    """
    kernels, random = _kernels(a, b), np.random.default_rng(seed)
    drawn = [
        _kernel_distance(*kernels, *(random.multinomial(len(x), np.full(len(x), 1 / len(x))) for x in (a, b)))
        for _ in range(draws)
    ]
    return float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))


def _kernels(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return tuple((x @ y.T / a.shape[1] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))


def _kernel_distance(aa: np.ndarray, bb: np.ndarray, ab: np.ndarray, v: np.ndarray, w: np.ndarray) -> float:
    """With weights for how often each picture counts."""

    def within(kernel: np.ndarray, weights: np.ndarray) -> float:
        pairs = np.outer(weights, weights).astype(np.float64)
        np.fill_diagonal(pairs, 0)
        return (kernel * pairs).sum() / pairs.sum()

    return float(within(aa, v) + within(bb, w) - 2 * (v @ ab @ w) / (v.sum() * w.sum()))


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Between the normal distributions with the two sets' means and covariances.

    Args:
        a, b: features, (n, d) and (m, d), both with more rows than columns.
    Source: Heusel et al., GANs trained by a two time-scale update rule (arXiv 1706.08500), equation 6.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    means = ((a.mean(0) - b.mean(0)) ** 2).sum()
    one, two = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # The trace of the product's root is the sum of its eigenvalues' roots, which are real and not below nought.
    roots = np.sqrt(np.linalg.eigvals(one @ two).real.clip(min=0)).sum()
    return float(means + np.trace(one) + np.trace(two) - 2 * roots)


def principal(real: np.ndarray, *others: np.ndarray, count: int = 32) -> list[np.ndarray]:
    """All sets in the `count` directions in which the real features vary most: few enough for small sets."""
    mean = real.mean(0)
    directions = np.linalg.svd(real - mean, full_matrices=False)[2][:count]
    return [(features - mean) @ directions.T for features in (real, *others)]
