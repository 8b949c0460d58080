"""Statistics of activations: right numbers, the same whatever the batching."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from onnxshrink.numerics.activation_statistics import ActivationStatistics

_BATCHES = npst.arrays(
    np.float32,
    npst.array_shapes(min_dims=2, max_dims=4, max_side=5),
    elements=st.floats(-1e6, 1e6, width=32),
)


def _assert_same(one: ActivationStatistics, other: ActivationStatistics) -> None:
    first, second = one.state(), other.state()
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert array.tobytes() == second[name].tobytes(), name


@given(batch=_BATCHES, axis=st.none() | st.integers(1, 3), cut=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_all_at_once_equals_piece_by_piece_bit_for_bit(batch: np.ndarray, axis: int | None, cut: int) -> None:
    axis = axis if axis is None or axis < batch.ndim else -1
    whole, pieces, samples = (ActivationStatistics(axis) for _ in range(3))
    whole.add(batch, batched=True)
    for piece in (batch[:cut], batch[cut:]):
        pieces.add(piece, batched=True)
    for index in range(len(batch)):
        samples.add(batch[index : index + 1])
    _assert_same(whole, pieces)
    _assert_same(whole, samples)


@given(batch=_BATCHES)
@settings(max_examples=60, deadline=None)
def test_numbers_are_those_of_numpy(batch: np.ndarray) -> None:
    statistics = ActivationStatistics(1)
    statistics.add(batch, batched=True)
    others = tuple(axis for axis in range(batch.ndim) if axis != 1)
    samples = batch.reshape(len(batch), -1).astype(np.float64)
    assert (statistics.count, statistics.samples) == (batch.size, len(batch))
    assert (statistics.low, statistics.high) == (batch.min(), batch.max())
    # Sums of up to 5 numbers, and of up to 125 for the channels, each rounded to 2⁻⁵³ of the largest partial sum.
    assert statistics.mean_low == pytest.approx(samples.min(axis=1).mean(), rel=1e-12, abs=1e-9)
    assert statistics.mean_high == pytest.approx(samples.max(axis=1).mean(), rel=1e-12, abs=1e-9)
    assert np.array_equal(statistics.channel_low, batch.min(axis=others))
    assert np.array_equal(statistics.channel_high, batch.max(axis=others))
    expected = batch.astype(np.float64).mean(axis=others)
    assert np.allclose(statistics.channel_mean, expected, rtol=1e-12, atol=1e-7)
    assert statistics.histogram.counts.sum() == batch.size


def test_without_batching_the_whole_array_is_one_sample() -> None:
    statistics = ActivationStatistics()
    statistics.add(np.array([[1.0, 2.0], [5.0, -3.0]], np.float32))
    assert (statistics.samples, statistics.mean_low, statistics.mean_high) == (1, -3.0, 5.0)
    assert statistics.channel_low is statistics.channel_high is statistics.channel_mean is None


def test_shapes_may_vary_and_every_element_counts_the_same() -> None:
    statistics = ActivationStatistics(-1)
    statistics.add(np.full((1, 3, 2), 1.0, np.float32))
    statistics.add(np.full((2, 1, 2), 5.0, np.float32), batched=True)
    assert statistics.samples == 3
    assert statistics.channel_mean is not None
    assert statistics.channel_mean.tolist() == [(3 * 1 + 2 * 5) / 5] * 2


def test_layout_in_memory_does_not_matter() -> None:
    batch = np.random.default_rng(0).standard_normal((3, 4, 5, 6)).astype(np.float32)
    one, other = ActivationStatistics(1), ActivationStatistics(1)
    one.add(batch, batched=True)
    other.add(np.asfortranarray(batch), batched=True)
    _assert_same(one, other)


def test_scalars_and_empty_arrays() -> None:
    statistics = ActivationStatistics()
    statistics.add(np.zeros((0, 3), np.float32), batched=True)
    assert (statistics.count, statistics.samples, statistics.mean_low) == (0, 0, np.inf)
    statistics.add(np.array(2.5, np.float16))
    assert (statistics.count, statistics.samples, statistics.low, statistics.mean_high) == (1, 1, 2.5, 2.5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("axis", [None, 1])
def test_values_that_are_not_finite_are_recorded(bad: float, axis: int | None) -> None:
    statistics = ActivationStatistics(axis)
    statistics.add(np.array([[1.0, bad, 2.0]], np.float32), batched=True)
    statistics.add(np.ones((1, 3), np.float32), batched=True)
    assert not statistics.finite


def test_arrays_that_do_not_fit_are_refused() -> None:
    statistics = ActivationStatistics(1)
    with pytest.raises(ValueError, match="not of int64"):
        statistics.add(np.zeros((2, 3), np.int64))
    with pytest.raises(ValueError, match="no channel axis 1"):
        statistics.add(np.zeros(3, np.float32))
    statistics.add(np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match="4 channels after 3"):
        statistics.add(np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match="is the sample axis"):
        ActivationStatistics(-2).add(np.zeros((2, 3), np.float32), batched=True)
    assert statistics.count == 6


@pytest.mark.parametrize("axis", [None, 1])
def test_state_brings_everything_back(axis: int | None) -> None:
    batch = np.random.default_rng(1).standard_normal((4, 3, 5)).astype(np.float32)
    original = ActivationStatistics(axis)
    original.add(batch, batched=True)
    restored = ActivationStatistics.from_state(original.state())
    for statistics in (original, restored):
        statistics.add(3 * batch, batched=True)
    _assert_same(original, restored)
    assert restored.channel_axis == axis


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("counters", lambda array: array[:2]),
        ("bounds", lambda array: array.astype(np.int64)),
        ("axis", lambda array: np.zeros(2, np.int64)),
        ("bins", lambda array: array + 1),
        ("channels", lambda array: array[:2]),
    ],
)
def test_a_damaged_state_is_refused(part: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    statistics = ActivationStatistics(0)
    statistics.add(np.ones(3, np.float32))
    state = statistics.state()
    with pytest.raises(ValueError, match="the state"):
        ActivationStatistics.from_state(state | {part: change(state[part])})
