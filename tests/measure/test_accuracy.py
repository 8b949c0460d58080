from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxshrink.measure.accuracy import AccuracyMeter, mcnemar, paired_difference_interval


def scores(*classes: int) -> dict[str, np.ndarray]:
    return {"scores": np.eye(3, dtype=np.float32)[list(classes)]}


def test_accuracy_of_both_models_over_batches() -> None:
    meter = AccuracyMeter()
    meter.add(scores(0, 1), scores(0, 2), np.array([0, 1]))
    meter.add(scores(2, 2), scores(2, 0), np.array([[2], [1]]))
    accuracy = meter.accuracy()
    assert accuracy is not None
    assert (accuracy.output, accuracy.samples) == ("scores", 4)
    assert (accuracy.original, accuracy.result, accuracy.drop_points) == (0.75, 0.5, 25.0)
    assert accuracy.p_value == 1.0


@pytest.mark.parametrize(
    ("outputs", "labels"),
    [
        ({"box": np.zeros((2, 4, 7), np.float32)}, np.array([0, 1])),
        (scores(0, 1), np.array([0.5, 1.0])),
        (scores(0, 1, 2), np.array([0, 1])),
    ],
)
def test_what_cannot_be_judged_has_no_accuracy(outputs: dict[str, np.ndarray], labels: np.ndarray) -> None:
    meter = AccuracyMeter()
    meter.add(outputs, outputs, labels)
    assert meter.accuracy() is None


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_two_sided_binomial_test(first: int, second: int) -> None:
    trials = first + second
    expected = 2 * sum(math.comb(trials, k) for k in range(min(first, second) + 1)) / 2**trials
    assert mcnemar(first, second) == min(1.0, expected)


def test_mcnemar_of_many_samples() -> None:
    assert mcnemar(5000, 5200) == pytest.approx(0.0488, abs=1e-4)


def test_models_that_agree_everywhere_still_have_an_interval_of_some_width() -> None:
    low, high = paired_difference_interval(0, 0, 450)
    assert high == -low == pytest.approx(1.96 / 452)


@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 400))
def test_the_interval_is_about_the_difference_and_turns_with_the_models(first: int, second: int, both: int) -> None:
    samples = first + second + both
    low, high = paired_difference_interval(first, second, samples)
    assert paired_difference_interval(second, first, samples) == pytest.approx((-high, -low))
    assert -1 <= low <= high <= 1
    assert low < (second - first) / (samples + 2) < high or low == -1


@pytest.mark.parametrize(("truth", "samples"), [(0.02, 200), (0.05, 450), (0.2, 100)])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(truth: float, samples: int) -> None:
    """A result that flips a share ``truth`` of the answers to wrong, and half as many to right."""
    random, held = np.random.default_rng(0), 0
    for _ in range(2000):
        worse, better, _same = random.multinomial(samples, [truth, truth / 2, 1 - 1.5 * truth])
        low, high = paired_difference_interval(int(worse), int(better), samples)
        held += low <= -truth / 2 <= high
    assert 0.93 <= held / 2000 <= 0.985
