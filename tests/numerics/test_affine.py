"""Affine quantization of weights: bounds that hold for every weight, axis and scheme."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from onnxshrink.numerics.affine import (
    AffineScheme,
    InputMean,
    dequantize_weight,
    quantize_in_groups,
    quantize_weight,
)

_WEIGHTS = npst.arrays(
    np.float32,
    npst.array_shapes(min_dims=1, max_dims=4, max_side=7),
    elements=st.floats(-1e6, 1e6, width=32),
)


def _axes(weight: np.ndarray, pick: int) -> tuple[int, ...]:
    """No axis, one axis, or the first two."""
    choices: list[tuple[int, ...]] = [(), *((axis,) for axis in range(weight.ndim))]
    choices += [(0, 1)] if weight.ndim > 1 else []
    return choices[pick % len(choices)]


def _squared_error(weight: np.ndarray, axes: tuple[int, ...], scheme: AffineScheme) -> np.ndarray:
    decoded = dequantize_weight(quantize_weight(weight, axes, scheme))
    others = tuple(axis for axis in range(weight.ndim) if axis not in axes)
    return np.asarray(np.square(decoded.astype(np.float64) - weight).sum(axis=others))


@given(weight=_WEIGHTS, pick=st.integers(0, 5), symmetric=st.booleans())
@settings(max_examples=60, deadline=None)
def test_without_clipping_every_weight_is_off_by_half_a_step_at_most(
    weight: np.ndarray, pick: int, symmetric: bool
) -> None:
    found = quantize_weight(weight, _axes(weight, pick), AffineScheme(symmetric, "max"))
    # An asymmetric zero point is rounded too, which can cut half a step off one end of the range.
    steps = 0.5 if symmetric else 1.0
    error = np.abs(dequantize_weight(found).astype(np.float64) - weight)
    rounding = np.abs(weight) * 2e-6  # of scale, division and product in float32
    assert (error <= steps * found.scale.astype(np.float64) * 1.0001 + rounding).all()


@given(weight=_WEIGHTS, pick=st.integers(0, 5), symmetric=st.booleans())
@settings(max_examples=60, deadline=None)
def test_inside_the_clip_range_the_bound_holds_for_the_searched_scale(
    weight: np.ndarray, pick: int, symmetric: bool
) -> None:
    found = quantize_weight(weight, _axes(weight, pick), AffineScheme(symmetric, "mse"))
    inside = (found.quantized > (-127 if symmetric else -128)) & (found.quantized < 127)
    error = np.abs(dequantize_weight(found).astype(np.float64) - weight)
    bound = 0.5001 * found.scale.astype(np.float64) + np.abs(weight) * 2e-6
    assert (error <= bound)[inside].all()


@given(weight=_WEIGHTS, pick=st.integers(0, 5), symmetric=st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_search_is_never_worse_than_no_clipping(weight: np.ndarray, pick: int, symmetric: bool) -> None:
    axes = _axes(weight, pick)
    searched = _squared_error(weight, axes, AffineScheme(symmetric, "mse"))
    plain = _squared_error(weight, axes, AffineScheme(symmetric, "max"))
    largest = np.square(np.abs(weight).max(initial=0), dtype=np.float64)
    assert (searched <= plain * (1 + 1e-5) + 1e-12 * largest).all()


@given(weight=_WEIGHTS, pick=st.integers(0, 5), symmetric=st.booleans())
@settings(max_examples=50, deadline=None)
def test_zero_stays_zero(weight: np.ndarray, pick: int, symmetric: bool) -> None:
    decoded = dequantize_weight(quantize_weight(weight, _axes(weight, pick), AffineScheme(symmetric)))
    assert (decoded[weight == 0] == 0).all()


def test_heavy_tails_are_clipped() -> None:
    weight = np.random.default_rng(0).standard_t(4, (1, 300000)).astype(np.float32)
    searched = _squared_error(weight, (0,), AffineScheme())
    plain = _squared_error(weight, (0,), AffineScheme(search="max"))
    assert (searched < 0.6 * plain).all()


@pytest.mark.parametrize("symmetric", [True, False])
def test_an_all_zero_channel_has_scale_one(symmetric: bool) -> None:
    weight = np.array([[0, 0, 0], [1, 2, -3]], np.float32)
    found = quantize_weight(weight, (0,), AffineScheme(symmetric))
    assert found.scale[0] == 1
    assert (dequantize_weight(found)[0] == 0).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("magnitude", [1e-44, 1e-38, 8e37])
def test_extreme_magnitudes_stay_finite(symmetric: bool, magnitude: float) -> None:
    weight = np.array([[magnitude, -magnitude, magnitude / 2]], np.float32)
    found = quantize_weight(weight, (0,), AffineScheme(symmetric))
    assert (found.scale > 0).all()
    assert np.isfinite(dequantize_weight(found)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38, 1e300])
def test_weights_that_float32_cannot_hold_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN, infinity"):
        quantize_weight(np.array([[1.0, bad]]), (0,))


def test_channels_that_are_not_neighbours_are_refused() -> None:
    with pytest.raises(ValueError, match="not neighbours"):
        quantize_weight(np.ones((2, 3, 4), np.float32), (0, 2))


@pytest.mark.parametrize("shape", [(3, 70000), (70000, 3), (2, 40000, 2)])
def test_large_channels_are_worked_on_in_pieces(shape: tuple[int, ...]) -> None:
    axis = shape.index(min(shape))
    weight = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    found = quantize_weight(weight, (axis,), AffineScheme(search="max"))
    expected = np.clip(np.rint(weight / found.scale), -127, 127)
    assert np.array_equal(found.quantized, expected)


def test_half_scales_are_used_only_in_the_normal_range() -> None:
    scheme = AffineScheme(half_scale=True)
    weight = np.random.default_rng(0).standard_normal((4, 50)).astype(np.float32)
    assert quantize_weight(weight, (0,), scheme).scale.dtype == np.float16
    assert quantize_weight(weight * 1e-6, (0,), scheme).scale.dtype == np.float32


def test_balanced_rounding_cancels_in_the_sum_and_moves_no_weight_beyond_its_neighbour() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((32, 16, 3, 3)).astype(np.float32)
    mean = rng.uniform(0.1, 2, (1, 16, 1, 1)).astype(np.float32)
    plain, balanced = quantize_weight(weight, (0,)), quantize_weight(weight, (0,), inputs=InputMean(mean, 9))

    def offset(decoded: np.ndarray) -> float:
        return float(np.linalg.norm(((decoded - weight) * mean).sum(axis=(1, 2, 3))))

    assert offset(dequantize_weight(balanced)) < 0.2 * offset(dequantize_weight(plain))
    assert np.abs(balanced.quantized.astype(int) - plain.quantized).max() == 1
    assert (np.abs(dequantize_weight(balanced) - weight) <= balanced.scale * 1.0001).mean() > 0.99


@pytest.mark.parametrize(("channels", "axis"), [((0,), 1), ((1,), 0)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_groups_split_the_axis_and_lower_the_error(channels: tuple[int, ...], axis: int, symmetric: bool) -> None:
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    scheme = AffineScheme(symmetric)
    grouped = quantize_in_groups(weight, channels, axis, 16, scheme, InputMean(np.ones((1, 1), np.float32)))
    assert grouped.quantized.shape == ((64, 4, 16) if axis == 1 else (4, 16, 64))
    error = np.linalg.norm(dequantize_weight(grouped).reshape(weight.shape) - weight)
    assert error < 0.9 * np.linalg.norm(dequantize_weight(quantize_weight(weight, channels, scheme)) - weight)
