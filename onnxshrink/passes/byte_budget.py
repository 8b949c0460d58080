"""Where a few spare bytes buy most accuracy when weights go to int8.

Without data every weight counts as equally sensitive, so what differs is the price. Two things can be bought:

- float16 instead of int8, which all but removes a weight's error. It costs almost nothing for depthwise kernels (9 or
  25 integers share a scale that takes 2 to 4 bytes) and little for the small first layers, which are also those that
  suffer most.
- a scale for every 32, 64 or 128 inputs instead of one per channel: the largest of few weights is smaller than the
  largest of many, and so is the step. It costs 2 bytes per group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

GROUP_SIZES = (32, 64, 128)

LEAST_GROUPED = 1 << 14
"""Elements of the smallest weight that is grouped: below, the decoder's Reshape weighs more than the scales."""

_LARGEST_PRICE = 0.005
_SMALL_PRICE = 1024
"""float16 may add this share of the total, or this many bytes, per weight: a large weight gains more by groups."""


@dataclass(frozen=True)
class StorageCost:
    """What one weight takes in the file.

    Attributes:
        value: the weight.
        int8_bytes: as int8 with one scale per channel.
        half_bytes: as float16; None where that saves nothing.
        group_bytes: what scales per group add, by group size; empty where the weight cannot be grouped.
    """

    value: ir.Value
    int8_bytes: int
    half_bytes: int | None
    group_bytes: Mapping[int, int]


@dataclass(frozen=True)
class StoragePlan:
    """Which weights are stored as float16, and the group size of the others (0: one scale per channel)."""

    halves: frozenset[ir.Value]
    group: int


def plan_storage(costs: Sequence[StorageCost], spare: float) -> StoragePlan:
    """Spend up to ``spare`` (a share of the int8 size): cheapest float16 first, then the smallest groups that fit."""
    total = sum(cost.int8_bytes for cost in costs)
    left = spare * total
    prices = {cost.value: cost.half_bytes - cost.int8_bytes for cost in costs if cost.half_bytes is not None}
    halves: set[ir.Value] = set()
    for value, price in sorted(prices.items(), key=lambda item: item[1]):
        if price > min(left, max(_SMALL_PRICE, _LARGEST_PRICE * total)) or spare == 0:
            break
        halves.add(value)
        left -= max(0, price)
    rest = [cost for cost in costs if cost.value not in halves]
    added = {size: sum(cost.group_bytes.get(size, 0) for cost in rest) for size in GROUP_SIZES}
    return StoragePlan(frozenset(halves), next((size for size in GROUP_SIZES if 0 < added[size] <= left), 0))
