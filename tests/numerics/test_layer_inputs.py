"""Patches and rows: a layer's weights times its columns are what ONNX Runtime computes; moments are their means."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxshrink.numerics.layer_inputs import (
    Window,
    columns_of,
    input_moments,
    output_positions,
    paired_moments,
    patches,
)
from tests.static_models import text_model
from tests.support import outputs

Same = Literal["upper", "lower"] | None


@st.composite
def windows(draw: st.DrawFn) -> tuple[Window, tuple[int, ...], int]:
    """A window, an input shape that it fits, and output channels per group."""
    dimensions = draw(st.integers(1, 3))

    def sizes(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.integers(low, high), min_size=dimensions, max_size=dimensions)))

    kernel, strides = sizes(1, 3), sizes(1, 3)
    same: Same = draw(st.sampled_from([None, "upper", "lower"]))
    dilations = sizes(1, 2) if same is None else (1,) * dimensions  # ONNX Runtime refuses auto_pad with dilations
    pads = tuple(zip(sizes(0, 2), sizes(0, 2), strict=True)) if same is None else ((0, 0),) * dimensions
    spare = sizes(0, 3)
    groups, channels = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    spatial = [(k - 1) * d + 1 + more for k, d, more in zip(kernel, dilations, spare, strict=True)]
    shape = (draw(st.integers(1, 2)), groups * channels, *spatial)
    return Window(kernel, strides, dilations, pads, groups, same), shape, draw(st.integers(1, 2))


def _conv(window: Window, activation: np.ndarray, weight: np.ndarray) -> np.ndarray:
    pads = [pad[end] for end in (0, 1) for pad in window.pads]
    padding = f"pads={pads}" if window.same is None else f'auto_pad="SAME_{window.same.upper()}"'
    text = (
        f"m (float{list(activation.shape)} x, float{list(weight.shape)} w) => (float y) {{ y = Conv<{padding}, "
        f"strides={list(window.strides)}, dilations={list(window.dilations)}, group={window.groups}>(x, w) }}"
    )
    return outputs(text_model(text), {"x": activation, "w": weight})["y"]


@settings(max_examples=60, deadline=None)
@given(windows(), st.integers(0, 2**16))
def test_weights_times_patches_are_the_convolution(case: tuple[Window, tuple[int, ...], int], seed: int) -> None:
    window, shape, filters = case
    generator = np.random.default_rng(seed)
    activation = generator.integers(-8, 9, shape).astype(np.float32)  # sums of integers are exact
    weight_shape = (window.groups * filters, shape[1] // window.groups, *window.kernel)
    weight = generator.integers(-8, 9, weight_shape).astype(np.float32)
    expected = _conv(window, activation, weight)
    total = output_positions(shape, window)
    assert total == expected.size // expected.shape[1]
    columns = patches(activation, window, np.arange(total))
    assert columns.shape == (total, window.groups, math.prod(weight_shape[1:]))
    products = np.einsum("pgr,gfr->pgf", columns, weight.reshape(window.groups, filters, -1)).reshape(total, -1)
    np.testing.assert_array_equal(products, np.moveaxis(expected, 1, -1).reshape(total, -1))
    chosen = generator.permutation(total)[: max(1, total // 2)]
    np.testing.assert_array_equal(patches(activation, window, chosen), columns[chosen])


def test_a_kernel_larger_than_its_input_has_no_positions() -> None:
    assert output_positions((2, 1, 2, 5), Window((3, 3), (1, 1), (1, 1), ((0, 0), (0, 0)))) == 0


def test_without_a_window_columns_are_rows_of_the_last_axis() -> None:
    activation = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    np.testing.assert_array_equal(columns_of(activation, None, np.array([5, 0])), [[[20, 21, 22, 23]], [[0, 1, 2, 3]]])


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.booleans(), st.integers(0, 2**16))
def test_moments_are_means_of_products(samples: int, rows: int, width: int, centred: bool, seed: int) -> None:
    generator = np.random.default_rng(seed)
    activations = [generator.standard_normal((rows, width)).astype(np.float32) for _ in range(samples)]
    found = input_moments(activations, None, rows, centred=centred)
    stacked = np.concatenate(activations).astype(np.float64)
    stacked -= stacked.mean(axis=0) if centred else 0
    assert found is not None
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, (stacked.T @ stacked / len(stacked))[None], atol=1e-5)


def test_moments_of_a_convolution_are_those_of_its_patches_by_group() -> None:
    generator = np.random.default_rng(0)
    window = Window((3, 3), (2, 1), (1, 1), ((1, 1), (0, 1)), groups=2)
    activations = [generator.standard_normal((1, 4, 7, 6)).astype(np.float32) for _ in range(3)]
    columns = np.concatenate(
        [patches(array, window, np.arange(output_positions(array.shape, window))) for array in activations]
    ).astype(np.float64)
    found = input_moments(activations, window, 10_000, centred=False)
    np.testing.assert_allclose(found, np.einsum("pgi,pgj->gij", columns, columns) / len(columns), atol=1e-5)  # type: ignore[arg-type]


def test_a_choice_of_columns_is_seeded_and_close() -> None:
    generator = np.random.default_rng(0)
    activations = [generator.standard_normal((4000, 3)).astype(np.float32)]
    full, some, again, other = (
        input_moments(activations, None, count, centred=False, seed=seed)
        for count, seed in ((4000, 0), (1000, 1), (1000, 1), (1000, 2))
    )
    assert full is not None
    assert some is not None
    assert again is not None
    assert other is not None
    assert np.array_equal(some, again)
    assert not np.array_equal(some, other)
    # A mean of 1000 products of variance at most 2: five standard errors.
    assert np.abs(some - full).max() < 5 * math.sqrt(2 / 1000)


def test_centred_moments_leave_the_activations_as_they_are() -> None:
    activation = np.full((5, 2), 3, np.float32)
    found = input_moments([activation], None, 5, centred=True)
    np.testing.assert_array_equal(found, np.zeros((1, 2, 2)))  # type: ignore[arg-type]
    np.testing.assert_array_equal(activation, np.full((5, 2), 3))


@pytest.mark.parametrize("activations", [[], [np.empty((0, 4), np.float32)]])
def test_without_columns_there_are_no_moments(activations: list[np.ndarray]) -> None:
    assert input_moments(activations, None, 10, centred=True) is None


def test_paired_moments_are_those_of_the_same_columns() -> None:
    generator = np.random.default_rng(5)
    pairs = [(generator.normal(size=(7, 3)), generator.normal(size=(7, 3))) for _ in range(4)]
    found = paired_moments(pairs, None, 100, centred=False)
    assert found is not None
    first, second = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
    assert found.changed[0] == pytest.approx(second.T @ second / 28, rel=1e-4, abs=1e-6)
    assert found.cross[0] == pytest.approx(first.T @ second / 28, rel=1e-4, abs=1e-6)
    assert (found.columns, found.scarcity, found.finite) == (28, 1.0, True)
    few = paired_moments(pairs, None, 1, centred=False)
    assert few is not None
    assert few.scarcity == (4 * 3 / 4) ** 2


def test_no_columns_no_paired_moments() -> None:
    assert paired_moments([], None, 8, centred=True) is None
