"""Equalizing scales: products keep their value, estimates meet simulated rounding, bounds hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxshrink.numerics.equalization import (
    LARGEST_EXPONENT,
    ChannelRanges,
    Product,
    balancing_scales,
    noise_ratio,
    product_bounds,
    product_table,
    quietest_scales,
    settled_scales,
    smoothed_scales,
)
from onnxshrink.numerics.folding import WeightLayout, scale_inputs, scale_outputs

FEW = settings(max_examples=20, deadline=None)
SEEDS = st.integers(0, 2**16)
LAYOUTS = st.builds(WeightLayout, groups=st.integers(1, 3), out_first=st.booleans())
MATRIX = WeightLayout(out_first=False)


def positive(rng: np.random.Generator, size: int, spread: float = 2.0) -> np.ndarray:
    return np.exp2(rng.uniform(-spread, spread, size))


def observed(x: np.ndarray, count: int = 10**9) -> ChannelRanges:
    """Ranges that are as good as certain unless ``count`` is small."""
    return ChannelRanges.of(x.min(axis=0), x.max(axis=0), x.mean(axis=0), count)


def product(x: np.ndarray, weight: np.ndarray) -> Product:
    return Product(product_table(weight, MATRIX), observed(x), x.shape[1])


def rounded(x: np.ndarray, step: np.ndarray | float) -> np.ndarray:
    return np.rint(x / step) * step


def simulated_error(x: np.ndarray, weight: np.ndarray, scale: np.ndarray) -> float:
    """Mean squared error per sample of x·w, summed over outputs, with 8-bit factors; no input is clipped."""
    scaled_x, scaled_w = x / scale, weight * scale[:, None]
    step = (max(scaled_x.max(), 0.0) - min(scaled_x.min(), 0.0)) / 255
    steps = np.abs(scaled_w).max(axis=0) / 127
    error = rounded(scaled_x, step) @ rounded(scaled_w, steps) - x @ weight
    return float(np.square(error).sum() / len(x))


@FEW
@given(SEEDS, st.floats(0, 1))
def test_balancing_shares_the_spread_out(seed: int, alpha: float) -> None:
    rng = np.random.default_rng(seed)
    first, second = positive(rng, 6), positive(rng, 6)
    scale = balancing_scales(first, second, alpha)
    np.testing.assert_allclose(first / scale, first ** (1 - alpha) * second ** (1 - alpha), rtol=1e-12)
    np.testing.assert_allclose(second * scale, first**alpha * second**alpha, rtol=1e-12)


def test_channels_that_carry_nothing_do_not_care() -> None:
    scale = balancing_scales(np.array([1.0, 0.0, 4.0]), np.array([1.0, 1.0, 0.0]))
    assert np.array_equal(np.isnan(scale), [False, True, True])
    assert np.array_equal(settled_scales(scale, np.zeros(3)), [1, 1, 1])
    assert np.array_equal(settled_scales(np.full(2, np.nan), np.zeros(2)), [1, 1])


@FEW
@given(SEEDS, st.booleans())
def test_settled_scales_keep_to_their_bounds(seed: int, powers: bool) -> None:
    rng = np.random.default_rng(seed)
    ideal = positive(rng, 20, spread=12)
    least = rng.choice([0.0, 0.3, 1.0, np.inf], 20)
    scale = settled_scales(ideal, least, powers)
    assert (scale[np.isinf(least)] == 1).all()
    assert (scale >= np.where(np.isinf(least), 0, least)).all()
    assert (np.abs(np.log2(scale)) <= LARGEST_EXPONENT).all()
    if powers:
        assert (np.frexp(scale)[0] == 0.5).all()


@FEW
@given(SEEDS, st.floats(0.01, 100))
def test_only_ratios_of_the_ideal_matter(seed: int, factor: float) -> None:
    ideal = positive(np.random.default_rng(seed), 9)
    np.testing.assert_allclose(settled_scales(ideal * factor, np.zeros(9)), settled_scales(ideal, np.zeros(9)))


def test_fixed_channels_are_what_others_are_measured_by() -> None:
    ideal = np.array([8.0, 8.0, 8.0, 2.0, 32.0])
    least = np.array([np.inf, 0.0, 0.0, 0.5, 0.0])
    np.testing.assert_allclose(settled_scales(ideal, least), [1, 1, 1, 0.5, 4])


@FEW
@given(LAYOUTS, SEEDS)
def test_a_table_knows_the_scaled_weight(layout: WeightLayout, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((2 * layout.groups, 3, 2, 2)).astype(np.float32)
    table = product_table(weight, layout)
    inputs, outputs = layout.in_channels(weight.shape), layout.out_channels(weight.shape)
    s, t = positive(rng, inputs), positive(rng, outputs)
    by_input = product_table(scale_inputs(weight, layout, s), layout)
    by_output = product_table(scale_outputs(weight, layout, t), layout)
    assert table.taps == 4
    np.testing.assert_allclose(table.outputs(s), by_input.outputs(), rtol=1e-6)
    np.testing.assert_allclose(table.inputs(t), by_output.inputs(), rtol=1e-6)
    np.testing.assert_allclose(by_input.energy, table.energy * s**2, rtol=1e-5)
    assert np.isclose(table.energy.sum(), np.square(weight.astype(np.float64)).sum())
    assert np.isclose(table.inputs().max(), np.abs(weight).max())


@pytest.mark.parametrize("alpha", [None, 0.0, 0.5, 0.8, 1.0])
def test_the_estimate_meets_simulated_rounding(alpha: float | None) -> None:
    rng = np.random.default_rng(1)
    spread = np.exp2(rng.uniform(-4, 2, 64))
    x = rng.standard_normal((4000, 64)) * spread
    weight = rng.standard_normal((64, 48))
    reader = product(x, weight)
    scale = np.ones(64) if alpha is None else settled_scales(smoothed_scales([reader], alpha), np.zeros(64))
    expected = simulated_error(x, weight, scale)
    # The rest is the estimate of E[x²] from ranges.
    assert 0.7 * expected < reader.noise(scale) < 1.5 * expected


@FEW
@given(SEEDS)
def test_the_quietest_scales_are_never_worse_than_none(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((200, 12)) * positive(rng, 12, 4)
    reader = product(x, rng.standard_normal((12, 5)) * positive(rng, 12)[:, None])
    scale = quietest_scales([reader], np.zeros(12), powers_of_two=False)
    assert (scale == 1).all() or noise_ratio([reader], scale) <= 0.9


def test_outliers_move_into_the_weights() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((2000, 32))
    x[:, 5] *= 60
    weight = rng.standard_normal((32, 24))
    reader = product(x, weight)
    scale = quietest_scales([reader], np.zeros(32), powers_of_two=False)
    assert scale[5] == scale.max() > 8 * np.median(scale)
    saved = simulated_error(x, weight, scale) / simulated_error(x, weight, np.ones(32))
    assert saved < 0.2
    assert np.isclose(noise_ratio([reader], scale) ** 2, saved, rtol=0.3)


def test_a_given_alpha_is_taken_whatever_it_does() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((100, 8)) * positive(rng, 8)
    reader = product(x, rng.standard_normal((8, 4)))
    expected = settled_scales(smoothed_scales([reader], 0.3), np.zeros(8))
    assert np.array_equal(quietest_scales([reader], np.zeros(8), False, alpha=0.3), expected)


def test_depthwise_channels_fill_the_range_as_far_as_the_data_can_be_trusted() -> None:
    rng = np.random.default_rng(4)
    depthwise = WeightLayout(groups=8)
    weight = rng.standard_normal((8, 1, 3, 3)).astype(np.float32)
    high = np.array([8.0, 4.0, 2.0, 1.0, 0.5, 8.0, 8.0, 8.0])
    used = {}
    for count in (30, 10**7):
        ranges = ChannelRanges(np.zeros(8), high, high / 8, count)
        scale = quietest_scales([Product(product_table(weight, depthwise), ranges, 8)], np.zeros(8), False)
        used[count] = (high / scale) / (high / scale).max()
    np.testing.assert_allclose(used[10**7], 1, atol=1e-12)
    assert used[30].min() < 0.5


@FEW
@given(SEEDS)
def test_clipping_costs_less_the_more_was_observed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    high, scale = positive(rng, 7), positive(rng, 7)
    few, many = (ChannelRanges(-high / 2, high, high / 4, count).clipping(scale) for count in (10, 1000))
    assert (few >= many).all()
    assert few.sum() > many.sum()


def test_repeated_channels_share_a_factor() -> None:
    rng = np.random.default_rng(5)
    x = np.abs(rng.standard_normal((500, 6))) * np.array([1, 2, 10, 20, 100, 200])
    reader = Product(product_table(rng.standard_normal((6, 4)), MATRIX), observed(x), 3)
    np.testing.assert_array_equal(reader.activation_magnitude, x.max(axis=0)[1::2])
    scale = np.array([0.1, 1.0, 10.0])
    assert reader.noise(scale) == reader.table.noise(reader.ranges, np.repeat(scale, 2))


@FEW
@given(LAYOUTS, SEEDS)
def test_bounds_hold(layout: WeightLayout, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((2 * layout.groups, 3, 2))
    low, high = -float(rng.random()), float(rng.random())
    least, most = product_bounds(weight, layout, low, high)
    x = rng.uniform(low, high, (50, layout.in_channels(weight.shape), 2)) * rng.integers(0, 2, (50, 1, 2))
    oriented = weight if layout.out_first else weight.reshape(layout.groups, 2, 3, 2).swapaxes(1, 2).reshape(-1, 2, 2)
    per_group = oriented.reshape(layout.groups, -1, oriented.shape[1], 2)
    y = np.einsum("goit,ngit->ngo", per_group, x.reshape(50, layout.groups, -1, 2)).reshape(50, -1)
    assert (y >= least - 1e-9).all()
    assert (y <= most + 1e-9).all()


def test_bounds_may_be_infinite_on_one_side() -> None:
    weight = np.array([[1.0, -1.0, 1.0, 0.0], [1.0, -1.0, -1.0, 0.0]])
    least, most = product_bounds(weight, MATRIX, 0.0, np.inf)
    assert np.array_equal(least, [0, -np.inf, -np.inf, 0])
    assert np.array_equal(most, [np.inf, 0, np.inf, 0])


def test_the_cost_of_clipping_meets_new_data() -> None:
    rng = np.random.default_rng(6)
    seen, new = rng.exponential(size=(100, 2000)), rng.exponential(size=(1000, 2000))
    high = seen.max(axis=0)
    cost = np.square(np.maximum(new - high, 0)).mean()
    at_their_own_ends = [
        ChannelRanges(np.zeros(1), high[[channel]], np.zeros(1), 100).clipping(np.ones(1))[0] for channel in range(500)
    ]
    assert 0.5 * cost < np.mean(at_their_own_ends) < 2 * cost
