"""Range estimators against brute force, and grids against the ONNX definition of QuantizeLinear."""

from __future__ import annotations

import itertools
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from onnxshrink.numerics.activation_statistics import ActivationStatistics
from onnxshrink.numerics.ranges import (
    ActivationType,
    Range,
    RangeEstimator,
    activation_parameters,
    aligned_range,
    candidate_ranges,
    careful_range,
    estimate_range,
)

_ESTIMATORS: tuple[RangeEstimator, ...] = get_args(RangeEstimator)
_FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)
_RNG = np.random.default_rng(0)


def _statistics(*samples: np.ndarray) -> ActivationStatistics:
    statistics = ActivationStatistics()
    for sample in samples:
        statistics.add(sample.astype(np.float32))
    return statistics


def _normal(size: int = 20_000) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(size).astype(np.float32)


def _squared_error(values: np.ndarray, low: float, high: float, levels: int = 256) -> float:
    """Mean squared error of rounding to ``levels`` values between low and high; zero is exact."""
    step = (high - low) / (levels - 1)
    grid = np.clip(np.rint(values / step), np.rint(low / step), np.rint(high / step)) * step
    return float(np.mean(np.square(values - grid)))


@given(
    values=npst.arrays(np.float32, st.integers(1, 40), elements=_FLOATS), levels=st.sampled_from([2, 16, 256, 65536])
)
@settings(max_examples=30, deadline=None)
@pytest.mark.parametrize("estimator", _ESTIMATORS)
def test_every_range_holds_zero_and_nothing_beyond_the_values(
    estimator: RangeEstimator, values: np.ndarray, levels: int
) -> None:
    found = estimate_range(_statistics(values), estimator, levels=levels)
    assert min(float(values.min()), 0.0) <= found.low <= 0 <= found.high <= max(float(values.max()), 0.0)


@pytest.mark.parametrize("estimator", _ESTIMATORS)
def test_zeros_and_no_values_give_an_empty_range(estimator: RangeEstimator) -> None:
    assert estimate_range(_statistics(np.zeros(5)), estimator) == Range(0.0, 0.0)
    assert estimate_range(ActivationStatistics(), estimator) == Range(0.0, 0.0)


@pytest.mark.parametrize("estimator", _ESTIMATORS)
@pytest.mark.parametrize("value", [6.0, -0.3])
def test_a_constant_is_covered_to_a_bin(estimator: RangeEstimator, value: float) -> None:
    statistics = _statistics(np.full(100, value))
    found = estimate_range(statistics, estimator)
    assert found.low == pytest.approx(min(value, 0), rel=0, abs=statistics.histogram.width)
    assert found.high == pytest.approx(max(value, 0), rel=0, abs=statistics.histogram.width)


def test_minmax_and_mean_minmax() -> None:
    statistics = _statistics(np.array([-1.0, 2.0]), np.array([-3.0, 8.0]))
    assert estimate_range(statistics, "minmax") == Range(-3.0, 8.0)
    assert estimate_range(statistics, "mean-minmax") == Range(-2.0, 5.0)
    assert estimate_range(_statistics(np.array([1.0, 2.0])), "mean-minmax") == Range(0.0, 2.0)


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.99])
@pytest.mark.parametrize("shift", [0.0, 10.0, -10.0])
def test_percentile_is_the_smallest_range_of_whole_bins_with_that_share(percentile: float, shift: float) -> None:
    values = _normal() + np.float32(shift)
    statistics = _statistics(values)
    found = estimate_range(statistics, "percentile", percentile=percentile)
    share, width = percentile / 100, statistics.histogram.width
    tail = (1 - share) / (2 if shift == 0 else 1)
    if shift >= 0:
        assert np.mean(values > found.high) <= tail < np.mean(values > found.high - 1.0001 * width)
    if shift <= 0:
        assert np.mean(values < found.low) <= tail < np.mean(values < found.low + 1.0001 * width)
    assert np.mean((values >= found.low) & (values <= found.high)) >= share


@pytest.mark.parametrize("levels", [16, 256])
@pytest.mark.parametrize(
    "values",
    [
        _normal(),
        np.maximum(_normal(), 0),
        -np.abs(_normal()),
        _RNG.laplace(size=20_000),
        np.append(np.abs(_normal()), [-0.5, 30.0]),
        np.clip(3 * _normal(), 0, 6),
    ],
    ids=["normal", "relu", "negative", "laplace", "outlier", "relu6"],
)
def test_mse_is_as_good_as_the_best_of_a_dense_search(values: np.ndarray, levels: int) -> None:
    found = estimate_range(_statistics(values), "mse", levels=levels)
    error = _squared_error(values, found.low, found.high, levels)
    shares = np.linspace(0.05, 1, 20)
    lows = min(values.min(), 0) * shares if values.min() < 0 else [0.0]
    highs = max(values.max(), 0) * shares if values.max() > 0 else [0.0]
    best = min(_squared_error(values, low, high, levels) for low in lows for high in highs)
    # The noise model Δ²/12 holds on average: with 20,000 values in steps of Δ it is off by a few percent.
    assert error <= 1.05 * best


