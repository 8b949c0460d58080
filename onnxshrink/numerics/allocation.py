"""How many zeros each layer gets, so that the model's output loses least at a given number of zeros.

Each layer ℓ has a curve of squared output errors e_ℓ(s) over its sparsity s, measured at a few and interpolated in
log e. Errors of layers add up to first order. The minimum of Σ e_ℓ(s_ℓ) at Σ n_ℓ s_ℓ = n s has one Lagrange multiplier:
all layers with the same error per further zero, −∂e_ℓ/∂(n_ℓ s_ℓ) = μ, on the convex hulls of the curves. Taking the
cheapest further zeros of all layers, one piece of a hull after the other, finds it (Fox 1966; for the bits of layers
in compression, Shoham & Gersho 1988, https://doi.org/10.1109/29.90373).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LARGEST_SPARSITY = 0.98
"""No layer gets more than this."""

_LEVELS = 196


@dataclass(frozen=True)
class ErrorCurve:
    """What a layer costs.

    Attributes:
        size: its number of weights.
        sparsities: where the error is known, rising, above 0.
        errors: squared errors of the model's output there, relative to its energy.
    """

    size: int
    sparsities: tuple[float, ...]
    errors: tuple[float, ...]

    def at(self, sparsities: np.ndarray) -> np.ndarray:
        """Errors at any sparsities: log-linear between known ones, proportional to s² below the first."""
        known = np.maximum.accumulate(np.maximum(self.errors, 1e-30))
        first = self.sparsities[0]
        logs = np.interp(sparsities, self.sparsities, np.log(known))
        if sparsities.size and sparsities.max() > self.sparsities[-1] and len(known) > 1:
            slope = (math.log(known[-1]) - math.log(known[-2])) / (self.sparsities[-1] - self.sparsities[-2])
            logs = logs + slope * np.maximum(sparsities - self.sparsities[-1], 0)
        found = np.exp(logs)
        return np.asarray(np.where(sparsities < first, known[0] * np.square(sparsities / first), found))


def allocate(curves: Sequence[ErrorCurve], zeros: int, limit: float = LARGEST_SPARSITY) -> list[int]:
    """Zeros per layer, ``zeros`` in all (as many as fit below ``limit`` if that is less)."""
    pieces = []
    for index, curve in enumerate(curves):
        counts = np.unique(np.floor(np.linspace(0, limit, _LEVELS) * curve.size).astype(np.int64))
        costs = curve.at(counts / max(curve.size, 1))
        hull = _lower_hull(counts.astype(np.float64), costs)
        pieces += [
            ((costs[b] - costs[a]) / (counts[b] - counts[a]), index, int(counts[b] - counts[a]))
            for a, b in itertools.pairwise(hull)
        ]
    given = [0] * len(curves)
    left = zeros
    for _, index, count in sorted(pieces, key=lambda piece: piece[0]):  # stable: a hull's pieces keep their order
        taken = min(count, left)
        given[index] += taken
        left -= taken
    return given


def total_error(curves: Sequence[ErrorCurve], zeros: Sequence[int]) -> float:
    """The relative output error to expect: the root of the sum of the layers' squared errors."""
    parts = (
        curve.at(np.array([count / max(curve.size, 1)]))[0] for curve, count in zip(curves, zeros, strict=True) if count
    )
    return math.sqrt(math.fsum(parts))


def _lower_hull(x: np.ndarray, y: np.ndarray) -> list[int]:
    """Indices of the lower convex hull of points with rising ``x``."""
    hull: list[int] = []
    for index in range(len(x)):
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (y[b] - y[a]) * (x[index] - x[a]) < (y[index] - y[a]) * (x[b] - x[a]):
                break
            hull.pop()
        hull.append(index)
    return hull
