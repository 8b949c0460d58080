"""How the values of a weight are distributed, and what storing it as int8 would cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_SAMPLE = 2**17
"""Order statistics and moments above the second are taken from at most this many evenly spaced elements."""

_BLOCK = 2**16


@dataclass(frozen=True)
class Distribution:
    """The distribution of one weight. All figures are NaN-free; a weight that holds NaN or infinity has none.

    Attributes:
        minimum: smallest element; ``maximum`` the largest.
        mean: mean of the elements; ``std`` their standard deviation.
        kurtosis: fourth standardised moment (3 for a normal distribution), from at most 131,072 elements; 0 when all
            elements are equal.
        magnitude_999: the magnitude that 99.9 % of the elements stay under, from the same elements.
        range_used: ``magnitude_999`` over the largest magnitude: a small share means that a few outliers
            take most of an integer grid; 0 when all elements are 0.
        int8_sqnr_db: expected 10·log10(Σw² / Σ(w − ŵ)²) of symmetric int8 with one scale per channel. With the step
            Δ = max|w| / 127 of each channel, the expected square error of an element is Δ² / 12. None when all
            elements are 0.
    """

    minimum: float
    maximum: float
    mean: float
    std: float
    kurtosis: float
    magnitude_999: float
    range_used: float
    int8_sqnr_db: float | None


def describe(weight: np.ndarray, channel_axes: tuple[int, ...]) -> Distribution | None:
    """Describe a floating-point weight without copying it as a whole; None when it is empty or not finite.

    Args:
        weight: any shape.
        channel_axes: axes along which an int8 weight has a scale of its own.
    """
    if weight.size == 0:
        return None
    if weight.dtype != np.float64:
        weight = weight.astype(np.float32, copy=False)
    inner = tuple(axis for axis in range(weight.ndim) if axis not in channel_axes)
    highest, lowest = weight.max(axis=inner), weight.min(axis=inner)
    minimum, maximum = float(lowest.min()), float(highest.max())
    if not (math.isfinite(minimum) and math.isfinite(maximum)):
        return None
    total, energy = _sums(weight)
    mean = total / weight.size
    sample = _evenly_spaced(weight)
    magnitude = max(-minimum, maximum)
    typical = float(np.quantile(np.abs(sample), 0.999))
    peaks = np.maximum(np.abs(highest), np.abs(lowest)).astype(np.float64)
    return Distribution(
        minimum=minimum,
        maximum=maximum,
        mean=mean,
        std=math.sqrt(max(energy / weight.size - mean**2, 0.0)),
        kurtosis=_kurtosis(sample),
        magnitude_999=typical,
        range_used=typical / magnitude if magnitude else 0.0,
        int8_sqnr_db=_int8_sqnr_db(energy, peaks, weight.size),
    )


def _sums(weight: np.ndarray) -> tuple[float, float]:
    """Σw and Σw² in float64, a block at a time."""
    flat = weight.reshape(-1)
    total = energy = 0.0
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK].astype(np.float64)
        total += float(block.sum())
        energy += float(np.square(block, out=block).sum())  # no BLAS: its threads cost more than they save here
    return total, energy


def _evenly_spaced(weight: np.ndarray) -> np.ndarray:
    """At most ``_SAMPLE`` elements, (n,) float64. The spacing is odd, so that it does not stay within one channel."""
    spacing = math.ceil(weight.size / _SAMPLE)
    return weight.reshape(-1)[:: spacing + (spacing % 2 == 0)].astype(np.float64)


def _kurtosis(sample: np.ndarray) -> float:
    squares = np.square(sample - sample.mean())
    variance = float(squares.mean())
    return float(np.square(squares).mean()) / variance**2 if variance > 0 else 0.0


def _int8_sqnr_db(energy: float, peaks: np.ndarray, elements: int) -> float | None:
    noise = elements * float(np.mean((peaks / 127) ** 2)) / 12
    return 10 * math.log10(energy / noise) if energy > 0 and noise > 0 else None
