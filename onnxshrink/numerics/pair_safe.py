"""Symmetric int8 weights that no u8·s8 kernel can saturate on, at the scale of least squared error.

Without VNNI, x86 multiplies unsigned activations by signed weights with VPMADDUBSW, which adds two neighbouring
products in int16 and saturates (https://www.felixcloutier.com/x86/pmaddubsw). With activations up to 255, the sum is
exact while

    Σ max(qᵢ, 0) ≤ 128  and  Σ max(−qᵢ, 0) ≤ 128        over both weights of every pair (2i, 2i + 1),

because 128 · 255 = 32640. Integers stay in −127…127, so a pair offends exactly when |q₂ᵢ + q₂ᵢ₊₁| > 128. The nearest
allowed integers then lie on the line q₂ᵢ + q₂ᵢ₊₁ = ±128, where the squared error h₁·(q₁ − t₁)² + h₂·(q₂ − t₂)² is a
parabola: its lowest integer is the one next to q₁ = (h₁·t₁ + h₂·(±128 − t₂)) / (h₁ + h₂).

The scale is searched between a third of the full range and the smallest scale at which no pair offends, max |wᵢ + wⱼ| /
128; the scale of 7 bits, max |w| / 64, is among the candidates too. Each is judged by its error after the closed-form
refit of the scale to its integers, Σ h·t·q / Σ h·q², so the result is never worse than enlarging the scale or 7 bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

LIMIT = 128
"""The largest sum of the positive, and of the negated negative, weights of a pair."""

LARGEST = 127
"""The largest magnitude of an integer: −128 would overflow in kernels that multiply int8 by int8 in pairs."""

_PIECE = 1 << 16
"""Weights worked on at a time: a handful of float32 temporaries stay in the processor's second-level cache."""

_CANDIDATES = 14
_LOWEST_RATIO = 1 / 3


def is_pair_safe(rows: np.ndarray) -> bool:
    """Whether no pair of neighbours (2i, 2i + 1) of int8 ``rows`` (..., reduction) can saturate on any activations."""
    wide = rows.astype(np.int16)
    even = wide.shape[-1] // 2 * 2
    first, second = wide[..., 0:even:2], wide[..., 1:even:2]
    positive = np.maximum(first, 0) + np.maximum(second, 0)
    negative = np.minimum(first, 0) + np.minimum(second, 0)
    return bool((positive <= LIMIT).all() and (negative >= -LIMIT).all())


