"""float16 storage: its error bound, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from onnxshrink.storage.float16 import encode_float16


@given(
    npst.arrays(
        np.float32,
        st.integers(1, 20),
        elements=st.floats(2.0**-14, 65504, width=32) | st.floats(-65504, -(2.0**-14), width=32),
    )
)
@settings(max_examples=100, deadline=None)
def test_normal_weights_are_off_by_one_part_in_2048_at_most(weight: np.ndarray) -> None:
    half = encode_float16(weight).astype(np.float64)
    assert (np.abs(half - weight) <= 2.0**-11 * np.abs(weight)).all()


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        ([1.0, np.nan], "NaN or infinity"),
        ([1.0, np.inf], "NaN or infinity"),
        ([1.0, 7e4], "overflow float16"),
        ([1e-7, 2e-7, 3e-7], "too small for float16"),
        ([1e-30], "too small for float16"),
    ],
)
def test_what_float16_does_not_hold_is_refused(weight: list[float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        encode_float16(np.array(weight, np.float32))


def test_a_few_tiny_weights_among_normal_ones_are_fine() -> None:
    assert np.array_equal(encode_float16(np.array([1, 1e-9, 0], np.float32)), np.array([1, 0, 0], np.float16))
