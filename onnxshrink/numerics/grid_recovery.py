"""Finding the grid that float32 values lie on, exactly: w = float32(q) · scale in float32, |q| ≤ 255.

Per channel, the smallest gap g between neighbouring magnitudes (zero counted among them) is a whole multiple j of the
scale, and a magnitude m lies on the grid as q = round(m / (g / j)). The scale is then fl(m / q) for the largest m, or
one of the two floats beside it: fl(q · s) = m means |m/q − s| ≤ 2⁻²⁴·s, within one unit in the last place of s. Of
those that give back every value bit for bit, one that float16 holds is preferred. More than 255 magnitudes are no grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnxshrink.numerics.bit_patterns import distinct_patterns, same_bits

LARGEST_STEP = 255
"""Integers of 8 bits with a zero point of 8 bits come out between −255 and 255."""

_PIECE = 2**21
_SAMPLE_CHANNELS = 3
_SMALLEST_NORMAL = 2.0**-126


@dataclass(frozen=True)
class Grid:
    """Integers and what they count.

    Attributes:
        steps: float32 whole numbers, the shape of the values, |steps| ≤ 255; −0.0 where a value is −0.0.
        scale: float32, positive; the rank of the values, 1 along every axis that shares a scale.
    """

    steps: np.ndarray
    scale: np.ndarray

    def values(self) -> np.ndarray:
        """float32: what lies on the grid."""
        values: np.ndarray = self.steps * self.scale
        return values


def recover_grid(values: np.ndarray, axes: tuple[int, ...]) -> Grid | None:
    """The grid of ``values`` (float32) with a scale for each index of ``axes`` (none: one in all), or None.

    Also None when a value is not finite or subnormal: integers times a scale do not give those back for sure.
    """
    rows = np.moveaxis(values, axes, range(len(axes)))
    channels = rows.shape[: len(axes)]
    count = int(np.prod(channels))
    if values.size == 0 or values.dtype != np.float32:
        return None
    for channel in np.linspace(0, count - 1, min(count, _SAMPLE_CHANNELS)).astype(int):
        row = rows[np.unravel_index(channel, channels)] if channels else rows
        if _scales(row.reshape(1, -1)[:, :_PIECE]) is None:
            return None
    scale = np.empty(count, np.float32)
    steps = np.empty((count, values.size // count), np.float32)
    for start, piece in _pieces(rows, channels):
        found = _scales(piece)
        if found is None:
            return None
        stop = start + len(piece)
        scale[start:stop] = found
        if not _write_steps(piece, scale[start:stop, None], steps[start:stop]):
            return None
    shaped = np.moveaxis(steps.reshape(rows.shape), range(len(axes)), axes)
    sizes = [size if axis in axes else 1 for axis, size in enumerate(values.shape)]
    # Axes are kept in ascending order, so the scales are in the order of the values.
    return Grid(np.ascontiguousarray(shaped), scale.reshape(sizes))


def _pieces(rows: np.ndarray, channels: tuple[int, ...]) -> Iterator[tuple[int, np.ndarray]]:
    """Some channels at a time, (channels, n) and contiguous, with the number of the first."""
    if not channels:
        yield 0, rows.reshape(1, -1)
        return
    rows = rows.reshape(-1, *rows.shape[len(channels) :])
    step = max(1, _PIECE * len(rows) // rows.size)
    for start in range(0, len(rows), step):
        piece = np.ascontiguousarray(rows[start : start + step])
        yield start, piece.reshape(len(piece), -1)


def _write_steps(piece: np.ndarray, scale: np.ndarray, steps: np.ndarray) -> bool:
    """Write the steps of ``piece`` (channels, n); False when they do not give back every bit."""
    width = max(1, _PIECE // len(piece))
    for start in range(0, piece.shape[1], width):
        columns = piece[:, start : start + width]
        with np.errstate(all="ignore"):
            found = np.rint(columns / scale)
            if not (np.abs(found) <= LARGEST_STEP).all():
                return False
            if not same_bits(found * scale, columns):
                return False
        steps[:, start : start + width] = found
    return True


def _scales(rows: np.ndarray) -> np.ndarray | None:
    """(channels,) float32: a scale for each row of ``rows`` (channels, n), or None when a row is on no grid."""
    magnitudes = _magnitudes(rows)
    if magnitudes is None:
        return None
    largest = magnitudes.max(1)
    gaps = np.diff(magnitudes, axis=1)
    gap = np.where(gaps > 0, gaps, np.inf).min(1, initial=np.inf)
    scale = np.where(largest > 0, np.float32(0), np.float32(1))
    for divisor in range(1, LARGEST_STEP + 1):
        pending = np.flatnonzero(scale == 0)
        if not pending.size:
            return scale
        guess = gap[pending] / np.float32(divisor)
        if (largest[pending] > (LARGEST_STEP + 1) * guess).any():
            return None
        scale[pending] = _fitting(magnitudes[pending], largest[pending], guess)
    return None if (scale == 0).any() else scale


def _fitting(magnitudes: np.ndarray, largest: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """(channels,): the scale near ``guess`` that gives back ``magnitudes`` (channels, k), or 0."""
    steps = np.rint(magnitudes / guess[:, None].astype(np.float64)).astype(np.float32)
    top = steps.max(1)
    middle = (largest / np.maximum(top, 1)).astype(np.float32)
    found = np.zeros(len(magnitudes), np.float32)
    for candidate in (np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(np.inf)), middle):
        fits = (steps * candidate[:, None] == magnitudes).all(1) & (top <= LARGEST_STEP)
        better = fits & ((found == 0) | ~_is_half(found) | _is_half(candidate))
        found[better] = candidate[better]
    return found


def _is_half(numbers: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore"):
        exact: np.ndarray = numbers.astype(np.float16).astype(np.float32) == numbers
    return exact


def _magnitudes(rows: np.ndarray) -> np.ndarray | None:
    """(channels, ≤ 256): zero and the distinct magnitudes of every row, ascending, the last one repeated.

    None when a row has more, or numbers that are on no grid.
    """
    # Magnitudes of floats are ordered like their bits.
    bits = rows.view(np.uint32) & np.uint32(0x7FFFFFFF)
    if len(rows) == 1:
        few = distinct_patterns(bits[0], LARGEST_STEP + 1)
        if few is None:
            return None
        bits = few[None]
    else:
        bits.sort(axis=1)
    low, high = bits[bits > 0].min(initial=2**32 - 1), bits[:, -1].max()
    if low < np.float32(_SMALLEST_NORMAL).view(np.uint32) or high >= np.float32(np.inf).view(np.uint32):
        return None
    new = np.empty(bits.shape, bool)
    new[:, 0] = bits[:, 0] > 0
    np.not_equal(bits[:, 1:], bits[:, :-1], out=new[:, 1:])
    counts = new.sum(1)
    if counts.max() > LARGEST_STEP:
        return None
    table = np.repeat(bits[:, -1:], int(counts.max()) + 1, axis=1)
    table[:, 0] = 0
    row, column = np.nonzero(new)
    first = np.concatenate(([0], np.cumsum(counts)[:-1]))
    table[row, np.arange(row.size) - first[row] + 1] = bits[row, column]
    return table.view(np.float32)
