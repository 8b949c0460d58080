"""A constant in which one value, mostly zero, stands for a large share: where the others are, and the others, encoded.

By gaps, for few others: the distance of each from the one before, in a few bits. A gap wider than they hold is bridged
by an element that repeats the frequent value (Han, Mao, Dally 2016, Deep Compression, https://arxiv.org/abs/1510.00149,
section 2):

    w = Reshape(ScatterElements(ConstantOfShape<value>(size), CumSum(gaps), others))            opset 11

By a mask of one bit for each element, for many others:

    w = Reshape(Gather([value, others], CumSum(bits) · bits))                                   opset 11
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxshrink.numerics.bit_patterns import bit_patterns
from onnxshrink.storage.decoders import DecoderBuilder
from onnxshrink.storage.digits import PackedDigits, Radix, byte_radix, digit_table, pack_digits
from onnxshrink.storage.encoded import Encoded

_OPSET_OF_CUMSUM = 11
_OPSET_OF_BFLOAT16_SCATTER = 13
_OPSET_OF_BFLOAT16_CONSTANT_OF_SHAPE = 20
_SAMPLE = 8192
_LEAST_SHARE = 0.2
_GAP_RADIXES = (4, 6, 16, 256)
_FEWER_FOR_GAPS = 3
"""A mask is smaller when the others are more than one in so many."""

_INT32_END = 2**31
_TRIAL_MARGIN = 1.1
"""What is estimated to be larger by more than this is not tried."""

EncodeOthers = Callable[[np.ndarray], Sequence[Encoded]]
"""Encodes a vector in every way worth a trial."""


@dataclass(frozen=True)
class GapsConstant:
    """Others by gaps.

    Attributes:
        value: (1,), what stands everywhere else.
        gaps: from one to the next, the first counted from element 0; gaps of 0 at the end repeat the last element.
        others: decodes to one value for each gap.
        shape: of the constant.
    """

    value: np.ndarray
    gaps: PackedDigits
    others: Encoded
    shape: tuple[int, ...]

    @property
    def what(self) -> str:
        share = 1 - self.gaps.count / max(1, math.prod(self.shape))
        return f"{share:.0%} of one value, gaps of {self.gaps.radix.bits:.3g} bits, the rest {self.others.what}"

    @property
    def nbytes(self) -> int:
        return self.gaps.words.nbytes + self.others.nbytes

    @property
    def load_bytes(self) -> int:
        positions = 16 * self.gaps.count + self.gaps.load_bytes
        copies = 3 if len(self.shape) != 1 else 2
        return positions + self.others.load_bytes + copies * self.value.itemsize * math.prod(self.shape)

    def can_decode(self, dtype: ir.DataType, opset: int) -> bool:
        least = _OPSET_OF_BFLOAT16_CONSTANT_OF_SHAPE if dtype == ir.DataType.BFLOAT16 else _OPSET_OF_CUMSUM
        return opset >= least and self.others.can_decode(dtype, opset)

    def decode(self) -> np.ndarray:
        values = np.full(math.prod(self.shape), self.value, self.value.dtype)
        values[np.cumsum(self.gaps.unpack(), dtype=np.int64)] = self.others.decode()
        return values.reshape(self.shape)

    def decoder(self, build: DecoderBuilder, dtype: ir.DataType, opset: int) -> ir.Value:
        size, whole = math.prod(self.shape), ir.DataType.INT32
        if self.gaps.radix.digits == 1:
            gaps = self.gaps.places(build)
        else:
            gaps = self.gaps.lookup(build, digit_table(build, self.gaps.radix, whole, opset), (-1,), opset)
        positions = build.node("CumSum", [gaps, _axis(build)], whole)
        fill = ir.Tensor(self.value, dtype=dtype)

        def make() -> ir.Value:
            return build.node("ConstantOfShape", [build.ints(size)], dtype, value=fill)

        filled = build.shared(("filled", size, dtype, self.value.tobytes()), make)
        scattered = build.node("ScatterElements", [filled, positions, self.others.decoder(build, dtype, opset)], dtype)
        if len(self.shape) == 1:
            return scattered
        return build.node("Reshape", [scattered, build.ints(*self.shape)], dtype)


@dataclass(frozen=True)
class MaskedConstant:
    """Others by a mask.

    Attributes:
        mask: 1 for each element that is one of the others.
        values: decodes to the frequent value, then the others.
        shape: of the constant.
    """

    mask: PackedDigits
    values: Encoded
    shape: tuple[int, ...]
    itemsize: int

    @property
    def what(self) -> str:
        return f"much of one value, a mask of 1 bit each, the rest {self.values.what}"

    @property
    def nbytes(self) -> int:
        return self.mask.words.nbytes + self.values.nbytes

    @property
    def load_bytes(self) -> int:
        size = math.prod(self.shape)
        return self.mask.load_bytes + self.values.load_bytes + (28 + self.itemsize) * size

    def can_decode(self, dtype: ir.DataType, opset: int) -> bool:
        least = _OPSET_OF_BFLOAT16_SCATTER if dtype == ir.DataType.BFLOAT16 else _OPSET_OF_CUMSUM
        return opset >= least and self.values.can_decode(dtype, opset)

    def decode(self) -> np.ndarray:
        bits = self.mask.unpack()
        places = np.cumsum(bits, dtype=np.int32) * bits
        values: np.ndarray = self.values.decode()[places].reshape(self.shape)
        return values

    def decoder(self, build: DecoderBuilder, dtype: ir.DataType, opset: int) -> ir.Value:
        whole, size = ir.DataType.INT32, math.prod(self.shape)
        bits = self.mask.lookup(build, digit_table(build, self.mask.radix, whole, opset), (size,), opset)
        places = build.node("Mul", [build.node("CumSum", [bits, _axis(build)], whole), bits], whole)
        if len(self.shape) != 1:
            places = build.node("Reshape", [places, build.ints(*self.shape)], whole)
        return build.node("Gather", [self.values.decoder(build, dtype, opset), places], dtype)


def encode_sparse(array: np.ndarray, encode_others: EncodeOthers) -> list[Encoded]:
    """``array`` by gaps and by a mask, its others by each of ``encode_others``; empty when no value is frequent."""
    return list(_encode_sparse(array, encode_others))


def _encode_sparse(array: np.ndarray, encode_others: EncodeOthers) -> Iterator[Encoded]:
    patterns = bit_patterns(array)
    frequent = _frequent(patterns)
    if frequent is None or patterns.size >= _INT32_END:
        return
    differs = patterns != frequent
    others = patterns[differs]
    if not 0 < others.size <= (1 - _LEAST_SHARE) * patterns.size:
        return
    value = np.array([frequent]).view(array.dtype)
    values = np.concatenate(([frequent], others)).view(array.dtype)
    encoded_values = encode_others(values)
    bits = min((8 * encoded.nbytes / others.size for encoded in encoded_values), default=8.0 * array.itemsize)
    mask_bits = patterns.size + bits * others.size
    gap_bits = math.inf
    if others.size <= patterns.size // _FEWER_FOR_GAPS:
        positions = np.flatnonzero(differs).astype(np.int32)
        gap_bits, radix = min((_gap_bits(positions, radix, bits), radix) for radix in _GAP_RADIXES)
        if gap_bits < _TRIAL_MARGIN * mask_bits:
            packed, elements = _by_gaps(positions, others, frequent, byte_radix(radix))
            for encoded in encode_others(elements.view(array.dtype)):
                yield GapsConstant(value, packed, encoded, array.shape)
    if mask_bits < _TRIAL_MARGIN * gap_bits:
        mask = pack_digits(differs, byte_radix(2))
        for encoded in encoded_values:
            yield MaskedConstant(mask, encoded, array.shape, array.itemsize)


def _frequent(patterns: np.ndarray) -> np.integer | None:
    """The most frequent element of a sample of ``patterns``, or None when it has no large share."""
    if patterns.size == 0:
        return None
    sample = patterns[:: max(1, patterns.size // _SAMPLE)]
    found, counts = np.unique(sample, return_counts=True)
    return found[counts.argmax()] if counts.max() >= _LEAST_SHARE / 2 * sample.size else None


def _gaps_of(positions: np.ndarray) -> np.ndarray:
    gaps: np.ndarray = np.concatenate((positions[:1], np.diff(positions)))
    return gaps


def _bridges(gaps: np.ndarray, reach: int) -> np.ndarray:
    """How many elements bridge each gap when one symbol spans up to ``reach``."""
    bridges: np.ndarray = np.maximum(gaps - 1, 0) // reach
    return bridges


def _gap_bits(positions: np.ndarray, radix: int, bits: float) -> float:
    """Bits of all gaps and elements when gaps are digits of ``radix`` and an element takes ``bits``."""
    symbols = positions.size + int(_bridges(_gaps_of(positions), radix - 1).sum())
    return symbols * (byte_radix(radix).bits + bits)


def _by_gaps(
    positions: np.ndarray, others: np.ndarray, frequent: np.integer, radix: Radix
) -> tuple[PackedDigits, np.ndarray]:
    """The packed gaps, and the element at the end of each: one of the others, or the frequent value as a bridge.

    The last word is filled up with gaps of zero, which write the last element again.
    """
    gaps, reach = _gaps_of(positions), radix.radix - 1
    bridges = _bridges(gaps, reach)
    places = np.cumsum(bridges + 1) - 1
    count = int(places[-1]) + 1
    filled = count + -count % radix.digits
    symbols = np.full(filled, reach, np.uint8)
    symbols[places] = gaps - bridges * reach
    symbols[count:] = 0
    elements = np.full(filled, frequent, others.dtype)
    elements[places] = others
    elements[count:] = others[-1]
    return pack_digits(symbols, radix), elements


def _axis(build: DecoderBuilder) -> ir.Value:
    return build.shared("axis 0", lambda: build.constant("a", np.array(0, np.int32)))
