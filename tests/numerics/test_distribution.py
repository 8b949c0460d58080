from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxshrink.numerics.distribution import describe


@given(
    hnp.arrays(
        np.float32, hnp.array_shapes(min_dims=2, max_dims=3, max_side=6), elements=st.floats(-100, 100, width=16)
    )
)
def test_figures_follow_their_definitions(weight: np.ndarray) -> None:
    facts = describe(weight, (0,))
    assert facts is not None
    assert (facts.minimum, facts.maximum) == (weight.min(), weight.max())
    assert facts.mean == pytest.approx(weight.astype(np.float64).mean(), abs=1e-9)
    assert facts.std == pytest.approx(weight.astype(np.float64).std(), rel=1e-6, abs=1e-5)
    assert 0 <= facts.range_used <= 1.0000001


def test_a_normal_distribution_has_kurtosis_three() -> None:
    weight = np.random.default_rng(0).standard_normal((512, 1024)).astype(np.float32)
    facts = describe(weight, (0,))
    assert facts is not None
    assert facts.kurtosis == pytest.approx(3, abs=0.1)
    assert facts.magnitude_999 == pytest.approx(3.29, abs=0.1)


@pytest.mark.parametrize("axes", [(0,), (1,), ()])
def test_the_int8_estimate_is_what_rounding_gives(axes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((64, 96)) * rng.uniform(0.1, 3, (64, 1))).astype(np.float32)
    inner = tuple(axis for axis in range(2) if axis not in axes)
    scale = np.abs(weight).max(axis=inner, keepdims=True) / 127
    error = weight - np.round(weight / scale) * scale
    measured = 10 * np.log10((weight**2).sum() / (error**2).sum())
    facts = describe(weight, axes)
    assert facts is not None
    assert facts.int8_sqnr_db == pytest.approx(measured, abs=0.2)


def test_an_outlier_leaves_most_of_the_range_unused() -> None:
    weight = np.full((8, 1000), 0.01, np.float32)
    weight[3, 5] = 10.0
    facts = describe(weight, (1,))
    assert facts is not None
    assert facts.range_used == pytest.approx(0.001)


def test_float16_and_zero_weights() -> None:
    facts = describe(np.zeros((2, 2), np.float16), (0,))
    assert facts is not None
    assert (facts.std, facts.kurtosis, facts.range_used, facts.int8_sqnr_db) == (0.0, 0.0, 0.0, None)


@pytest.mark.parametrize("weight", [np.empty((0, 3), np.float32), np.array([[np.nan, 1.0]]), np.array([[np.inf, 1.0]])])
def test_what_is_empty_or_not_finite_has_no_distribution(weight: np.ndarray) -> None:
    assert describe(weight, (0,)) is None
