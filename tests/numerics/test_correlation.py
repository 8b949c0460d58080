from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxshrink.numerics.correlation import pearson, places, spearman, spearman_of_places

ONE = np.ones((1, 12))
X = np.array([3.0, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8])
Y = np.array([2.0, 7, 1, 8, 2, 8, 1, 8, 2, 8, 4, 5])


def test_correlations_are_those_of_scipy() -> None:
    assert pearson(X, Y, ONE)[0] == pytest.approx(0.09979900759721554, abs=1e-12)
    assert spearman(X, Y, ONE)[0] == pytest.approx(0.1415796863640157, abs=1e-12)


@given(
    st.lists(st.integers(0, 3), min_size=12, max_size=12).filter(lambda counts: sum(count > 0 for count in counts) > 2)
)
def test_taking_a_row_twice_is_having_it_twice(counts: list[int]) -> None:
    repeated = np.repeat(np.arange(12), counts)
    ones = np.ones((1, len(repeated)))
    for correlation in (pearson, spearman):
        taken = correlation(X, Y, np.array([counts], np.float64))[0]
        assert taken == pytest.approx(correlation(X[repeated], Y[repeated], ones)[0], abs=1e-9)


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=20), st.integers(0, 9))
def test_places_have_the_ranks_of_their_values(pairs: list[tuple[int, int]], seed: int) -> None:
    rows = np.array(pairs, np.float64) / 7
    counts = np.random.default_rng(seed).integers(0, 4, (3, len(rows))).astype(np.float64)
    x, y = places(rows).T
    assert set(x) == set(range(len(set(rows[:, 0]))))
    np.testing.assert_array_equal(
        spearman_of_places(x, y, counts), spearman(np.exp(rows[:, 0]), rows[:, 1] * 5 - 2, counts)
    )


def test_a_large_offset_and_scale_change_nothing() -> None:
    assert pearson(1e6 + 1e-2 * X, Y, ONE)[0] == pytest.approx(pearson(X, Y, ONE)[0], abs=1e-7)
    assert spearman(np.exp(X), Y, ONE)[0] == spearman(X, Y, ONE)[0]


def test_without_variance_there_is_no_correlation() -> None:
    for correlation in (pearson, spearman):
        assert correlation(np.full(12, 0.1), Y, ONE)[0] == 0
        assert correlation(X, X, ONE)[0] == pytest.approx(1)
        assert correlation(X, -X, ONE)[0] == pytest.approx(-1)
