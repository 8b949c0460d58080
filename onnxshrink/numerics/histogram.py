"""A streaming histogram of fixed memory that does not depend on the order or the batching of its values.

The width of the bins is a power of two, the smallest with which the largest magnitude seen so far has a bin, and the
edges are multiples of the width:

    bin(x) = trunc(x / width),   |bin| < 4096,   so bin 0 is (−width, width)

When a larger value arrives the width is doubled until it fits, which merges whole bins: trunc(trunc(x / w) / 2) is
trunc(x / 2w). So the histogram of values that come one by one is the histogram of all of them at once, bit for bit.
Exact zeros, which ReLUs give in masses and which every quantization grid represents, are counted apart as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

BINS_PER_SIDE = 4096
"""Bins per sign; at least half of them lie below the largest magnitude."""

_SIDE_BITS = 12
_PIECE = 1 << 15
"""Values binned at a time: the temporaries stay in the processor's second-level cache."""

_LEAST_EXPONENT = -100
"""Magnitudes below 2⁻¹⁰⁰ do not make the bins narrower: the reciprocal of the width stays within float32."""


@dataclass(frozen=True)
class Bins:
    """The part of a histogram that values fall into, in equal bins, exact zeros left out.

    Attributes:
        first: bin ``i`` holds the values between ``(first + i) · width`` and ``(first + i + 1) · width``.
        counts: float64 (bins,); the values around zero are split evenly where there are both signs.
        width: the width of a bin.
    """

    first: int
    counts: np.ndarray
    width: float

    @property
    def edges(self) -> np.ndarray:
        """Edges of the bins in units of the width: int64 (bins + 1,)."""
        return np.arange(self.first, self.first + len(self.counts) + 1)


class Histogram:
    """How often values fall into equal bins around zero.

    Attributes:
        counts: int64 (2 · 4096 − 1,), bins −4095 to 4095, exact zeros included.
        zeros: how many values are exactly zero.
        exponent: every magnitude seen so far is below 2 to this power.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(2 * BINS_PER_SIDE - 1, np.int64)
        self.zeros = 0
        self.exponent = _LEAST_EXPONENT

    @property
    def width(self) -> float:
        return math.ldexp(1.0, self.exponent - _SIDE_BITS)

    def add(self, values: np.ndarray, largest: float) -> None:
        """Count ``values``, floats of any shape whose largest magnitude is ``largest``.

        Raises:
            ValueError: ``largest`` is not finite.
        """
        if not math.isfinite(largest):
            raise ValueError("a histogram holds finite values only")
        self._widen(largest)
        flat = values.reshape(-1)
        kind = np.result_type(flat.dtype, np.float32).type
        # A product with a power of two is exact; where it underflows, the bin is 0 all the same.
        per_width = kind(math.ldexp(1.0, _SIDE_BITS - self.exponent))
        scaled, bins = np.empty(min(_PIECE, flat.size), kind), np.empty(min(_PIECE, flat.size), np.int32)
        for start in range(0, flat.size, _PIECE):
            piece = flat[start : start + _PIECE]
            size = len(piece)
            with np.errstate(under="ignore"):
                np.multiply(piece, per_width, out=scaled[:size])
            np.copyto(bins[:size], scaled[:size], casting="unsafe")
            bins[:size] += BINS_PER_SIDE - 1
            self.counts += np.bincount(bins[:size], minlength=len(self.counts))
            self.zeros += size - int(np.count_nonzero(piece))

    def bins(self, low: float, high: float) -> Bins:
        """The bins between zero, ``low`` and ``high``, the smallest and the largest value that were added."""
        below, above = (0 if end == 0 else int(abs(end) / self.width) + 1 for end in (min(low, 0.0), max(high, 0.0)))
        around_zero = float(self.counts[BINS_PER_SIDE - 1] - self.zeros)
        counts = np.zeros(below + above)
        if below:
            counts[: below - 1] = self.counts[BINS_PER_SIDE - below : BINS_PER_SIDE - 1]
            counts[below - 1] = around_zero / 2 if above else around_zero
        if above:
            counts[below] = around_zero / 2 if below else around_zero
            counts[below + 1 :] = self.counts[BINS_PER_SIDE : BINS_PER_SIDE - 1 + above]
        return Bins(-below, counts, self.width)

    def _widen(self, largest: float) -> None:
        """Merge bins until a value of this magnitude has one."""
        exponent = max(math.frexp(largest)[1], _LEAST_EXPONENT) if largest else _LEAST_EXPONENT
        doublings = exponent - self.exponent
        if doublings <= 0:
            return
        magnitudes = np.arange(BINS_PER_SIDE) >> min(doublings, _SIDE_BITS)
        bins = np.concatenate([-magnitudes[:0:-1], magnitudes]) + BINS_PER_SIDE - 1
        merged = np.zeros_like(self.counts)
        np.add.at(merged, bins, self.counts)
        self.counts, self.exponent = merged, exponent
