from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxshrink.numerics.compensated_levels import assign_compensated
from onnxshrink.numerics.compensated_rounding import output_error
from onnxshrink.numerics.shared_weights import (
    Binary,
    Codebook,
    Grid,
    PowersOfTwo,
    Scheme,
    initial_levels,
    share_rows,
)
from onnxshrink.numerics.weight_levels import Codebooks, ScaledPattern

SCHEMES: list[Scheme] = [Grid(4), Grid(2), Codebook(16), Codebook(4), Codebook(4, 1), Codebook(5, 3), PowersOfTwo(4)]


def _layer(groups: int, channels: int, columns: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and second moments of correlated inputs."""
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((groups, channels, columns)).astype(np.float32)
    mixing = generator.standard_normal((groups, columns, columns)) / np.sqrt(columns)
    inputs = np.maximum(generator.standard_normal((groups, 4 * columns + 8, columns)) @ mixing, -0.3)
    return rows, (inputs.swapaxes(1, 2) @ inputs / inputs.shape[1]).astype(np.float32)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_compensation_costs_the_output_less_than_the_nearest_values(scheme: Scheme) -> None:
    rows, moments = _layer(1, 24, 40)
    nearest = share_rows(rows, scheme, moments, compensated=False).values
    found = share_rows(rows, scheme, moments).values
    assert output_error(rows, found, moments).mean() < 0.7 * output_error(rows, nearest, moments).mean()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(2, 12), st.integers(0, 999), st.sampled_from(SCHEMES))
def test_no_channel_is_worse_than_at_the_nearest_of_the_same_levels(
    groups: int, channels: int, columns: int, seed: int, scheme: Scheme
) -> None:
    rows, moments = _layer(groups, channels, columns, seed)
    levels = initial_levels(rows, scheme, np.einsum("gii->gi", moments), None)
    nearest = np.moveaxis(levels.nearest(np.moveaxis(rows, -1, 0)), 0, -1)
    found = share_rows(rows, scheme, moments, refit=False).values
    assert (output_error(rows, found, moments) <= output_error(rows, nearest, moments) * 1.0001 + 1e-6).all()


def test_the_refit_of_a_codebook_is_the_least_squares_solution() -> None:
    rows, moments = _layer(2, 3, 8)
    levels = initial_levels(rows, Codebook(4), None, None)
    assert isinstance(levels, Codebooks)
    values = np.moveaxis(levels.nearest(np.moveaxis(rows, -1, 0)), 0, -1)
    _, refitted = levels.refitted(rows, values, moments)
    roots = np.linalg.cholesky(moments + 1e-6 * np.eye(8))
    index = np.searchsorted(levels.entries[0], values)
    design = [
        ((index[group, channel, :, None] == np.arange(4)).T @ roots[group]).T
        for group in range(2)
        for channel in range(3)
    ]
    target = [rows[group, channel] @ roots[group] for group in range(2) for channel in range(3)]
    expected, *_ = np.linalg.lstsq(np.concatenate(design), np.concatenate(target), rcond=None)
    assert refitted == pytest.approx(expected[index], rel=1e-3)


def test_the_refit_of_scales_is_the_least_squares_solution() -> None:
    rows, moments = _layer(1, 3, 10)
    levels = initial_levels(rows, Grid(3), None, None)
    assert isinstance(levels, ScaledPattern)
    values = np.moveaxis(levels.nearest(np.moveaxis(rows, -1, 0)), 0, -1)
    refitted, _ = levels.refitted(rows, values, moments)
    assert isinstance(refitted, ScaledPattern)
    integers = np.rint(values / levels.scale[..., None])
    for channel in range(3):
        q, w = integers[0, channel], rows[0, channel]
        assert refitted.scale[0, channel] == pytest.approx(q @ moments[0] @ w / (q @ moments[0] @ q), rel=1e-4)


def test_refitting_never_costs_the_output() -> None:
    rows, moments = _layer(1, 12, 30)
    for scheme in (Grid(3), Codebook(8), Codebook(4, 4)):
        levels = initial_levels(rows, scheme, None, None)
        plain, _ = assign_compensated(rows, levels, moments, refit=False, rounds=0)
        better, _ = assign_compensated(rows, levels, moments, refit=True, rounds=2)
        assert output_error(rows, better, moments).sum() < output_error(rows, plain, moments).sum()


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_a_grid_holds_products_of_integers_and_one_scale(bits: int) -> None:
    rows, moments = _layer(1, 6, 32)
    values = share_rows(rows, Grid(bits), moments).values
    largest = 2 ** (bits - 1) - 1
    for row in values[0]:
        candidates = np.abs(row[row != 0]).max() / np.arange(1, largest + 1, dtype=np.float64)
        fits = [
            scale
            for scale in candidates
            if np.abs(row / scale - np.rint(row / scale)).max() < 1e-3 and np.abs(row / scale).max() < largest + 0.5
        ]
        assert fits
        assert len(np.unique(row)) <= 2 * largest + 1


def test_grid_products_are_exact_in_float32() -> None:
    rows, moments = _layer(1, 5, 24)
    _, levels = assign_compensated(rows, initial_levels(rows, Grid(4), None, None), moments)
    values, levels = assign_compensated(rows, levels, moments, rounds=0)
    assert isinstance(levels, ScaledPattern)
    integers = np.rint(values / levels.scale[..., None]).astype(np.float32)
    assert np.array_equal(values, integers * levels.scale[..., None])


def test_codebook_values_repeat_bit_for_bit() -> None:
    rows, moments = _layer(2, 10, 30)
    assert len(np.unique(share_rows(rows, Codebook(16), moments).values)) <= 16
    per_channel = share_rows(rows, Codebook(3, 1), moments).values
    assert max(len(np.unique(row)) for row in per_channel.reshape(20, 30)) <= 3


def test_powers_of_two_are_exactly_that() -> None:
    rows, moments = _layer(1, 10, 30)
    values = share_rows(0.37 * rows, PowersOfTwo(4), moments).values
    mantissas, exponents = np.frexp(np.abs(values[values != 0]))
    assert set(mantissas.tolist()) == {0.5}
    assert len(set(exponents.tolist())) <= 7


def test_the_scale_of_binary_weights_is_their_mean_magnitude() -> None:
    rows, _ = _layer(1, 4, 50)
    values = share_rows(rows, Binary()).values
    expected = np.abs(rows).mean(axis=2, keepdims=True)
    assert np.abs(values) == pytest.approx(np.broadcast_to(expected, rows.shape), rel=1e-5)
    assert (np.sign(values) == np.sign(rows)).all()


def test_the_scale_of_ternary_weights_leaves_the_least_squared_error() -> None:
    rows, _ = _layer(1, 5, 40)
    values = share_rows(rows, Grid(2)).values
    error = np.square(values - rows).sum(axis=2)[0]
    for channel, row in enumerate(rows[0]):
        scales = np.linspace(0.05, 3, 2000)[:, None]
        steps = np.clip(np.rint(row / scales), -1, 1)
        assert error[channel] <= np.square(steps * scales - row).sum(axis=1).min() * 1.001


@pytest.mark.parametrize("scheme", [*SCHEMES, Binary()], ids=str)
def test_pruned_weights_stay_positive_zero(scheme: Scheme) -> None:
    rows, moments = _layer(1, 8, 40)
    rows[np.abs(rows) < 0.8] = 0
    for values in (share_rows(rows, scheme, moments).values, share_rows(rows, scheme).values):
        assert (values[rows == 0] == 0).all()
        assert not np.signbit(values[values == 0]).any()


@pytest.mark.parametrize("scheme", [*SCHEMES, Binary()], ids=str)
def test_weights_that_are_all_zero_stay_so(scheme: Scheme) -> None:
    rows = np.zeros((1, 4, 10), np.float32)
    _, moments = _layer(1, 4, 10)
    assert not share_rows(rows, scheme, moments).values.any()


def test_what_is_not_finite_is_refused() -> None:
    rows, moments = _layer(1, 2, 4)
    with pytest.raises(ValueError, match="NaN or infinity"):
        share_rows(np.full_like(rows, np.nan), Grid(4))
    with pytest.raises(ValueError, match="NaN or infinity"):
        share_rows(rows, Grid(4), np.full_like(moments, np.inf))
