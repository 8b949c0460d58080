"""Which weights to set to zero: by magnitude or another importance, by the norm of their row, or N of every M.

Counts are exact and ties are broken by position, so the same weights give the same zeros everywhere: of n weights at
sparsity s, floor(n·s + 1/2) become zero, those of smallest magnitude (as float32), and of equal ones the first.

Sources: Han et al. 2015, https://arxiv.org/abs/1506.02626 (magnitude); Lee et al. 2021,
https://arxiv.org/abs/2010.07611 (LAMP); Mishra et al. 2021,
https://arxiv.org/abs/2104.08378 (N:M).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

_PIECE = 1 << 20
"""Elements worked on at a time, to bound temporary memory."""


@dataclass(frozen=True)
class Cut:
    """Zero every magnitude below ``threshold``, and the first ``ties`` that equal it."""

    threshold: float
    ties: int = 0


def zero_count(size: int, sparsity: float) -> int:
    """How many of ``size`` things become zero at ``sparsity`` (0 … 1); halves round up."""
    return min(size, math.floor(size * sparsity + 0.5))


def smallest_cut(arrays: Callable[[], Iterable[np.ndarray]], count: int) -> Cut:
    """The cut that zeroes the ``count`` smallest magnitudes of all ``arrays`` together.

    ``arrays`` is called twice. The bits of a positive float32 order like an integer: one sweep finds the upper half
    of the threshold's bits, the next one the lower half. Memory is that of a piece, whatever the size of the arrays.
    """
    if count <= 0:
        return Cut(0.0)
    high, left = _select(((bits >> 16) for bits in _magnitude_bits(arrays())), count)
    low, left = _select(((bits & 0xFFFF)[bits >> 16 == high] for bits in _magnitude_bits(arrays())), left)
    return Cut(float(np.array(high << 16 | low, np.uint32).view(np.float32)), left)


def count_ties(array: np.ndarray, cut: Cut) -> int:
    """How many weights have exactly the magnitude of the cut."""
    return sum(int(np.count_nonzero(_magnitude(piece) == np.float32(cut.threshold))) for piece in _pieces(array))


def apply_cut(array: np.ndarray, cut: Cut, importances: np.ndarray | None = None) -> np.ndarray:
    """A copy of ``array`` with the cut made in ``importances`` of its shape, by default its magnitudes; dtype kept."""
    pruned = np.array(array, order="C")
    left = cut.ties
    scores = pruned if importances is None else np.ascontiguousarray(importances)
    for piece, score in zip(_pieces(pruned), _pieces(scores), strict=True):
        magnitude = _magnitude(score)
        zero = magnitude < np.float32(cut.threshold)
        if left:
            ties = np.flatnonzero(magnitude == np.float32(cut.threshold))[:left]
            zero[ties] = True
            left -= ties.size
        piece[zero] = 0
    return pruned


def lamp_scores(array: np.ndarray) -> np.ndarray:
    """w² / Σ v², v of the array with |v| ≥ |w| (of equal ones, those that follow): 1 for the largest; float64."""
    squares = np.square(array.reshape(-1), dtype=np.float64)
    order = np.argsort(squares, kind="stable")
    rest = np.cumsum(squares[order][::-1])[::-1]
    scores = np.zeros(squares.size)
    scores[order] = np.divide(squares[order], rest, out=np.zeros(squares.size), where=rest > 0)
    return scores.reshape(array.shape)


def zero_least_of_rows(
    array: np.ndarray, importances: np.ndarray, axes: tuple[int, ...], sparsity: float
) -> np.ndarray:
    """A copy of ``array`` with the same number of zeros in each row, where its importances are least.

    A row holds what has the same indices along ``axes``.
    """
    pruned = np.array(array, order="C")
    front = tuple(range(len(axes)))
    scores = np.moveaxis(importances, axes, front)
    shape = scores.shape
    scores = np.abs(scores.reshape(*shape[: len(axes)], -1))
    order = np.argsort(scores, axis=-1, kind="stable")
    zero = np.zeros(scores.shape, bool)
    np.put_along_axis(zero, order[..., : zero_count(scores.shape[-1], sparsity)], True, axis=-1)
    pruned[np.moveaxis(zero.reshape(shape), front, axes)] = 0
    return pruned


def row_norms(weight: np.ndarray, axes: tuple[int, ...], order: Literal["l1", "l2"]) -> np.ndarray:
    """Mean magnitude (l1) or root mean square (l2) of each row, shaped as the weight along ``axes``, float64.

    A mean, not a sum, so that rows of different layers compare.
    """
    others = tuple(axis for axis in range(weight.ndim) if axis not in axes)
    if order == "l1":
        return np.asarray(np.abs(weight).mean(axis=others, dtype=np.float64))
    return np.asarray(np.sqrt(np.square(weight, dtype=np.float64).mean(axis=others)))


def zero_rows(weight: np.ndarray, axes: tuple[int, ...], rows: np.ndarray) -> np.ndarray:
    """A copy of ``weight`` with some rows zero: those marked in ``rows``, bool, shaped as the weight along ``axes``."""
    pruned = weight.copy()
    np.moveaxis(pruned, axes, range(len(axes)))[rows] = 0
    return pruned


def keep_n_of_m(weight: np.ndarray, axis: int, keep: int, group: int) -> np.ndarray:
    """A copy of ``weight`` that keeps the ``keep`` largest of every ``group`` neighbours along ``axis``.

    A group that the axis does not fill stays whole.
    """
    pruned = weight.copy()
    rows = np.moveaxis(pruned, axis, -1)
    full = rows.shape[-1] // group * group
    for index in np.ndindex(rows.shape[:1] if rows.ndim > 1 else ()):
        groups = rows[index][..., :full]
        magnitude = _magnitude(groups).reshape(*groups.shape[:-1], -1, group)
        order = np.argsort(magnitude, axis=-1, kind="stable")
        zero = np.zeros(magnitude.shape, bool)
        np.put_along_axis(zero, order[..., : group - keep], True, axis=-1)
        groups[zero.reshape(groups.shape)] = 0
    return pruned


def _select(keys: Iterator[np.ndarray], count: int) -> tuple[int, int]:
    """The key (0 … 65535) of the ``count``-th smallest element, and its rank among those of this key."""
    histogram = np.zeros(1 << 16, np.int64)
    for piece in keys:
        histogram += np.bincount(piece, minlength=1 << 16)
    below = np.cumsum(histogram)
    key = int(np.searchsorted(below, count))
    return key, count - int(below[key] - histogram[key])


def _magnitude_bits(arrays: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for array in arrays:
        for piece in _pieces(array):
            yield _magnitude(piece).view(np.uint32)


def _magnitude(piece: np.ndarray) -> np.ndarray:
    return np.abs(piece.astype(np.float32))


def _pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """Flat views of a contiguous array."""
    flat = array.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        yield flat[start : start + _PIECE]
