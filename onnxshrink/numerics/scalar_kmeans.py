"""k-means of numbers on a line: the best codebook for weights, exactly or nearly.

In one dimension clusters are intervals of the sorted values, and dynamic programming finds the best k of them (Wang and
Song 2011, https://doi.org/10.32614/RJ-2011-015):

    D_k(j) = min_i D_{k−1}(i) + cost(i, j),   cost(i, j) = Σ w x² − (Σ w x)² / Σ w  over values i … j−1

cost is a Monge array, so the best i never moves left when j moves right: divide and conquer finds a row of D in
O(n log n). Many values are first merged into bins of nearly equal ones, and Lloyd's steps on all of them follow, each
a few lookups in prefix sums.

An entry can be fixed at zero. Its cluster is an interval as well, of cost Σ w x², which adds up over neighbours: it
needs a running minimum only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_FEWEST_BINS, _BINS_PER_ENTRY = 512, 8
"""Of bins before Lloyd's steps: the cost is within 0.2 % of what 4096 bins give, heavy tails included."""

_MOST_VALUES = 2**20
"""Of more values every second, third, … is looked at, unless those are too few different ones."""

_STEPS = 50
_SETTLED = 1e-5
"""Lloyd's steps end when the cost falls by less than this share."""


@dataclass(frozen=True)
class _Sums:
    """Prefix sums over sorted values: ``[j] − [i]`` is the sum over values i … j−1. All (n + 1,), float64."""

    weight: np.ndarray
    first: np.ndarray
    second: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, weights: np.ndarray) -> _Sums:
        columns = (weights, weights * values, weights * np.square(values))
        return cls(*(np.concatenate([[0.0], np.cumsum(column)]) for column in columns))

    def cost(self, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """Squared error of each interval about its mean."""
        weight = self.weight[stop] - self.weight[start]
        first = self.first[stop] - self.first[start]
        around = np.divide(np.square(first), weight, out=np.zeros_like(first), where=weight > 0)
        found: np.ndarray = np.maximum(self.second[stop] - self.second[start] - around, 0.0)
        return found

    def mean(self, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """Mean of each interval; NaN where it has no weight."""
        weight = self.weight[stop] - self.weight[start]
        first = self.first[stop] - self.first[start]
        found: np.ndarray = np.divide(first, weight, out=np.full_like(first, np.nan), where=weight > 0)
        return found


def codebook_of(
    values: np.ndarray, entries: int, weights: np.ndarray | None = None, *, with_zero: bool = False
) -> np.ndarray:
    """The ``entries`` numbers that are nearest to ``values`` in the sense of weighted squared error.

    Args:
        values: finite numbers, any shape.
        entries: how many, at least 1. Fewer distinct values than that are returned as they are.
        weights: nonnegative, of the shape of ``values``; None: all the same.
        with_zero: one of the entries is 0.

    Returns:
        float32, ascending, at most ``entries``.
    """
    step = -(-values.size // _MOST_VALUES)
    if step > 1:
        some = _codebook_of(values.reshape(-1)[::step], entries, weights, step, with_zero=with_zero)
        if len(some) == entries:
            return some
    return _codebook_of(values.reshape(-1), entries, weights, 1, with_zero=with_zero)


def _codebook_of(
    values: np.ndarray, entries: int, weights: np.ndarray | None, step: int, *, with_zero: bool
) -> np.ndarray:
    flat = values.astype(np.float64)
    importance = np.ones_like(flat) if weights is None else weights.reshape(-1)[::step].astype(np.float64)
    order = np.argsort(flat, kind="stable")
    points, mass = _merged(flat[order], importance[order])
    distinct = np.union1d(points, [0.0]) if with_zero else points
    if len(distinct) <= entries:
        return distinct.astype(np.float32)
    if not mass.any():
        mass = np.ones_like(mass)
    binned = _binned(points, mass, max(_FEWEST_BINS, _BINS_PER_ENTRY * entries))
    found = _optimal(*binned, entries, with_zero)
    if len(binned[0]) < len(points):
        found = _lloyd(points, _Sums.of(points, mass), found, with_zero)
    return np.unique(found.astype(np.float32))


def clustering_cost(values: np.ndarray, codebook: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Σ w (x − nearest entry)²; ``codebook`` ascending."""
    flat = values.reshape(-1).astype(np.float64)
    entries = codebook.astype(np.float64)
    squared = np.square(flat - entries[np.searchsorted((entries[1:] + entries[:-1]) / 2, flat)])
    return float(squared.sum() if weights is None else (squared * weights.reshape(-1)).sum())


def _merged(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equal neighbours as one value of their summed weight."""
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    return values[starts], np.add.reduceat(weights, starts)


def _binned(values: np.ndarray, weights: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """At most ``2 · bins`` means of neighbours, cut both at equal widths and at equal counts."""
    if len(values) <= 2 * bins:
        return values, weights
    width = np.linspace(values[0], values[-1], bins + 1)[1:-1]
    starts = np.union1d(np.searchsorted(values, width), np.arange(0, len(values), -(-len(values) // bins)))
    starts = starts[starts < len(values)]
    mass = np.add.reduceat(weights, starts)
    plain = np.add.reduceat(values, starts) / np.diff(np.append(starts, len(values)))
    means = np.divide(np.add.reduceat(values * weights, starts), mass, out=plain, where=mass > 0)
    return means, mass


def _optimal(values: np.ndarray, weights: np.ndarray, entries: int, with_zero: bool) -> np.ndarray:
    """The best codebook for sorted distinct ``values``, of which there are more than ``entries``."""
    sums = _Sums.of(values, weights)
    count = len(values)
    start = np.full(count + 1, np.inf)
    start[0] = 0.0
    free, with_fixed = start, _through_zero(start, sums)
    choices: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for _ in range(entries - 1 if with_zero else entries):
        free_next, free_from = _row(free, sums)
        if not with_zero:
            free = free_next
            choices.append((free_from, free_from, free_from))
            continue
        after, after_from = _row(with_fixed[0], sums)
        through = _through_zero(free_next, sums)
        choices.append((free_from, after_from, np.where(through[0] < after, through[1], -1)))
        with_fixed = (np.minimum(through[0], after), through[1])
        free = free_next
    if not with_zero:
        return _centres(sums, _traced(choices, count))
    return np.append(_centres(sums, _traced_with_zero(choices, count)), 0.0)


def _traced(choices: list[tuple[np.ndarray, np.ndarray, np.ndarray]], stop: int) -> list[tuple[int, int]]:
    intervals = []
    for origins, _, _ in reversed(choices):
        begin = int(origins[stop])
        intervals.append((begin, stop))
        stop = begin
    return intervals


def _traced_with_zero(choices: list[tuple[np.ndarray, np.ndarray, np.ndarray]], stop: int) -> list[tuple[int, int]]:
    """The intervals of the other clusters; that of zero is skipped over."""
    intervals, passed = [], False
    for free_from, after_from, through_from in reversed(choices):
        if not passed and through_from[stop] >= 0:
            stop, passed = int(through_from[stop]), True
        begin = int((free_from if passed else after_from)[stop])
        intervals.append((begin, stop))
        stop = begin
    return intervals


def _centres(sums: _Sums, intervals: list[tuple[int, int]]) -> np.ndarray:
    start, stop = np.array(intervals, dtype=np.int64).reshape(-1, 2).T
    means = sums.mean(start, stop)
    found: np.ndarray = means[np.isfinite(means)]
    return found


def _through_zero(before: np.ndarray, sums: _Sums) -> tuple[np.ndarray, np.ndarray]:
    """The costs when a cluster about zero, perhaps an empty one, ends at j; and where it begins."""
    relative = before - sums.second
    lowest = np.minimum.accumulate(relative)
    origins = np.maximum.accumulate(np.where(relative == lowest, np.arange(len(before)), 0))
    return lowest + sums.second, origins


def _row(before: np.ndarray, sums: _Sums) -> tuple[np.ndarray, np.ndarray]:
    """One row of D: (costs, best i) for every j, by divide and conquer over all j of one level at a time."""
    count = len(before)
    costs, origins = np.full(count, np.inf), np.zeros(count, np.int64)
    first, last = np.array([0]), np.array([count])
    low, high = np.array([0]), np.array([count - 1])
    while len(first):
        middle = (first + last) // 2
        lengths = np.minimum(high, middle) - low + 1
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        segment = np.repeat(np.arange(len(middle)), lengths)
        candidates = np.arange(offsets[-1]) - offsets[segment] + low[segment]
        found = before[candidates] + sums.cost(candidates, middle[segment])
        best = np.minimum.reduceat(found, offsets[:-1])
        hits = np.flatnonzero(found == best[segment])
        _, where = np.unique(segment[hits], return_index=True)
        chosen = candidates[hits[where]]
        costs[middle], origins[middle] = best, chosen
        halves = (first, middle, low, chosen), (middle + 1, last, chosen, high)
        first, last, low, high = (np.concatenate(parts) for parts in zip(*halves, strict=True))
        waiting = first < last
        first, last, low, high = first[waiting], last[waiting], low[waiting], high[waiting]
    return costs, origins


def _lloyd(values: np.ndarray, sums: _Sums, codebook: np.ndarray, with_zero: bool) -> np.ndarray:
    """Lloyd's steps from a codebook: assignment by midpoints, entries to the means."""
    entries = np.sort(codebook)
    before = np.inf
    for _ in range(_STEPS):
        edges = np.concatenate([[0], np.searchsorted(values, (entries[1:] + entries[:-1]) / 2), [len(values)]])
        start, stop = edges[:-1], edges[1:]
        means = sums.mean(start, stop)
        fixed = np.isnan(means) | (with_zero & (entries == 0))
        entries = np.where(fixed, entries, means)
        weight, first = sums.weight[stop] - sums.weight[start], sums.first[stop] - sums.first[start]
        second = sums.second[stop] - sums.second[start]
        cost = float((second - 2 * entries * first + np.square(entries) * weight).sum())
        if cost > (1 - _SETTLED) * before:
            break
        before = cost
    return entries
