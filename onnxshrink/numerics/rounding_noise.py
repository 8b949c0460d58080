"""How much rounding to an int8 grid changes a weight, expected from the ranges alone, before anything is rounded.

A weight rounded with step s is off by a number spread evenly over −s/2 … s/2, and its expected squared error is
s²/12 (Bennett 1948, https://doi.org/10.1002/j.1538-7305.1948.tb01340.x). The step follows from the range that shares a
scale: s = max|w| / 127 without a zero point, s = (max(w, 0) − min(w, 0)) / 255 with one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RoundingNoise:
    """Expected ‖w − ŵ‖² on grids without and with zero points."""

    symmetric: float
    asymmetric: float


def rounding_noise(
    weight: np.ndarray, channel_axes: tuple[int, ...], axis: int | None = None, group: int = 0
) -> RoundingNoise:
    """The noise of rounding ``weight`` with a scale for each index of ``channel_axes``.

    ``group``, which divides ``axis``, gives every so many neighbours along that axis a scale of their own; 0: none.
    Not finite when the weight holds NaN or infinity.
    """
    shape, kept = list(weight.shape), set(channel_axes)
    if group and axis is not None:
        shape[axis : axis + 1] = [weight.shape[axis] // group, group]
        kept = {kept_axis + (kept_axis > axis) for kept_axis in kept} | {axis}
    parts = weight.reshape(shape)
    shared = tuple(index for index in range(parts.ndim) if index not in kept)
    low = np.minimum(parts.min(axis=shared), 0).astype(np.float64)
    high = np.maximum(parts.max(axis=shared), 0).astype(np.float64)
    return RoundingNoise(
        weight.size * float(np.mean((np.maximum(-low, high) / 127) ** 2)) / 12,
        weight.size * float(np.mean(((high - low) / 255) ** 2)) / 12,
    )


def squared_norm(weight: np.ndarray) -> float:
    """‖w‖², added up in float64 without a copy of the weight in it."""
    flat = weight.reshape(-1)
    return float(np.einsum("i,i->", flat, flat, dtype=np.float64))
