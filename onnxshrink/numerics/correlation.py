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


def spearman(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Rank correlation of ``x`` and ``y``, (n,), for every row of counts (resamples, n)."""
    places = [np.unique(column, return_inverse=True)[1].reshape(-1) for column in (x, y)]
    result = np.empty(len(counts))
    for index, taken in enumerate(counts):  # one resample at a time stays in the processor's cache
        dx, dy = (_centred_ranks(place, taken) for place in places)
        norm = np.sqrt((taken * dx * dx).sum() * (taken * dy * dy).sum())
        result[index] = (taken * dx * dy).sum() / norm if norm > 0 else 0
    return result.clip(-1, 1)


def _centred_ranks(places: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """The mean rank of every row among all that are taken, less the mean of all ranks.

    Args:
        places: (n,), the place of each row's value among the different values.
        taken: (n,), how often each row is taken.
    """
    sizes = np.bincount(places, weights=taken)
    middles = np.cumsum(sizes) - sizes / 2
    ranks: np.ndarray = (middles - taken.sum() / 2)[places]
    return ranks
