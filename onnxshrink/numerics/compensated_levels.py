"""Assign weights to allowed values so that the layer's output changes least, and fit those values to the assignment.

1. Columns are decided in order, those of most input energy first; each goes to the level nearest to what it should be
   after making up for the errors of the columns before it (GPTQ; see :mod:`onnxshrink.numerics.error_feedback`).
2. The levels are fitted to the assignment by least squares (:mod:`onnxshrink.numerics.weight_levels`).
3. Coordinate descent: with g = e H, weight k alone is best at ŵ_k − g_k / H_kk, and goes to the level nearest to that.

2 and 3 alternate; each lowers e (H + λI) eᵀ or leaves it. Weights that are pinned stay zero, and the others make up for
them as well.
"""

from __future__ import annotations

import numpy as np

from onnxshrink.numerics.error_feedback import column_blocks, columns_first, damp, diagonal_block, upper_factor
from onnxshrink.numerics.weight_levels import Levels


def assign_compensated(
    rows: np.ndarray,
    levels: Levels,
    moments: np.ndarray,
    pinned: np.ndarray | None = None,
    *,
    rounds: int = 2,
    refit: bool = True,
    damping: float = 0.01,
) -> tuple[np.ndarray, Levels]:
    """Values of ``levels`` for weights, and the levels fitted to them.

    Args:
        rows: (groups, channels, columns), float32.
        levels: where to start from.
        moments: second moments of the inputs, (groups, columns, columns), finite.
        pinned: which weights are zero and stay so, of the shape of ``rows``.
        rounds: how often levels are fitted and weights moved.
        refit: fit the levels; else they stay as they are.
        damping: λ as a part of the mean of the diagonal of ``moments``.

    Returns:
        float32 values of the shape of ``rows``, and levels that hold them.
    """
    order = np.argsort(-np.einsum("gii->i", moments), kind="stable")
    ordered = moments[:, order[:, None], order].astype(np.float64)
    damp(ordered, damping)
    weights = rows[:, :, order]
    held = None if pinned is None else pinned[:, :, order]
    found = _in_order(weights, levels, upper_factor(ordered), held)
    metric = ordered.astype(np.float32)
    for _ in range(rounds):
        if refit:
            levels, found = levels.refitted(weights, found, metric)
        if not _swept(weights, found, levels, metric, held):
            break
    if refit and rounds:
        levels, found = levels.refitted(weights, found, metric)
    values = np.empty_like(found)
    values[:, :, order] = found
    return values, levels


def _in_order(weights: np.ndarray, levels: Levels, factor: np.ndarray, pinned: np.ndarray | None) -> np.ndarray:
    diagonal = np.einsum("gii->gi", factor)
    feedback = np.ascontiguousarray(factor, np.float32)
    feedback /= diagonal[:, None].astype(np.float32)
    errors = np.zeros_like(weights)
    found = np.empty_like(weights)
    for block in column_blocks(weights.shape[2]):
        target = columns_first(weights[:, :, block])
        left = columns_first(errors[:, :, : block.start] @ feedback[:, : block.start, block])
        share = diagonal_block(feedback, block)
        held = None if pinned is None else columns_first(pinned[:, :, block])
        made = np.empty_like(target)
        for k in range(len(target)):
            made[k] = _nearest(levels, target[k] - left[k], None if held is None else held[k])
            left[k + 1 :] += share[k, k + 1 :] * (made[k] - target[k])
        errors[:, :, block] = np.moveaxis(made - target, 0, -1)
        found[:, :, block] = np.moveaxis(made, 0, -1)
    return found


def _swept(
    weights: np.ndarray, found: np.ndarray, levels: Levels, metric: np.ndarray, pinned: np.ndarray | None
) -> bool:
    """One pass of coordinate descent over all columns, changing ``found`` in place; whether anything moved."""
    moved = False
    errors = found - weights
    for block in column_blocks(weights.shape[2]):
        values = columns_first(found[:, :, block])
        gradient = columns_first(errors @ metric[:, :, block])
        inside = diagonal_block(metric, block)
        held = None if pinned is None else columns_first(pinned[:, :, block])
        for k in range(len(values)):
            better = _nearest(levels, values[k] - gradient[k] / inside[k, k], None if held is None else held[k])
            change = better - values[k]
            if change.any():
                gradient += inside[:, k] * change
                values[k] = better
                moved = True
        found[:, :, block] = np.moveaxis(values, 0, -1)
        errors[:, :, block] = found[:, :, block] - weights[:, :, block]
    return moved


def _nearest(levels: Levels, target: np.ndarray, pinned: np.ndarray | None) -> np.ndarray:
    values = levels.nearest(target)
    return values if pinned is None else np.where(pinned, np.float32(0), values)
