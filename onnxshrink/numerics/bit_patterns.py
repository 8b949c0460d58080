"""Numbers as the bits that store them: two NaNs may differ, a NaN equals itself, and -0.0 is not 0.0."""

from __future__ import annotations

import numpy as np

_CHUNK = 2**16


def bit_patterns(array: np.ndarray) -> np.ndarray:
    """The elements of ``array`` as unsigned integers of the same width, in one dimension; a view where possible."""
    return np.ascontiguousarray(array).reshape(-1).view(f"u{array.dtype.itemsize}")


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays have the same type, shape and bits."""
    return a.dtype == b.dtype and a.shape == b.shape and bool((bit_patterns(a) == bit_patterns(b)).all())


def distinct_patterns(patterns: np.ndarray, limit: int) -> np.ndarray | None:
    """The distinct elements of ``patterns``, sorted, or None as soon as there are more than ``limit``."""
    found = patterns[:0]
    for start in range(0, patterns.size, _CHUNK):
        piece = patterns[start : start + _CHUNK]
        if found.size:
            places = np.minimum(np.searchsorted(found, piece), found.size - 1)
            piece = piece[found[places] != piece]
        if piece.size:
            found = np.union1d(found, piece)
        if found.size > limit:
            return None
    return found


def pattern_indices(patterns: np.ndarray, distinct: np.ndarray) -> np.ndarray:
    """The place of every element of ``patterns`` among ``distinct`` (sorted, at most 256 of them), as uint8."""
    indices = np.empty(patterns.size, np.uint8)
    for start in range(0, patterns.size, _CHUNK):
        indices[start : start + _CHUNK] = np.searchsorted(distinct, patterns[start : start + _CHUNK])
    return indices
