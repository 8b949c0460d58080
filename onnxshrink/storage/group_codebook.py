"""A constant with a codebook for each channel, or for each block of neighbours along an axis.

    w = Gather(codebooks, Reshape(Gather(digits, Cast(words))) + codebook size · group)

The codebooks lie one behind the other, all as long as the longest. Product quantization without the product:
Gong et al. 2014, https://arxiv.org/abs/1412.6115, cluster weights in groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxshrink.numerics.bit_patterns import bit_patterns
from onnxshrink.storage.decoders import DecoderBuilder
from onnxshrink.storage.digits import PackedIntegers, pack_integers
from onnxshrink.storage.grid import block_views

_LARGEST_CODEBOOK = 64
_BLOCKS = (256, 128, 64)
_SAMPLE_GROUPS = 4
_OPSET_OF_BFLOAT16_GATHER = 13
_OPSET_OF_RANGE = 11
_PIECE = 2**21
_INT32_END = 2**31


@dataclass(frozen=True)
class GroupCodebookConstant:
    """Codebooks, and places in them.

    Attributes:
        codebooks: (groups, k), each ascending by bits, its last value repeated.
        packed: the place of every element in the codebook of its group.
        axes: the axes of the packed integers' shape that count groups, ascending.
        shape: of the constant.
    """

    codebooks: np.ndarray
    packed: PackedIntegers
    axes: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def what(self) -> str:
        groups, size = self.codebooks.shape
        return f"{groups:,} codebooks of {size} values, {self.packed.bits:.3g} bits each"

    @property
    def nbytes(self) -> int:
        return self.codebooks.nbytes + self.packed.nbytes

    @property
    def load_bytes(self) -> int:
        size = math.prod(self.shape)
        copies = 1 + (self.packed.shape != self.shape)
        return self.packed.load_bytes(4) + 8 * size + copies * self.codebooks.itemsize * size

    @property
    def _group_shape(self) -> tuple[int, ...]:
        return tuple(size if axis in self.axes else 1 for axis, size in enumerate(self.packed.shape))

    def can_decode(self, dtype: ir.DataType, opset: int) -> bool:
        return dtype != ir.DataType.BFLOAT16 or opset >= _OPSET_OF_BFLOAT16_GATHER

    def decode(self) -> np.ndarray:
        offsets = np.arange(len(self.codebooks), dtype=np.int32) * self.codebooks.shape[1]
        places = self.packed.unpack().astype(np.int32) + offsets.reshape(self._group_shape)
        values: np.ndarray = self.codebooks.reshape(-1)[places].reshape(self.shape)
        return values

    def decoder(self, build: DecoderBuilder, dtype: ir.DataType, opset: int) -> ir.Value:
        whole = ir.DataType.INT32
        places = build.node("Add", [self.packed.integers(build, opset), self._offsets(build, opset)], whole)
        if self.packed.shape != self.shape:
            places = build.node("Reshape", [places, build.ints(*self.shape)], whole)
        return build.node("Gather", [build.constant("c", self.codebooks.reshape(-1), dtype), places], dtype)

    def _offsets(self, build: DecoderBuilder, opset: int) -> ir.Value:
        groups, size = self.codebooks.shape
        if opset < _OPSET_OF_RANGE:
            return build.constant("o", (np.arange(groups, dtype=np.int32) * size).reshape(self._group_shape))

        def make() -> ir.Value:
            bounds = [build.constant("z", np.array(bound, np.int32)) for bound in (0, groups * size, size)]
            column = build.node("Range", bounds, ir.DataType.INT32)
            return build.node("Reshape", [column, build.ints(*self._group_shape)], ir.DataType.INT32)

        return build.shared(("offsets", self._group_shape, size), make)


def encode_group_codebook(array: np.ndarray) -> list[GroupCodebookConstant]:
    """``array`` by a codebook for each channel along an axis, or each block; empty where they take too many bytes."""
    return list(_encode_group_codebook(array))


def _encode_group_codebook(array: np.ndarray) -> Iterator[GroupCodebookConstant]:
    if array.ndim < 2 or array.itemsize < 2 or array.size >= _INT32_END:
        return
    for view, axes in _views(array):
        table = _codebooks(view, axes, array.nbytes // 2)
        if table is None:
            continue
        indices = _indices(view, axes, table)
        for packed in pack_integers(indices, table.shape[1]):
            if packed.bits < 8:
                yield GroupCodebookConstant(table.view(array.dtype), packed, axes, array.shape)
        return


def _views(array: np.ndarray) -> Iterator[tuple[np.ndarray, tuple[int, ...]]]:
    for axis in sorted(range(array.ndim), key=lambda axis: array.shape[axis]):
        if array.shape[axis] > 1:
            yield array, (axis,)
    for block in _BLOCKS:
        yield from block_views(array, block)


def _rows(view: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """(groups, …): the elements of every group, a view."""
    moved = np.moveaxis(view, axes, range(len(axes)))
    return moved.reshape(-1, *moved.shape[len(axes) :])


def _codebooks(view: np.ndarray, axes: tuple[int, ...], most_bytes: int) -> np.ndarray | None:
    """(groups, k) bit patterns; None when a group has more than 64 values or the codebooks exceed ``most_bytes``."""
    moved = np.moveaxis(view, axes, range(len(axes)))
    groups = moved.shape[: len(axes)]
    count = math.prod(groups)
    for group in range(0, count, max(1, count // _SAMPLE_GROUPS)):
        if np.unique(bit_patterns(moved[np.unravel_index(group, groups)])).size > _LARGEST_CODEBOOK:
            return None
    rows = bit_patterns(_rows(view, axes)).reshape(count, -1)
    tables = []
    step = max(1, _PIECE // rows.shape[1])
    for start in range(0, count, step):
        table = _distinct_by_row(rows[start : start + step])
        if table is None or table.shape[1] * rows.itemsize * count > most_bytes:
            return None
        tables.append(table)
    width = max(table.shape[1] for table in tables)
    if width * rows.itemsize * count > most_bytes:
        return None
    return np.concatenate([np.pad(table, ((0, 0), (0, width - table.shape[1])), "edge") for table in tables])


def _distinct_by_row(rows: np.ndarray) -> np.ndarray | None:
    """(rows, k): the distinct elements of every row, ascending, the last one repeated; None beyond 64."""
    ordered = np.sort(rows, axis=1)
    new = np.empty(ordered.shape, bool)
    new[:, 0] = True
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=new[:, 1:])
    counts = new.sum(1)
    if counts.max() > _LARGEST_CODEBOOK:
        return None
    table = np.repeat(ordered[:, -1:], int(counts.max()), axis=1)
    row, column = np.nonzero(new)
    first = np.concatenate(([0], np.cumsum(counts)[:-1]))
    table[row, np.arange(row.size) - first[row]] = ordered[row, column]
    return table


def _indices(view: np.ndarray, axes: tuple[int, ...], table: np.ndarray) -> np.ndarray:
    """uint8, the shape of ``view``: the place of every element in the row of ``table`` of its group."""
    moved = np.moveaxis(view, axes, range(len(axes)))
    rows = bit_patterns(_rows(view, axes)).reshape(len(table), -1)
    indices = np.zeros(rows.shape, np.uint8)
    for column in range(1, table.shape[1]):  # the last value repeats: elements count as larger than what precedes it
        indices += (rows >= table[:, column, None]) & (table[:, column, None] > table[:, column - 1, None])
    return np.ascontiguousarray(np.moveaxis(indices.reshape(moved.shape), range(len(axes)), axes))
