import numpy as np
import pytest

from benchmarks.common.distances import frechet_distance, kernel_distance, kernel_interval, precision_recall, principal


@pytest.fixture
def sets():
    random = np.random.default_rng(0)
    return random.normal(size=(60, 5)), random.normal(0.4, 1.3, size=(60, 5))


def test_the_kernel_distance_is_its_formula(sets):
    def k(x, y):
        return (x @ y / 5 + 1) ** 3

    a, b = sets
    pairs = [(i, j) for i in range(60) for j in range(60) if i != j]
    expected = np.mean([k(a[i], a[j]) + k(b[i], b[j]) - k(a[i], b[j]) - k(a[j], b[i]) for i, j in pairs])
    assert kernel_distance(a, b) == pytest.approx(expected)


@pytest.mark.parametrize("shared", [0.0, 1.0, 3.0])
def test_the_kernel_distance_is_unbiased(shared):
    """Also where each row of one set has much in common with a row of the other."""
    random, found = np.random.default_rng(1), []
    for _ in range(4000):
        things = shared * random.normal(size=(8, 3))
        found.append(kernel_distance(*(things + random.normal(size=(8, 3)) for _ in range(2))))
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))
    assert min(found) < 0 < max(found)


def test_the_interval_holds_the_distance_and_comes_again(sets):
    low, high = kernel_interval(*sets)
    assert low < kernel_distance(*sets) < high
    assert (low, high) == kernel_interval(*sets)


def test_the_frechet_distance_is_its_formula(sets):
    one, two = (np.cov(s, rowvar=False) for s in sets)
    expected = ((sets[0].mean(0) - sets[1].mean(0)) ** 2).sum() + np.trace(one + two)
    # The trace of the product's root is the sum of its eigenvalues' roots.
    expected -= 2 * np.sqrt(np.linalg.eigvals(one @ two)).sum().real
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


def test_precision_and_recall_are_their_definitions(sets):
    real, drawn = sets

    def within(points, others):
        """The share of points in a ball around one of the others, as large as to its third neighbour."""
        distance = lambda x, y: np.linalg.norm(x - y)  # noqa: E731
        reach = [sorted(distance(o, other) for other in others)[3] for o in others]
        return np.mean([any(distance(p, o) <= r for o, r in zip(others, reach, strict=True)) for p in points])

    assert precision_recall(real, drawn) == pytest.approx((within(drawn, real), within(real, drawn)))
    assert precision_recall(real, real) == (1.0, 1.0)
    assert precision_recall(real, drawn + 100) == (0.0, 0.0)
