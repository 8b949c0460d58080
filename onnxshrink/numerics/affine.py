"""Affine quantization of weights to int8: scale, zero point, and the search for the scale of least squared error.

    q = clip(round(w / scale) + zero_point, low, high)        ŵ = (q − zero_point) · scale

Rounding is to the nearest integer, ties to even, as in ONNX QuantizeLinear
(https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html). Symmetric quantization has no zero point and uses −127…127;
asymmetric quantization uses −128…127 and a range that contains zero, so zero is exact either way.

The search tries clip ratios of the full range (Banner et al. 2019, https://arxiv.org/abs/1810.05723, derive the ratio
for Gaussian and Laplace weights; here the weights themselves decide). With d = w / scale + zero_point − q, the scale
that fits the integers of a candidate best is scale · (1 + ρ), ρ = Σ d·(q − zero_point) / Σ (q − zero_point)², and its
squared error is scale² · Σ (d − ρ·(q − zero_point))². Rounding again at that scale can only lower the error, and the
full range is among the candidates: the result is never worse than no clipping.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from onnxshrink.numerics.balanced_rounding import balance

ScaleSearch = Literal["mse", "max"]
"""How the scale is found: least squared error, or the largest magnitude (no clipping)."""

_PIECE = 1 << 16
"""Elements worked on at a time: a handful of float32 temporaries stay in the processor's second-level cache."""


@dataclass(frozen=True)
class AffineWeight:
    """A weight on an int8 grid.

    Attributes:
        quantized: int8, the shape of the weight.
        scale: float32 or float16, positive; the rank of the weight, 1 along every axis that shares a scale.
        zero_point: int8, the shape of ``scale``; None when it is zero everywhere (symmetric).
    """

    quantized: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        return self.quantized.nbytes + self.scale.nbytes + (0 if self.zero_point is None else self.zero_point.nbytes)


@dataclass(frozen=True)
class AffineScheme:
    """How weights are put on the grid.

    Attributes:
        symmetric: no zero point.
        search: how the scale is found.
        half_scale: store the scales as float16 when all of them lie between 2⁻¹⁶ and 65504. It costs no accuracy
            worth mentioning: the integers are chosen for the rounded scales.
    """

    symmetric: bool = True
    search: ScaleSearch = "mse"
    half_scale: bool = False


@dataclass(frozen=True)
class InputMean:
    """What is known of the numbers that a weight is multiplied with, for rounding that cancels in the sum.

    Attributes:
        mean: the mean input per weight, of the weight's rank and broadcastable to it; only its direction matters.
            None: all equal.
        kernel_size: how many consecutive weights (a Conv kernel) read the same input channel.
    """

    mean: np.ndarray | None = None
    kernel_size: int = 1


@dataclass(frozen=True)
class _Grid:
    """Scale and zero point per channel, both (channels, 1) float32, and the integers that may be used."""

    scale: np.ndarray
    zero_point: np.ndarray
    low: int
    high: int

    def steps(self, piece: np.ndarray) -> np.ndarray:
        """``piece`` (channels, n) in steps of the grid, not yet rounded."""
        steps: np.ndarray = piece / self.scale
        steps += self.zero_point
        return steps

    def nearest(self, steps: np.ndarray) -> np.ndarray:
        rounded: np.ndarray = np.rint(steps)
        np.clip(rounded, self.low, self.high, out=rounded)
        return rounded


def quantize_weight(
    weight: np.ndarray,
    channel_axes: tuple[int, ...],
    scheme: AffineScheme | None = None,
    inputs: InputMean | None = None,
) -> AffineWeight:
    """Quantize a float weight of any shape to int8, one scale per index of ``channel_axes`` (none: one scale in all).

    ``channel_axes`` are neighbours. Every weight is rounded to the nearest integer; ``inputs`` lets some go to the
    other neighbour, see :mod:`onnxshrink.numerics.balanced_rounding`. Beside the result, temporary memory is a few
    pieces of 64 Ki elements.

    Raises:
        ValueError: the weight holds NaN, infinity, or magnitudes beyond a quarter of the largest float32.
    """
    scheme = scheme or AffineScheme()
    axes = tuple(sorted(axis % weight.ndim for axis in channel_axes))
    rows = _channel_view(weight, axes)
    channels = rows.shape[1]
    scale, zero_point = np.ones((channels, 1), np.float32), np.zeros((channels, 1), np.float32)
    for block in _channel_blocks(rows.shape):
        grid = _full_range(rows, block, scheme.symmetric)
        grid = _least_error(rows, block, grid) if scheme.search == "mse" else grid
        scale[block], zero_point[block] = grid.scale, grid.zero_point
    stored_scale = scale.astype(np.float16) if scheme.half_scale and _fits_half(scale) else scale
    grid = _Grid(stored_scale.astype(np.float32), zero_point, *_limits(scheme.symmetric))
    quantized = np.empty(weight.shape, np.int8)
    _fill(quantized.reshape(rows.shape), rows, grid, inputs, _mean_view(inputs, weight.shape, axes))
    scale_shape = tuple(size if axis in axes else 1 for axis, size in enumerate(weight.shape))
    return AffineWeight(
        quantized,
        stored_scale.reshape(scale_shape),
        None if scheme.symmetric else zero_point.astype(np.int8).reshape(scale_shape),
    )


