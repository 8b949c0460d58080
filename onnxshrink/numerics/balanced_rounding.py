"""Rounding whose errors cancel in the sum that the weights take part in.

A weight's rounding errors eᵢ = qᵢ − wᵢ / scale reach the output as Σ eᵢ·xᵢ. Inputs behind a ReLU are positive, so the
part Σ eᵢ·E[xᵢ] does not average out, and it is the larger part of the error in nets of pointwise and depthwise
convolutions. Rounding a few weights to their *other* neighbour brings that sum close to zero. Guo et al. 2022 (SQuant,
https://arxiv.org/abs/2202.07471) do so for equal inputs and no data; a known mean per input makes it sharper. Only the
direction of the means matters, so means from synthetic data do well too.

A flipped weight is off by less than one step instead of half a step; those nearest to the middle are flipped first.
"""

from __future__ import annotations

import numpy as np


def balance(steps: np.ndarray, integers: np.ndarray, mean: np.ndarray | None, low: int, high: int) -> None:
    """Move some of ``integers`` by one, in place, so that Σ (integers − steps) · mean is close to zero in every row.

    Args:
        steps: (rows, n) weights divided by their scale, float32.
        integers: (rows, n) ``steps`` rounded to nearest and clipped to ``low`` … ``high``, float32.
        mean: (rows or 1, n) mean of the number each weight is multiplied with; None: all equal.
        low: the smallest integer allowed.
        high: the largest integer allowed.
    """
    rows, columns = steps.shape
    weight = np.float32(1) if mean is None else mean
    for limit in (_likely_flips(columns), 1):
        error = integers - steps
        contribution = error * weight
        total = contribution.sum(axis=1, keepdims=True)
        moved = integers - np.sign(error)
        # Weights cut off at the end of the range are off by more than half a step: moving them is out of the question.
        useful = (contribution * total > 0) & (np.abs(error) <= 0.5) & (moved >= low) & (moved <= high)
        gain = np.where(useful, np.abs(np.broadcast_to(weight, error.shape)), np.float32(0))
        if limit == 1:
            order = np.abs(np.abs(total) - gain).argmin(axis=1, keepdims=True)
        else:
            order = _cheapest(error, gain, limit)
        gains = np.take_along_axis(gain, order, axis=1)
        reached = np.concatenate([np.zeros((rows, 1), np.float32), np.cumsum(gains, axis=1)], axis=1)
        count = np.abs(np.abs(total) - reached).argmin(axis=1)
        chosen = (np.arange(order.shape[1]) < count[:, None]) & (gains > 0)
        before = np.take_along_axis(integers, order, axis=1)
        after = np.take_along_axis(moved, order, axis=1)
        np.put_along_axis(integers, order, np.where(chosen, after, before), axis=1)


def _likely_flips(columns: int) -> int:
    """Room for the flips that a row needs: the sum of n rounding errors is seldom beyond 1.5·√n steps."""
    return min(columns, 4 + 3 * int(columns**0.5))


def _cheapest(error: np.ndarray, gain: np.ndarray, limit: int) -> np.ndarray:
    """Column indices of the flips that add least squared error per unit of gain, cheapest first."""
    price = np.full(error.shape, np.inf, np.float32)
    np.divide(1 - 2 * np.abs(error), gain, out=price, where=gain > 0)
    if limit >= error.shape[1]:
        return np.argsort(price, axis=1, kind="stable")
    nearest = np.sort(np.argpartition(price, limit - 1, axis=1)[:, :limit], axis=1)
    order = np.argsort(np.take_along_axis(price, nearest, axis=1), axis=1, kind="stable")
    return np.take_along_axis(nearest, order, axis=1)
