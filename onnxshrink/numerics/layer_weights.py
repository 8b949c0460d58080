"""The integer weights of one layer: safe from saturation, and rounded so that its output moves least."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxshrink.numerics.compensated_rounding import refit_scale, round_to_grid
from onnxshrink.numerics.pair_safe import quantize_pair_safe

_SHORT = 64
"""Channels with few weights, such as those of depthwise Convs, gain from a scale fitted to their integers."""


@dataclass(frozen=True)
class IntegerWeight:
    """Weights on symmetric int8 grids.

    Attributes:
        quantized: int8, (groups, channels, reduction).
        scale: float32, (groups, channels).
    """

    quantized: np.ndarray
    scale: np.ndarray

    @property
    def shared_scale(self) -> bool:
        """Whether all channels have the same scale."""
        return bool((self.scale == self.scale.flat[0]).all())

    @property
    def dequantized(self) -> np.ndarray:
        weights: np.ndarray = self.quantized.astype(np.float32) * self.scale[:, :, None]
        return weights


def quantize_rows(
    rows: np.ndarray,
    moments: np.ndarray | None,
    order: np.ndarray,
    *,
    paired: bool,
    per_channel: bool = True,
    least_scale: np.ndarray | None = None,
) -> IntegerWeight:
    """Integers for the weights of one layer.

    Args:
        rows: (groups, channels, reduction).
        moments: (groups, reduction, reduction), second moments of the layer's inputs, so that rounding moves its output
            least; None rounds to nearest.
        order: permutation of the reduction into the order in which the kernel adds products.
        paired: whether neighbours in that order must be safe from saturation.
        per_channel: one scale per output channel, else one for all.
        least_scale: (groups, channels), scales below which a bias would not fit 32 bits.

    Raises:
        ValueError: the weights or the moments hold NaN or infinity.
    """
    ordered, importance = rows[:, :, order], None
    if moments is not None:
        if not np.isfinite(moments).all():
            raise ValueError("the second moments of the inputs hold NaN or infinity")
        moment = moments[:, order][:, :, order]
        importance = np.repeat(np.diagonal(moment, axis1=1, axis2=2), rows.shape[1], axis=0)
    flat = ordered.reshape(-1, rows.shape[2])
    least = None if least_scale is None else least_scale.reshape(-1)
    if per_channel:
        found, scale = quantize_pair_safe(flat, paired, importance, least)
    else:
        found, scale = _one_scale(flat, paired, least)
    scale = scale.reshape(rows.shape[:2])
    quantized = found.reshape(rows.shape)
    if moments is not None:
        quantized = round_to_grid(ordered, scale, moment, paired)
        if per_channel and rows.shape[2] <= _SHORT:
            refitted = refit_scale(ordered, quantized, scale, moment)
            scale = refitted if least_scale is None else np.maximum(refitted, least_scale)
    in_layout = np.empty_like(quantized)
    in_layout[:, :, order] = quantized
    return IntegerWeight(in_layout, scale)


def _one_scale(flat: np.ndarray, paired: bool, least: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The same with one scale for all channels."""
    padded = np.pad(flat, [(0, 0), (0, flat.shape[1] % 2)])
    found, scale = quantize_pair_safe(
        padded.reshape(1, -1), paired, minimum_scale=None if least is None else least.max(keepdims=True)
    )
    return found.reshape(padded.shape)[:, : flat.shape[1]], np.full(len(flat), scale[0])
