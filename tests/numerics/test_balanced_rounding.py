"""Rounding that cancels in the sum."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxshrink.numerics.balanced_rounding import balance


@given(seed=st.integers(0, 2**16), rows=st.integers(1, 5), columns=st.integers(1, 80), known=st.booleans())
@settings(max_examples=100, deadline=None)
def test_the_sum_of_errors_never_grows_and_every_weight_moves_by_one_at_most(
    seed: int, rows: int, columns: int, known: bool
) -> None:
    rng = np.random.default_rng(seed)
    steps = rng.uniform(-140, 140, (rows, columns)).astype(np.float32)
    nearest = np.clip(np.rint(steps), -127, 127)
    mean = rng.standard_normal((1, columns)).astype(np.float32) if known else None
    moved = nearest.copy()
    balance(steps, moved, mean, -127, 127)
    factor = 1 if mean is None else mean
    before, after = (np.abs(((q - steps) * factor).sum(axis=1)) for q in (nearest, moved))
    assert (after <= before * 1.0001 + 1e-4).all()
    assert np.abs(moved - nearest).max() <= 1
    assert np.abs(moved).max() <= 127


def test_equal_inputs_leave_half_a_step_at_most() -> None:
    steps = np.random.default_rng(0).uniform(-100, 100, (50, 200)).astype(np.float32)
    integers = np.rint(steps)
    balance(steps, integers, None, -127, 127)
    assert np.abs((integers - steps).sum(axis=1)).max() <= 0.501


@pytest.mark.parametrize("mean", [None, np.zeros((1, 3), np.float32)])
def test_exact_weights_and_silent_inputs_change_nothing(mean: np.ndarray | None) -> None:
    steps = np.array([[1, -2, 3]], np.float32) + (0.4 if mean is not None else 0)
    integers = np.rint(steps)
    expected = integers.copy()
    balance(steps, integers, mean, -127, 127)
    assert np.array_equal(integers, expected)
