"""Timing is tested on a clock that only the fake models move: nothing sleeps, every run is the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from onnxshrink.measure import latency
from onnxshrink.measure.latency import combined, compare_latency
from onnxshrink.measured import LatencyComparison


class Machine:
    """A busy machine: it slows down steadily, jitters, and is now and then interrupted for a long time."""

    def __init__(
        self, seed: int, *, jitter: float = 0.02, interruptions: float = 0.05, drift_per_second: float = 0.1
    ) -> None:
        self._random = np.random.default_rng(seed)
        self._jitter = jitter
        self._interruptions = interruptions
        self._drift_per_second = drift_per_second
        self.seconds = 0.0

    def clock(self) -> float:
        return self.seconds

    def spend(self, seconds: float) -> None:
        seconds *= (1 + self._drift_per_second * self.seconds) * np.exp(self._jitter * self._random.standard_normal())
        if self._random.random() < self._interruptions:
            seconds *= 1 + self._random.pareto(1.5)
        self.seconds += seconds


class Model:
    def __init__(self, machine: Machine, seconds: float) -> None:
        self._machine = machine
        self._seconds = seconds
        self.runs = 0

    def run(self, feeds: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        self.runs += 1
        self._machine.spend(self._seconds)
        return {}


def compare(
    ratio: float, seed: int = 0, seconds: float = 0.005, budget_seconds: float = 3.0, **noise: float
) -> LatencyComparison:
    machine = Machine(seed, **noise)
    models = Model(machine, seconds), Model(machine, seconds * ratio)
    return compare_latency(*models, {}, clock=machine.clock, seed=seed, budget_seconds=budget_seconds)


QUIET = {"jitter": 0.0, "interruptions": 0.0, "drift_per_second": 0.0}


def test_a_model_against_itself_is_not_significantly_different() -> None:
    verdicts = [compare(1.0, seed).verdict for seed in range(100)]
    assert verdicts.count("no significant difference") >= 95


def test_a_slowdown_of_five_percent_is_detected() -> None:
    detected = [compare(1.05, seed) for seed in range(50)]
    assert sum(comparison.significant and comparison.ratio > 1 for comparison in detected) >= 45


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(1.12, "1.12x slower"), (0.5, "2.00x faster"), (1.015, "no significant difference")]
)
def test_the_verdict_on_a_quiet_machine(ratio: float, verdict: str) -> None:
    comparison = compare(ratio, **QUIET)
    assert comparison.verdict == verdict
    assert comparison.ratio == pytest.approx(ratio)


def test_raw_times_are_kept_in_milliseconds() -> None:
    comparison = compare(2.0, **QUIET)
    assert len(comparison.original_ms) == len(comparison.result_ms) >= 24
    assert comparison.original_ms[0] == pytest.approx(5.0)
    assert comparison.result_median_ms == pytest.approx(10.0)


def test_short_runs_are_repeated_until_a_timing_lasts_a_millisecond() -> None:
    comparison = compare(1.0, seconds=0.0003, **QUIET)
    assert comparison.repeats == 4
    assert comparison.original_median_ms == pytest.approx(0.3)


def test_the_budget_limits_the_time_but_not_below_the_fewest_rounds() -> None:
    slow = compare(1.0, seconds=1.0, **QUIET)
    assert len(slow.original_ms) == 24
    machine = Machine(0, **QUIET)
    compare_latency(Model(machine, 0.01), Model(machine, 0.01), {}, clock=machine.clock, budget_seconds=2.0)
    assert 1.0 <= machine.seconds <= 2.5


def test_both_models_run_equally_often() -> None:
    machine = Machine(0)
    models = Model(machine, 0.001), Model(machine, 0.03)
    comparison = compare_latency(*models, {}, clock=machine.clock)
    assert models[0].runs == models[1].runs
    assert len(comparison.original_ms) % 8 == 0


def test_pairs_of_sessions_that_disagree_are_not_significant() -> None:
    def part(ratio: float) -> LatencyComparison:
        times = np.linspace(1.0, 1.01, 48)
        return latency._judged(times, ratio * times, 1, 0)

    slower = combined([part(1.10), part(1.12), part(1.08)])
    assert slower.significant
    assert slower.ratio == pytest.approx(1.10, abs=0.02)
    assert len(slower.original_ms) == 3 * 48
    assert not combined([part(1.10), part(1.12), part(0.99)]).significant
