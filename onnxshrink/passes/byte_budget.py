"""Where a few spare bytes buy most accuracy when weights go to int8.

Every weight starts in its smallest encoding. What can be bought, and what it costs:

- a zero point per channel, one byte each, which halves the step of a channel whose weights are all of one sign;
- a scale for every few inputs instead of one per channel, two bytes each: the largest of few weights is smaller than
  the largest of many, and so is the step;
- float16 instead of int8, which all but removes the error and doubles the size. It is the best buy for depthwise
  kernels, where 9 or 25 integers share a scale, and for the small first layers, which suffer most.

Squared errors of the outputs add up, nearly, over the weights. So the upgrades of each weight that lie on the lower
convex hull of squared error over size are bought in the order of error removed per byte, as in a fractional knapsack
(Dantzig 1957, https://doi.org/10.1287/opre.5.2.266).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Stored = TypeVar("Stored")


@dataclass(frozen=True)
class Encoding:
    """How a weight is stored: float16 (``half``), or int8.

    Attributes:
        half: float16; the other fields do not apply.
        zero_points: int8 with a zero point beside each scale.
        group: int8 with a scale for every so many inputs; 0: one scale per channel.
    """

    half: bool = False
    zero_points: bool = False
    group: int = 0


@dataclass(frozen=True)
class Offer(Generic[Stored]):
    """One encoding of one weight: what it takes in the file, and the squared error of the outputs it leaves."""

    encoding: Stored
    size_bytes: int
    squared_error: float


@dataclass(frozen=True)
class _Upgrade(Generic[Stored]):
    offer: Offer[Stored]
    added_bytes: int
    gain_per_byte: float


def spend(offers: Mapping[Key, Sequence[Offer[Stored]]], budget_bytes: float) -> dict[Key, Stored]:
    """The encoding of each weight: its smallest, or what ``budget_bytes`` beyond the smallest buy."""
    chosen = {key: _smallest(choices).encoding for key, choices in offers.items()}
    upgrades = [(key, upgrade) for key, choices in offers.items() for upgrade in _upgrades(choices)]
    too_dear: set[Key] = set()
    # The sort is stable and gains fall along the upgrades of one weight, so these stay in order.
    for key, upgrade in sorted(upgrades, key=lambda item: -item[1].gain_per_byte):
        if upgrade.added_bytes > budget_bytes:
            too_dear.add(key)  # its later upgrades start from this one
        if key not in too_dear:
            chosen[key] = upgrade.offer.encoding
            budget_bytes -= upgrade.added_bytes
    return chosen


def smallest_budget(offers: Mapping[Key, Sequence[Offer[Stored]]], squared_error: float) -> float:
    """The bytes to :func:`spend` so that squared errors add up to ``squared_error`` at most."""
    left = sum(_smallest(choices).squared_error for choices in offers.values())
    steps = [
        (upgrade, before.squared_error - upgrade.offer.squared_error)
        for choices in offers.values()
        for before, upgrade in _climb(choices)
    ]
    spent = 0.0
    for upgrade, gain in sorted(steps, key=lambda step: -step[0].gain_per_byte):
        if left <= squared_error:
            break
        spent += upgrade.added_bytes
        left -= gain
    return spent


def _climb(offers: Sequence[Offer[Stored]]) -> Iterator[tuple[Offer[Stored], _Upgrade[Stored]]]:
    """Each upgrade with the offer it starts from."""
    current = _smallest(offers)
    for upgrade in _upgrades(offers):
        yield current, upgrade
        current = upgrade.offer


def _smallest(offers: Sequence[Offer[Stored]]) -> Offer[Stored]:
    return min(offers, key=lambda offer: (offer.size_bytes, offer.squared_error))


def _upgrades(offers: Sequence[Offer[Stored]]) -> Iterator[_Upgrade[Stored]]:
    """Steps up the lower convex hull, from the smallest offer on, of falling gain per byte."""
    current = _smallest(offers)
    while True:
        steps = [
            _Upgrade(offer, added, (current.squared_error - offer.squared_error) / added)
            for offer in offers
            if (added := offer.size_bytes - current.size_bytes) > 0 and offer.squared_error < current.squared_error
        ]
        if not steps:
            return
        best = max(steps, key=lambda step: step.gain_per_byte)
        yield best
        current = best.offer
