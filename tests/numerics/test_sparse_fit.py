"""Closed forms against brute force: least squares on columns, removal costs by refitting, searches by all masks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxshrink.numerics.mask_rules import n_of_m, over_layer, over_rows
from onnxshrink.numerics.sparse_fit import (
    SparseFit,
    damped,
    fit_error,
    keep_all_but,
    refit,
    removal_costs,
    remove_least,
)

SEEDS = st.integers(0, 10_000)


def _problem(seed: int, groups: int = 1, channels: int = 3, reduction: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and columns of correlated inputs (groups, columns, reduction)."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((groups, reduction, reduction)) + 0.5
    columns = rng.standard_normal((groups, 50, reduction)) @ mixing
    return rng.standard_normal((groups, channels, reduction)), columns


def _moment(columns: np.ndarray) -> np.ndarray:
    return np.asarray(columns.swapaxes(1, 2) @ columns / columns.shape[1])


@given(SEEDS, st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_the_fit_is_the_least_squares_solution_on_the_columns(seed: int, groups: int) -> None:
    rows, columns = _problem(seed, groups)
    mask = np.random.default_rng(seed).random(rows.shape) < 0.5
    found = refit(rows, _moment(columns), mask)
    assert not found[~mask].any()
    for group, channel in np.ndindex(rows.shape[:2]):
        kept = mask[group, channel]
        if kept.any():
            wanted = columns[group] @ rows[group, channel]
            brute = np.linalg.lstsq(columns[group][:, kept], wanted, rcond=None)[0]
            np.testing.assert_allclose(found[group, channel, kept], brute, rtol=1e-6, atol=1e-8)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_a_removal_costs_what_the_refitted_output_loses(seed: int) -> None:
    rows, columns = _problem(seed, channels=2)
    moment = _moment(columns)
    mask = np.random.default_rng(seed).random(rows.shape) < 0.7
    fitted = refit(rows, moment, mask)
    costs = removal_costs(fitted, moment, mask)
    base = fit_error(rows, fitted, moment)
    assert not costs[~mask].any()
    for place in np.argwhere(mask):
        without = mask.copy()
        without[tuple(place)] = False
        lost = fit_error(rows, refit(rows, moment, without), moment) - base
        np.testing.assert_allclose(costs[tuple(place)], lost[0, place[1]], rtol=1e-5, atol=1e-8)


def test_the_importance_is_half_the_curvature_of_the_output_error() -> None:
    rows, columns = _problem(3, channels=1)
    moment, step = _moment(columns), 1e-3
    importances = SparseFit(rows, moment).importances()

    def error(place: int, change: float) -> float:
        moved = rows.copy()
        moved[0, 0, place] += change
        return float(np.square(columns[0] @ (moved - rows)[0, 0]).mean())

    for place in range(rows.shape[2]):
        curvature = (error(place, step) + error(place, -step) - 2 * error(place, 0)) / step**2
        assert importances[0, 0, place] == pytest.approx(0.5 * curvature * rows[0, 0, place] ** 2, rel=1e-4)


def test_one_zero_a_round_is_obc() -> None:
    rows, columns = _problem(4, channels=1)
    moment, mask = _moment(columns), np.ones((1, 1, 8), bool)
    for _ in range(4):
        trials = []
        for place in np.flatnonzero(mask):
            without = mask.copy()
            without[0, 0, place] = False
            trials.append((float(fit_error(rows, refit(rows, moment, without), moment)[0, 0]), place))
        mask[0, 0, min(trials)[1]] = False
    assert np.array_equal(remove_least(rows, moment, 4, rounds=4) != 0, mask)


@pytest.mark.parametrize("zeros", [2, 4, 6])
def test_the_search_is_close_to_the_best_of_all_masks(zeros: int) -> None:
    found, best, plain = 0.0, 0.0, 0.0
    for seed in range(8):
        rows, columns = _problem(seed, channels=1)
        moment = damped(_moment(columns))
        sparse = SparseFit(rows, moment).prune(over_layer(zeros))
        assert np.count_nonzero(sparse) == 8 - zeros
        found += float(fit_error(rows, sparse, moment)[0, 0])
        masks = np.ones((70, 1, 1, 8), bool)
        errors = []
        for gone in itertools.combinations(range(8), zeros):
            masks[0] = True
            masks[0, 0, 0, list(gone)] = False
            errors.append(float(fit_error(rows, refit(rows, moment, masks[0]), moment)[0, 0]))
        best += min(errors)
        largest = keep_all_but(np.abs(rows), zeros)
        plain += float(fit_error(rows, refit(rows, moment, largest), moment)[0, 0])
    assert best <= found <= 1.6 * best
    assert found < plain


def test_errors_rise_with_the_zeros_and_fall_with_the_fit() -> None:
    rows, columns = _problem(7, channels=6, reduction=24)
    moment = damped(_moment(columns))
    fit, errors = SparseFit(rows, moment), []
    for zeros in (20, 60, 100, 130):
        sparse = fit.prune(over_layer(zeros))
        assert np.count_nonzero(sparse == 0) == zeros
        errors.append(fit_error(rows, sparse, moment).sum())
        masked = np.where(sparse != 0, rows, 0)
        assert errors[-1] < fit_error(rows, masked, moment).sum()
    assert errors == sorted(errors)


@given(SEEDS, st.integers(1, 3), st.sampled_from([1, 4]))
@settings(max_examples=20, deadline=None)
def test_patterns_and_rows_hold_their_counts(seed: int, kept: int, kernel: int) -> None:
    importances = np.random.default_rng(seed).random((2, 3, 10 * kernel))
    mask = n_of_m(kept, 4, kernel)(importances)
    by_place = mask.reshape(2, 3, 10, kernel)
    assert (by_place[:, :, :8].reshape(2, 3, 2, 4, kernel).sum(axis=3) == kept).all()
    assert by_place[:, :, 8:].all()
    scores = importances.reshape(2, 3, 10, kernel)[:, :, :4]
    inside = by_place[:, :, :4]
    assert (np.where(inside, scores, np.inf).min(axis=2) > np.where(inside, 0, scores).max(axis=2)).all()
    assert ((~over_rows(0.3)(importances)).sum(axis=-1) == 3 * kernel).all()


def test_ties_go_in_order() -> None:
    assert keep_all_but(np.array([[1.0, 1, 1, 2]]), 2).tolist() == [[False, False, True, True]]
    assert keep_all_but(np.ones(3), 0).all()
    assert not keep_all_but(np.ones(3), 3).any()


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    rows, columns = _problem(5)
    columns[..., 2] = 0
    moment = damped(_moment(columns))
    sparse = SparseFit(rows, moment).prune(over_layer(12))
    assert np.isfinite(sparse).all()
    assert not sparse[..., 2].any()
    nothing = SparseFit(rows, damped(np.zeros((1, 8, 8)))).prune(over_layer(12))
    assert np.count_nonzero(nothing) == 12
