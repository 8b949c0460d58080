from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxshrink.numerics.channel_agreement import ChannelAgreement


def agreement(original: np.ndarray, result: np.ndarray, axis: int = 1) -> ChannelAgreement:
    """Added in two pieces: sums must not depend on that."""
    found = ChannelAgreement()
    for half in (slice(0, 1), slice(1, None)):
        found.add(original[half], result[half], axis)
    return found


@given(st.integers(0, 1000), st.floats(1e-3, 0.5))
def test_the_error_is_that_of_the_norms(seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    f = rng.normal(size=(3, 4, 5)).astype(np.float32)
    g = (f + noise * rng.normal(size=f.shape)).astype(np.float32)
    found = agreement(f, g)
    expected = np.linalg.norm(f.astype(np.float64) - g) / np.linalg.norm(f.astype(np.float64))
    assert found.relative_error == pytest.approx(expected, rel=1e-9)
    assert found.relative_error_up_to_factors is not None
    assert 0 <= found.relative_error_up_to_factors <= 1


@given(st.integers(0, 1000))
def test_factors_per_channel_do_not_count(seed: int) -> None:
    rng = np.random.default_rng(seed)
    f = rng.normal(size=(3, 4, 5))
    found = agreement(f, f * rng.uniform(0.2, 5, size=(1, 4, 1)))
    assert found.relative_error is not None
    assert found.relative_error > 0.01
    assert found.relative_error_up_to_factors == pytest.approx(0, abs=1e-6)


def test_equal_outputs_have_no_error() -> None:
    f = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    assert agreement(f, f).relative_error == 0


def test_what_cannot_be_compared_has_none() -> None:
    nothing, zeros, ones = ChannelAgreement(), np.zeros((2, 3)), np.ones((2, 3))
    assert nothing.relative_error is None
    assert nothing.relative_error_up_to_factors is None
    assert agreement(zeros, ones).relative_error is None
    assert agreement(ones, zeros).relative_error == 1
    assert agreement(ones, zeros).relative_error_up_to_factors is None
    assert agreement(ones, np.full((2, 3), np.nan)).relative_error is None
