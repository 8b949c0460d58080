"""What every exact encoding of a constant offers; ``pack-weights`` chooses among them by the bytes they take.

Encodings nest: the non-zeros of a sparse constant, or the integers of a grid, are again encoded constants.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import onnx_ir as ir

from onnxshrink.storage.decoders import DecoderBuilder


class Encoded(Protocol):
    """One constant in an encoding that gives back its very bits."""

    @property
    def what(self) -> str:
        """The encoding in a clause for the report, such as ``105 distinct values, one byte each``."""

    @property
    def nbytes(self) -> int:
        """Bytes of the stored arrays; nodes, names and headers come on top."""

    @property
    def load_bytes(self) -> int:
        """Bytes that the nodes of the decoder write when a model is loaded, the constant itself included.

        Those of integer arithmetic count twice, as they take that long.
        """

    def can_decode(self, dtype: ir.DataType, opset: int) -> bool:
        """Whether the operators of the decoder take ``dtype`` at this version of the default ONNX domain."""

    def decode(self) -> np.ndarray:
        """The constant, computed by numpy: the oracle for the decoder."""

    def decoder(self, build: DecoderBuilder, dtype: ir.DataType, opset: int) -> ir.Value:
        """Nodes that decode the constant."""
