"""Timing is tested on a clock that only the fake models move: nothing sleeps, every run is the same.

``noise.npz`` was recorded on a machine with two cores that other programs kept busy: for two models, every run's time
over the fastest of its load, in the order they were taken, and the fastest run of each load over the median of those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxshrink.measure.latency import (
    NEGLIGIBLE,
    Timings,
    compare_latency,
    latency_ratio,
    significant,
    time_models,
    turn_order,
)
from onnxshrink.measured import LatencyComparison
from onnxshrink.numerics.paired_loads import RatioInterval

RECORDED = dict(np.load(Path(__file__).with_name("noise.npz")))


class Quiet:
    """A machine on which every run of a model takes the same time."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def clock(self) -> float:
        return self.seconds

    def load_factor(self) -> float:
        return 1.0

    def spend(self, seconds: float) -> None:
        self.seconds += seconds


class Busy(Quiet):
    """Replays recorded noise from a random place on; every load is faster or slower by a recorded factor."""

    def __init__(self, recording: str, seed: int) -> None:
        super().__init__()
        self._random = np.random.default_rng(seed)
        self._runs = RECORDED[f"{recording}_runs"].tolist()
        self._loads = RECORDED[f"{recording}_loads"]
        self._next = int(self._random.integers(len(self._runs)))

    def load_factor(self) -> float:
        return float(self._random.choice(self._loads))

    def spend(self, seconds: float) -> None:
        self._next = (self._next + 1) % len(self._runs)
        self.seconds += seconds * self._runs[self._next]


class Drifting(Quiet):
    """Slows down steadily, by a tenth per second."""

    def spend(self, seconds: float) -> None:
        self.seconds += seconds * (1 + 0.1 * self.seconds)


@dataclass
class Model:
    machine: Quiet
    run_seconds: float
    load_seconds: float = 0.003
    runs: int = 0
    loads: int = 0

    @contextmanager
    def open(self) -> Iterator[Session]:
        self.loads += 1
        self.machine.seconds += self.load_seconds
        yield Session(self, self.machine.load_factor())


@dataclass
class Session:
    model: Model
    factor: float

    @property
    def load_seconds(self) -> float:
        return self.model.load_seconds

    def run(self, feeds: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        self.model.runs += 1
        self.model.machine.spend(self.model.run_seconds * self.factor)
        return {}


def compare(
    machine: Quiet, ratio: float, seconds: float = 0.0005, budget_seconds: float = 4.0
) -> tuple[LatencyComparison, tuple[Timings, Timings]]:
    models = Model(machine, seconds), Model(machine, seconds * ratio)
    return compare_latency(models[0].open, models[1].open, {}, budget_seconds=budget_seconds, clock=machine.clock)


@pytest.mark.parametrize("recording", ["threads_wait", "short_runs"])
def test_in_recorded_noise_a_model_does_not_differ_from_itself(recording: str) -> None:
    verdicts = [compare(Busy(recording, seed), 1.0)[0].verdict for seed in range(40)]
    assert verdicts.count("no significant difference") >= 39


@pytest.mark.parametrize(("recording", "least"), [("threads_wait", 32), ("short_runs", 39)])
def test_in_recorded_noise_a_slowdown_of_five_percent_is_detected(recording: str, least: int) -> None:
    """``threads_wait`` is the noise of a machine on which a run takes six times as long on average as undisturbed."""
    found = [compare(Busy(recording, seed), 1.05)[0] for seed in range(40)]
    assert sum(comparison.significant and comparison.ratio > 1 for comparison in found) >= least
    assert np.median([comparison.ratio for comparison in found]) == pytest.approx(1.05, abs=0.005)
    assert sum(comparison.ratio_low <= 1.05 <= comparison.ratio_high for comparison in found) >= 36


def test_among_four_equal_models_a_false_alarm_is_no_more_frequent() -> None:
    alarms = 0
    for seed in range(20):
        machine = Busy("threads_wait", seed)
        openers = [Model(machine, 0.0005).open for _ in range(4)]
        base, *others = time_models(openers, [{}] * 4, budget_seconds=8.0, clock=machine.clock)
        alarms += any(significant([latency_ratio(base, other) for other in others]))
    assert alarms <= 1


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(1.12, "1.12x slower"), (0.5, "2.00x faster"), (1.009, "no significant difference")]
)
def test_the_verdict_on_a_quiet_machine(ratio: float, verdict: str) -> None:
    comparison, _ = compare(Quiet(), ratio)
    assert comparison.verdict == verdict
    assert comparison.ratio == pytest.approx(ratio, rel=1e-4)


