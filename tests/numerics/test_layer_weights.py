"""Integers of a layer: safe pairs in the kernel's order, error no larger than nearest rounding, scales as asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxshrink.numerics.layer_weights import quantize_rows
from onnxshrink.numerics.pair_safe import is_pair_safe


def _random(seed: int, groups: int = 2, channels: int = 3, reduction: int = 7) -> tuple[Any, Any, Any]:
    """Rows, moments and an order."""
    generator = np.random.default_rng(seed)
    rows = generator.standard_t(3, (groups, channels, reduction)).astype(np.float32)
    inputs = generator.standard_normal((groups, 4 * reduction, reduction)) @ generator.standard_normal(
        (groups, reduction, reduction)
    )
    moments = (np.einsum("gpi,gpj->gij", inputs, inputs) / inputs.shape[1]).astype(np.float32)
    return rows, moments, generator.permutation(reduction)


def _error(rows: np.ndarray, found: np.ndarray, moments: np.ndarray) -> np.ndarray:
    difference = (found - rows).astype(np.float64)
    return np.einsum("gci,gij,gcj->gc", difference, moments, difference)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**16),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 80),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_integers_are_safe_in_the_order_of_the_kernel(
    seed: int, groups: int, channels: int, reduction: int, fitted: bool, paired: bool, per_channel: bool
) -> None:
    rows, moments, order = _random(seed, groups, channels, reduction)
    found = quantize_rows(rows, moments if fitted else None, order, paired=paired, per_channel=per_channel)
    assert found.quantized.dtype == np.int8
    assert found.quantized.shape == rows.shape
    assert found.scale.dtype == np.float32
    assert (found.scale > 0).all()
    assert np.abs(found.quantized.astype(int)).max() <= 127
    assert not paired or is_pair_safe(found.quantized[:, :, order])
    assert found.shared_scale or per_channel


def test_pairs_are_those_of_the_kernel_not_of_the_layout() -> None:
    rows = np.array([[[1, -1, 1, -1]]], np.float32)
    plain = np.arange(4)
    whole = quantize_rows(rows, None, plain, paired=True)
    assert abs(int(whole.quantized[0, 0, 0])) > 64  # neighbours of different signs cannot saturate
    apart = quantize_rows(rows, None, np.array([0, 2, 1, 3]), paired=True)
    assert np.abs(apart.quantized.astype(int)).max() <= 64


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**16), st.integers(2, 40), st.booleans())
def test_fitting_never_moves_the_output_more_than_nearest_rounding(seed: int, reduction: int, paired: bool) -> None:
    rows, moments, order = _random(seed, 1, 4, reduction)
    diagonal = moments * np.eye(reduction, dtype=np.float32)
    fitted = quantize_rows(rows, moments, order, paired=paired)
    # With uncorrelated inputs, compensation has nothing to give: these are the nearest integers at the same scale.
    nearest = quantize_rows(rows, diagonal, order, paired=paired)
    assert _error(rows, fitted.dequantized, moments).sum() <= 1.05 * _error(rows, nearest.dequantized, moments).sum()


def test_one_scale_for_all_channels() -> None:
    rows, moments, order = _random(3)
    found = quantize_rows(rows, moments, order, paired=True, per_channel=False)
    assert found.shared_scale
    assert not quantize_rows(rows, moments, order, paired=True).shared_scale
    # 127 steps would reach the largest weight; half a step is the error of one that is not clipped.
    assert found.scale.flat[0] <= np.abs(rows).max() / 64 * 1.001


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("fitted", [True, False])
def test_scales_stay_above_what_the_bias_needs(fitted: bool, per_channel: bool) -> None:
    rows, moments, order = _random(1)
    least = np.array([[1e-6, 5.0, 1e-6], [1e-6, 1e-6, 0.7]], np.float32)
    found = quantize_rows(
        rows, moments if fitted else None, order, paired=True, per_channel=per_channel, least_scale=least
    )
    assert (found.scale >= least).all()
    if per_channel:
        free = quantize_rows(rows, moments if fitted else None, order, paired=True)
        np.testing.assert_array_equal(found.scale[least < 1e-5], free.scale[least < 1e-5])


def test_zeros_give_zeros_and_a_positive_scale() -> None:
    moments = np.zeros((1, 3, 3), np.float32)
    found = quantize_rows(np.zeros((1, 2, 3), np.float32), moments, np.arange(3), paired=True)
    assert not found.quantized.any()
    assert (found.scale > 0).all()
    assert np.isfinite(found.scale).all()


def test_inputs_that_never_fire_leave_nearest_rounding() -> None:
    rows, moments, order = _random(0, 1, 2, 6)
    found = quantize_rows(rows, np.zeros_like(moments), order, paired=False)
    assert np.abs(found.dequantized - rows).max() <= found.scale.max() * 64


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(broken: float) -> None:
    rows, moments, order = _random(0)
    bad_rows, bad_moments = rows.copy(), moments.copy()
    bad_rows[0, 0, 0] = bad_moments[0, 0, 0] = broken
    for arguments in ((bad_rows, moments), (rows, bad_moments), (bad_rows, None)):
        with pytest.raises(ValueError, match="NaN"):
            quantize_rows(*arguments, order, paired=True)
