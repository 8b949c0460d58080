"""Which weights become zero: exact counts, and the same ones every time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from onnxshrink.numerics.sparsity import (
    Cut,
    apply_cut,
    count_ties,
    keep_n_of_m,
    row_norms,
    smallest_cut,
    zero_count,
    zero_rows,
)

_ARRAYS = npst.arrays(
    np.float32,
    npst.array_shapes(max_dims=3, max_side=9),
    # Few distinct values, so that ties are common; and zeros, and subnormal numbers.
    elements=st.one_of(st.sampled_from([-1.0, 0.0, 1.0, 2.0, 1e-44]), st.floats(-10, 10, width=32)),
)


@given(array=_ARRAYS, sparsity=st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_a_cut_zeroes_exactly_the_smallest_and_of_equals_the_first(array: np.ndarray, sparsity: float) -> None:
    count = zero_count(array.size, sparsity)
    pruned = apply_cut(array, smallest_cut(lambda: [array], count))
    expected = array.copy().reshape(-1)
    expected[np.argsort(np.abs(expected), kind="stable")[:count]] = 0
    assert np.array_equal(pruned.reshape(-1), expected)


def test_half_counts_round_up() -> None:
    assert [zero_count(5, 0.5), zero_count(4, 0.5), zero_count(3, 0), zero_count(3, 1)] == [3, 2, 0, 3]


def test_a_cut_over_several_arrays_shares_one_threshold() -> None:
    arrays = [np.array([1, -2, 3], np.float32), np.array([[2, 2], [5, -1]], np.float32)]
    cut = smallest_cut(lambda: arrays, 4)
    assert cut == Cut(2.0, 2)
    assert [count_ties(array, cut) for array in arrays] == [1, 2]


def test_types_are_kept() -> None:
    for dtype in (np.float16, np.float64):
        assert apply_cut(np.array([0.1, 5], dtype), Cut(1.0)).dtype == dtype


@given(
    weight=npst.arrays(
        np.float32, npst.array_shapes(min_dims=2, max_dims=4, max_side=9), elements=st.floats(-3, 3, width=32)
    ),
    axis=st.integers(0, 1),
)
@settings(max_examples=100, deadline=None)
def test_two_of_four_holds_in_every_full_group(weight: np.ndarray, axis: int) -> None:
    pruned = np.moveaxis(keep_n_of_m(weight, axis, 2, 4), axis, -1)
    original = np.moveaxis(weight, axis, -1)
    full = original.shape[-1] // 4 * 4
    groups = pruned[..., :full].reshape(*pruned.shape[:-1], -1, 4)
    assert ((groups != 0).sum(axis=-1) <= 2).all()
    assert np.array_equal(pruned[..., full:], original[..., full:])
    kept = np.sort(np.abs(groups), axis=-1)[..., 2:]
    largest = np.sort(np.abs(original[..., :full].reshape(groups.shape)), axis=-1)[..., 2:]
    assert np.array_equal(kept, largest)


@pytest.mark.parametrize(("order", "expected"), [("l1", [1.5, 2.5]), ("l2", [np.sqrt(2.5), np.sqrt(6.5)])])
def test_row_norms_are_means(order: str, expected: list[float]) -> None:
    weight = np.array([[1, -2], [3, 2]], np.float32)
    norms = row_norms(weight, (0,), "l1" if order == "l1" else "l2")
    assert np.allclose(norms, expected, rtol=1e-12, atol=0)


def test_rows_are_zeroed_along_their_axis() -> None:
    weight = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    pruned = zero_rows(weight, (1,), np.array([True, False, True]))
    assert np.array_equal(pruned, [[0, 2, 0], [0, 5, 0]])
