"""Ranges of activations for quantization, estimated from their statistics.

- ``minmax``: the smallest and the largest value.
- ``mean-minmax``: the mean over samples of their smallest and largest values (Krishnamoorthi 2018,
  https://arxiv.org/abs/1806.08342, averages them over training steps).
- ``percentile``: all but a share of the values. With both signs, half of that share is cut off at each end.
- ``entropy``: the ends whose histogram, merged to as many bins as there are levels, has the least Kullback-Leibler
  divergence from the histogram with everything beyond them moved to the outermost bins (Migacz 2017, "8-bit inference
  with TensorRT"). With both signs one threshold for both ends is tried first, then each end by itself.
- ``mse``: the ends of least expected squared error. Inside, rounding to steps of Δ costs Δ²/12 a value, exact zeros
  nothing; beyond the ends a value costs its squared distance. Both ends are searched together.

Every range contains zero. Estimates are multiples of the width of the histogram's bins, at most 1/2048 of the largest
magnitude, unless they are the smallest or largest value itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from onnxshrink.numerics.activation_statistics import ActivationStatistics
from onnxshrink.numerics.histogram import Bins

RangeEstimator = Literal["minmax", "mean-minmax", "percentile", "entropy", "mse"]
"""How a range is estimated."""

ActivationType = Literal["uint8", "int8", "uint16", "int16"]
"""Integer types of quantized activations."""

_CANDIDATES = 256
"""Ends tried per side, in equal steps."""

_MOST_MERGED_BINS = 256
_CLIPPING_WEIGHT = 16.0
_STRETCHES = tuple(1 + eighth / 2048 for eighth in range(62))
"""Each moves the far end of the grid by another eighth of a step."""

_SAME_RANGE = 0.01


@dataclass(frozen=True)
class Range:
    """What a grid should cover: ``low`` ≤ 0 ≤ ``high``, in units of the activation."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (-np.inf < self.low <= 0 <= self.high < np.inf):
            raise ValueError(f"[{self.low}, {self.high}] is no finite range around zero")


def estimate_range(
    statistics: ActivationStatistics,
    estimator: RangeEstimator,
    *,
    levels: int = 256,
    percentile: float = 99.99,
    clipping_weight: float = 1.0,
) -> Range:
    """The range of an activation.

    Args:
        statistics: of finite values; without values, and when all are zero, the range is [0, 0].
        estimator: how.
        levels: of the grid, which ``entropy`` and ``mse`` take into account.
        percentile: at least this share of the values is inside the range, in percent.
        clipping_weight: how much the squared error of clipping counts for ``mse`` beside that of rounding.

    Raises:
        ValueError: the statistics are not finite, or there are fewer than two levels.
    """
    if not statistics.finite or levels < 2:
        raise ValueError("a range needs finite statistics and at least two levels")
    full = _around_zero(statistics.low, statistics.high)
    if full.low == full.high:
        return full
    if estimator == "minmax":
        return full
    if estimator == "mean-minmax":
        return _around_zero(statistics.mean_low, statistics.mean_high)
    bins = statistics.histogram.bins(full.low, full.high)
    if estimator == "percentile":
        ends = _percentile_ends(bins, statistics.count * (1 - percentile / 100))
    elif estimator == "entropy":
        ends = _entropy_ends(bins, min(levels, _MOST_MERGED_BINS))
    else:
        ends = _mse_ends(bins, full, levels, clipping_weight)
    low, high = (float(bins.width * (bins.first + end)) for end in ends)
    return Range(max(full.low, min(low, 0.0)), min(full.high, max(high, 0.0)))


def careful_range(statistics: ActivationStatistics, *, levels: int = 256, aligned: bool = True) -> Range:
    """The range to take when nothing is known but the activation itself: ``mse``, wary of clipping, and aligned.

    What is clipped off errs to one side, and in neighbours alike: the sums of the next layer add it up where they
    average rounding out. On a kernel of 3×3 neighbours that are clipped together it counts about nine times, and
    samples that were not seen are clipped more.
    """
    span = estimate_range(statistics, "mse", levels=levels, clipping_weight=_CLIPPING_WEIGHT)
    return aligned_range(statistics, span, levels=levels) if aligned else span


