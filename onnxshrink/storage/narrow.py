"""A constant whose values a narrower type holds exactly: ``w = Cast(h)``.

float32 as bfloat16, float16 or integers of 8 or 16 bits, float64 as float32 as well, and integers as narrower integers.
Constants with NaN stay: their payload may change on the way. https://onnx.ai/onnx/operators/onnx__Cast.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxshrink.numerics.bit_patterns import same_bits
from onnxshrink.storage.decoders import DecoderBuilder

_OPSET_OF_BFLOAT16_CAST = 13
_SAMPLE = 4096


def _narrower() -> list[np.dtype[Any]]:
    """What constants may be stored as, the narrowest first."""
    kind = ir.DataType
    kinds = (kind.INT8, kind.UINT8, kind.FLOAT16, kind.BFLOAT16, kind.INT16, kind.UINT16)
    return [np.dtype(narrow.numpy()) for narrow in (*kinds, kind.FLOAT, kind.INT32, kind.UINT32)]


@dataclass(frozen=True)
class NarrowConstant:
    """Values of a narrower type, and the type that they are cast to."""

    values: np.ndarray
    dtype: np.dtype[Any]

    @property
    def what(self) -> str:
        return f"values that {self.values.dtype.name} holds"

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    @property
    def load_bytes(self) -> int:
        return self.values.size * self.dtype.itemsize

    def can_decode(self, dtype: ir.DataType, opset: int) -> bool:
        bfloat16 = np.dtype(ir.DataType.BFLOAT16.numpy())
        return bfloat16 not in (self.values.dtype, self.dtype) or opset >= _OPSET_OF_BFLOAT16_CAST

    def decode(self) -> np.ndarray:
        return self.values.astype(self.dtype)

    def decoder(self, build: DecoderBuilder, dtype: ir.DataType, opset: int) -> ir.Value:
        return build.cast(build.constant("h", self.values), dtype)


def encode_narrow(array: np.ndarray) -> NarrowConstant | None:
    """``array`` in the narrowest type that holds all of it, or None."""
    if array.dtype.itemsize < 2 or array.size == 0:
        return None
    sample = array.reshape(-1)[:_SAMPLE]
    for narrow in _narrower():
        if narrow.itemsize < array.dtype.itemsize and _holds(narrow, sample) and _holds(narrow, array):
            return NarrowConstant(array.astype(narrow), array.dtype)
    return None


def _holds(narrow: np.dtype[Any], array: np.ndarray) -> bool:
    """Whether ``array`` comes back bit for bit, and ONNX Runtime and numpy are sure to agree on how."""
    integers = array.dtype.kind in "iu"
    if integers != (narrow.kind in "iu") and integers:
        return False
    if narrow.kind in "iu":
        limits = np.iinfo(narrow)
        with np.errstate(invalid="ignore"):
            inside = array.min() >= limits.min and array.max() <= limits.max
        return bool(inside) and same_bits(array.astype(narrow).astype(array.dtype), array)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return not np.isnan(array).any() and same_bits(array.astype(narrow).astype(array.dtype), array)
