"""float32 values on a grid: small integers, again encoded, and a scale for all, for each channel, or for each block.

    w = (q − zero_point) · Cast(scale)        q: Cast(int8), a codebook of integers, or sparse integers

Scales that float16 holds are stored as such. Blocks of neighbours along an axis share a scale through a shape in which
that axis is two; a Reshape follows. Integers below zero need no zero point: one is stored where it saves bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxshrink.numerics.bit_patterns import same_bits
from onnxshrink.numerics.grid_recovery import Grid, recover_grid
from onnxshrink.storage.decoders import DecoderBuilder
from onnxshrink.storage.encoded import Encoded

_CAST_BYTES = 35
_BLOCKS = (16, 32, 64, 128, 256)
_LEAST_VALUES_PER_SCALE = 3


@dataclass(frozen=True)
class GridConstant:
    """Integers, encoded, and what they count.

    Attributes:
        steps: decodes to float32 integers, in the shape of ``scale`` broadcast.
        scale: float32, positive, 1 along every axis that shares a scale.
        zero_point: uint8, the shape of ``scale``, taken from the integers; None for zero.
        shape: of the constant; other than that of the integers where blocks share a scale.
    """

    steps: Encoded
    scale: np.ndarray
    zero_point: np.ndarray | None
    shape: tuple[int, ...]

    @property
    def what(self) -> str:
        scales = "a scale" if self.scale.size == 1 else f"{self.scale.size:,} scales"
        return f"{scales} × {self.steps.what}"

    @property
    def nbytes(self) -> int:
        zero_points = 0 if self.zero_point is None else self.zero_point.size
        return self.steps.nbytes + self._stored_scale.nbytes + zero_points

    @property
    def load_bytes(self) -> int:
        nodes = 1 + (self.zero_point is not None) + (len(self.shape) != self.scale.ndim)
        return self.steps.load_bytes + 4 * nodes * math.prod(self.shape)

    @property
    def _stored_scale(self) -> np.ndarray:
        half = self.scale.astype(np.float16) if self.scale.max() < 65504 else self.scale
        pays = 2 * self.scale.size > _CAST_BYTES and bool((half.astype(np.float32) == self.scale).all())
        return half if pays else self.scale

    def can_decode(self, dtype: ir.DataType, opset: int) -> bool:
        return dtype == ir.DataType.FLOAT and self.steps.can_decode(dtype, opset)

    def decode(self) -> np.ndarray:
        steps = self.steps.decode()
        if self.zero_point is not None:
            steps = steps - self.zero_point.astype(np.float32)
        values: np.ndarray = (steps * self.scale).reshape(self.shape)
        return values

    def decoder(self, build: DecoderBuilder, dtype: ir.DataType, opset: int) -> ir.Value:
        values = self.steps.decoder(build, dtype, opset)
        if self.zero_point is not None:
            zero_point = build.cast(build.constant("z", _leading_ones_dropped(self.zero_point)), dtype)
            values = build.node("Sub", [values, zero_point], dtype)
        scale = build.cast(build.constant("s", _leading_ones_dropped(self._stored_scale)), dtype)
        values = build.node("Mul", [values, scale], dtype)
        if len(self.shape) != self.scale.ndim:
            values = build.node("Reshape", [values, build.ints(*self.shape)], dtype)
        return values


def encode_grid(array: np.ndarray, encode_steps: Callable[[np.ndarray], Sequence[Encoded]]) -> list[GridConstant]:
    """``array`` on the coarsest-shared grid that gives back its bits, its integers by each of ``encode_steps``."""
    return list(_encode_grid(array, encode_steps))


def _encode_grid(array: np.ndarray, encode_steps: Callable[[np.ndarray], Sequence[Encoded]]) -> Iterator[GridConstant]:
    if array.dtype != np.float32 or array.size < 2 * _LEAST_VALUES_PER_SCALE:
        return
    grid = next((found for found in _grids(array) if found is not None), None)
    if grid is None:
        return
    low, high, widest = _span(grid)
    scale, shape = grid.scale, array.shape
    for encoded in encode_steps(grid.steps):
        yield GridConstant(encoded, scale, None, shape)
    if widest <= 255 and (low < -128 or high > 127 or 2 * widest <= high - low):
        axes = tuple(axis for axis, size in enumerate(scale.shape) if size == 1)
        zero_point = np.abs(grid.steps.min(axis=axes, keepdims=True).clip(max=0))
        shifted = grid.steps + zero_point
        if same_bits(shifted - zero_point, grid.steps):  # −0.0 does not come back
            for encoded in encode_steps(shifted):
                yield GridConstant(encoded, scale, zero_point.astype(np.uint8), shape)


def _span(grid: Grid) -> tuple[int, int, int]:
    """The lowest and the highest integer, and the widest range of one channel that contains zero."""
    axes = tuple(axis for axis, size in enumerate(grid.scale.shape) if size == 1)
    low = grid.steps.min(axis=axes).astype(int).clip(max=0)
    high = grid.steps.max(axis=axes).astype(int).clip(min=0)
    return int(np.min(low)), int(np.max(high)), int(np.max(high - low))


def _grids(array: np.ndarray) -> Iterator[Grid | None]:
    """Grids with ever more scales: one, for each channel along an axis, for each block along the first or last axis."""
    yield recover_grid(array, ())
    for axis in sorted(range(array.ndim), key=lambda axis: array.shape[axis]):
        if 1 < array.shape[axis] <= array.size // _LEAST_VALUES_PER_SCALE:
            yield recover_grid(array, (axis,))
    if array.ndim > 1:
        for block in reversed(_BLOCKS):
            yield from (recover_grid(view, axes) for view, axes in block_views(array, block))


def block_views(array: np.ndarray, block: int) -> Iterator[tuple[np.ndarray, tuple[int, ...]]]:
    """``array`` as a matrix (rows, columns) whose columns, or rows, are split into blocks; with the axes of blocks."""
    rows = array.reshape(array.shape[0], -1)
    if rows.shape[1] % block == 0 and rows.shape[1] > block:
        yield rows.reshape(rows.shape[0], -1, block), (0, 1)
    if rows.shape[0] % block == 0 and rows.shape[0] > block:
        yield rows.reshape(-1, block, rows.shape[1]), (0, 2)


def _leading_ones_dropped(array: np.ndarray) -> np.ndarray:
    """``array`` in fewer dimensions; broadcasting adds leading ones by itself."""
    first = next((axis for axis, size in enumerate(array.shape) if size != 1), array.ndim)
    return array.reshape(array.shape[first:])
