from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxshrink.numerics.resampling import MIN_SAMPLES, _t_quantile, interval, resampled_values, totals, value_of


def mean(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    sums: np.ndarray = totals(rows, counts)[:, 0] / counts.sum(axis=1)
    return sums


def test_resamples_take_as_many_samples_as_there_are() -> None:
    taken: list[np.ndarray] = []

    def sizes(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        taken.append(counts.sum(axis=1))
        return counts.sum(axis=1)

    for samples in (10, 3000):  # few different rows, and many
        resampled_values([np.arange(samples, dtype=np.float64)[:, None]], sizes)
        assert {float(size) for sizes_ in taken for size in sizes_} == {float(samples)}
        taken.clear()


def test_both_models_are_judged_on_the_same_resamples() -> None:
    for samples in (50, 1500):
        rows = np.random.default_rng(0).normal(size=(samples, 1))
        first, second = resampled_values([rows, rows + 3], mean, seed=1)
        assert second - first == pytest.approx(3)
        again = resampled_values([rows, rows + 3], mean, seed=1)
        assert np.array_equal(again, [first, second])
        assert not np.array_equal(resampled_values([rows], mean, seed=2)[0], first)


def test_the_spread_of_resampled_means_is_the_standard_error() -> None:
    rng = np.random.default_rng(3)
    for rows in (rng.normal(size=(2500, 1)), rng.integers(0, 2, (2500, 1)).astype(np.float64)):
        spread = resampled_values([rows], mean)[0].std()
        assert spread == pytest.approx(rows.std() / 50, rel=0.06)


@pytest.mark.parametrize(("samples", "most"), [(8, 0.08), (30, 0.075), (300, 0.07)])
def test_the_interval_misses_the_truth_about_one_time_in_twenty(samples: int, most: float) -> None:
    rng = np.random.default_rng(samples)
    misses = 0
    trials = 400
    for seed in range(trials):
        rows = rng.normal(loc=1.0, size=(samples, 1))
        found = interval(resampled_values([rows], mean, seed=seed)[0], samples)
        assert found is not None
        misses += not found[0] <= 1 <= found[1]
    assert 0.02 <= misses / trials <= most


def test_the_paired_interval_of_two_accuracies_covers() -> None:
    """Right and wrong of two models that agree on most samples; the true difference is −2 points."""
    rng = np.random.default_rng(9)
    misses = 0
    for seed in range(300):
        kind = rng.choice(4, size=400, p=[0.8, 0.08, 0.06, 0.06])  # both, only first, only second, neither right
        first, second = (np.isin(kind, right).astype(np.float64)[:, None] for right in ((0, 1), (0, 2)))
        values = resampled_values([first, second], mean, seed=seed)
        found = interval(values[1] - values[0], 400)
        assert found is not None
        misses += not found[0] <= -0.02 <= found[1]
    assert 0.02 <= misses / 300 <= 0.075


def test_too_few_samples_and_values_without_bounds_have_no_interval() -> None:
    assert interval(np.arange(100.0), MIN_SAMPLES - 1) is None
    assert interval(np.array([1.0, np.inf]), 100) is None
    assert interval(np.array([1.0, np.nan]), 100) is None


@pytest.mark.parametrize(("freedom", "quantile"), [(5, 2.5706), (10, 2.2281), (29, 2.0452), (1000, 1.9623)])
def test_quantiles_of_students_t(freedom: int, quantile: float) -> None:
    assert _t_quantile(freedom) == pytest.approx(quantile, rel=0.002)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20))
def test_the_value_takes_every_row_once(numbers: list[float]) -> None:
    assert value_of(np.array(numbers)[:, None], mean) == pytest.approx(np.mean(numbers), abs=1e-9)
