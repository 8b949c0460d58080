"""Small integers, several to a word of 8 or 16 bits: digits of the word in some radix.

A radix of 2^b packs integers of b bits; any other radix packs what a power of two would waste room on, such as five
ternary digits in a byte. A table of all words and their digits, made when the model is loaded, unpacks a whole word
per lookup with operators that every opset has:

    digits = Reshape(Gather(table, Cast(words)))        table (words, digits per word): (word // radixᵏ) mod radix

Integers whose best radix wastes much are split into two planes: i = high · radix + low, packed one by one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxshrink.storage.decoders import DecoderBuilder

_OPSET_OF_MOD = 10
_OPSET_OF_RANGE = 11
_OPSET_OF_UINT8_ADD = 14
_OPSET_OF_SLICE_BY_INPUT = 10
_ELEMENTS_FOR_LONG_WORDS = 2**19
"""From here on a table of 65,536 words is small beside what it unpacks."""

_PIECE = 2**20


@dataclass(frozen=True)
class Radix:
    """How digits are packed: ``radix`` of them possible, ``digits`` in a word of ``word_bytes``."""

    radix: int
    digits: int
    word_bytes: int = 1

    @property
    def words(self) -> int:
        """How many different words there are."""
        return int(self.radix**self.digits)

    @property
    def bits(self) -> float:
        """Bits per digit."""
        return 8 * self.word_bytes / self.digits

    @property
    def powers(self) -> list[int]:
        """What each digit of a word counts, the first digit most."""
        return [self.radix**place for place in reversed(range(self.digits))]

    def table(self, dtype: np.dtype[np.generic] | type[np.generic]) -> np.ndarray:
        """(words, digits): the digits of every word."""
        table = np.arange(self.words, dtype=np.int32)[:, None] // self.powers % self.radix
        return table.astype(dtype)


def byte_radix(radix: int) -> Radix:
    """As many digits as a byte holds."""
    return Radix(radix, max(1, int(math.log(256.5, max(radix, 2)))))


@dataclass(frozen=True)
class PackedDigits:
    """Integers from 0 to radix − 1 in words, the last word filled up with zeros.

    Attributes:
        words: (count / digits per word, rounded up).
        radix: how they are packed.
        count: how many integers there are.
    """

    words: np.ndarray
    radix: Radix
    count: int

    @property
    def load_bytes(self) -> int:
        """What unpacking writes, the final lookup aside: the cast words."""
        return 4 * self.words.size

    def unpack(self) -> np.ndarray:
        """(count,) uint8."""
        if self.radix.digits == 1:
            return self.words.astype(np.uint8)
        digits: np.ndarray = self.radix.table(np.uint8)[self.words].reshape(-1)[: self.count]
        return digits

    def places(self, build: DecoderBuilder) -> ir.Value:
        """The words as indices."""
        return build.cast(build.constant("i", self.words), ir.DataType.INT32)

    def lookup(self, build: DecoderBuilder, table: ir.Value, shape: tuple[int, ...], opset: int) -> ir.Value:
        """The rows of ``table`` that the words stand for, in ``shape``, which has ``count`` elements."""
        kind = table.dtype
        assert kind is not None
        found = build.node("Gather", [table, self.places(build)], kind)
        if self.radix.digits * self.words.size > self.count:
            flat = build.node("Reshape", [found, build.ints(-1)], kind)
            found = _first(build, flat, self.count, opset)
        return build.node("Reshape", [found, build.ints(*shape)], kind)


def pack_digits(integers: np.ndarray, radix: Radix) -> PackedDigits:
    """Pack integers, 0 ≤ i < radix."""
    flat = integers.reshape(-1)
    kind = np.uint8 if radix.word_bytes == 1 else np.uint16
    if radix.digits == 1:
        return PackedDigits(flat.astype(kind), radix, flat.size)
    words = np.empty(-(-flat.size // radix.digits), kind)
    for start in range(0, words.size, _PIECE):
        piece = flat[start * radix.digits : (start + _PIECE) * radix.digits]
        if piece.size % radix.digits:
            piece = np.pad(piece, (0, -piece.size % radix.digits))
        columns = piece.reshape(-1, radix.digits)
        total = np.zeros(len(columns), np.uint32)
        for place, power in enumerate(radix.powers):
            total += columns[:, place].astype(np.uint32) * np.uint32(power)
        words[start : start + _PIECE] = total
    return PackedDigits(words, radix, flat.size)


def digit_table(build: DecoderBuilder, radix: Radix, dtype: ir.DataType, opset: int) -> ir.Value:
    """(words, digits): the digits of every word; computed once for all constants of a graph."""

    whole = ir.DataType.INT32

    def make() -> ir.Value:
        powers = build.constant("p", np.array(radix.powers, np.int32))
        base = build.constant("r", np.array(radix.radix, np.int32))
        shifted = build.node("Div", [_all_words(build, radix, opset), powers], whole)
        if opset >= _OPSET_OF_MOD:
            return build.cast(build.node("Mod", [shifted, base], whole), dtype)
        rest = build.node("Mul", [build.node("Div", [shifted, base], whole), base], whole)
        return build.cast(build.node("Sub", [shifted, rest], whole), dtype)

    return build.shared(("digits", radix, dtype), make)


def _all_words(build: DecoderBuilder, radix: Radix, opset: int) -> ir.Value:
    """(words, 1) int32: 0, 1, 2, …"""
    if opset < _OPSET_OF_RANGE:
        kind = np.uint8 if radix.word_bytes == 1 else np.uint16
        return build.cast(build.constant("e", np.arange(radix.words).astype(kind)[:, None]), ir.DataType.INT32)
    bounds = [
        build.constant(name, np.array(bound, np.int32)) for name, bound in (("z", 0), ("e", radix.words), ("o", 1))
    ]
    words = build.node("Range", bounds, ir.DataType.INT32)
    return build.node("Reshape", [words, build.ints(-1, 1)], ir.DataType.INT32)


@dataclass(frozen=True)
class PackedIntegers:
    """Integers below 256 in one plane of digits or two: i = high · radix of the low plane + low."""

    low: PackedDigits
    high: PackedDigits | None
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return self.low.words.nbytes + (0 if self.high is None else self.high.words.nbytes)

    @property
    def bits(self) -> float:
        """Bits per integer, the filling of the last word aside."""
        return self.low.radix.bits + (0 if self.high is None else self.high.radix.bits)

    def load_bytes(self, item_bytes: int) -> int:
        """What the decoder writes to look up values of ``item_bytes``."""
        count = self.low.count
        if self.high is None:
            copies = 1 if self.low.radix.digits == 1 else 2
            return self.low.load_bytes + copies * item_bytes * count
        return self.low.load_bytes + self.high.load_bytes + (9 + item_bytes) * count

    def unpack(self) -> np.ndarray:
        """uint8, in its shape."""
        integers = self.low.unpack()
        if self.high is not None:
            integers = integers + np.uint8(self.low.radix.radix) * self.high.unpack()
        return integers.reshape(self.shape)

    def lookup(self, build: DecoderBuilder, values: ir.Value, opset: int) -> ir.Value:
        """``values``, one for each integer, gathered in the shape of the integers."""
        kind = values.dtype
        assert kind is not None
        if self.high is None and self.low.radix.digits > 1:
            places = digit_table(build, self.low.radix, ir.DataType.INT32, opset)
            table = build.node("Gather", [values, places], kind)
            return self.low.lookup(build, table, self.shape, opset)
        return build.node("Gather", [values, self.integers(build, opset)], kind)

    def integers(self, build: DecoderBuilder, opset: int) -> ir.Value:
        """The integers as int32, in their shape."""
        if self.low.radix.digits == 1:
            words = build.constant("i", self.low.words.reshape(self.shape))
            return build.cast(words, ir.DataType.INT32)
        small = ir.DataType.UINT8 if opset >= _OPSET_OF_UINT8_ADD and self.high is not None else ir.DataType.INT32
        table = digit_table(build, self.low.radix, small, opset)
        integers = self.low.lookup(build, table, self.shape, opset)
        if self.high is not None:
            table = digit_table(build, self.high.radix, small, opset)
            factor = build.constant("r", np.array(self.low.radix.radix, small.numpy()))
            scaled = build.node("Mul", [table, factor], small)
            integers = build.node("Add", [integers, self.high.lookup(build, scaled, self.shape, opset)], small)
        return build.cast(integers, ir.DataType.INT32)


def pack_integers(integers: np.ndarray, levels: int) -> Iterator[PackedIntegers]:
    """``integers`` (uint8, below ``levels``) in every packing worth a trial: the simplest, then ever fewer bits."""
    least = 9.0
    for low, high in _packings(levels, integers.size):
        bits = low.bits + (0 if high is None else high.bits)
        if bits >= least:
            continue
        least = bits
        if high is None:
            yield PackedIntegers(pack_digits(integers, low), None, integers.shape)
        else:
            base = np.uint8(low.radix)
            yield PackedIntegers(pack_digits(integers % base, low), pack_digits(integers // base, high), integers.shape)


def _packings(levels: int, count: int) -> Iterator[tuple[Radix, Radix | None]]:
    yield Radix(levels, 1), None
    yield byte_radix(levels), None
    if count >= _ELEMENTS_FOR_LONG_WORDS:
        yield Radix(levels, max(1, int(math.log(65536.5, levels))), 2), None
    for low in (4, 16):
        if levels > low:
            yield byte_radix(low), byte_radix(-(-levels // low))


def _first(build: DecoderBuilder, flat: ir.Value, count: int, opset: int) -> ir.Value:
    """The first ``count`` elements."""
    kind = flat.dtype
    assert kind is not None
    if opset < _OPSET_OF_SLICE_BY_INPUT:
        return build.node("Slice", [flat], kind, axes=[0], starts=[0], ends=[count])
    return build.node("Slice", [flat, build.ints(0), build.ints(count)], kind)
