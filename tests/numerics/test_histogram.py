"""The streaming histogram: exact, of fixed size, and the same whatever the order of the values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from onnxshrink.numerics.histogram import BINS_PER_SIDE, Histogram

_VALUES = npst.arrays(
    np.float32, st.integers(1, 60), elements=st.floats(allow_nan=False, allow_infinity=False, width=32)
)


def _histogram(*parts: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part, float(np.abs(part).max(initial=0)))
    return histogram


def _same(one: Histogram, other: Histogram) -> bool:
    ends = (one.exponent, one.zeros) == (other.exponent, other.zeros)
    return ends and np.array_equal(one.counts, other.counts)


@given(values=_VALUES, cuts=st.lists(st.integers(0, 60), max_size=4), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_order_and_batching_do_not_matter(values: np.ndarray, cuts: list[int], seed: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(values)
    assert _same(_histogram(values), _histogram(*np.split(shuffled, sorted(cuts))))


@given(values=_VALUES)
@settings(max_examples=60, deadline=None)
def test_every_value_lies_in_its_bin(values: np.ndarray) -> None:
    histogram = _histogram(values)
    # Division by a power of two is exact in float64 for every float32.
    bins = np.trunc(values.astype(np.float64) / histogram.width).astype(int)
    expected = np.bincount(bins + BINS_PER_SIDE - 1, minlength=2 * BINS_PER_SIDE - 1)
    assert np.array_equal(histogram.counts, expected)
    assert histogram.zeros == np.count_nonzero(values == 0)


@given(values=_VALUES)
@settings(max_examples=60, deadline=None)
def test_at_least_half_of_a_side_is_used(values: np.ndarray) -> None:
    largest = float(np.abs(values).max())
    if largest >= 2.0**-101:
        assert largest < BINS_PER_SIDE * _histogram(values).width <= 2 * largest


@given(values=_VALUES)
@settings(max_examples=60, deadline=None)
def test_bins_hold_all_values_but_the_zeros(values: np.ndarray) -> None:
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    bins = _histogram(values).bins(low, high)
    assert bins.counts.sum() == np.count_nonzero(values)
    edges = bins.edges * bins.width
    assert edges[0] <= low
    assert high <= edges[-1]
    assert 0 in edges
    assert edges[0] == 0 if low == 0 else bins.counts[0] > 0
    assert edges[-1] == 0 if high == 0 else bins.counts[-1] > 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_types_count_alike(dtype: type[np.floating]) -> None:
    values = np.random.default_rng(0).standard_normal(100_000).astype(np.float16)
    assert _same(_histogram(values.astype(dtype)), _histogram(values))


def test_doubles_beyond_the_range_of_float32() -> None:
    histogram = _histogram(np.array([1e-300, -1e300, 1e308]))
    assert histogram.counts.sum() == 3
    assert histogram.counts[-1] + histogram.counts[BINS_PER_SIDE:].sum() >= 1
    assert histogram.zeros == 0


def test_denormals_and_zeros_share_the_middle_bin() -> None:
    histogram = _histogram(np.array([0.0, -0.0, 1e-45, -1e-40], np.float32))
    assert histogram.counts[BINS_PER_SIDE - 1] == 4
    assert histogram.zeros == 2
    assert histogram.bins(-1e-40, 1e-45).counts.tolist() == [1, 1]


@pytest.mark.parametrize("largest", [np.inf, np.nan])
def test_values_that_are_not_finite_are_refused(largest: float) -> None:
    with pytest.raises(ValueError, match="finite values only"):
        Histogram().add(np.array([largest], np.float32), largest)
