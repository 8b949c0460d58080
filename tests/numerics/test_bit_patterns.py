"""Bits, not numbers, decide what is distinct."""

from __future__ import annotations

import numpy as np
import pytest

from onnxshrink.numerics.bit_patterns import bit_patterns, distinct_patterns


def test_zeros_of_both_signs_and_nans_of_different_bits_are_distinct() -> None:
    bits = np.array([0, 0x80000000, 0x7FC00000, 0x7FC00001, 0x7FC00000], np.uint32)
    found = distinct_patterns(bit_patterns(bits.view(np.float32)), 10)
    assert found is not None
    assert found.tolist() == [0, 0x7FC00000, 0x7FC00001, 0x80000000]


@pytest.mark.parametrize(("limit", "found"), [(300, True), (299, False)])
def test_more_than_the_limit_is_none_also_when_it_shows_late(limit: int, found: bool) -> None:
    late = np.concatenate([np.zeros(100_000, np.uint16), np.arange(300, dtype=np.uint16)])
    assert (distinct_patterns(late, limit) is not None) == found


def test_arrays_of_any_layout_and_no_elements() -> None:
    assert bit_patterns(np.arange(6, dtype=np.int64).reshape(2, 3).T).tolist() == [0, 3, 1, 4, 2, 5]
    assert bit_patterns(np.array(1, np.float16)).tolist() == [0x3C00]
    empty = distinct_patterns(bit_patterns(np.zeros((0, 4), np.float32)), 10)
    assert empty is not None
    assert empty.size == 0
