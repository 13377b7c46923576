import numpy as np
import pytest
from scipy.linalg import sqrtm

from benchmarks.distances import frechet_distance, kernel_distance, kernel_interval, principal


@pytest.fixture
def sets():
    random = np.random.default_rng(0)
    return random.normal(size=(60, 5)), random.normal(0.4, 1.3, size=(50, 5))


def test_the_kernel_distance_is_its_formula(sets):
    a, b = sets
    k = lambda x, y: (x @ y / 5 + 1) ** 3  # noqa: E731
    within = [np.mean([k(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j]) for s in sets]
    across = np.mean([k(x, y) for x in a for y in b])
    assert kernel_distance(a, b) == pytest.approx(sum(within) - 2 * across)


def test_the_kernel_distance_is_unbiased():
    random = np.random.default_rng(1)
    found = [kernel_distance(random.normal(size=(8, 3)), random.normal(size=(8, 3))) for _ in range(4000)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))
    assert min(found) < 0 < max(found)


def test_the_interval_holds_the_distance_and_comes_again(sets):
    low, high = kernel_interval(*sets)
    assert low < kernel_distance(*sets) < high
    assert (low, high) == kernel_interval(*sets)


def test_the_frechet_distance_is_its_formula(sets):
    one, two = (np.cov(s, rowvar=False) for s in sets)
    expected = ((sets[0].mean(0) - sets[1].mean(0)) ** 2).sum() + np.trace(one + two - 2 * sqrtm(one @ two).real)
    assert frechet_distance(*sets) == pytest.approx(expected)
    assert frechet_distance(sets[0], sets[0]) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(sets[0], sets[0] + 2) == pytest.approx(20)


def test_principal_keeps_the_directions_in_which_the_real_ones_vary():
    random = np.random.default_rng(2)
    real = random.normal(size=(100, 4)) * (5, 0.1, 3, 0.1)
    other = np.array([[0, 9, 0, 9]])
    kept, seen = principal(real, other, count=2)
    assert kept.shape == (100, 2) and kept.var() == pytest.approx(real[:, [0, 2]].var(), rel=0.2)
    assert np.abs(seen).max() < 2
