"""Numbers as the bits that store them: two NaNs may differ, a NaN equals itself, and -0.0 is not 0.0."""

from __future__ import annotations

import numpy as np

_CHUNK = 2**16


def bit_patterns(array: np.ndarray) -> np.ndarray:
    """The elements of ``array`` as unsigned integers of the same width, in one dimension; a view where possible."""
    return np.ascontiguousarray(array).reshape(-1).view(f"u{array.dtype.itemsize}")


def distinct_patterns(patterns: np.ndarray, limit: int) -> np.ndarray | None:
    """The distinct elements of ``patterns``, sorted, or None as soon as there are more than ``limit``."""
    found = patterns[:0]
    for start in range(0, patterns.size, _CHUNK):
        found = np.union1d(found, patterns[start : start + _CHUNK])
        if found.size > limit:
            return None
    return found
