"""Rounding that changes a layer's output least."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxshrink.numerics.compensated_rounding import output_error, refit_scale, round_to_grid, target_weights
from onnxshrink.numerics.pair_safe import is_pair_safe, nearest_integers, quantize_pair_safe


def _inputs(seed: int, samples: int, reduction: int) -> np.ndarray:
    """Correlated, mostly positive inputs (samples, reduction), as behind a ReLU."""
    rng = np.random.default_rng(seed)
    few = np.geomspace(1, 0.03, reduction)  # most of the energy lies in few directions
    mixed = rng.standard_normal((samples, reduction)) @ (rng.standard_normal((reduction, reduction)) * few[:, None])
    return np.maximum(mixed / np.sqrt(reduction) + 0.1, 0).astype(np.float32)


def _moment(inputs: np.ndarray) -> np.ndarray:
    return inputs.T @ inputs / len(inputs)


def _weights(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed + 1).standard_normal(shape).astype(np.float32)


@given(
    seed=st.integers(0, 2**16),
    groups=st.integers(1, 3),
    channels=st.integers(1, 5),
    reduction=st.integers(1, 40),
    samples=st.integers(1, 60),
    paired=st.booleans(),
    squeeze=st.floats(0.5, 1.2),
)
@settings(max_examples=60, deadline=None)
def test_the_output_error_is_never_above_nearest_and_pairs_stay_safe(
    seed: int, groups: int, channels: int, reduction: int, samples: int, paired: bool, squeeze: float
) -> None:
    rows = _weights(seed, groups, channels, reduction)
    moments = np.stack([_moment(_inputs(seed + group, samples, reduction)) for group in range(groups)])
    scale = np.abs(rows).max(axis=2) / 127 * np.float32(squeeze)
    found = round_to_grid(rows, scale, moments, paired)
    assert found.dtype == np.int8
    assert found.shape == rows.shape
    assert found.min() >= -127
    assert not paired or is_pair_safe(found)
    steps = rows / scale[..., None]
    energy = np.repeat(np.diagonal(moments, axis1=1, axis2=2), channels, axis=0)
    nearest = nearest_integers(steps.reshape(-1, reduction), paired, energy).reshape(rows.shape)
    limit = output_error(steps, nearest, moments) * (1 + 1e-4) + 1e-5
    assert (output_error(steps, found, moments) <= limit).all()


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize(("channels", "reduction"), [(16, 64), (8, 301), (4, 600)])
def test_errors_of_correlated_inputs_cancel(channels: int, reduction: int, paired: bool) -> None:
    rows, moment = _weights(0, channels, reduction), _moment(_inputs(0, 3 * reduction, reduction))
    nearest, scale = quantize_pair_safe(rows, paired)
    found = round_to_grid(rows, scale, moment, paired)
    errors = [output_error(rows, q * scale[:, None], moment).sum() for q in (found, nearest)]
    assert errors[0] < 0.4 * errors[1]
    refitted = refit_scale(rows, found, scale, moment)
    assert (output_error(rows, found * refitted[:, None], moment) <= errors[0]).all()


def test_many_small_groups_are_rounded_at_once() -> None:
    rows = _weights(3, 500, 1, 9)
    moments = np.stack([_moment(_inputs(group, 50, 9)) for group in range(500)])
    scale = np.abs(rows).max(axis=2) / 127
    found = round_to_grid(rows, scale, moments, paired=False)
    nearest = np.rint(rows / scale[..., None])
    errors = [output_error(rows, q * scale[..., None], moments).sum() for q in (found, nearest)]
    assert errors[0] < 0.6 * errors[1]


def test_one_group_is_the_same_as_none() -> None:
    rows, moment = _weights(4, 5, 21), _moment(_inputs(4, 90, 21))
    scale = np.abs(rows).max(axis=1) / 100
    grouped = round_to_grid(rows[None], scale[None], moment[None], paired=True)
    assert np.array_equal(grouped[0], round_to_grid(rows, scale, moment, paired=True))


def test_no_change_of_one_weight_by_one_step_would_help() -> None:
    rows, moment = _weights(5, 6, 24), _moment(_inputs(5, 200, 24))
    scale = np.abs(rows).max(axis=1) / 127
    damped = moment + 0.01 * np.mean(np.diagonal(moment)) * np.eye(24, dtype=np.float32)
    found = round_to_grid(rows, scale, moment, paired=False)
    steps = rows / scale[:, None]
    before = output_error(steps, found, damped)
    for column in range(24):
        for change in (-1, 1):
            moved = found.astype(np.float32)
            moved[:, column] += change
            allowed = np.abs(moved[:, column]) <= 127
            assert (output_error(steps, moved, damped) >= before * (1 - 1e-4))[allowed].all()


_SAFE = np.array([pair for pair in itertools.product(range(-127, 128), repeat=2) if abs(sum(pair)) <= 128])


@pytest.mark.parametrize("seed", range(20))
def test_an_offending_pair_gets_the_best_of_all_safe_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = rng.uniform([80, 30], [127, 100]) * rng.choice([-1, 1])
    tie = rng.uniform(-0.8, 0.8)
    moment = np.array([[1, tie], [tie, 1]])
    error = _SAFE - steps
    least = np.einsum("ij,jk,ik->i", error, moment, error).min()
    found = round_to_grid(steps[None], np.ones(1), moment, paired=True, damping=0)
    assert output_error(steps[None], found, moment)[0] == pytest.approx(least, rel=1e-4)


@pytest.mark.parametrize("paired", [False, True])
def test_weights_on_the_grid_are_kept_exactly(paired: bool) -> None:
    rng = np.random.default_rng(6)
    integers = rng.integers(-64, 65, (7, 130)).astype(np.int8)
    scale = np.exp2(rng.integers(-8, 8, 7)).astype(np.float32)
    found = round_to_grid(integers * scale[:, None], scale, _moment(_inputs(6, 300, 130)), paired)
    assert np.array_equal(found, integers)


@pytest.mark.parametrize(
    "moment",
    [np.zeros((6, 6)), np.diag([0, 0, 0, 1.0, 1, 1]), np.ones((6, 6)), np.diag([1, -3.0, 1, -3, 1, -3]) * 1e-9],
    ids=["no input", "dead inputs", "equal inputs", "not a moment"],
)
def test_degenerate_moments_round_by_one_step_at_most(moment: np.ndarray) -> None:
    steps = np.random.default_rng(7).uniform(-60, 60, (4, 6))
    found = round_to_grid(steps, np.ones(4), moment, paired=True)
    assert np.abs(found - steps).max() <= 1.5


@pytest.mark.parametrize("place", ["rows", "moment"])
def test_numbers_that_are_not_finite_are_refused(place: str) -> None:
    rows, moment = np.ones((2, 4)), np.eye(4)
    (rows if place == "rows" else moment)[1, 1] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        round_to_grid(rows, np.ones(2), moment, paired=False)


def test_a_scale_without_information_is_kept() -> None:
    rows, moment = _weights(8, 3, 5), np.eye(5, dtype=np.float32)
    integers = np.array([[0] * 5, [1] * 5, [2, 0, 0, 0, 0]])
    rows[1], rows[2] = -1, 3
    found = refit_scale(rows, integers, np.array([0.5, 0.25, 9], np.float32), moment)
    assert found.tolist() == [0.5, 0.25, 1.5]
    assert found.dtype == np.float32


def test_target_weights_solve_the_least_squares_problem() -> None:
    inputs = _inputs(9, 400, 12).astype(np.float64)
    changed = inputs + 0.1 * np.random.default_rng(9).standard_normal(inputs.shape)
    rows = _weights(9, 5, 12).astype(np.float64)
    expected = np.linalg.lstsq(changed, inputs @ rows.T, rcond=None)[0].T
    moments = changed.T @ changed / 400, inputs.T @ changed / 400
    assert target_weights(rows, *moments, damping=0) == pytest.approx(expected, rel=1e-6)
    far = np.abs(target_weights(rows, *moments, damping=1e6) - rows).max()
    assert far < 1e-3 < np.abs(expected - rows).max()
    damped = target_weights(rows, *moments)

    def loss(weights: np.ndarray) -> float:
        return float(np.square(changed @ weights.T - inputs @ rows.T).sum())

    assert loss(expected) <= loss(damped) < loss(rows)


def test_target_weights_of_unchanged_inputs_are_the_weights() -> None:
    rows = _weights(10, 3, 2, 8)
    moments = np.stack([_moment(_inputs(group, 4, 8)) for group in range(3)])  # of rank 4
    assert np.array_equal(target_weights(rows, moments, moments), rows)
    dead = np.zeros((3, 8, 8), np.float32)
    assert np.array_equal(target_weights(rows, dead, dead), rows)