def project_pairs(steps: np.ndarray, importance: np.ndarray | None = None) -> np.ndarray:
    """The pair-safe integers in −127…127 nearest to ``steps``, by squared error weighted with ``importance``.

    Args:
        steps: (rows, reduction) weights divided by their scale, finite.
        importance: broadcastable to ``steps``, not negative; None: all equal.

    Returns:
        Integers as float32, of the shape of ``steps``.
    """
    integers: np.ndarray = np.rint(steps, dtype=np.float32, casting="same_kind", order="C")
    np.clip(integers, -LARGEST, LARGEST, out=integers)
    columns = steps.shape[1]
    even = columns // 2 * 2
    total = integers[:, 0:even:2] + integers[:, 1:even:2]
    offending = np.flatnonzero(np.abs(total) > LIMIT)
    if not len(offending):
        return integers
    place = 2 * offending + (offending // (even // 2) if columns > even else 0)
    sign = np.sign(total.ravel()[offending])
    first, second = (np.abs(steps.ravel()[at]) for at in (place, place + 1))
    share = _share_of_first(steps.shape, importance, place)
    moved = np.clip(np.rint(share * (first + second - LIMIT) + LIMIT - second), 1, LARGEST)
    flat = integers.ravel()
    flat[place] = sign * moved
    flat[place + 1] = sign * (LIMIT - moved)
    return integers


def quantize_pair_safe(
    rows: np.ndarray,
    paired: bool,
    importance: np.ndarray | None = None,
    minimum_scale: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Quantize weights to symmetric int8 with one scale per row.

    Args:
        rows: (channels, reduction) float weights, in the order in which a kernel multiplies them.
        paired: whether the kernel adds neighbours in int16; False: plain int8 at the scale of least squared error.
        importance: (reduction,) or (channels, reduction), not negative: weights the squared errors, for example the
            second moments of the inputs; None: all equal.
        minimum_scale: (channels,) no scale is smaller, for example to keep an int32 bias in range.

    Returns:
        The integers, int8 (channels, reduction), and the scales, float32 (channels,), positive.

    Raises:
        ValueError: the weights hold NaN, infinity, or magnitudes beyond a quarter of the largest float32.
    """
    channels, reduction = rows.shape
    quantized = np.empty((channels, reduction), np.int8)
    scale = np.empty(channels, np.float32)
    known = None if importance is None else np.broadcast_to(importance, rows.shape)
    for block in _blocks(channels, reduction):
        with np.errstate(over="ignore"):  # a double that float32 cannot hold becomes infinite and is refused
            piece = np.ascontiguousarray(rows[block], np.float32)
        weights = None if known is None else _normalised(known[block])
        least = np.full((len(piece), 1), np.finfo(np.float32).smallest_normal, np.float32)
        if minimum_scale is not None:
            least = np.maximum(least, np.asarray(minimum_scale[block], np.float32)[:, None])
        found = _best_scale(piece, paired, weights, least)
        quantized[block] = nearest_integers(piece / found, paired, weights)
        scale[block] = found[:, 0]
    return quantized, scale


def _blocks(channels: int, reduction: int) -> Iterator[slice]:
    step = max(1, _PIECE // max(1, reduction))
    for start in range(0, channels, step):
        yield slice(start, min(start + step, channels))


def _normalised(importance: np.ndarray) -> np.ndarray:
    """``importance`` with largest entry 1 in every row, so that no sum of squares overflows or vanishes."""
    largest = importance.max(axis=1, keepdims=True, initial=0)
    ones = np.ones(importance.shape, np.float32)
    normalised: np.ndarray = np.divide(importance, largest, out=ones, where=largest > 0, casting="same_kind")
    return normalised


def _share_of_first(shape: tuple[int, ...], importance: np.ndarray | None, place: np.ndarray) -> np.ndarray:
    """h₁ / (h₁ + h₂) of the pairs whose first weight is at flat index ``place``."""
    if importance is None:
        return np.full(1, 0.5, np.float32)
    flat = np.broadcast_to(importance, shape).ravel()
    first, second = flat[place], flat[place + 1]
    share: np.ndarray = np.divide(first, first + second, out=np.full(len(place), 0.5), where=first + second > 0)
    return share


def nearest_integers(steps: np.ndarray, paired: bool, importance: np.ndarray | None = None) -> np.ndarray:
    """The integers in −127…127 nearest to ``steps`` (rows, reduction), pair-safe if ``paired``; float32."""
    if paired:
        return project_pairs(steps, importance)
    integers: np.ndarray = np.rint(steps)
    np.clip(integers, -LARGEST, LARGEST, out=integers)
    return integers


def _best_scale(piece: np.ndarray, paired: bool, importance: np.ndarray | None, least: np.ndarray) -> np.ndarray:
    """The scale of least error per row, (rows, 1) float32, no smaller than ``least``."""
    largest = np.abs(piece).max(axis=1, keepdims=True, initial=0)
    if not (largest <= np.finfo(np.float32).max / 4).all():
        raise ValueError("the weight holds NaN, infinity, or numbers near the end of the float32 range")
    full = largest / np.float32(LARGEST)
    candidates = [full * np.float32(ratio) for ratio in np.geomspace(1, _LOWEST_RATIO, _CANDIDATES)]
    if paired:
        safe = np.maximum(_largest_pair(piece) / np.float32(LIMIT), full)
        ratio = safe / np.where(full > 0, full, np.float32(1))
        candidates = [full * ratio ** np.float32(power) for power in np.linspace(1, 0, 5)] + candidates[1:]
        candidates.append(largest / np.float32(LIMIT // 2))
    best = np.full(full.shape, np.inf)
    scale = full
    for candidate in candidates:
        refitted, error = _refitted(piece, np.maximum(candidate, least), paired, importance, least)
        scale = np.where(error < best, refitted, scale)
        best = np.minimum(error, best)
    scale, _ = _refitted(piece, np.maximum(scale, least), paired, importance, least)
    return np.where(largest > 0, scale, np.maximum(np.float32(1), least))


def _largest_pair(piece: np.ndarray) -> np.ndarray:
    even = piece.shape[1] // 2 * 2
    largest: np.ndarray = np.abs(piece[:, 0:even:2] + piece[:, 1:even:2]).max(axis=1, keepdims=True, initial=0)
    return largest


def _refitted(
    piece: np.ndarray, scale: np.ndarray, paired: bool, importance: np.ndarray | None, least: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The scale, at least ``least``, that fits the integers found at ``scale`` best, and its squared error per row."""
    steps = piece / scale
    integers = nearest_integers(steps, paired, importance)
    weighted = integers if importance is None else integers * importance
    energy = np.einsum("ij,ij->i", weighted, integers)[:, None]
    steps -= integers
    slope = np.einsum("ij,ij->i", weighted, steps)[:, None]
    squares = steps if importance is None else steps * importance
    error = np.einsum("ij,ij->i", squares, steps)[:, None]
    change = np.divide(slope, energy, out=np.zeros_like(slope), where=energy > 0)
    change = np.maximum(change, least / scale - 1)
    cost = np.square(scale, dtype=np.float64) * (error - 2 * change * slope + change * change * energy)
    return scale * (1 + change), cost
