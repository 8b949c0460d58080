"""Latency of any number of models, interleaved in one process so that all see the same machine.

All models are loaded anew many times, in turns: where a session's memory happens to lie makes it faster or slower as
long as it lives. While they are loaded they take turns in balanced order, so that a drift of the machine, and whatever
running after another model means, favour none. Every run is timed. Threads and optimisation level are those of the
sessions. :mod:`onnxshrink.numerics.paired_loads` says how sure a difference is.
"""

from __future__ import annotations

import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np

from onnxshrink.measured import LatencyComparison, Timings
from onnxshrink.numerics.paired_loads import MIN_LOADS, RatioInterval, holm, ratio_over_loads

NEGLIGIBLE = 0.01
"""Differences up to this share are never called significant: they matter to nobody, and another machine, or the same
one tomorrow, can turn them around."""

SIGNIFICANCE = 0.02
"""How often two equally fast models may be called different, by the p-value alone."""

WIDEST = 0.025
"""Timing goes on, within bounds, while the interval of a ratio reaches farther than this share to either side. That
asks how sure the ratio is, never how large: who stops when a difference shows finds differences that are not there."""

_TURN_MS = 1.0
_LOADS = 24
_EXTENSION = 0.5
_MAX_RUNS_PER_TURN = 20
_MIN_ROUNDS, _MAX_ROUNDS = 4, 48
_PILOT_RUNS, _PILOT_MAX_RUNS, _PILOT_SHARE = 3, 100, 0.05


class Loaded(Protocol):
    """What can be timed: a :class:`~onnxshrink.measure.session.Session`, or a fake in tests."""

    load_seconds: float

    def run(self, feeds: Mapping[str, np.ndarray]) -> Mapping[str, Any]: ...


Opener = Callable[[], AbstractContextManager[Loaded]]


def time_models(
    openers: Sequence[Opener],
    feeds: Sequence[Mapping[str, np.ndarray]],
    *,
    budget_seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Timings, ...]:
    """Load and run all models in turns.

    Args:
        openers: each loads one model.
        feeds: one batch of inputs by name for each model.
        budget_seconds: time to spend on all models together, loading included. Half as much again may be spent while a
            ratio is less sure than ``WIDEST``, and more where the fewest loads and rounds need it.
        clock: seconds, monotonic.

    Raises:
        ModelError: a model does not load.
        DataError: a model refused its feeds.
    """
    start = clock()
    records = [_Record() for _ in openers]
    with _no_garbage_collection():
        with _loaded(openers, feeds, 0, records, clock) as models:
            runs = _runs_per_turn(_pilot(models, clock, budget_seconds * _PILOT_SHARE))
        for index in itertools.count():
            left = budget_seconds - (clock() - start)
            enough = index >= MIN_LOADS and (index >= _LOADS or left <= 0)
            if enough and (left <= -_EXTENSION * budget_seconds or _sure(records)):
                break
            end = clock() + (left / (_LOADS - index) if index < _LOADS and left > 0 else budget_seconds / _LOADS)
            with _loaded(openers, feeds, index, records, clock) as models:
                for record, turns in zip(records, _rounds(models, index, runs, end, clock), strict=True):
                    record.runs_ms.append(turns)
    return tuple(
        Timings(tuple(record.load_ms), tuple(record.first_run_ms), tuple(record.runs_ms)) for record in records
    )