def test_zeros_do_not_count_as_rounding_noise() -> None:
    values = np.abs(_normal())
    alone = estimate_range(_statistics(values), "mse")
    among_zeros = estimate_range(_statistics(np.concatenate([values, np.zeros(10 * len(values))])), "mse")
    assert alone == among_zeros


def _divergence(counts: np.ndarray, begin: int, stop: int, levels: int) -> float:
    """KL of a window of a histogram, step by step, as the TensorRT slides have it."""
    reference = counts[begin:stop].copy()
    reference[0] += counts[:begin].sum()
    reference[-1] += counts[stop:].sum()
    bounds = [(stop - begin) * level // levels for level in range(levels + 1)]
    merged = np.zeros(stop - begin)
    for left, right in itertools.pairwise(bounds):
        filled = reference[left:right] > 0
        if filled.any():
            merged[left:right][filled] = counts[begin:stop][left:right].sum() / filled.sum()
    filled = reference > 0
    if (merged[filled] == 0).any():
        return float(np.inf)
    p, q = reference[filled] / reference.sum(), merged[filled] / merged.sum()
    return float(np.sum(p * np.log(p / q)))


@pytest.mark.parametrize("levels", [128, 256])
def test_entropy_is_the_least_divergence_of_all_windows(levels: int) -> None:
    values = np.append(np.abs(_normal(5000)), 25.0)
    statistics = _statistics(values)
    found = estimate_range(statistics, "entropy", levels=levels)
    counts = statistics.histogram.bins(0.0, statistics.high).counts
    stops = np.unique(np.linspace(0, len(counts), 257).round().astype(int))
    stops = stops[stops >= levels]
    divergences = [_divergence(counts, 0, stop, levels) for stop in stops]
    best = stops[len(stops) - 1 - int(np.argmin(divergences[::-1]))] * statistics.histogram.width
    assert found == Range(0.0, min(best, statistics.high))
    assert found.high < 6


def test_entropy_cuts_each_end_by_itself() -> None:
    values = np.append(_RNG.laplace(size=50_000), [-40.0, 12.0])
    statistics = _statistics(values)
    found = estimate_range(statistics, "entropy")
    bins = statistics.histogram.bins(statistics.low, statistics.high)

    def divergence(low: float, high: float) -> float:
        ends = (int(np.rint(end / bins.width)) - bins.first for end in (low, high))
        return _divergence(bins.counts, *(min(max(end, 0), len(bins.counts)) for end in ends), 256)

    least = divergence(found.low, found.high)
    assert least < 0.5 * divergence(statistics.low, statistics.high)
    assert least <= min(divergence(-threshold, min(threshold, statistics.high)) for threshold in np.linspace(4, 40, 40))
    assert found.low > -25


def test_outliers_beyond_the_resolution_leave_finite_ranges() -> None:
    values = np.append(_normal(1000) * 1e-6, [1e6]).astype(np.float32)
    for estimator in _ESTIMATORS:
        found = estimate_range(_statistics(values), estimator)
        assert found.high <= 1e6


def test_candidates_differ_by_more_than_a_percent() -> None:
    values = np.append(_normal(), 30.0)
    statistics = _statistics(values, 0.5 * values)
    found = candidate_ranges(statistics)
    assert found[0] == Range(float(values.min()), 30.0)
    assert len(found) >= 4
    for index, one in enumerate(found):
        for other in found[:index]:
            span = other.high - other.low
            assert max(abs(one.low - other.low), abs(one.high - other.high)) > 0.01 * span
    assert candidate_ranges(_statistics(np.full(100, 6.0))) == [Range(0.0, 6.0)]


@given(low=_FLOATS, high=_FLOATS, dtype=st.sampled_from(get_args(ActivationType)), symmetric=st.booleans())
@settings(max_examples=150, deadline=None)
def test_grids_cover_the_range_to_half_a_step(low: float, high: float, dtype: ActivationType, symmetric: bool) -> None:
    span = Range(min(low, 0.0), max(high, 0.0))
    scale, zero_point = activation_parameters(span, dtype, symmetric)
    assert (scale.dtype, scale.shape, zero_point.dtype, zero_point.shape) == (np.float32, (), np.dtype(dtype), ())
    assert np.finfo(np.float32).smallest_normal <= scale < np.inf
    limits = np.iinfo(dtype)
    step, zero = float(scale), int(zero_point)
    largest = float(np.finfo(np.float32).max) / (limits.max - limits.min + 1)
    for end in (span.low, span.high):
        integer = int(np.clip(np.rint(end / step) + zero, limits.min, limits.max))
        # The scale is rounded to float32: 2⁻²⁴ of the range, which is less than 0.004 steps of 65535.
        assert step >= largest * 0.999 or abs((integer - zero) * step - end) <= 0.504 * step
        assert np.isfinite(np.float32(integer - zero) * scale)
    assert limits.min <= zero <= limits.max


@pytest.mark.parametrize(
    ("dtype", "low", "symmetric", "expected"),
    [
        ("uint8", -1.0, True, 128),
        ("uint8", 0.0, True, 0),
        ("int8", -1.0, True, 0),
        ("int8", 0.0, True, 0),
        ("uint16", -1.0, True, 32768),
        ("int16", -1.0, True, 0),
        ("uint8", 0.0, False, 0),
        ("int8", 0.0, False, -128),
    ],
)
def test_zero_points(dtype: ActivationType, low: float, symmetric: bool, expected: int) -> None:
    scale, zero_point = activation_parameters(Range(low, 2.0), dtype, symmetric)
    assert int(zero_point) == expected
    steps = np.iinfo(dtype).max - expected
    assert float(scale) == pytest.approx(2.0 / steps, rel=1e-6)


def test_an_all_zero_activation_gets_the_scale_one() -> None:
    for dtype in get_args(ActivationType):
        for symmetric in (False, True):
            assert activation_parameters(Range(0.0, 0.0), dtype, symmetric)[0] == 1


def test_what_is_no_range_is_refused() -> None:
    for low, high in ((0.5, 1.0), (-1.0, -0.5), (-np.inf, 0.0), (0.0, np.nan)):
        with pytest.raises(ValueError, match="no finite range"):
            Range(low, high)
    statistics = _statistics(np.ones(3))
    with pytest.raises(ValueError, match="two levels"):
        estimate_range(statistics, "mse", levels=1)
    statistics.finite = False
    with pytest.raises(ValueError, match="finite statistics"):
        estimate_range(statistics, "minmax")


def _rounded(values: np.ndarray, span: Range) -> np.ndarray:
    """What QuantizeLinear and DequantizeLinear make of values."""
    scale, zero_point = activation_parameters(span, "uint8", symmetric=False)
    return (np.clip(np.rint(values / scale) + zero_point, 0, 255) - zero_point) * scale


def _rms(values: np.ndarray, span: Range) -> float:
    return float(np.sqrt(np.square(_rounded(values, span) - values).mean()))


def test_pixels_without_a_zero_are_not_all_rounded_by_half_a_step() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 50, 50))
    values = ((pixels - 127.5) / 127.5).astype(np.float32)
    statistics, step = _statistics(values), 2 / 255
    span = estimate_range(statistics, "minmax")
    assert _rms(values, span) > 0.49 * step
    assert _rms(values, aligned_range(statistics, span)) < 0.3 * step


