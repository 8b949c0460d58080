"""Integers that no u8·s8 kernel can saturate on."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxshrink.numerics.pair_safe import LIMIT, is_pair_safe, nearest_integers, project_pairs, quantize_pair_safe


def _weights(seed: int, channels: int, reduction: int, tail: float = 3.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scale = np.exp2(rng.uniform(-10, 10, (channels, 1)))
    return (rng.standard_t(tail, (channels, reduction)) * scale).astype(np.float32)


def _error(
    rows: np.ndarray, quantized: np.ndarray, scale: np.ndarray, importance: np.ndarray | float = 1.0
) -> np.ndarray:
    """Weighted squared error of each row, relative to its squared weights."""
    error: np.ndarray = quantized * scale[:, None].astype(np.float64) - rows
    return (importance * np.square(error)).sum(axis=1) / np.square(rows, dtype=np.float64).sum(axis=1)


_SINGLE = 1e-12
"""What the rounding of a scale to float32 may add to a relative squared error, and more."""


@pytest.mark.parametrize(
    ("pair", "safe"),
    [
        ((64, 64), True),
        ((127, 1), True),
        ((127, -127), True),
        ((-64, -64), True),
        ((-128, 0), True),
        ((65, 64), False),
        ((127, 2), False),
        ((-64, -65), False),
    ],
)
def test_a_pair_is_safe_when_int16_holds_its_sum_at_activations_of_255(pair: tuple[int, int], safe: bool) -> None:
    rows = np.array([[*pair, 127]], np.int8)
    worst = max(abs(255 * sum(w for w in pair if sign * w > 0)) for sign in (-1, 1))
    assert (worst <= 32767) == safe
    assert is_pair_safe(rows) == safe


def test_pairs_start_at_even_places() -> None:
    assert is_pair_safe(np.array([[1, 127, 127, 1, 127]], np.int8))
    assert not is_pair_safe(np.array([[127, 127, 1, 1, 127]], np.int8))


_SAFE = np.array([pair for pair in itertools.product(range(-127, 128), repeat=2) if abs(sum(pair)) <= LIMIT])
"""All safe pairs: of opposite signs, or of one sign and small enough."""


@given(
    first=st.floats(-200, 200, width=32),
    second=st.floats(-200, 200, width=32),
    importance=st.none() | st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
@settings(max_examples=100, deadline=None)
def test_the_projection_is_the_nearest_of_all_safe_pairs(
    first: float, second: float, importance: tuple[float, float] | None
) -> None:
    weights = (1.0, 1.0) if importance is None else importance
    least = (weights[0] * (_SAFE[:, 0] - first) ** 2 + weights[1] * (_SAFE[:, 1] - second) ** 2).min()
    steps = np.array([[first, second]], np.float32)
    found = project_pairs(steps, None if importance is None else np.array(importance))
    assert is_pair_safe(found.astype(np.int8))
    assert np.abs(found).max() <= 127
    cost = weights[0] * (found[0, 0] - first) ** 2 + weights[1] * (found[0, 1] - second) ** 2
    assert cost <= least * (1 + 1e-6) + 1e-3


def test_integers_without_pairs_are_rounded_to_nearest_and_clipped() -> None:
    steps = np.array([[126.6, 126.6, -300, 0.5, 1.5]], np.float32)
    assert nearest_integers(steps, paired=False).tolist() == [[127, 127, -127, 0, 2]]


@given(
    seed=st.integers(0, 2**16),
    channels=st.integers(1, 6),
    reduction=st.integers(1, 90),
    known=st.booleans(),
    tail=st.sampled_from([1.5, 3.0, 100.0]),
)
@settings(max_examples=60, deadline=None)
def test_pair_safe_weights_are_never_worse_than_an_enlarged_scale_or_seven_bits(
    seed: int, channels: int, reduction: int, known: bool, tail: float
) -> None:
    rows = _weights(seed, channels, reduction, tail)
    importance = np.random.default_rng(seed).uniform(0, 9, reduction).astype(np.float32) if known else None
    quantized, scale = quantize_pair_safe(rows, True, importance)
    assert quantized.dtype == np.int8
    assert scale.dtype == np.float32
    assert (scale > 0).all()
    assert is_pair_safe(quantized)
    assert quantized.min() >= -127
    largest = np.abs(rows).max(axis=1)
    even = np.pad(rows, [(0, 0), (0, reduction % 2)]).reshape(channels, -1, 2)
    enlarged = np.maximum(np.abs(even.sum(axis=2)).max(axis=1) / 128, largest / 127) * 1.000001
    weights = 1.0 if importance is None else importance / importance.max()
    found = _error(rows, quantized, scale, weights)
    for other in (enlarged, largest / 64):
        integers = np.rint(rows / other[:, None])
        assert is_pair_safe(integers.astype(np.int8))
        assert (found <= _error(rows, integers, other, weights) * (1 + 1e-4) + _SINGLE).all()


@given(seed=st.integers(0, 2**16), reduction=st.integers(1, 90))
@settings(max_examples=50, deadline=None)
def test_without_pairs_the_scale_is_never_worse_than_the_full_range(seed: int, reduction: int) -> None:
    rows = _weights(seed, 3, reduction)
    quantized, scale = quantize_pair_safe(rows, False)
    full = np.abs(rows).max(axis=1) / 127
    nearest = np.rint(rows / full[:, None])
    assert (_error(rows, quantized, scale) <= _error(rows, nearest, full) * (1 + 1e-4) + _SINGLE).all()


def test_one_offending_pair_does_not_cost_a_whole_row_its_precision() -> None:
    rows = np.random.default_rng(0).uniform(-60, 60, (1, 40000)).astype(np.float32)
    rows[0, :2] = 127, 20
    quantized, scale = quantize_pair_safe(rows, True)
    enlarged = np.array([147 / 128])
    assert _error(rows, quantized, scale) < 0.85 * _error(rows, np.rint(rows / enlarged[:, None]), enlarged)


@pytest.mark.parametrize("paired", [False, True])
def test_weights_on_the_grid_are_kept_exactly(paired: bool) -> None:
    integers = np.array([[127, 1, -64, -64, 3], [-127, 127, 0, 5, 9]], np.int8)
    scale = np.array([0.25, 3.0], np.float32)
    quantized, found = quantize_pair_safe(integers * scale[:, None], paired)
    assert np.array_equal(quantized, integers)
    assert found == pytest.approx(scale, rel=1e-6)


@pytest.mark.parametrize("paired", [False, True])
def test_no_scale_is_smaller_than_asked_for_and_larger_scales_stay(paired: bool) -> None:
    rows = _weights(1, 4, 50)
    _, free = quantize_pair_safe(rows, paired)
    least = free * np.array([0.1, 1, 3, 50], np.float32)
    quantized, scale = quantize_pair_safe(rows, paired, minimum_scale=least)
    assert (scale >= least).all()
    assert scale[:2] == pytest.approx(free[:2], rel=1e-6)
    simply = np.rint(rows / least[:, None])
    assert (_error(rows, quantized, scale) <= _error(rows, simply, least) * 1.0001)[3:].all()


def test_important_weights_are_kept_closer() -> None:
    rows = np.random.default_rng(4).uniform(-50, 50, (2, 40000)).astype(np.float32)
    rows[:, :2] = 100, 90
    rows[1] = rows[0]
    importance = np.ones_like(rows)
    importance[1, 0] = 100
    quantized, scale = quantize_pair_safe(rows, True, importance)
    error = np.abs(quantized * scale[:, None] - rows)
    assert error[1, 0] < 0.1 * error[0, 0]


def test_rows_do_not_depend_on_how_many_there_are() -> None:
    rows = _weights(2, 300, 700)
    quantized, scale = quantize_pair_safe(rows, True)
    alone, alone_scale = quantize_pair_safe(rows[250:251], True)
    assert np.array_equal(quantized[250:251], alone)
    assert scale[250] == alone_scale[0]


@pytest.mark.parametrize("paired", [False, True])
def test_zeros_and_tiny_and_huge_weights_get_a_usable_scale(paired: bool) -> None:
    rows = np.array([[0, 0, 0], [1e-40, -1e-40, 0], [8e37, 8e37, 1e37], [1e-20, 1e-20, 1e-20]], np.float32)
    quantized, scale = quantize_pair_safe(rows, paired)
    assert scale[0] == 1
    assert not quantized[0].any()
    assert np.isfinite(scale).all()
    assert (scale >= np.finfo(np.float32).smallest_normal).all()
    assert (quantized * scale[:, None])[2:] == pytest.approx(rows[2:], rel=0.01)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_weights_that_no_scale_can_hold_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN, infinity, or numbers near the end of the float32 range"):
        quantize_pair_safe(np.array([[1.0, bad]]), True)
