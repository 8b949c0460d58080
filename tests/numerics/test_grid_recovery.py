"""Scales are found again from the values alone, bit for bit, or no grid is claimed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxshrink.numerics.bit_patterns import same_bits
from onnxshrink.numerics.grid_recovery import LARGEST_STEP, recover_grid


@given(
    st.integers(0, 10**6),
    st.tuples(st.integers(1, 6), st.integers(1, 40)),
    st.integers(1, LARGEST_STEP),
    st.floats(-20, 20),
)
@settings(max_examples=200, deadline=None)
def test_every_grid_is_found(seed: int, shape: tuple[int, int], highest: int, magnitude: float) -> None:
    random = np.random.default_rng(seed)
    scale = (random.uniform(1, 2, (shape[0], 1)) * 10.0**magnitude).astype(np.float32)
    values = random.integers(-highest, highest + 1, shape).astype(np.float32) * scale
    grid = recover_grid(values, (0,))
    assert grid is not None
    assert grid.scale.shape == scale.shape
    assert (grid.scale > 0).all()
    assert (np.abs(grid.steps) <= LARGEST_STEP).all()
    assert same_bits(grid.values(), values)


@pytest.mark.parametrize("axes", [(), (0,), (1,), (2,), (0, 1), (0, 2)])
def test_integers_without_a_common_divisor_come_back_themselves(axes: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    shape = (5, 7, 90)
    steps = random.integers(-127, 128, shape).astype(np.float32)
    scale = random.uniform(0.01, 0.02, [size if axis in axes else 1 for axis, size in enumerate(shape)])
    values = steps * scale.astype(np.float32)
    grid = recover_grid(values, axes)
    if axes == (0, 2):  # 7 integers may have a common divisor
        assert grid is not None
        assert same_bits(grid.values(), values)
        return
    assert grid is not None
    assert np.array_equal(grid.steps, steps)
    assert same_bits(grid.scale, scale.astype(np.float32))


def test_scales_of_half_precision_are_preferred() -> None:
    random = np.random.default_rng(0)
    steps = random.integers(-9, 10, (500, 12)).astype(np.float32)
    steps[:, 0] = 1
    scale = random.uniform(0.01, 0.02, (500, 1)).astype(np.float16).astype(np.float32)
    grid = recover_grid(steps * scale, (0,))
    assert grid is not None
    assert same_bits(grid.scale.astype(np.float16).astype(np.float32), grid.scale)


def test_negative_zeros_are_kept_as_steps() -> None:
    values = np.array([[-0.0, 0.0, 0.5, -1.5]], np.float32)
    grid = recover_grid(values, (0,))
    assert grid is not None
    assert same_bits(grid.values(), values)


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf, 1e-42, 0.123])
def test_what_is_off_the_grid_is_no_grid(special: float) -> None:
    values = np.random.default_rng(0).integers(-127, 128, (4, 50)).astype(np.float32) * np.float32(0.5)
    values[2, 3] = special
    assert recover_grid(values, (0,)) is None
    assert recover_grid(values, ()) is None


def test_random_weights_and_other_types_are_no_grid() -> None:
    random = np.random.default_rng(0)
    assert recover_grid(random.standard_normal((8, 100)).astype(np.float32), (0,)) is None
    assert recover_grid(np.ones((8, 100)), (0,)) is None
    assert recover_grid(np.ones((0, 4), np.float32), (0,)) is None


def test_the_last_bit_off_is_no_grid() -> None:
    values = np.arange(-50, 51, dtype=np.float32)[None] * np.float32(0.3)
    assert recover_grid(values, (0,)) is not None
    values[0, 7] = np.nextafter(values[0, 7], np.float32(0))
    assert recover_grid(values, (0,)) is None
