"""Rounding that changes a layer's output least, not its weights.

With H = E[x xᵀ] of the inputs, rounding weights w to ŵ costs the output (ŵ − w) H (ŵ − w)ᵀ per channel. Rounding in
order, each weight makes up for what the earlier ones left (GPTQ; see :mod:`onnxshrink.numerics.error_feedback`), with
H + λI = V Vᵀ and e = q − t in steps of the scale:

    q_k = round(t_k − Σ_{j<k} eⱼ Vⱼₖ / Vₖₖ)

Weights are decided
pair by pair, the inputs of most energy first; where a pair of one sign would sum to more than 128 (see
:mod:`onnxshrink.numerics.pair_safe`), the cost along q₁ + q₂ = ±128 is a parabola, and its lowest point is taken.

In short rows, where few weights share the work, coordinate descent follows: with g = e (H + λI), moving a pair by
(δ₁, δ₂), each −1, 0 or 1, changes the cost by 2·(δ₁g₁ + δ₂g₂) + δ₁²H₁₁ + δ₂²H₂₂ + 2δ₁δ₂H₁₂; the best allowed move is
made when it lowers the cost. A channel for which nearest rounding is better in the end is rounded to nearest.
"""

from __future__ import annotations

import numpy as np

from onnxshrink.numerics.error_feedback import column_blocks, columns_first, damp, diagonal_block, upper_factor
from onnxshrink.numerics.pair_safe import LARGEST, LIMIT, nearest_integers

_SWEEPS = 3
_LONGEST_SWEPT = 512
"""Sweeps lower the error by up to 3 % in rows of 9 to 27 weights, and by less than 0.1 % in rows of 384."""

_MOVES = np.array([(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)], np.float32)


def round_to_grid(
    rows: np.ndarray, scale: np.ndarray, moment: np.ndarray, paired: bool, damping: float = 0.01
) -> np.ndarray:
    """Integers in −127…127 whose products with ``scale`` change the layer's output least.

    Args:
        rows: weights, (channels, reduction) or (groups, channels, reduction), in the kernel's order.
        scale: positive, (channels,) or (groups, channels).
        moment: second moments of the inputs, (reduction, reduction) or (groups, reduction, reduction).
        paired: whether neighbours (2i, 2i + 1) must be pair-safe.
        damping: λ as a part of the mean of the diagonal of ``moment``.

    Returns:
        int8 of the shape of ``rows``. The :func:`output_error` of a channel is never above that of the nearest
        (pair-safe) integers, errors weighted with the diagonal of ``moment``.

    Raises:
        ValueError: ``rows`` or ``moment`` hold NaN or infinity.
    """
    if not (np.isfinite(rows).all() and np.isfinite(moment).all()):
        raise ValueError("the weights or the second moments of their inputs hold NaN or infinity")
    grouped = rows.reshape(-1, *rows.shape[-2:])
    steps = (grouped / scale.reshape(*grouped.shape[:2], 1)).astype(np.float32, copy=False)
    moments = moment.reshape(-1, *moment.shape[-2:])
    found = _least_cost(steps, moments, paired, damping)
    nearest = _nearest(steps, moments, paired)
    better = output_error(steps, found, moments) < output_error(steps, nearest, moments)
    return np.where(better[..., None], found, nearest).astype(np.int8).reshape(rows.shape)


