"""Blocks of weights on 4- and 8-bit grids: bounds, exact cases, and errors that never rise."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxshrink.numerics import blockwise
from onnxshrink.numerics.blockwise import (
    BlockScheme,
    BlockWeight,
    dequantize_blocks,
    product_error,
    quantize_blocks,
)

_SCHEMES = st.builds(
    BlockScheme,
    bits=st.sampled_from([4, 8]),
    block=st.sampled_from([16, 32]),
    symmetric=st.booleans(),
    half_scale=st.booleans(),
)


def _problem(seed: int, reduction: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """A weight and the second moment of correlated inputs."""
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((3 * reduction, reduction)) @ rng.standard_normal((reduction, reduction))
    weight = rng.standard_normal((reduction, channels)).astype(np.float32)
    return weight, (inputs.T @ inputs / len(inputs)).astype(np.float32)


def _step(quantized: BlockWeight) -> np.ndarray:
    """The scale of every weight, (reduction, channels)."""
    steps: np.ndarray = np.repeat(quantized.scale.astype(np.float32), quantized.block, axis=0)
    return steps[: len(quantized.quantized)]


@given(seed=st.integers(0, 2**16), reduction=st.integers(1, 40), channels=st.integers(1, 6), scheme=_SCHEMES)
@settings(max_examples=30, deadline=None)
def test_integers_shapes_and_types_are_those_of_the_scheme(
    seed: int, reduction: int, channels: int, scheme: BlockScheme
) -> None:
    weight, moment = _problem(seed, reduction, channels)
    for known in (None, moment):
        found = quantize_blocks(weight, scheme, known)
        blocks = -(-reduction // scheme.block)
        assert found.quantized.shape == weight.shape
        assert found.scale.shape == (blocks, channels)
        assert found.quantized.dtype == (np.int8 if scheme.symmetric else np.uint8)
        assert (found.zero_point is None) == scheme.symmetric
        assert found.scale.dtype == (np.float16 if scheme.half_scale else np.float32)
        low, high = scheme.limits
        assert found.quantized.min() >= low
        assert found.quantized.max() <= high
        assert (found.scale > 0).all()


@given(seed=st.integers(0, 2**16), reduction=st.integers(1, 40), channels=st.integers(1, 6), scheme=_SCHEMES)
@settings(max_examples=30, deadline=None)
def test_squared_error_is_at_most_that_of_the_full_range(
    seed: int, reduction: int, channels: int, scheme: BlockScheme
) -> None:
    weight, _ = _problem(seed, reduction, channels)
    error = dequantize_blocks(quantize_blocks(weight, scheme)) - weight
    starts = range(0, reduction, scheme.block)
    low = np.minimum(np.minimum.reduceat(weight, starts, axis=0), 0)
    high = np.maximum(np.maximum.reduceat(weight, starts, axis=0), 0)
    least, most = scheme.limits
    step = np.maximum(-low / -least, high / most) if scheme.symmetric else (high - low) / most
    # Rounding is off by half a step, at the ends by up to one more half for the rounded zero point.
    worst = np.repeat(step, scheme.block, axis=0)[:reduction] * (0.5 if scheme.symmetric else 1.0)
    sums = (np.add.reduceat(np.square(part), starts, axis=0) for part in (error, worst))
    assert np.less_equal(*(part * factor for part, factor in zip(sums, (1, 1.01), strict=True))).all()


@given(seed=st.integers(0, 2**16), reduction=st.integers(1, 40), channels=st.integers(1, 6), scheme=_SCHEMES)
@settings(max_examples=30, deadline=None)
def test_no_channel_of_the_product_gets_worse_than_by_nearest_rounding(
    seed: int, reduction: int, channels: int, scheme: BlockScheme
) -> None:
    weight, moment = _problem(seed, reduction, channels)
    scheme = replace(scheme, half_scale=False)
    size = -(-reduction // scheme.block) * scheme.block
    padded = blockwise._Moment.padded(moment, size)
    assert padded is not None
    target = np.zeros((size, channels), np.float32)
    target[:reduction] = weight
    nearest = blockwise._nearest(target, np.diagonal(padded.matrix), scheme).values()[:reduction]
    best = dequantize_blocks(quantize_blocks(weight, scheme, moment))
    damped = padded.matrix[:reduction, :reduction]
    assert (product_error(best - weight, damped) <= product_error(nearest - weight, damped) * 1.0001 + 1e-12).all()


def test_compensated_rounding_halves_the_error_on_correlated_inputs() -> None:
    weight, moment = _problem(0, 128, 32)
    for bits in (4, 8):
        scheme = BlockScheme(bits, 32)  # type: ignore[arg-type]
        errors = [
            product_error(dequantize_blocks(quantize_blocks(weight, scheme, known)) - weight, moment).sum()
            for known in (moment, None)
        ]
        assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_weights_on_the_grid_are_kept_exactly(bits: Literal[4, 8], symmetric: bool) -> None:
    scheme = BlockScheme(bits, 16, symmetric)
    low, high = scheme.limits
    rng = np.random.default_rng(1)
    zero = 0 if symmetric else 5
    integers = rng.integers(low, high + 1, (48, 3))
    integers[::16], integers[1::16] = low, high  # both ends in every block
    weight = ((integers - zero) * 0.125).astype(np.float32)
    for moment in (None, _problem(2, 48, 1)[1]):
        found = quantize_blocks(weight, scheme, moment)
        assert np.array_equal(dequantize_blocks(found), weight)
        assert np.array_equal(found.quantized, integers)


def test_zero_weights_unused_inputs_and_no_inputs() -> None:
    weight, moment = _problem(3, 40, 4)
    weight[:, 1], weight[16:32] = 0, 0
    moment[:8], moment[:, :8] = 0, 0
    for known in (moment, np.zeros_like(moment)):
        found = dequantize_blocks(quantize_blocks(weight, BlockScheme(4, 16), known))
        assert np.isfinite(found).all()
        assert not found[:, 1].any()
        # Without a sample that says otherwise, a weight is rounded for its own sake.
        assert np.abs(found - weight)[:8].max() < 0.5 * np.abs(weight).max()
    assert not quantize_blocks(np.zeros((5, 2), np.float32), BlockScheme(4, 16)).quantized.any()


@pytest.mark.parametrize("magnitude", [1e-30, 1e-5, 1.0, 1e6, 8e37])
def test_magnitudes_do_not_matter(magnitude: float) -> None:
    weight, moment = _problem(4, 32, 3)
    weight = (weight / np.abs(weight).max() * magnitude).astype(np.float32)
    for known in (None, moment):
        found = quantize_blocks(weight, BlockScheme(8, 16, half_scale=True), known)
        assert found.scale.dtype == (np.float16 if 1 <= magnitude <= 1e6 else np.float32)
        assert np.abs(dequantize_blocks(found) - weight).max() <= 3 * _step(found).max()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_what_a_grid_cannot_hold_is_refused(bad: float) -> None:
    weight = np.ones((16, 2), np.float32)
    weight[3, 1] = bad
    with pytest.raises(ValueError, match="NaN, infinity, or numbers near the end of the float32 range"):
        quantize_blocks(weight, BlockScheme(4, 16))


def test_channels_do_not_depend_on_each_other() -> None:
    weight, moment = _problem(5, 48, 1500)
    whole = quantize_blocks(weight, BlockScheme(4, 16), moment)
    alone = quantize_blocks(weight[:, 1200:1203], BlockScheme(4, 16), moment)
    difference = dequantize_blocks(whole)[:, 1200:1203] - dequantize_blocks(alone)
    assert np.mean(difference != 0) < 0.05  # sums in another order may round the other way
