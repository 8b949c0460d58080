"""A constant of few distinct values: a table of them, and for every element its place in the table.

    w = Gather(codebook, Cast(indices))                             a byte for each index
    w = Reshape(Gather(Gather(codebook, digits), Cast(words)))      several indices in a word, see ``digits.py``

The storage of Han, Mao, Dally 2016, Deep Compression, https://arxiv.org/abs/1510.00149, section 3, without changing a
value to get there: two values are distinct when their bits are. Powers of two, and grids of few steps, are codebooks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxshrink.numerics.bit_patterns import bit_patterns, distinct_patterns, pattern_indices
from onnxshrink.storage.decoders import DecoderBuilder
from onnxshrink.storage.digits import PackedIntegers, pack_integers

_LARGEST_CODEBOOK = 256
_OPSET_OF_BFLOAT16_GATHER = 13


@dataclass(frozen=True)
class CodebookConstant:
    """Values and where they stand.

    Attributes:
        codebook: (k,), the distinct values in the order of their bits, 2 ≤ k ≤ 256.
        packed: the place of every element, in the constant's own shape.
    """

    codebook: np.ndarray
    packed: PackedIntegers

    @property
    def what(self) -> str:
        bits = self.packed.bits
        each = "one byte" if bits == 8 else f"{bits:.3g} bits"
        return f"{self.codebook.size} distinct values, {each} each"

    @property
    def nbytes(self) -> int:
        return self.codebook.nbytes + self.packed.nbytes

    @property
    def load_bytes(self) -> int:
        return self.packed.load_bytes(self.codebook.itemsize)

    def can_decode(self, dtype: ir.DataType, opset: int) -> bool:
        return dtype != ir.DataType.BFLOAT16 or opset >= _OPSET_OF_BFLOAT16_GATHER

    def decode(self) -> np.ndarray:
        values: np.ndarray = self.codebook[self.packed.unpack()]
        return values

    def decoder(self, build: DecoderBuilder, dtype: ir.DataType, opset: int) -> ir.Value:
        return self.packed.lookup(build, build.constant("c", self.codebook, dtype), opset)


def encode_codebook(array: np.ndarray) -> list[CodebookConstant]:
    """``array`` by codebook, in every packing worth a trial; empty when it has one or more than 256 values."""
    return list(_encode_codebook(array))


def _encode_codebook(array: np.ndarray) -> Iterator[CodebookConstant]:
    patterns = bit_patterns(array)
    distinct = distinct_patterns(patterns, _LARGEST_CODEBOOK)
    if distinct is None or distinct.size < 2:
        return
    indices = pattern_indices(patterns, distinct).reshape(array.shape)
    for packed in pack_integers(indices, distinct.size):
        if packed.bits < 8 * array.itemsize:
            yield CodebookConstant(distinct.view(array.dtype), packed)
