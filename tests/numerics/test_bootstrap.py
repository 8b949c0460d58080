from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxshrink.numerics.bootstrap import original_first, ratio_interval


@settings(max_examples=25)
@given(st.floats(0.1, 10), st.integers(24, 80), st.integers(0, 5))
def test_a_constant_ratio_is_found_exactly(ratio: float, rounds: int, seed: int) -> None:
    original = np.linspace(1.0, 2.0, rounds)
    interval = ratio_interval(np.ones(rounds), np.full(rounds, ratio), seed=seed)
    assert interval.low == pytest.approx(ratio)
    assert interval.high == pytest.approx(ratio)
    assert ratio_interval(original, original).ratio == 1.0


def test_the_interval_holds_the_estimate_and_is_reproducible() -> None:
    rng = np.random.default_rng(0)
    original, result = rng.lognormal(0, 0.1, 40), rng.lognormal(0.2, 0.1, 40)
    interval = ratio_interval(original, result, seed=3)
    assert interval.low <= interval.ratio <= interval.high
    assert interval == ratio_interval(original, result, seed=3)
    assert interval.excludes(1.0)
    assert not interval.excludes(interval.ratio)


def test_the_interval_misses_the_truth_at_most_one_time_in_twenty() -> None:
    rng = np.random.default_rng(1)
    misses = 0
    for trial in range(200):
        original, result = (rng.lognormal(0, 0.05, 48) * (1 + rng.pareto(3, 48)) for _ in range(2))
        misses += ratio_interval(original, result, resamples=500, seed=trial).excludes(1.0)
    assert misses <= 10


def test_running_second_favours_neither() -> None:
    """Each model is timed first equally often, in every pair of blocks and at every place in a block."""
    firsts = [original_first(index) for index in range(8)]
    assert firsts == [True, False, True, False, False, True, False, True]
    assert firsts == [original_first(index) for index in range(8, 16)]


@pytest.mark.parametrize(
    ("original", "result", "message"),
    [
        (np.ones(24), np.ones(25), "one length"),
        (np.ones((24, 1)), np.ones((24, 1)), "one length"),
        (np.ones(23), np.ones(23), "24 rounds are the fewest"),
    ],
)
def test_refuses_what_it_cannot_judge(original: np.ndarray, result: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ratio_interval(original, result)
