"""Latency of two models, interleaved in one process so that both see the same machine.

Each round times both models, in balanced order. One timing runs a model often enough to last about a millisecond,
far above the clock's resolution. Threads and optimisation level are those of the sessions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from onnxshrink.measured import LatencyComparison
from onnxshrink.numerics.bootstrap import MIN_BLOCKS, ROUNDS_PER_BLOCK, original_first, ratio_interval

NEGLIGIBLE = 0.02
"""Differences up to this share are never called significant: two sessions of one and the same model can differ by as
much, steadily, through where their weights happen to lie in memory."""

_TIMING_SECONDS = 1e-3
_MAX_ROUNDS = 200
_WARMUP_SHARE = 0.1


class Runnable(Protocol):
    """What can be timed: a :class:`~onnxshrink.measure.session.Session`, or a fake in tests."""

    def run(self, feeds: Mapping[str, np.ndarray]) -> Mapping[str, Any]: ...


def compare_latency(
    original: Runnable,
    result: Runnable,
    feeds: Mapping[str, np.ndarray],
    *,
    budget_seconds: float = 3.0,
    min_rounds: int = 24,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> LatencyComparison:
    """Time both models on ``feeds``.

    Args:
        original: the original, loaded with the threads that are to be measured; ``result`` likewise.
        result: the result.
        feeds: one batch of inputs by name, which both models accept.
        budget_seconds: time to spend; exceeded only when ``min_rounds`` of a slow model need more.
        min_rounds: rounds to time in any case, 24 or more.
        seed: seeds the bootstrap.
        clock: seconds, monotonic.

    Raises:
        DataError: a model refused the feeds.
    """
    original_seconds, result_seconds = _warm_up((original, result), feeds, budget_seconds * _WARMUP_SHARE, clock)
    repeats = max(1, math.ceil(_TIMING_SECONDS / max(min(original_seconds, result_seconds), 1e-7)))
    affordable = budget_seconds / max(repeats * (original_seconds + result_seconds), 1e-7)
    rounds = max(min_rounds, MIN_BLOCKS * ROUNDS_PER_BLOCK, min(_MAX_ROUNDS, int(affordable)))
    rounds += -rounds % (2 * ROUNDS_PER_BLOCK)  # whole blocks, and an even number: the bootstrap is truer for those
    original_ms, result_ms = np.empty(rounds), np.empty(rounds)
    for index in range(rounds):
        order = ((original, original_ms), (result, result_ms))
        for model, times in order if original_first(index) else reversed(order):
            times[index] = 1000 * _time(model, feeds, repeats, clock)
    return _judged(original_ms, result_ms, repeats, seed)


def combined(parts: Sequence[LatencyComparison], *, seed: int = 0) -> LatencyComparison:
    """One comparison from those of several pairs of sessions.

    Where a session's weights happen to lie in memory makes it faster or slower as long as it lives; loading both models
    anew, in turns, is what averages that out.
    """
    original_ms = np.concatenate([part.original_ms for part in parts])
    result_ms = np.concatenate([part.result_ms for part in parts])
    whole = _judged(original_ms, result_ms, max(part.repeats for part in parts), seed)
    agree = all((part.ratio > 1) == (whole.ratio > 1) for part in parts)
    return replace(whole, significant=whole.significant and agree)


def _judged(original_ms: np.ndarray, result_ms: np.ndarray, repeats: int, seed: int) -> LatencyComparison:
    interval = ratio_interval(original_ms, result_ms, seed=seed)
    return LatencyComparison(
        original_ms=tuple(original_ms.tolist()),
        result_ms=tuple(result_ms.tolist()),
        repeats=repeats,
        original_median_ms=float(np.median(original_ms)),
        result_median_ms=float(np.median(result_ms)),
        ratio=interval.ratio,
        ratio_low=interval.low,
        ratio_high=interval.high,
        significant=interval.excludes(1.0) and abs(interval.ratio - 1) > NEGLIGIBLE,
    )


def _time(model: Runnable, feeds: Mapping[str, np.ndarray], repeats: int, clock: Callable[[], float]) -> float:
    """Mean seconds of one run."""
    start = clock()
    for _ in range(repeats):
        model.run(feeds)
    return (clock() - start) / repeats


def _warm_up(
    models: tuple[Runnable, Runnable],
    feeds: Mapping[str, np.ndarray],
    budget_seconds: float,
    clock: Callable[[], float],
) -> tuple[float, float]:
    """Run both models in turn until the budget is spent, at least twice; the fastest seconds of each."""
    fastest = [math.inf, math.inf]
    start, runs = clock(), 0
    while runs < 2 or clock() - start < budget_seconds:
        for index, model in enumerate(models):
            fastest[index] = min(fastest[index], _time(model, feeds, 1, clock))
        runs += 1
    return fastest[0], fastest[1]
