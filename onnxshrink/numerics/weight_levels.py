"""The values that weights may take: a pattern times a scale per channel, or the entries of codebooks.

    grid of b bits        s · {−(2^(b−1) − 1), …, 2^(b−1) − 1}, s per channel
    ternary, binary       s · {−1, 0, 1},  s · {−1, 1}
    powers of two         ± 2^e and 0, 2^(b−1) − 1 exponents e below the largest of the channel
    codebook              k free values per tensor, per channel, or per block of channels

Scales are fitted to integers by least squares: s = w H pᵀ / (p H pᵀ), p the multiples of the pattern, H the second
moments of the inputs (without data, the identity). Codebook entries v are fitted together: with A_c the one-hot
assignment of channel c, Σ_c A_cᵀ H A_c v = Σ_c A_cᵀ H w_c, by conjugate gradients, of which a step costs no more than
one product of the weights with H.

Sources: Rastegari et al. 2016, https://arxiv.org/abs/1603.05279 (binary, s = mean |w|); Li et al. 2016,
https://arxiv.org/abs/1605.04711 (ternary); Zhou et al. 2017, https://arxiv.org/abs/1702.03044 (powers of two).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_MOST_STEPS = 24
_SOLVED = 1e-10
"""Conjugate gradients end when the squared residual has fallen to this share."""


class Levels(ABC):
    """The allowed values of one layer's weights, (groups, channels) of them apart."""

    @abstractmethod
    def nearest(self, target: np.ndarray) -> np.ndarray:
        """The allowed values nearest to ``target`` (..., groups, channels), float32."""

    @abstractmethod
    def refitted(self, rows: np.ndarray, values: np.ndarray, moments: np.ndarray | None) -> tuple[Levels, np.ndarray]:
        """Levels of least output error with assignments as they are, and the values after that.

        Args:
            rows: the weights, (groups, channels, columns).
            values: what they are replaced by, same shape, each one of these levels.
            moments: (groups, columns, columns); None: the identity.
        """

    @property
    @abstractmethod
    def count(self) -> int:
        """How many numbers define these levels: scales, or entries of codebooks."""


@dataclass(frozen=True)
class ScaledPattern(Levels):
    """Multiples of one scale per channel.

    Attributes:
        pattern: (levels,), ascending, float32.
        scale: positive, (groups, channels), float32.
        free_scale: whether scales may be any number, else they stay as they are.
    """

    pattern: np.ndarray
    scale: np.ndarray
    free_scale: bool = True

    @property
    def count(self) -> int:
        return self.scale.size

    def nearest(self, target: np.ndarray) -> np.ndarray:
        found: np.ndarray = self.multiples(target) * self.scale
        return found

    def multiples(self, target: np.ndarray) -> np.ndarray:
        """The nearest members of the pattern, in units of the scale; zeros are +0."""
        steps = target / self.scale
        largest = self.pattern[-1]
        if len(self.pattern) == 2 * largest + 1:  # all integers
            np.clip(np.rint(steps, out=steps), -largest, largest, out=steps)
            whole: np.ndarray = steps + np.float32(0)
            return whole
        index: np.ndarray = np.searchsorted((self.pattern[1:] + self.pattern[:-1]) / 2, steps)
        members: np.ndarray = self.pattern[index]
        return members

    def refitted(self, rows: np.ndarray, values: np.ndarray, moments: np.ndarray | None) -> tuple[Levels, np.ndarray]:
        if not self.free_scale:
            return self, values
        members = values / self.scale[..., None]
        if (2 * self.pattern == np.rint(2 * self.pattern)).all():
            members = np.rint(members)
        weighted = members if moments is None else members @ moments
        slope = np.einsum("gci,gci->gc", weighted, rows, dtype=np.float64)
        energy = np.einsum("gci,gci->gc", weighted, members, dtype=np.float64)
        usable = (energy > 0) & (slope > 0)
        fitted = np.divide(slope, energy, out=self.scale.astype(np.float64), where=usable)
        scale = np.maximum(fitted, np.finfo(np.float32).tiny).astype(np.float32)
        return ScaledPattern(self.pattern, scale), members * scale[..., None] + np.float32(0)


