from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxshrink.numerics.paired_loads import holm, ratio_over_loads


@given(st.floats(0.1, 10), st.integers(4, 40))
def test_loads_that_agree_give_a_sure_ratio(ratio: float, loads: int) -> None:
    found = ratio_over_loads(np.full(loads, math.log(ratio)))
    assert found.ratio == pytest.approx(ratio)
    assert found.high / found.low == pytest.approx(1)


def test_equal_times_are_no_evidence() -> None:
    assert ratio_over_loads(np.zeros(24)).p_value == 1.0


def test_the_trimmed_mean_and_its_interval_worked_by_hand() -> None:
    logs = np.array([-9.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 9.0])
    found = ratio_over_loads(logs)
    # two trimmed at each end; winsorized: 0.02 ×3, 0.03, 0.04, 0.05 ×3, standard deviation 0.0141421
    error = 0.0141421 * math.sqrt(7 / (4 * 3))
    assert math.log(found.ratio) == pytest.approx(0.035)
    assert math.log(found.high) == pytest.approx(0.035 + 3.1824 * error, abs=1e-5)
    assert math.log(found.low) == pytest.approx(0.035 - 3.1824 * error, abs=1e-5)


@pytest.mark.parametrize("loads", [8, 16, 24])
def test_the_interval_misses_the_truth_about_one_time_in_twenty(loads: int) -> None:
    rng = np.random.default_rng(loads)
    misses = false_alarms = 0
    for _ in range(1000):
        found = ratio_over_loads(0.02 * rng.standard_normal(loads))
        misses += not found.low <= 1 <= found.high
        false_alarms += found.p_value < 0.02
    assert 25 <= misses <= 75
    assert false_alarms <= 35


def test_a_fifth_of_the_loads_may_be_far_off() -> None:
    rng = np.random.default_rng(0)
    detected = alarms = 0
    for _ in range(300):
        noise = 0.02 * rng.standard_normal(24) + (rng.random(24) < 0.2) * rng.standard_normal(24)
        detected += ratio_over_loads(noise + math.log(1.05)).p_value < 0.02
        alarms += ratio_over_loads(noise).p_value < 0.02
    assert detected >= 270
    assert alarms <= 9


@pytest.mark.parametrize("logs", [np.zeros(3), np.zeros((4, 2))])
def test_refuses_what_it_cannot_judge(logs: np.ndarray) -> None:
    with pytest.raises(ValueError, match="four loads are the fewest"):
        ratio_over_loads(logs)


def test_holm_as_in_his_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([]) == ()
    assert holm([0.5, 0.9]) == (1.0, 1.0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm_never_lowers_a_p_value_and_keeps_the_order(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(after >= before for before, after in zip(p_values, corrected, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert all(np.diff(np.array(corrected)[order]) >= 0)