def test_a_steady_drift_favours_neither() -> None:
    comparison, _ = compare(Drifting(), 1.0)
    assert comparison.ratio == pytest.approx(1.0, abs=0.001)
    assert not comparison.significant


def test_every_timing_is_kept_in_milliseconds() -> None:
    comparison, (base, other) = compare(Quiet(), 2.0)
    assert set(base.all_runs_ms) == {0.5}
    assert set(other.all_runs_ms) == {1.0}
    assert set(base.load_ms) == {3.0}
    assert len(base.load_ms) == len(base.first_run_ms) == len(base.runs_ms) + 1
    assert comparison.original_median_ms == 0.5
    assert comparison.result_median_ms == 1.0
    assert len(comparison.original_ms) == len(comparison.result_ms) == sum(map(len, base.runs_ms))


def test_short_runs_make_up_a_turn_of_a_millisecond_together() -> None:
    _, (base, other) = compare(Quiet(), 1.2, seconds=0.0003)
    assert {len(turn) for load in base.runs_ms for turn in load} == {4}
    assert {len(turn) for load in other.runs_ms for turn in load} == {4}  # the minimum of as many
    _, (_, slow) = compare(Quiet(), 10.0, seconds=0.0003)
    assert {len(turn) for load in slow.runs_ms for turn in load} == {1}


def test_the_budget_holds_and_has_a_floor() -> None:
    machine = Quiet()
    _, (base, _) = compare(machine, 1.0, seconds=0.01)
    assert 3.9 <= machine.seconds <= 4.1
    assert len(base.runs_ms) == 24
    machine = Quiet()
    _, (base, _) = compare(machine, 1.0, seconds=1.0)
    assert len(base.runs_ms) == 8
    assert {len(load) for load in base.runs_ms} == {4}


def test_an_unsure_ratio_gets_half_as_much_time_again() -> None:
    class Erratic(Quiet):
        def __init__(self) -> None:
            super().__init__()
            self._random = np.random.default_rng(0)

        def load_factor(self) -> float:
            return float(np.exp(0.2 * self._random.standard_normal()))

    machine = Erratic()
    comparison, (base, _) = compare(machine, 1.0, seconds=0.01)
    assert 6.0 <= machine.seconds <= 6.3
    assert len(base.runs_ms) > 24
    assert not comparison.significant


def test_all_models_run_equally_often_and_are_loaded_equally_often() -> None:
    machine = Busy("short_runs", 0)
    models = [Model(machine, 0.002) for _ in range(3)]
    found = time_models([model.open for model in models], [{}] * 3, budget_seconds=3.0, clock=machine.clock)
    assert len({model.runs for model in models}) == len({model.loads for model in models}) == 1
    assert len({len(timings.all_runs_ms) for timings in found}) == 1


def test_a_model_alone_is_timed_too() -> None:
    machine = Quiet()
    (timings,) = time_models([Model(machine, 0.001).open], [{}], budget_seconds=1.0, clock=machine.clock)
    assert set(timings.all_runs_ms) == {1.0}


@pytest.mark.parametrize("models", [2, 3, 5])
def test_every_model_runs_first_and_last_equally_often(models: int) -> None:
    orders = [turn_order(models, turn) for turn in range(2 * models)]
    for place in (0, -1):
        assert sorted(order[place] for order in orders) == sorted(2 * list(range(models)))
    assert [turn_order(2, turn) for turn in range(4)] == [[0, 1], [1, 0], [1, 0], [0, 1]]


def test_negligible_differences_and_chance_are_not_significant() -> None:
    def interval(ratio: float, p_value: float) -> RatioInterval:
        return RatioInterval(ratio, ratio, ratio, p_value)

    sure, chance, tiny = interval(1.05, 0.008), interval(1.05, 0.03), interval(1 + NEGLIGIBLE / 2, 0.0)
    assert significant([sure]) == (True,)
    assert significant([chance]) == (False,)
    assert significant([tiny]) == (False,)
    assert significant([sure, sure, sure]) == (False, False, False)  # 0.008 is not rare among three
    assert significant([sure, interval(0.5, 1e-6)]) == (True, True)


@pytest.mark.parametrize("garbage", [True, False])
def test_the_garbage_collector_is_left_as_it_was(garbage: bool) -> None:
    import gc

    was = gc.isenabled()
    try:
        (gc.enable if garbage else gc.disable)()
        machine = Quiet()
        opener = partial(Model(machine, 0.01).open)
        time_models([opener], [{}], budget_seconds=0.1, clock=machine.clock)
        assert gc.isenabled() == garbage
    finally:
        (gc.enable if was else gc.disable)()
