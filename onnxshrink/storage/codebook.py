"""A constant of few distinct values: a table of them, and for every element its place in the table in one byte.

    w = Gather(codebook, Cast(indices))

The storage of Han, Mao, Dally 2016, Deep Compression, https://arxiv.org/abs/1510.00149, section 3, without changing a
value to get there: two values are distinct when their bits are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxshrink.numerics.bit_patterns import bit_patterns, distinct_patterns
from onnxshrink.storage.decoders import DecoderBuilder

_LARGEST_CODEBOOK = 256
_OPSET_OF_BFLOAT16_GATHER = 13


@dataclass(frozen=True)
class CodebookConstant:
    """Values and where they stand.

    Attributes:
        codebook: (k,), the distinct values in the order of their bits, 2 ≤ k ≤ 256.
        indices: uint8, the constant's own shape.
    """

    codebook: np.ndarray
    indices: np.ndarray

    @property
    def what(self) -> str:
        return f"{self.codebook.size} distinct values, one byte each"

    def can_decode(self, dtype: ir.DataType, opset: int) -> bool:
        return dtype != ir.DataType.BFLOAT16 or opset >= _OPSET_OF_BFLOAT16_GATHER

    def decode(self) -> np.ndarray:
        values: np.ndarray = self.codebook[self.indices]
        return values

    def decoder(self, build: DecoderBuilder, dtype: ir.DataType, opset: int) -> ir.Value:
        # Gather takes no indices of 8 bits.
        indices = build.cast(build.constant("i", self.indices), ir.DataType.INT32)
        return build.node("Gather", [build.constant("c", self.codebook, dtype), indices], dtype)


def encode_codebook(array: np.ndarray) -> CodebookConstant | None:
    """``array`` by codebook; None when its elements take one byte already, or have one or more than 256 values."""
    patterns = bit_patterns(array)
    distinct = distinct_patterns(patterns, _LARGEST_CODEBOOK) if patterns.itemsize > 1 else None
    if distinct is None or distinct.size < 2:
        return None
    indices = np.searchsorted(distinct, patterns).astype(np.uint8)
    return CodebookConstant(distinct.view(array.dtype), indices.reshape(array.shape))