@dataclass(frozen=True)
class Codebooks(Levels):
    """Free values. Zero, when it is an entry, stays zero.

    Attributes:
        entries: (books, entries), each ascending, float32; shorter books repeat their last entry.
        owner: (groups, channels), the book of each channel.
    """

    entries: np.ndarray
    owner: np.ndarray

    @property
    def count(self) -> int:
        return self.entries.size

    def nearest(self, target: np.ndarray) -> np.ndarray:
        middles = (self.entries[:, 1:] + self.entries[:, :-1]) / 2
        if len(self.entries) == 1:
            found: np.ndarray = self.entries[0][np.searchsorted(middles[0], target)]
            return found
        if target[..., 0, 0].size <= self.entries.shape[1]:
            index = sum(
                ((target > middles[self.owner, k]) for k in range(middles.shape[1])), np.zeros(target.shape, int)
            )
            found = self.entries[self.owner, index]
            return found
        found = np.empty(target.shape, np.float32)
        for book, (entries, middle) in enumerate(zip(self.entries, middles, strict=True)):
            here = self.owner == book
            found[..., here] = entries[np.searchsorted(middle, target[..., here])]
        return found

    def refitted(self, rows: np.ndarray, values: np.ndarray, moments: np.ndarray | None) -> tuple[Levels, np.ndarray]:
        index = self._index(values)
        slots = self.owner[..., None] * self.entries.shape[1] + index

        def summed(field: np.ndarray) -> np.ndarray:
            """Sums over the weights on each entry, (books, entries)."""
            found = np.bincount(slots.reshape(-1), field.reshape(-1), self.entries.size)
            return found.reshape(self.entries.shape)

        def normal(entries: np.ndarray) -> np.ndarray:
            field = entries.astype(np.float32).reshape(-1)[slots]
            return summed(field if moments is None else field @ moments)

        error = rows - values
        weight = np.ones(rows.shape) if moments is None else np.einsum("gii->gi", moments)[:, None]
        mass = summed(np.broadcast_to(weight, rows.shape))
        mass[self.entries == 0] = 0
        step = _conjugate_gradients(normal, summed(error if moments is None else error @ moments), mass)
        entries = (self.entries + step).astype(np.float32)
        return Codebooks(np.sort(entries, axis=1), self.owner), entries.reshape(-1)[slots]

    def _index(self, values: np.ndarray) -> np.ndarray:
        """Position of each of ``values`` (groups, channels, columns) in its book."""
        if len(self.entries) == 1:
            return np.searchsorted(self.entries[0], values)
        index = np.empty(values.shape, np.int64)
        for book, entries in enumerate(self.entries):
            here = self.owner == book
            index[here] = np.searchsorted(entries, values[here])
        return index


def _conjugate_gradients(
    product: Callable[[np.ndarray], np.ndarray], right: np.ndarray, diagonal: np.ndarray
) -> np.ndarray:
    """Solve one symmetric system per row, preconditioned with its ``diagonal``; unknowns where that is 0 stay 0."""
    free = diagonal > 0
    inverse = np.divide(1.0, diagonal, out=np.zeros_like(diagonal), where=free)
    solution = np.zeros_like(right)
    residual = np.where(free, right, 0.0)
    direction = inverse * residual
    energy = (residual * direction).sum(axis=1, keepdims=True)
    enough = _SOLVED * energy
    for _ in range(min(_MOST_STEPS, 2 * right.shape[1])):
        if (energy <= enough).all():
            break
        image = np.where(free, product(direction), 0.0)
        curvature = (direction * image).sum(axis=1, keepdims=True)
        length = np.divide(energy, curvature, out=np.zeros_like(energy), where=(curvature > 0) & (energy > enough))
        solution += length * direction
        residual -= length * image
        direction_next = inverse * residual
        left = (residual * direction_next).sum(axis=1, keepdims=True)
        direction = direction_next + np.divide(left, energy, out=np.zeros_like(left), where=energy > 0) * direction
        energy = left
    return solution
