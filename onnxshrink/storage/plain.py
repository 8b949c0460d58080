"""Values stored as they are, where an encoding holds what nothing shortens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxshrink.storage.decoders import DecoderBuilder


@dataclass(frozen=True)
class PlainConstant:
    """An array, and nothing to decode."""

    array: np.ndarray

    @property
    def what(self) -> str:
        return f"{8 * self.array.itemsize} bits each"

    @property
    def nbytes(self) -> int:
        return self.array.nbytes

    @property
    def load_bytes(self) -> int:
        return 0

    def can_decode(self, dtype: ir.DataType, opset: int) -> bool:
        return True

    def decode(self) -> np.ndarray:
        return self.array

    def decoder(self, build: DecoderBuilder, dtype: ir.DataType, opset: int) -> ir.Value:
        return build.constant("v", self.array, dtype)
