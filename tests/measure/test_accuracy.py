from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxshrink.measure.accuracy import AccuracyMeter, mcnemar


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