def aligned_range(statistics: ActivationStatistics, span: Range, *, levels: int = 256) -> Range:
    """The range stretched by up to 3 %, to where rounding the values that were seen costs the least squared error.

    Steps of Δ cost Δ²/12 a value when values fall anywhere between them. Many do not: pixels that were normalised have
    a grid of their own, and images of text or of a studio are mostly background. Where those fall half-way between two
    steps, each is off by Δ/2. A slightly wider step moves them; of (p − 127.5) / 127.5, which has no zero, they cost a
    third.
    """
    if not statistics.finite or span.low == span.high:
        return span
    bins = statistics.histogram.bins(min(statistics.low, span.low), max(statistics.high, span.high))
    used = np.flatnonzero(bins.counts)
    values, counts = (bins.first + used + 0.5) * bins.width, bins.counts[used]
    lowest = round(span.low * (levels - 1) / (span.high - span.low))

    def error(stretch: float) -> float:
        step = stretch * (span.high - span.low) / (levels - 1)
        rounded = np.clip(np.rint(values / step), lowest, lowest + levels - 1)
        return float(np.square(step * rounded - values) @ counts)

    best = min(_STRETCHES, key=error)
    return Range(span.low * best, span.high * best)


def candidate_ranges(statistics: ActivationStatistics, *, levels: int = 256) -> list[Range]:
    """The ranges of all estimators, without those whose ends are both within 1 % of an earlier one's span."""
    found: list[Range] = []
    for estimator in get_args(RangeEstimator):
        candidate = estimate_range(statistics, estimator, levels=levels)
        if not any(_is_close(candidate, other) for other in found):
            found.append(candidate)
    return found


def activation_parameters(span: Range, dtype: ActivationType, symmetric: bool) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point of the grid for a range, for ONNX QuantizeLinear: scalars of float32 and ``dtype``.

    The step is the range over the number of steps, and the zero point is the integer next to where zero falls: it moves
    the grid by half a step at most, so every value of the range is rounded by half a step at most. ``symmetric`` puts
    zero in the middle of the grid (0 for signed types, 128 or 32768 for unsigned ones), or at 0 when the type is
    unsigned and the range has no negative part. A range of zero gets the scale 1. Where float32 has no such scale, it
    is the nearest normal number with which the grid stays finite.
    """
    limits = np.iinfo(dtype)
    steps, low, high = limits.max - limits.min, span.low, span.high
    if not symmetric:
        scale = _normal_scale(high / steps - low / steps, steps)
        zero_point = np.clip(np.rint(limits.min - low / float(scale)), limits.min, limits.max)
    elif limits.min == 0 and low == 0:
        scale, zero_point = _normal_scale(high / steps, steps), 0
    else:
        scale, zero_point = _normal_scale(max(-low, high) / (steps // 2), steps), (limits.max + limits.min + 1) // 2
    return np.asarray(scale), np.array(zero_point, np.dtype(dtype))


def _normal_scale(scale: float, steps: int) -> np.float32:
    limits = np.finfo(np.float32)
    if scale == 0:
        return np.float32(1)
    return np.float32(np.clip(scale, float(limits.smallest_normal), float(limits.max) / (steps + 1)))


def _around_zero(low: float, high: float) -> Range:
    return Range(min(low, 0.0), max(high, 0.0))


def _is_close(one: Range, other: Range) -> bool:
    room = _SAME_RANGE * (other.high - other.low)
    return abs(one.low - other.low) <= room and abs(one.high - other.high) <= room


def _percentile_ends(bins: Bins, outside: float) -> tuple[int, int]:
    """Bins to begin and to stop at, so that at most ``outside`` values are left out."""
    zero, last = -bins.first, len(bins.counts)
    room = outside / 2 if 0 < zero < last else outside
    begin = int(np.searchsorted(np.cumsum(bins.counts), room, side="right"))
    cut = int(np.searchsorted(np.cumsum(bins.counts[::-1]), room, side="right"))
    return min(begin, zero), max(last - cut, zero)


def _mse_ends(bins: Bins, full: Range, levels: int, clipping_weight: float) -> tuple[int, int]:
    """Bins to begin and to stop at for the least expected squared error; lengths are in units of the width."""
    edges, zero = bins.edges.astype(np.float64), -bins.first
    beyond, clipping = _clipping(bins.counts)
    before, clipping_below = (array[::-1] for array in _clipping(bins.counts[::-1]))
    steps = np.clip(edges, full.low / bins.width, full.high / bins.width) / (levels - 1)
    total = bins.counts.sum()

    def best(begins: np.ndarray, stops: np.ndarray) -> tuple[int, int]:
        rounded = total - before[begins][:, None] - beyond[stops]
        rounding = np.square(steps[stops] - steps[begins][:, None]) / 12 * rounded
        errors = clipping_weight * (clipping_below[begins][:, None] + clipping[stops]) + rounding
        row, column = np.unravel_index(int(np.argmin(errors)), errors.shape)
        return int(begins[row]), int(stops[column])

    last = len(bins.counts)
    begin, stop = best(_spread(0, zero), _spread(zero, last))
    reach = -(-last // _CANDIDATES)
    return best(_near(begin, reach, 0, zero), _near(stop, reach, zero, last))


def _clipping(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each edge: how many values are beyond it, and the sum of their squared distances to it.

    Values are spread evenly within a bin of width 1: about its centre c, E[(x − t)²] = (c − t)² + 1/12.
    """
    centres = np.arange(len(counts)) + 0.5
    weights = (counts, counts * centres, counts * (np.square(centres) + 1 / 12))
    zeroth, first, second = (np.append(np.cumsum(weight[::-1])[::-1], 0.0) for weight in weights)
    edges = np.arange(len(counts) + 1)
    return zeroth, np.maximum(second - 2 * edges * first + np.square(edges) * zeroth, 0.0)