def quantize_in_groups(
    weight: np.ndarray,
    channel_axes: tuple[int, ...],
    axis: int,
    group: int,
    scheme: AffineScheme | None = None,
    inputs: InputMean | None = None,
) -> AffineWeight:
    """As :func:`quantize_weight`, with scales of their own for every ``group`` neighbours along ``axis``.

    ``group`` divides the axis. In the result, that axis is split in two: (axis / group, group).
    """
    slabs: list[AffineWeight] = []
    for start in range(0, weight.shape[axis], group):
        cut = (*[slice(None)] * axis, slice(start, start + group))
        known = inputs
        if inputs is not None and inputs.mean is not None and inputs.mean.shape[axis] > 1:
            known = replace(inputs, mean=inputs.mean[cut])
        slabs.append(quantize_weight(np.ascontiguousarray(weight[cut]), channel_axes, scheme, known))
    zero_points = [slab.zero_point for slab in slabs if slab.zero_point is not None]
    return AffineWeight(
        np.stack([slab.quantized for slab in slabs], axis),
        np.stack([slab.scale for slab in slabs], axis),
        np.stack(zero_points, axis) if zero_points else None,
    )


def dequantize_weight(weight: AffineWeight) -> np.ndarray:
    """The float32 weight that the integers stand for, with the roundings of the ONNX decoder."""
    integers = weight.quantized.astype(np.float32)
    if weight.zero_point is not None:
        integers -= weight.zero_point.astype(np.float32)
    integers *= weight.scale.astype(np.float32)
    return integers


def _fill(
    target: np.ndarray, rows: np.ndarray, grid: _Grid, inputs: InputMean | None, means: np.ndarray | None
) -> None:
    """Round ``rows`` (before, channels, after) into ``target``, of the same shape."""
    for block in _channel_blocks(rows.shape):
        part_grid = _Grid(grid.scale[block], grid.zero_point[block], grid.low, grid.high)
        for before, after in _parts(rows.shape, block):
            mean = _mean_piece(means, block, (before, after))
            integers = _round(_piece(rows, block, (before, after)), part_grid, inputs, mean)
            place = np.moveaxis(target[before, block, after], 1, 0)
            place[...] = integers.reshape(place.shape)


def _limits(symmetric: bool) -> tuple[int, int]:
    return (-127, 127) if symmetric else (-128, 127)


_LEAST_HALF_SCALE = 2.0**-16
"""float16 numbers are 2⁻²⁴ apart here: a scale moves by 1/512, and the largest weight by a quarter of a step."""


def _fits_half(scale: np.ndarray) -> bool:
    return bool(scale.min(initial=1) >= _LEAST_HALF_SCALE and scale.max(initial=1) <= np.finfo(np.float16).max)