def test_a_background_between_two_steps_gets_one() -> None:
    """Nine of ten values are 100.5 steps of the range."""
    values = np.full(10_000, 100.5 / 255, np.float32)
    values[:1000] = np.linspace(0, 1, 1000)
    statistics = _statistics(values)
    span = estimate_range(statistics, "minmax")
    assert _rms(values, aligned_range(statistics, span)) < 0.3 * _rms(values, span)


@given(st.integers(0, 2**16), st.sampled_from([2, 7, 200, 100_000]))
@settings(max_examples=30, deadline=None)
def test_alignment_widens_a_range_by_three_percent_at_most_and_does_not_cost(seed: int, distinct: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.choice(rng.standard_normal(distinct).astype(np.float32), 3000)
    statistics = _statistics(values)
    span = estimate_range(statistics, "minmax")
    found = aligned_range(statistics, span)
    assert span.high <= found.high <= 1.03 * span.high
    assert 1.03 * span.low <= found.low <= span.low
    # The histogram knows values to a bin, an eighth of a step or less.
    step = (span.high - span.low) / 255
    assert _rms(values, found) <= _rms(values, span) + step / 16


def test_a_careful_range_clips_less_than_that_of_least_error() -> None:
    statistics = _statistics(np.random.default_rng(2).laplace(size=50_000))
    careful, least = careful_range(statistics, aligned=False), estimate_range(statistics, "mse")
    assert statistics.low <= careful.low < least.low < 0 < least.high < careful.high <= statistics.high
