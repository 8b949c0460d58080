"""Which of two ways to take at each step of a chain, when changing the way costs too.

    min Σ cost[way_k, k] + Σ [way_k ≠ way_{k−1}] · switch[k]

Solved exactly by dynamic programming (Viterbi 1967, https://doi.org/10.1109/TIT.1967.1054010).
"""

from __future__ import annotations

import numpy as np


def cheapest_split(costs: np.ndarray, switch: np.ndarray) -> np.ndarray:
    """The cheapest way at each step.

    Args:
        costs: (2, steps), what each way costs at each step.
        switch: (steps,), what it costs to take another way at a step than at the one before; the first is not used.

    Returns:
        (steps,) of 0 and 1; where both cost the same, 0.
    """
    steps = costs.shape[1]
    if not steps:
        return np.zeros(0, np.int64)
    total = costs[:, 0].astype(np.float64)
    came_from = np.zeros((2, steps), np.int64)
    for step in range(1, steps):
        stay, change = total, total[::-1] + switch[step]
        came_from[:, step] = np.where(change < stay, [1, 0], [0, 1])
        total = np.minimum(stay, change) + costs[:, step]
    ways = np.zeros(steps, np.int64)
    ways[-1] = int(total[1] < total[0])
    for step in range(steps - 1, 0, -1):
        ways[step - 1] = came_from[ways[step], step]
    return ways
