"""Zeros go where they cost least: the budget is met, and no other split of it costs less."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxshrink.numerics.allocation import LARGEST_SPARSITY, ErrorCurve, allocate, total_error

GRID = (0.3, 0.6, 0.9)


def _curve(size: int, scale: float, growth: float = 4.0) -> ErrorCurve:
    return ErrorCurve(size, GRID, tuple(scale * float(np.exp(growth * sparsity)) for sparsity in GRID))


def test_a_curve_passes_through_what_was_measured() -> None:
    curve = ErrorCurve(100, GRID, (0.1, 0.4, 1.6))
    assert curve.at(np.array([0, 0.15, 0.3, 0.45, 0.6, 0.9])) == pytest.approx([0, 0.025, 0.1, 0.2, 0.4, 1.6])
    assert curve.at(np.array([0.96]))[0] > 1.6


@given(
    st.lists(st.tuples(st.integers(1, 5000), st.floats(1e-6, 10), st.floats(0.5, 12)), min_size=1, max_size=6),
    st.floats(0, 0.95),
)
@settings(max_examples=60, deadline=None)
def test_the_budget_is_met(layers: list[tuple[int, float, float]], sparsity: float) -> None:
    curves = [_curve(*layer) for layer in layers]
    room = sum(int(LARGEST_SPARSITY * curve.size) for curve in curves)
    zeros = min(round(sparsity * sum(curve.size for curve in curves)), room)
    given_zeros = allocate(curves, zeros)
    assert sum(given_zeros) == zeros
    assert all(0 <= count <= LARGEST_SPARSITY * curve.size for count, curve in zip(given_zeros, curves, strict=True))


def test_no_other_split_costs_less() -> None:
    curves = [_curve(40, 1.0), _curve(80, 0.1), _curve(120, 0.01, 9.0)]
    best = min(
        total_error(curves, (a, b, 150 - a - b))
        for a, b in itertools.product(range(0, 40, 2), range(0, 79, 2))
        if 0 <= 150 - a - b <= 117
    )
    found = allocate(curves, 150)
    assert total_error(curves, found) <= 1.02 * best
    assert found[0] < found[1]


def test_more_zeros_never_cost_less_and_the_sensitive_layer_keeps_more() -> None:
    curves = [_curve(1000, 1.0), _curve(1000, 0.01)]
    errors = [total_error(curves, allocate(curves, zeros)) for zeros in range(0, 1900, 100)]
    assert errors == sorted(errors)
    tender, tough = allocate(curves, 1000)
    assert tender < tough