def compare_latency(
    original: Opener,
    result: Opener,
    feed: Mapping[str, np.ndarray],
    *,
    budget_seconds: float = 3.0,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[LatencyComparison, tuple[Timings, Timings]]:
    """Time two models on the same feed, and judge the difference. See :func:`time_models`."""
    base, other = time_models((original, result), (feed, feed), budget_seconds=budget_seconds, clock=clock)
    interval = latency_ratio(base, other)
    original_ms, result_ms = _turn_medians(base), _turn_medians(other)
    comparison = LatencyComparison(
        original_ms=original_ms,
        result_ms=result_ms,
        repeats=len(base.runs_ms[0][0]),
        original_median_ms=statistics.median(original_ms),
        result_median_ms=statistics.median(result_ms),
        ratio=interval.ratio,
        ratio_low=interval.low,
        ratio_high=interval.high,
        significant=significant([interval])[0],
    )
    return comparison, (base, other)


def latency_ratio(base: Timings, other: Timings) -> RatioInterval:
    """The latency of ``other`` over that of ``base``, which was timed beside it."""
    return ratio_over_loads(np.log(other.fastest_ms) - np.log(base.fastest_ms))


def significant(intervals: Sequence[RatioInterval]) -> tuple[bool, ...]:
    """Which of several ratios are significantly different from 1, and by more than ``NEGLIGIBLE``.

    The p-values are corrected for being several: the chance that any of them is a false alarm stays below
    ``SIGNIFICANCE``.
    """
    p_values = holm([interval.p_value for interval in intervals])
    return tuple(
        p_value < SIGNIFICANCE and abs(interval.ratio - 1) > NEGLIGIBLE
        for p_value, interval in zip(p_values, intervals, strict=True)
    )


def turn_order(models: int, turn: int) -> list[int]:
    """Who runs after whom: every order is followed by its reverse, then the next model goes first.

    Two models make A B, B A, B A, A B: whatever changes steadily favours neither.
    """
    order = [(index + turn // 2) % models for index in range(models)]
    return order[::-1] if turn % 2 else order


@dataclass
class _Record:
    """What has been timed of one model so far."""

    load_ms: list[float] = field(default_factory=list)
    first_run_ms: list[float] = field(default_factory=list)
    runs_ms: list[tuple[tuple[float, ...], ...]] = field(default_factory=list)


Run = Callable[[], object]


@contextmanager
def _loaded(
    openers: Sequence[Opener],
    feeds: Sequence[Mapping[str, np.ndarray]],
    index: int,
    records: Sequence[_Record],
    clock: Callable[[], float],
) -> Iterator[list[Run]]:
    """All models, loaded one after the other and run once; who is first depends on ``index``."""
    runs: dict[int, Run] = {}
    with ExitStack() as stack:
        for model in turn_order(len(openers), index):
            session = stack.enter_context(openers[model]())
            records[model].load_ms.append(1000 * session.load_seconds)
            runs[model] = partial(session.run, feeds[model])
        for model, run in runs.items():
            records[model].first_run_ms.append(_time_ms(run, clock))
        yield [runs[model] for model in range(len(openers))]


def _pilot(models: Sequence[Run], clock: Callable[[], float], budget_seconds: float) -> list[float]:
    """The fastest time of a run of each model, in ms."""
    fastest = [math.inf for _ in models]
    start, rounds = clock(), 0
    while rounds < _PILOT_RUNS or (rounds < _PILOT_MAX_RUNS and clock() - start < budget_seconds):
        for index, run in enumerate(models):
            fastest[index] = min(fastest[index], _time_ms(run, clock))
        rounds += 1
    return fastest


def _runs_per_turn(run_ms: Sequence[float]) -> tuple[int, ...]:
    """So many that a turn lasts about a millisecond."""
    shortest = max(min(run_ms), 1e-4)
    # The fastest of many runs is faster than the fastest of few: models of about one speed get the same number.
    units = [shortest if milliseconds < 2 * shortest else milliseconds for milliseconds in run_ms]
    return tuple(min(math.ceil(_TURN_MS / unit), _MAX_RUNS_PER_TURN) for unit in units)


def _rounds(
    models: Sequence[Run], index: int, runs: Sequence[int], end: float, clock: Callable[[], float]
) -> list[tuple[tuple[float, ...], ...]]:
    """Times in ms, (models, rounds, runs), until the clock shows ``end``.

    One more run of each model before them is not kept.
    """
    for run in models:
        run()
    turns: list[list[tuple[float, ...]]] = [[] for _ in models]
    for turn in range(_MAX_ROUNDS):
        if turn >= _MIN_ROUNDS and turn % 2 == 0 and clock() >= end:
            break
        for model in turn_order(len(models), index + turn):
            run = models[model]
            turns[model].append(tuple(_time_ms(run, clock) for _ in range(runs[model])))
    return [tuple(found) for found in turns]


def _sure(records: Sequence[_Record]) -> bool:
    """Whether the ratios of all models to the first one are known well enough."""
    fastest = [np.array([min(map(min, load)) for load in record.runs_ms]) for record in records]
    intervals = [ratio_over_loads(np.log(other) - np.log(fastest[0])) for other in fastest[1:]]
    return all(math.log(interval.high / interval.low) <= 2 * WIDEST for interval in intervals)


def _time_ms(run: Run, clock: Callable[[], float]) -> float:
    start = clock()
    run()
    return round(1000 * (clock() - start), 5)


def _turn_medians(timings: Timings) -> tuple[float, ...]:
    return tuple(statistics.median(turn) for load in timings.runs_ms for turn in load)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Nothing but the models runs while they are timed."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
