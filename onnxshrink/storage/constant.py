"""A constant that repeats one value: the value and the shape.

    w = ConstantOfShape<value>(shape)        opset 9 and up
    w = Expand(value, shape)                 opset 8

https://onnx.ai/onnx/operators/onnx__ConstantOfShape.html, https://onnx.ai/onnx/operators/onnx__Expand.html
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxshrink.numerics.bit_patterns import bit_patterns
from onnxshrink.storage.decoders import DecoderBuilder

_OPSET_OF_EXPAND = 8
_OPSET_OF_CONSTANT_OF_SHAPE = 9
_OPSET_OF_BFLOAT16 = 20


@dataclass(frozen=True)
class RepeatedConstant:
    """One value, shape (1,), and the shape that it fills."""

    value: np.ndarray
    shape: tuple[int, ...]

    @property
    def what(self) -> str:
        return "one value, repeated"

    @property
    def nbytes(self) -> int:
        return self.value.nbytes + 8 * len(self.shape)

    @property
    def load_bytes(self) -> int:
        return math.prod(self.shape) * self.value.itemsize

    def can_decode(self, dtype: ir.DataType, opset: int) -> bool:
        return opset >= (_OPSET_OF_BFLOAT16 if dtype == ir.DataType.BFLOAT16 else _OPSET_OF_EXPAND)

    def decode(self) -> np.ndarray:
        return np.full(self.shape, self.value, self.value.dtype)

    def decoder(self, build: DecoderBuilder, dtype: ir.DataType, opset: int) -> ir.Value:
        shape = build.ints(*self.shape)
        if opset < _OPSET_OF_CONSTANT_OF_SHAPE:
            return build.node("Expand", [build.constant("c", self.value, dtype), shape], dtype)
        return build.node("ConstantOfShape", [shape], dtype, value=ir.Tensor(self.value, dtype=dtype))


def encode_repeated(array: np.ndarray) -> RepeatedConstant | None:
    """``array`` as one value; None when it has other than one, or is a scalar or empty."""
    patterns = bit_patterns(array)
    if patterns.size < 2 or (patterns != patterns[0]).any():
        return None
    return RepeatedConstant(array.reshape(-1)[:1].copy(), array.shape)
