"""Pearson's and Spearman's correlation of two columns whose rows are taken any number of times.

    Pearson  r = Σ w (x − x̄)(y − ȳ) / √(Σ w (x − x̄)² · Σ w (y − ȳ)²)        Spearman = Pearson of the ranks

Equal values share the mean of their ranks. Without variance there is no correlation: the value is 0.
"""

from __future__ import annotations

import numpy as np

from onnxshrink.numerics.resampling import totals

_EPSILON = 1e-14


def pearson(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Correlation of ``x`` and ``y``, (n,), for every row of counts (resamples, n): how often each row is taken."""
    x, y = x - x.mean(), y - y.mean()  # sums of squares of numbers far from 0 would cancel
    columns = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)
    size, sx, sy, sxx, syy, sxy = totals(columns, counts).T
    spread_x, spread_y = sxx - sx * sx / size, syy - sy * sy / size
    varied = (spread_x > _EPSILON * sxx) & (spread_y > _EPSILON * syy)
    norms = np.sqrt(np.where(varied, spread_x * spread_y, 1))
    result: np.ndarray = np.where(varied, (sxy - sx * sy / size) / norms, 0)
    return result.clip(-1, 1)


def places(rows: np.ndarray) -> np.ndarray:
    """The place of every number among the different ones of its column, from 0 on, as float64: (n, k) → (n, k)."""
    columns = [np.unique(column, return_inverse=True)[1].reshape(-1) for column in rows.T]
    return np.stack(columns, axis=1).astype(np.float64)


def spearman(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Rank correlation of ``x`` and ``y``, (n,), for every row of counts (resamples, n)."""
    x, y = places(np.stack([x, y], axis=1)).T
    return spearman_of_places(x, y, counts)


def spearman_of_places(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The same of columns of :func:`places`."""
    x, y = x.astype(np.intp), y.astype(np.intp)
    result = np.empty(len(counts))
    for index, taken in enumerate(counts):  # one resample at a time stays in the processor's cache
        dx, dy = (_centred_ranks(place, taken) for place in (x, y))
        weighted = taken * dx
        norm = np.sqrt(_dot(weighted, dx) * _dot(taken * dy, dy))
        result[index] = _dot(weighted, dy) / norm if norm > 0 else 0
    return result.clip(-1, 1)


def _dot(x: np.ndarray, y: np.ndarray) -> float:
    """Σ x y on one thread, see :func:`totals`."""
    return float(np.einsum("n,n->", x, y))


def _centred_ranks(place: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """The mean rank of every row among all that are taken, less the mean of all ranks.

    Args:
        place: (n,), the place of each row's value among the different values.
        taken: (n,), how often each row is taken, whole numbers.
    """
    sizes = np.bincount(place, weights=taken)
    middles = np.cumsum(sizes.astype(np.int64)) - sizes / 2  # adding up integers is five times as fast as floats
    ranks: np.ndarray = (middles - taken.sum() / 2).take(place)
    return ranks
