"""Folding arithmetic against a plain definition of the linear operators."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxshrink.numerics.folding import (
    Affine,
    WeightLayout,
    affine_bias,
    as_uniform,
    batchnorm_affine,
    is_uniform,
    response_to_constant,
    round_once,
    scale_inputs,
    scale_outputs,
)

LAYOUTS = st.builds(WeightLayout, groups=st.integers(1, 3), out_first=st.booleans())


def response(weight: np.ndarray, layout: WeightLayout, x: np.ndarray) -> np.ndarray:
    """The operator's answer to an input that is ``x`` (in,) at every position, without bias and padding: (out,)."""
    blocks = np.split(weight.astype(np.float64), layout.groups, axis=0)
    inputs = np.split(x, layout.groups)
    sums = [block.reshape(*block.shape[:2], -1).sum(axis=2) for block in blocks]
    oriented = [block if layout.out_first else block.T for block in sums]
    return np.concatenate([block @ part for block, part in zip(oriented, inputs, strict=True)])


def case(layout: WeightLayout, seed: int) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((2 * layout.groups, 3, 2)).astype(np.float32)
    return rng, weight, rng.standard_normal(layout.in_channels(weight.shape))


@given(LAYOUTS, st.integers(0, 2**16))
def test_scaling_outputs_scales_the_response(layout: WeightLayout, seed: int) -> None:
    rng, weight, x = case(layout, seed)
    scale = rng.standard_normal(layout.out_channels(weight.shape))
    folded = response(scale_outputs(weight, layout, scale), layout, x)
    np.testing.assert_allclose(folded, scale * response(weight, layout, x), rtol=1e-12, atol=1e-12)


@given(LAYOUTS, st.integers(0, 2**16))
def test_scaling_inputs_is_scaling_the_data(layout: WeightLayout, seed: int) -> None:
    rng, weight, x = case(layout, seed)
    scale = rng.standard_normal(x.shape)
    folded = response(scale_inputs(weight, layout, scale), layout, x)
    np.testing.assert_allclose(folded, response(weight, layout, scale * x), rtol=1e-12, atol=1e-12)


@given(LAYOUTS, st.integers(0, 2**16))
def test_response_to_constant_is_the_response(layout: WeightLayout, seed: int) -> None:
    _, weight, x = case(layout, seed)
    np.testing.assert_allclose(response_to_constant(weight, layout, x), response(weight, layout, x), atol=1e-12)
    everywhere = np.full(x.shape, 0.5)
    folded = response_to_constant(weight, layout, np.array(0.5))
    np.testing.assert_allclose(folded, response(weight, layout, everywhere), atol=1e-12)


@given(st.integers(0, 2**16))
def test_batchnorm_affine_is_the_definition(seed: int) -> None:
    gamma, beta, mean, x = np.random.default_rng(seed).standard_normal((4, 5))
    variance = np.random.default_rng(seed).random(5)
    affine = batchnorm_affine(gamma, beta, mean, variance, 1e-3)
    expected = gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta
    np.testing.assert_allclose(affine.scale * x + affine.shift, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("variance", [-1.0, -1e-5])
def test_batchnorm_affine_of_an_impossible_variance_is_not_finite(variance: float) -> None:
    one = np.ones(1, np.float32)
    assert not batchnorm_affine(one, one, one, np.array([variance]), 1e-5).is_finite


def test_affine_bias_fills_absent_and_scalar_biases() -> None:
    affine = Affine(np.array(2.0), np.array([1.0, 3.0]))
    assert affine_bias(None, affine, 2).tolist() == [1.0, 3.0]
    assert affine_bias(np.float32(5.0), affine, 2).tolist() == [11.0, 13.0]


def test_affine_knows_what_it_does() -> None:
    assert not Affine(np.ones(3), np.zeros(())).scales
    assert not Affine(np.ones(3), np.zeros(())).shifts
    assert Affine(np.array([1.0, 2.0]), np.array(1.0)).scales
    assert not Affine(np.array(np.inf), np.zeros(())).is_finite


def test_one_repeated_number_stays_one() -> None:
    weight = np.broadcast_to(np.float32(0.5), (4, 1000, 1000))
    layout = WeightLayout(groups=2)
    scaled = scale_outputs(weight, layout, np.full(4, 3.0))
    assert is_uniform(scaled)
    rounded = round_once(scaled, np.dtype(np.float32))
    assert rounded is not None
    assert is_uniform(rounded)
    assert rounded.shape == weight.shape
    assert rounded[3, 999, 999] == 1.5
    assert not is_uniform(scale_outputs(weight[:, :2, :2], layout, np.arange(4.0)))


def test_as_uniform_sees_equal_elements() -> None:
    assert is_uniform(as_uniform(np.full((2, 3), 7.0)))
    assert not is_uniform(as_uniform(np.arange(3.0)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_round_once_keeps_the_precision_of_the_type(dtype: type) -> None:
    values = np.random.default_rng(0).standard_normal(100)
    rounded = round_once(values, np.dtype(dtype))
    assert rounded is not None
    assert rounded.dtype == dtype
    np.testing.assert_array_equal(rounded, values.astype(dtype))


@pytest.mark.parametrize("value", [1e5, np.inf, np.nan, 1e-9])
def test_round_once_refuses_what_float16_cannot_hold(value: float) -> None:
    assert round_once(np.array([value, value / 3]), np.dtype(np.float16)) is None


def test_round_once_allows_small_elements_beside_large_ones() -> None:
    assert round_once(np.array([1.0, 1e-9, 0.0]), np.dtype(np.float16)) is not None
    assert round_once(np.zeros(3), np.dtype(np.float16)) is not None
