"""Tensors that are nearly equal become equal, so that one of them has to be stored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.stored_weights import StoredWeight, replace_tensor
from onnxshrink.passes.base import Change


def tie_equal(weights: Sequence[StoredWeight], tolerance: float) -> list[tuple[tuple[StoredWeight, ...], Change]]:
    """Give weights of one shape their mean where each is within ``tolerance`` of it: ‖w − mean‖ ≤ tolerance · ‖mean‖.

    Returns:
        The weights that were tied, together, and what was done.
    """
    by_shape: defaultdict[tuple[int, ...], list[StoredWeight]] = defaultdict(list)
    for weight in weights:
        by_shape[weight.shape].append(weight)
    tied: list[tuple[tuple[StoredWeight, ...], Change]] = []
    for group in by_shape.values():
        waiting = list(group)
        while waiting:
            members = _near(waiting, tolerance)
            waiting = [weight for weight in waiting if weight not in members]
            if len(members) > 1:
                tied.append((tuple(members), _tie(members)))
    return tied


def _near(weights: Sequence[StoredWeight], tolerance: float) -> list[StoredWeight]:
    """The first weight and those that can be tied to it."""
    members, total = [weights[0]], weights[0].array().astype(np.float64)
    for other in weights[1:]:
        if not _within(weights[0].array(), other.array(), 2 * tolerance):
            continue
        trial = total + other.array()
        mean = trial / (len(members) + 1)
        if all(_within(mean, weight.array(), tolerance) for weight in [*members, other]):
            members, total = [*members, other], trial
    return members


def _within(centre: np.ndarray, array: np.ndarray, tolerance: float) -> bool:
    difference = np.linalg.norm((array - centre).reshape(-1))
    return bool(difference <= tolerance * np.linalg.norm(centre.reshape(-1)))


def _tie(members: Sequence[StoredWeight]) -> Change:
    first = members[0]
    mean = sum((weight.array().astype(np.float64) for weight in members), np.zeros(first.shape)) / len(members)
    array = mean.astype(np.float32)
    for weight in members:
        replace_tensor(weight, ir.Tensor(array, dtype=weight.tensor.dtype))
    others = ", ".join(weight.name for weight in members[1:])
    return Change(first.name, f"made equal to {others}")
