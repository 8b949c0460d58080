"""Weights of one layer on few values: which values, and which weight takes which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnxshrink.numerics.compensated_levels import assign_compensated
from onnxshrink.numerics.compensated_rounding import output_error
from onnxshrink.numerics.error_feedback import columns_first
from onnxshrink.numerics.scalar_kmeans import codebook_of
from onnxshrink.numerics.weight_levels import Codebooks, Levels, ScaledPattern

_SHRINKING = np.linspace(1.0, 0.35, 27)
"""Scales that are tried, as shares of the largest weight of the channel."""

_PINNED_SHARE = 0.02
"""Zeros are taken for pruned weights when they are at least this share of a tensor."""

_CHUNK = 2**21
"""Weights looked at together when scales are searched."""


@dataclass(frozen=True)
class Grid:
    """Integers of ``bits`` bits, symmetric about zero, times a scale per channel; 2 bits are {−1, 0, 1}."""

    bits: int

    def __str__(self) -> str:
        return f"{self.bits}-bit grid"


@dataclass(frozen=True)
class Binary:
    """{−1, 1} times a scale per channel."""

    bits: int = 1

    def __str__(self) -> str:
        return "two values"


@dataclass(frozen=True)
class PowersOfTwo:
    """Zero and ± 2^e, for 2^(bits−1) − 1 neighbouring exponents e, the same for the whole tensor."""

    bits: int

    def __str__(self) -> str:
        return f"{self.bits}-bit powers of two"


@dataclass(frozen=True)
class Codebook:
    """Free values.

    Attributes:
        entries: how many in each book, zero included.
        channels: how many channels share a book; None: all.
    """

    entries: int
    channels: int | None = None

    @property
    def bits(self) -> int:
        return max(1, (self.entries - 1).bit_length())

    def __str__(self) -> str:
        return f"codebook of {self.entries}"


Scheme = Grid | Binary | PowersOfTwo | Codebook


@dataclass(frozen=True)
class SharedRows:
    """Weights on few values.

    Attributes:
        values: float32, (groups, channels, columns).
        numbers: how many scales or codebook entries define them.
    """

    values: np.ndarray
    numbers: int


def pinned_zeros(rows: np.ndarray) -> np.ndarray | None:
    """Which weights are zero on purpose, of the shape of ``rows``; None when there are too few of them for that."""
    zeros = rows == 0
    return zeros if zeros.mean() >= _PINNED_SHARE else None


def share_rows(
    rows: np.ndarray,
    scheme: Scheme,
    moments: np.ndarray | None = None,
    *,
    compensated: bool = True,
    refit: bool = True,
    damping: float = 0.01,
) -> SharedRows:
    """Put the weights of one layer on few values.

    Args:
        rows: (groups, channels, columns). Zeros, when there are many, stay zero.
        scheme: what values are allowed.
        moments: second moments of the layer's inputs, (groups, columns, columns), finite; None: each weight counts the
            same.
        compensated: let weights make up for each other's errors, else each goes to the nearest value.
        refit: fit the values to the assignment.
        damping: how far to doubt ``moments``, as a part of the mean of their diagonal.

    Raises:
        ValueError: the weights or the moments hold NaN or infinity.
    """
    if not np.isfinite(rows).all() or (moments is not None and not np.isfinite(moments).all()):
        raise ValueError("the weights or the second moments of their inputs hold NaN or infinity")
    rows = rows.astype(np.float32, copy=False)
    pinned = pinned_zeros(rows)
    importance = None if moments is None else np.einsum("gii->gi", moments)
    levels = initial_levels(rows, scheme, importance, pinned)
    nearest = _nearest(rows, levels, pinned)
    if moments is None or not compensated:
        if refit and not isinstance(levels, Codebooks):
            levels, nearest = levels.refitted(rows, nearest, None if importance is None else _diagonal(importance))
        return SharedRows(nearest, levels.count)
    found, levels = assign_compensated(rows, levels, moments, pinned, refit=refit, damping=damping)
    return SharedRows(_better(rows, found, _nearest(rows, levels, pinned), moments), levels.count)


def initial_levels(
    rows: np.ndarray, scheme: Scheme, importance: np.ndarray | None, pinned: np.ndarray | None
) -> Levels:
    """Levels of least squared error with each weight at the nearest.

    Args:
        rows: (groups, channels, columns), float32.
        scheme: what values are allowed.
        importance: what a squared error counts, (groups, columns), nonnegative; None: 1.
        pinned: weights that are zero anyway, of the shape of ``rows``.
    """
    weight = np.ones(rows.shape[::2], np.float32) if importance is None else importance.astype(np.float32)
    if isinstance(scheme, Codebook):
        return _codebooks(rows, scheme, weight, pinned)
    if isinstance(scheme, PowersOfTwo):
        return _powers_of_two(rows, scheme.bits, weight)
    if isinstance(scheme, Binary):
        kept = weight[:, None] * (1 if pinned is None else ~pinned)
        return ScaledPattern(
            np.array([-1, 1], np.float32),
            _positive(_ratio((np.abs(rows) * kept).sum(axis=2), kept.sum(axis=2) + 0 * rows[..., 0])),
        )
    pattern = np.arange(-(2 ** (scheme.bits - 1)) + 1, 2 ** (scheme.bits - 1), dtype=np.float32)
    scale = np.empty(rows.shape[:2], np.float32)
    search = _ternary_scale if scheme.bits == 2 else _searched_scale
    for chosen in _channel_chunks(rows.shape):
        scale[:, chosen] = search(rows[:, chosen], pattern, weight)
    return ScaledPattern(pattern, _positive(scale))


def _nearest(rows: np.ndarray, levels: Levels, pinned: np.ndarray | None) -> np.ndarray:
    found = np.ascontiguousarray(np.moveaxis(levels.nearest(columns_first(rows)), 0, -1))
    if pinned is not None:
        found[pinned] = 0
    return found


def _better(rows: np.ndarray, found: np.ndarray, nearest: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """The one of less output error, channel by channel."""
    worse = output_error(rows, found, moments) > output_error(rows, nearest, moments)
    return np.where(worse[..., None], nearest, found)


def _diagonal(importance: np.ndarray) -> np.ndarray:
    found: np.ndarray = importance[:, :, None] * np.eye(importance.shape[1], dtype=np.float32)
    return found


def _channel_chunks(shape: tuple[int, ...]) -> Iterator[slice]:
    step = max(1, _CHUNK // max(1, shape[0] * shape[2]))
    for start in range(0, shape[1], step):
        yield slice(start, min(start + step, shape[1]))


def _positive(scale: np.ndarray) -> np.ndarray:
    """Scales of channels without weights are 1."""
    usable = np.isfinite(scale) & (scale >= np.finfo(np.float32).tiny)
    found: np.ndarray = np.where(usable, scale, 1).astype(np.float32)
    return found


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return found


def _searched_scale(rows: np.ndarray, pattern: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The best of several scales of each channel, (groups, channels)."""
    target = columns_first(rows)
    counts = weight.T[..., None]
    largest = np.abs(target).max(axis=0)
    best: np.ndarray = largest / pattern[-1]
    least = np.full(largest.shape, np.inf)
    for share in _SHRINKING:
        scale = _positive(np.float32(share) * largest / pattern[-1])
        error = (np.square(ScaledPattern(pattern, scale).nearest(target) - target) * counts).sum(axis=0)
        better = error < least
        best, least = np.where(better, scale, best), np.where(better, error, least)
    return best


