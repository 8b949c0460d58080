"""Percentiles of timings, where there are enough of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

PERCENTILES = (50, 90, 95, 99)

MIN_BEYOND = 5
"""How many timings must lie above a percentile: with fewer, one interruption more or less moves it anywhere."""


def percentiles(times: np.ndarray) -> Mapping[str, float | None]:
    """``p50``, ``p90``, ``p95`` and ``p99`` of (runs,) times; None for those that the number of timings cannot support.

    That takes 10, 50, 100 and 500 timings.
    """
    return {
        f"p{percent}": float(np.percentile(times, percent)) if _supported(len(times), percent) else None
        for percent in PERCENTILES
    }


def _supported(count: int, percent: int) -> bool:
    return count * (100 - percent) >= 100 * MIN_BEYOND