def _channel_view(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """``array`` as (before, channels, after) without a copy."""
    first, last = (axes[0], axes[-1] + 1) if axes else (0, 0)
    if axes != tuple(range(first, last)):
        raise ValueError(f"channel axes {axes} are not neighbours")
    sizes = (array.shape[:first], array.shape[first:last], array.shape[last:])
    return array.reshape([int(np.prod(part, dtype=np.int64)) for part in sizes])


def _channel_blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    before, channels, after = shape
    step = max(1, _PIECE // max(1, before * after))
    for start in range(0, channels, step):
        yield slice(start, min(start + step, channels))


def _parts(shape: tuple[int, ...], block: slice) -> Iterator[tuple[slice, slice]]:
    """Slices of the axes before and after the channels, so that each part of a block is at most one piece."""
    before, _, after = shape
    room = max(1, _PIECE // (block.stop - block.start))
    step_after = min(after, room)
    step_before = max(1, room // max(1, step_after))
    for i in range(0, before, step_before):
        for j in range(0, after, max(1, step_after)):
            yield slice(i, min(i + step_before, before)), slice(j, min(j + step_after, after))


def _piece(rows: np.ndarray, block: slice, part: tuple[slice, slice]) -> np.ndarray:
    """(channels of the block, elements of the part), float32, a copy."""
    piece = np.moveaxis(rows[part[0], block, part[1]], 1, 0)
    with np.errstate(over="ignore"):  # a double that float32 cannot hold becomes infinite and is refused
        return np.ascontiguousarray(piece, dtype=np.float32).reshape(len(piece), -1)


def _full_range(rows: np.ndarray, block: slice, symmetric: bool) -> _Grid:
    """The grid of each channel that just holds its smallest and largest weight, and zero."""
    count = block.stop - block.start
    low, high = np.zeros((count, 1), np.float32), np.zeros((count, 1), np.float32)
    for part in _parts(rows.shape, block):
        piece = _piece(rows, block, part)
        np.minimum(low, piece.min(axis=1, keepdims=True), out=low)
        np.maximum(high, piece.max(axis=1, keepdims=True), out=high)
    # Rounding and the zero point may carry ŵ a little beyond the largest weight: it must not overflow there.
    if not (np.maximum(-low, high) <= np.finfo(np.float32).max / 4).all():
        raise ValueError("the weight holds NaN, infinity, or numbers near the end of the float32 range")
    return _grid_for(low, high, symmetric)


def _grid_for(low: np.ndarray, high: np.ndarray, symmetric: bool) -> _Grid:
    limits = _limits(symmetric)
    smallest = np.finfo(np.float32).smallest_normal
    if symmetric:
        scale = np.maximum(-low, high) / np.float32(127)
        zero_point = np.zeros_like(scale)
    else:
        scale = high / np.float32(255) - low / np.float32(255)
        zero_point = limits[0] - np.rint(low / np.maximum(scale, smallest))
    scale = np.where((low == 0) & (high == 0), np.float32(1), np.maximum(scale, smallest))
    return _Grid(scale, np.clip(zero_point, *limits).astype(np.float32), *limits)


def _least_error(rows: np.ndarray, block: slice, full: _Grid) -> _Grid:
    """The candidate grid of least squared error, per channel."""
    best = np.full(full.scale.shape, np.inf)
    scale, zero_point = full.scale.copy(), full.zero_point.copy()
    # The ends of the range shrink by the same ratio: the zero point stays.
    candidates = [replace(full, scale=full.scale * np.float32(ratio)) for ratio in np.geomspace(1, 0.3, 12)]
    sums = np.zeros((len(candidates), 3, *full.scale.shape))
    for part in _parts(rows.shape, block):
        piece = _piece(rows, block, part)
        for grid, total in zip(candidates, sums, strict=True):
            total += _error_sums(piece, grid)
    for grid, (error, slope, energy) in zip(candidates, sums, strict=True):
        refit = np.divide(slope, energy, out=np.zeros_like(slope), where=energy > 0)
        # A larger step than the full range needs could carry ŵ beyond the largest float.
        refit = np.minimum(refit, full.scale / grid.scale - 1.0)
        squared = np.square(grid.scale, dtype=np.float64) * (error - 2 * refit * slope + refit * refit * energy)
        better = squared < best
        best[better] = squared[better]
        scale = np.where(better, grid.scale * (1 + refit), scale).astype(np.float32)
        zero_point = np.where(better, grid.zero_point, zero_point)
    scale = np.maximum(scale, np.finfo(np.float32).smallest_normal)
    return _Grid(scale, zero_point, full.low, full.high)


def _error_sums(piece: np.ndarray, grid: _Grid) -> np.ndarray:
    """(Σd², Σd·c, Σc²) per channel, c = q − zero_point, shaped (3, channels, 1)."""
    steps = grid.steps(piece)
    integers = grid.nearest(steps)
    steps -= integers
    integers -= grid.zero_point
    pairs = ((steps, steps), (steps, integers), (integers, integers))
    return np.stack([np.einsum("ij,ij->i", a, b)[:, None] for a, b in pairs])


def _round(piece: np.ndarray, grid: _Grid, inputs: InputMean | None, mean: np.ndarray | None) -> np.ndarray:
    """``piece`` (channels, n) as integers of the grid."""
    steps = grid.steps(piece)
    integers = grid.nearest(steps)
    if inputs is None:
        return integers
    if inputs.kernel_size > 1 and piece.shape[1] % inputs.kernel_size == 0:
        kernels = (-1, inputs.kernel_size)
        balance(steps.reshape(kernels), integers.reshape(kernels), None, grid.low, grid.high)
    balance(steps, integers, mean, grid.low, grid.high)
    return integers


def _mean_view(inputs: InputMean | None, shape: tuple[int, ...], axes: tuple[int, ...]) -> np.ndarray | None:
    """The mean input as (before, channels or 1, after)."""
    if inputs is None or inputs.mean is None:
        return None
    mean = inputs.mean
    per_channel = any(mean.shape[axis] != 1 for axis in axes)
    full = tuple(size if axis not in axes or per_channel else 1 for axis, size in enumerate(shape))
    return _channel_view(np.broadcast_to(mean, full), axes)


def _mean_piece(means: np.ndarray | None, block: slice, part: tuple[slice, slice]) -> np.ndarray | None:
    if means is None:
        return None
    return _piece(means, block if means.shape[1] > 1 else slice(0, 1), part)