def _spread(begin: int, stop: int) -> np.ndarray:
    """At most ``_CANDIDATES`` + 1 integers from ``begin`` to ``stop``, both among them, evenly spread."""
    return np.unique(np.linspace(begin, stop, _CANDIDATES + 1).round().astype(np.int64))


def _near(index: int, reach: int, lowest: int, highest: int) -> np.ndarray:
    return np.arange(max(lowest, index - reach), min(highest, index + reach) + 1)


def _entropy_ends(bins: Bins, levels: int) -> tuple[int, int]:
    """Bins to begin and to stop at for the least divergence."""
    zero, last = -bins.first, len(bins.counts)
    divergence = _Divergence(bins.counts, levels)
    widths = _spread(0, max(zero, last - zero))
    begin, stop = divergence.least(np.maximum(zero - widths, 0), np.minimum(zero + widths, last))
    if not 0 < zero < last:
        return begin, stop
    stops = _spread(zero, last)
    begin, stop = divergence.least(np.full_like(stops, begin), stops)
    begins = _spread(0, zero)
    return divergence.least(begins, np.full_like(begins, stop))


class _Divergence:
    """Kullback-Leibler divergence of merged windows of a histogram, many windows at once.

    With P the window, everything beyond it moved to its outermost bins, and Q the window merged to levels, each spread
    evenly over the bins where P is not zero, N and M being their masses:

        KL = Σᵢ Pᵢ/N · log((Pᵢ/N) / (Qᵢ/M)) = (Σᵢ Pᵢ log Pᵢ − Σⱼ Pⱼ log(Mⱼ / nⱼ)) / N − log N + log M

    with Pⱼ, Mⱼ the masses of level j in P and the window, nⱼ its non-zero bins. Running sums over the bins give each
    window's divergence in as many steps as there are levels.
    """

    def __init__(self, counts: np.ndarray, levels: int) -> None:
        self._counts, self._levels = counts, levels
        self._mass = _running(counts)
        self._nonzero = _running(counts > 0)
        self._entropy = _running(_times_log(counts))

    def least(self, begins: np.ndarray, stops: np.ndarray) -> tuple[int, int]:
        """The window of least divergence among [begin, stop); windows with fewer bins than levels do not count."""
        wide = stops - begins >= min(self._levels, len(self._counts))
        if not wide.any():
            return 0, len(self._counts)
        begins, stops = begins[wide], stops[wide]
        # Of equals the widest: nothing is clipped for nothing.
        found = self._of(begins, stops)
        best = np.lexsort((begins - stops, found))[0]
        return int(begins[best]), int(stops[best])

    def _of(self, begins: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """Of each window; infinite when an outermost level holds nothing but what was moved there."""
        bounds = begins[:, None] + (stops - begins)[:, None] * np.arange(self._levels + 1) // self._levels
        merged, spread = np.diff(self._mass[bounds], axis=1), np.diff(self._nonzero[bounds], axis=1)
        reference = merged.copy()
        entropy = self._entropy[stops] - self._entropy[begins]
        outside = ((begins, 0, self._mass[begins]), (stops - 1, -1, self._mass[-1] - self._mass[stops]))
        for end, level, moved in outside:
            own = self._counts[end]
            reference[:, level] += moved
            spread[:, level] += (own == 0) & (moved > 0)
            entropy += _times_log(own + moved) - _times_log(own)
        with np.errstate(divide="ignore", invalid="ignore"):
            cross = np.where(reference > 0, reference * np.log(merged / np.maximum(spread, 1)), 0.0).sum(axis=1)
            total, inside = self._mass[-1], self._mass[stops] - self._mass[begins]
            return np.asarray((entropy - cross) / total - np.log(total) + np.log(inside))


def _running(values: np.ndarray) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def _times_log(values: np.ndarray) -> np.ndarray:
    return np.asarray(values * np.log(np.maximum(values, np.finfo(np.float64).tiny)))
