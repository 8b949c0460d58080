"""Which weights ONNX Runtime's integer kernels add in pairs on x86 without VNNI, operator by operator.

There, u8·s8 products are added two by two in int16, which saturates (see :mod:`onnxshrink.numerics.pair_safe`). Found
with activations of 255 and weights that are zero but for two of 127, for every two places, and confirmed in the sources
of MLAS, whose AVX2 and AVX512-without-VNNI kernels are alike:

- Gemm, MatMul, and what they become (QGemm, QLinearMatMul, MatMulInteger, MatMulIntegerToFloat, DynamicQuantizeMatMul),
  any number of rows, batched or not, packed or not: rows 2i and 2i + 1 of the (reduction, outputs) matrix. The same
  holds for both weights of DynamicQuantizeLSTM.
- Conv (QLinearConv): whole pixels are laid one after another, so the reduction runs over (kernel positions, input
  channels of the group); an odd number of channels makes pairs that reach from one position into the next. The same
  for one, two and three spatial axes, strides, dilations, and depthwise Convs with several outputs per channel.
- depthwise Conv with one output per channel: multiplied in 16 bits; no pairs.

No pairs either, on this hardware: u8·u8, s8·s8, an int8 weight as left operand, and ConvInteger, all of which widen
both sides before they multiply. ConvTranspose, GRU and RNN have no integer kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.walk import is_op


@dataclass(frozen=True)
class PairLayout:
    """How a kernel walks through a weight.

    Attributes:
        shape: the weight's shape in ONNX.
        axes: the weight's axes in the order (channels..., reduction...).
        channel_rank: how many of ``axes`` are channels.
        paired: whether reduction neighbours (2i, 2i + 1) are added in int16.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    channel_rank: int
    paired: bool

    def to_rows(self, weight: np.ndarray) -> np.ndarray:
        """``weight``, of ``shape``, as (channels, reduction) in the kernel's order; a view where possible."""
        ordered = weight.transpose(self.axes)
        channels = int(np.prod(ordered.shape[: self.channel_rank], dtype=np.int64))
        reduction = int(np.prod(ordered.shape[self.channel_rank :], dtype=np.int64))
        return ordered.reshape(channels, reduction)

    def from_rows(self, rows: np.ndarray) -> np.ndarray:
        """The weight in ONNX's layout, contiguous, whose :meth:`to_rows` is ``rows``."""
        ordered = rows.reshape([self.shape[axis] for axis in self.axes])
        return np.ascontiguousarray(ordered.transpose(np.argsort(self.axes)))

    def reduction_order(self) -> np.ndarray:
        """For each place in the kernel's reduction, its index in the weight's own order of the reduction axes."""
        reduced = self.axes[self.channel_rank :]
        own = sorted(reduced)
        places = np.arange(int(np.prod([self.shape[axis] for axis in own], dtype=np.int64)))
        grid = places.reshape([self.shape[axis] for axis in own])
        return grid.transpose([own.index(axis) for axis in reduced]).reshape(-1)


def weight_pairs(node: ir.Node, index: int, shape: tuple[int, ...]) -> PairLayout | None:
    """How integer kernels of ``node``'s float or integer form walk through the weight of ``shape`` at input ``index``.

    None for operators without an integer kernel, and for operands that do not take the signed side's place in it.
    """
    rank = len(shape)
    if rank >= 3 and index == 1 and is_op(node, "Conv"):
        depthwise = shape[1] == 1 and shape[0] == node.attributes.get_int("group", 1)
        return PairLayout(shape, (0, *range(2, rank), 1), 1, not depthwise)
    if rank == 2 and index == 1 and is_op(node, "Gemm"):
        return _matrix(shape, reduction_last=bool(node.attributes.get_int("transB", 0)))
    if rank >= 2 and index == 1 and is_op(node, "MatMul"):
        return _matrix(shape, reduction_last=False)
    if rank == 3 and index in (1, 2) and is_op(node, "LSTM"):
        return _matrix(shape, reduction_last=True)
    return None


def _matrix(shape: tuple[int, ...], *, reduction_last: bool) -> PairLayout:
    leading = tuple(range(len(shape) - 2))
    last = (len(shape) - 2, len(shape) - 1)
    return PairLayout(shape, leading + (last if reduction_last else last[::-1]), len(shape) - 1, True)