def output_error(rows: np.ndarray, rounded: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """(ŵ − w) H (ŵ − w)ᵀ per channel: the mean squared error of its output.

    Args:
        rows: weights, (..., channels, reduction).
        rounded: the weights used instead, of the same shape.
        moment: (..., reduction, reduction).

    Returns:
        (..., channels).
    """
    error = rounded - rows
    cost: np.ndarray = np.einsum("...ij,...ij->...i", error @ moment, error)
    return cost


def refit_scale(rows: np.ndarray, quantized: np.ndarray, scale: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """The scale at which integers change the layer's output least: w H qᵀ / (q H qᵀ) per channel.

    Args:
        rows: weights, (..., channels, reduction).
        quantized: their integers, of the same shape.
        scale: (..., channels), kept where no positive scale is best: integers all zero, or inputs.
        moment: (..., reduction, reduction).

    Returns:
        (..., channels), float32.
    """
    integers = quantized.astype(np.float32)
    weighted = integers @ moment
    slope = np.einsum("...ij,...ij->...i", weighted, rows)
    energy = np.einsum("...ij,...ij->...i", weighted, integers)
    fitted = np.divide(slope, energy, out=scale.astype(slope.dtype), where=(energy > 0) & (slope > 0))
    refitted: np.ndarray = np.maximum(fitted, np.finfo(np.float32).smallest_normal).astype(np.float32)
    return refitted


def target_weights(
    rows: np.ndarray, moment_changed: np.ndarray, moment_cross: np.ndarray, damping: float = 0.01
) -> np.ndarray:
    """The real weights that best make the layer's float output out of its quantized inputs.

    Minimises E‖W* x̂ − W x‖² + λ‖W* − W‖², which is solved by W* = W + W (E[x x̂ᵀ] − E[x̂ x̂ᵀ]) (E[x̂ x̂ᵀ] + λI)⁻¹.

    Args:
        rows: W, (..., channels, reduction).
        moment_changed: E[x̂ x̂ᵀ] of the quantized inputs, (..., reduction, reduction).
        moment_cross: E[x x̂ᵀ] of the float inputs x and the quantized ones, same shape.
        damping: λ as a part of the mean of the diagonal of ``moment_changed``; the larger, the closer to ``rows``.

    Returns:
        W*, of the shape and type of ``rows``.
    """
    difference = (rows @ (moment_cross - moment_changed)).astype(np.float64)
    damped = moment_changed.astype(np.float64)
    damp(damped, damping)
    solved = np.linalg.solve(damped.swapaxes(-1, -2), difference.swapaxes(-1, -2)).swapaxes(-1, -2)
    found: np.ndarray = (rows + solved).astype(rows.dtype)
    return found


def _nearest(steps: np.ndarray, moments: np.ndarray, paired: bool) -> np.ndarray:
    flat = steps.reshape(-1, steps.shape[2])
    energy = np.broadcast_to(np.einsum("gii->gi", moments)[:, None], steps.shape)
    return nearest_integers(flat, paired, energy.reshape(flat.shape)).reshape(steps.shape)


def _least_cost(steps: np.ndarray, moments: np.ndarray, paired: bool, damping: float) -> np.ndarray:
    """Integers for ``steps`` (groups, channels, reduction), float32."""
    columns = steps.shape[2]
    if columns % 2:  # a weight of zero without input makes the last pair whole
        steps = np.pad(steps, [(0, 0), (0, 0), (0, 1)])
        moments = np.pad(moments, [(0, 0), (0, 1), (0, 1)])
    limit = np.float32(LIMIT if paired else 2 * LARGEST)
    order = _pair_order(moments)
    ordered = moments[:, order[:, None], order].astype(np.float64, copy=False)
    damp(ordered, damping)
    steps = steps[:, :, order]
    errors = _compensated(steps, upper_factor(ordered), limit)
    if columns <= _LONGEST_SWEPT:
        ordered = ordered.astype(np.float32)
        for _ in range(_SWEEPS):
            if not _sweep(errors, steps, ordered, limit):
                break
    found = np.empty_like(steps)
    found[:, :, order] = np.rint(errors + steps)
    return found[:, :, :columns]


def _pair_order(moments: np.ndarray) -> np.ndarray:
    """Column indices with pairs kept together, those of most energy first."""
    energy = np.einsum("gii->i", moments).reshape(-1, 2).sum(axis=1)
    pairs = np.argsort(-energy, kind="stable")
    return (2 * pairs[:, None] + np.arange(2)).reshape(-1)


def _compensated(steps: np.ndarray, factor: np.ndarray, limit: np.float32) -> np.ndarray:
    """Errors e = q − t after rounding ``steps`` (groups, channels, columns) in order."""
    diagonal = np.einsum("gii->gi", factor)
    energy = np.square(diagonal).T[..., None].astype(np.float32)
    feedback = np.ascontiguousarray(factor, np.float32)
    feedback /= diagonal[:, None].astype(np.float32)
    errors = np.zeros_like(steps)
    for block in column_blocks(steps.shape[2]):
        target = columns_first(steps[:, :, block])
        left = columns_first(errors[:, :, : block.start] @ feedback[:, : block.start, block])
        share = diagonal_block(feedback, block)
        made = np.empty_like(target)
        for k in range(0, len(target), 2):
            pair = slice(k, k + 2)
            costs = energy[block.start + k : block.start + k + 2]
            made[pair] = _rounded_pair(target[pair], left[pair], share[k, k + 1], costs, limit) - target[pair]
            left[k + 2 :] += share[k, k + 2 :] * made[k] + share[k + 1, k + 2 :] * made[k + 1]
        errors[:, :, block] = np.moveaxis(made, 0, -1)
    return errors


def _rounded_pair(
    target: np.ndarray, left: np.ndarray, share: np.ndarray, energy: np.ndarray, limit: np.float32
) -> np.ndarray:
    """Integers of one pair, (2, groups, channels).

    Args:
        target: (2, groups, channels), in steps.
        left: what the errors so far leave for each of the two to make up for, same shape.
        share: (groups, 1), how much of the first error the second makes up for.
        energy: (2, groups, 1), what a squared residual of each costs.
        limit: the largest sum of two weights of one sign.
    """
    goal = target[0] - left[0]
    base = target[1] - left[1] + target[0] * share
    first = _clipped(goal)
    second = _clipped(base - first * share)
    over = np.abs(first + second) > limit
    if over.any():
        sign = np.sign(first + second)
        end = sign * limit
        slope = share - 1
        lowest = energy[0] * goal - energy[1] * slope * (end - base)
        lowest /= energy[0] + energy[1] * np.square(slope)
        moved = sign * np.clip(np.rint(sign * lowest), limit - LARGEST, LARGEST)
        first, second = np.where(over, moved, first), np.where(over, end - moved, second)
    return np.stack([first, second])


def _clipped(steps: np.ndarray) -> np.ndarray:
    rounded: np.ndarray = np.rint(steps)
    return np.clip(rounded, -LARGEST, LARGEST, out=rounded)


def _sweep(errors: np.ndarray, steps: np.ndarray, moments: np.ndarray, limit: np.float32) -> bool:
    """One pass of coordinate descent over all pairs, changing ``errors`` in place; whether anything moved."""
    moved = False
    for block in column_blocks(steps.shape[2]):
        part = columns_first(errors[:, :, block])
        target = columns_first(steps[:, :, block])
        gradient = columns_first(errors @ moments[:, :, block])
        inside = diagonal_block(moments, block)
        for k in range(0, len(part), 2):
            pair = slice(k, k + 2)
            change = _best_move(np.rint(part[pair] + target[pair]), gradient[pair], inside[pair, pair], limit)
            if change is not None:
                part[pair] += change
                gradient += inside[:, k] * change[0] + inside[:, k + 1] * change[1]
                moved = True
        errors[:, :, block] = np.moveaxis(part, 0, -1)
    return moved


def _best_move(integers: np.ndarray, gradient: np.ndarray, moment: np.ndarray, limit: np.float32) -> np.ndarray | None:
    """The best change of a pair of ``integers``, (2, groups, channels), or None if none is worth making in any channel.

    Args:
        integers: (2, groups, channels).
        gradient: of half the cost, same shape.
        moment: (2, 2, groups, 1).
        limit: the largest sum of two weights of one sign.
    """
    first, second = _MOVES[:, 0, None, None], _MOVES[:, 1, None, None]
    cost = first * first * moment[0, 0] + second * second * moment[1, 1] + 2 * first * second * moment[0, 1]
    cost = cost + 2 * (first * gradient[0] + second * gradient[1])
    one, two = integers[0] + first, integers[1] + second
    allowed = (np.abs(one) <= LARGEST) & (np.abs(two) <= LARGEST) & (np.abs(one + two) <= limit)
    cost[~allowed] = np.inf
    best = cost.argmin(axis=0)
    worth = np.take_along_axis(cost, best[None], axis=0)[0] < -1e-5 * (moment[0, 0] + moment[1, 1])
    if not worth.any():
        return None
    return np.where(worth, np.moveaxis(_MOVES[best], -1, 0), np.float32(0))
