"""A matrix stored as 4- or 8-bit integers with a scale per block of neighbours along the reduction (axis 0).

    w = DequantizeLinear(q, Cast(scale), zero_point, axis = 0, block_size)        opset 21

ONNX Runtime folds the Cast of float16 scales when it loads the model, and merges the rest with the MatMul or Gemm
behind it into one MatMulNBits that reads the integers. The last block may be shorter than the others.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxshrink.numerics.blockwise import BlockWeight
from onnxshrink.storage.decoders import DecoderBuilder

BLOCKED_OPSET = 21
"""The first opset whose DequantizeLinear takes 4-bit integers and blocks."""

BLOCKED_IR_VERSION = 10
"""The first IR version with 4-bit integers."""


def blocked_decoder(build: DecoderBuilder, weight: BlockWeight, bits: int) -> ir.Value:
    """A DequantizeLinear of ``weight`` with ``bits``, 4 or 8.

    The numpy oracle is :func:`onnxshrink.numerics.blockwise.dequantize_blocks`.
    """
    kind = _integer_type(weight, bits)
    inputs = [
        build.constant("q", weight.quantized.astype(kind.numpy()), kind),
        build.cast(build.constant("s", weight.scale), ir.DataType.FLOAT),
    ]
    if weight.zero_point is not None:
        inputs.append(build.constant("z", weight.zero_point.astype(kind.numpy()), kind))
    return build.node("DequantizeLinear", inputs, ir.DataType.FLOAT, axis=0, block_size=weight.block)


def _integer_type(weight: BlockWeight, bits: int) -> ir.DataType:
    if weight.quantized.dtype == np.int8:
        return ir.DataType.INT4 if bits == 4 else ir.DataType.INT8
    return ir.DataType.UINT4 if bits == 4 else ir.DataType.UINT8
