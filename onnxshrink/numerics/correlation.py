"""Pearson's and Spearman's correlation of two columns whose rows are taken any number of times.

    Pearson  r = Σ w (x − x̄)(y − ȳ) / √(Σ w (x − x̄)² · Σ w (y − ȳ)²)        Spearman = Pearson of the ranks

Equal values share the mean of their ranks. Without variance there is no correlation: the value is 0.
"""

from __future__ import annotations

import numpy as np


def pearson(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Correlation of ``x`` and ``y`` for every row of counts.

    Args:
        x: (n,), or (resamples, n); ``y`` likewise.
        counts: (resamples, n), how often each row is taken.

    Returns:
        (resamples,)
    """
    total = counts.sum(axis=1, keepdims=True)
    dx = x - (counts * x).sum(axis=1, keepdims=True) / total
    dy = y - (counts * y).sum(axis=1, keepdims=True) / total
    norms = np.sqrt((counts * dx * dx).sum(axis=1) * (counts * dy * dy).sum(axis=1))
    products = (counts * dx * dy).sum(axis=1)
    result: np.ndarray = np.divide(products, norms, out=np.zeros_like(norms), where=norms > 0)
    return result.clip(-1, 1)


def spearman(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Rank correlation of ``x`` and ``y``, (n,), for every row of counts (resamples, n)."""
    return pearson(mean_ranks(x, counts), mean_ranks(y, counts), counts)


def mean_ranks(x: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The mean rank of every row among all that are taken, from 0, (resamples, n); equal values share theirs."""
    order = np.argsort(x, kind="stable")
    ordered = x[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    sizes = np.add.reduceat(counts[:, order], starts, axis=1)
    middles = np.cumsum(sizes, axis=1) - (sizes + 1) / 2
    group = np.empty(len(x), np.int64)
    group[order] = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(x))))
    ranks: np.ndarray = middles[:, group]
    return ranks