def _ternary_scale(rows: np.ndarray, pattern: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The scale of least squared error: the t largest weights are ± s, and s² Σ h = (Σ h |w|)² / Σ h is largest."""
    magnitude = np.abs(rows)
    order = np.argsort(-magnitude, axis=2)
    counts = np.take_along_axis(np.broadcast_to(weight[:, None], rows.shape), order, axis=2).astype(np.float64)
    first = np.cumsum(counts * np.take_along_axis(magnitude, order, axis=2), axis=2)
    mass = np.cumsum(counts, axis=2)
    best = np.argmax(_ratio(np.square(first), mass), axis=2, keepdims=True)
    found: np.ndarray = np.take_along_axis(_ratio(first, mass), best, axis=2)[..., 0]
    return found


def _powers_of_two(rows: np.ndarray, bits: int, weight: np.ndarray) -> ScaledPattern:
    count = 2 ** (bits - 1) - 1
    powers = np.exp2(-np.arange(count, dtype=np.float32))
    pattern = np.concatenate([-powers, [0], powers[::-1]]).astype(np.float32)
    largest = float(np.abs(rows).max(initial=0))
    top = int(np.ceil(np.log2(largest))) if largest > 0 else 0
    target = columns_first(rows)
    trials = [
        ScaledPattern(pattern, np.full(rows.shape[:2], np.exp2(np.float32(top - down)), np.float32), free_scale=False)
        for down in range(4)
    ]
    errors = [(np.square(trial.nearest(target) - target) * weight.T[..., None]).sum() for trial in trials]
    return trials[int(np.argmin(errors))]


def _codebooks(rows: np.ndarray, scheme: Codebook, weight: np.ndarray, pinned: np.ndarray | None) -> Codebooks:
    groups, channels, _ = rows.shape
    total = groups * channels
    owner = np.arange(total) // (scheme.channels or total)
    every = np.broadcast_to(weight[:, None], rows.shape)
    books = []
    for book in range(int(owner[-1]) + 1):
        here = (owner == book).reshape(groups, channels)
        chosen, counts = rows[here], every[here]
        if pinned is not None:
            free = ~pinned[here]
            chosen, counts = chosen[free], counts[free]
        entries = codebook_of(chosen, scheme.entries, counts, with_zero=pinned is not None) if chosen.size else [0]
        books.append(np.pad(entries, (0, scheme.entries - len(entries)), mode="edge"))
    return Codebooks(np.stack(books).astype(np.float32), owner.reshape(groups, channels))
